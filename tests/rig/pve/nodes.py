"""Nodes and the cluster: lists, status, hardware, mappings and history, all from the world instead of constants."""

import copy
import time

from fakepve import PveError
from fakepve.routing import sha1

HIDDEN_CLASSES = '05;06;0b'
MIB = 1024 ** 2


def memory_of(guest):
    """Bytes of memory a guest is configured with (512 MiB without the key)."""
    return int(str(guest.config.get('memory', 512)).split('=')[-1]) * MIB


class Nodes:
    """Mixin: what fakepve answers with constants or from the schema (nodes, status, lvmthin, pci, rrddata)."""

    def _routes_rig_nodes(self):
        node = '/nodes/{node}'
        return [('GET', node + '/status', self._node_status), ('GET', node + '/disks/lvmthin', self._lvmthin),
                ('GET', node + '/hardware/pci', self._pci), ('GET', node + '/rrddata', self._node_rrd),
                ('GET', node + '/qemu/{vmid}/rrddata', self._guest_rrd),
                ('GET', node + '/lxc/{vmid}/rrddata', self._guest_rrd),
                ('GET', node + '/storage/{storage}/rrddata', self._storage_rrd),
                ('GET', node + '/time', self._time), ('GET', '/cluster/mapping/pci', self._mappings)]

    # ------------------------------------------------------------------ status

    def running_memory(self, node):
        """Bytes of the guests that run on the node."""
        return sum(memory_of(g) for g in self._guests() if g.node == node and g.status == 'running')

    def node_status(self, name):
        """The recorded status, its memory moved by what started or stopped since it was recorded."""
        record = self.nodes[name]
        status = copy.deepcopy(record.get('status') or {})
        memory = status.get('memory')
        if memory:
            moved = self.running_memory(name) - record.get('boot_memory', 0)
            total = memory.get('total', 0)
            for key, sign in (('used', 1), ('free', -1), ('available', -1)):
                if key in memory:
                    memory[key] = max(0, min(total, memory[key] + sign * moved))
        return status

    async def _time(self, v, user):
        """The host's clock, which is this machine's."""
        now = int(time.time())
        return {'time': now, 'localtime': now, 'timezone': 'UTC'}

    async def _node_status(self, v, user):
        return self.node_status(v['node'])

    def _node_stats(self, name, user):
        """The figures of a node in lists; they need Sys.Audit on the node, the row itself does not [S]."""
        if not self.nodes[name].get('online', True) or not self.allowed(user, '/nodes/' + name, 'Sys.Audit'):
            return {}
        status = self.node_status(name)
        memory, root = status.get('memory') or {}, status.get('rootfs') or {}
        found = {'cpu': status.get('cpu'), 'maxcpu': (status.get('cpuinfo') or {}).get('cpus'),
                 'mem': memory.get('used'), 'maxmem': memory.get('total'), 'disk': root.get('used'),
                 'maxdisk': root.get('total'), 'uptime': status.get('uptime')}
        return dict((k, x) for k, x in found.items() if x is not None)

    def node_row(self, name, user):
        """One node as /nodes and /cluster/resources list it [R 202]; `unknown` before any figures exist [R 003]."""
        stats = self._node_stats(name, user)
        row = {'node': name, 'id': 'node/' + name, 'type': 'node'}
        if not self.nodes[name].get('online', True):
            return dict(row, status='offline')
        if not self.nodes[name].get('status'):
            return dict(row, status='unknown')
        return dict(row, status='online', level='', **stats)

    async def node_list(self, v, user):
        return [dict(self.node_row(name, user), ssl_fingerprint=self.fingerprint) for name in sorted(self.nodes)]

    async def cluster_status(self, v, user):
        """A standalone host has no cluster entry [S]."""
        rows = []
        if self.cluster_name:
            rows.append({'type': 'cluster', 'id': 'cluster', 'name': self.cluster_name, 'version': 3,
                         'nodes': len(self.nodes), 'quorate': 1 if self.quorate else 0})
        for number, name in enumerate(sorted(self.nodes), 1):
            rows.append({'type': 'node', 'id': 'node/' + name, 'name': name, 'level': '',
                         'ip': self.nodes[name].get('ip') or '127.0.0.1',
                         'nodeid': number if self.cluster_name else 0, 'local': 1 if number == 1 else 0,
                         'online': 1 if self.nodes[name].get('online', True) else 0})
        return rows

    async def resource_list(self, v, user):
        """GET /cluster/resources: rows silently left out without the Audit privilege [R]."""
        kind, rows = v.get('type'), []
        if kind in (None, 'vm'):
            rows += [self.resource_row(g, user) for g in self._guests()
                     if self.allowed(user, '/vms/{0}'.format(g.vmid), 'VM.Audit')]
        if kind in (None, 'node'):
            rows += [self.node_row(name, user) for name in sorted(self.nodes)]
        if kind in (None, 'storage'):
            rows += [row for name in sorted(self.storages) if self._can_audit(user, name)
                     for row in self.storage_rows(name)]
        return rows

    async def version_info(self, v, user):
        return {'version': self.version, 'release': self.release_version, 'repoid': self.repoid}

    # ---------------------------------------------------------------- hardware

    async def _lvmthin(self, v, user):
        """Thin pools; `used` follows what was allocated and freed on the storages of that volume group."""
        rows = []
        for pool in self.nodes[v['node']].get('lvmthin') or []:
            row = dict(pool)
            row['used'] = max(0, pool['used'] + self.thin_moved(v['node'], pool))
            row.setdefault('lv_type', 't')
            row.setdefault('lv_state', 'a')
            rows.append(row)
        return rows

    def thin_moved(self, node, pool):
        """Bytes by which the pool's storages moved since the world began."""
        pools = self.nodes[node].get('lvmthin') or []
        moved = 0
        for store in self.storages.values():
            if store.get('type') != 'lvmthin' or node not in store.get('space', {}):
                continue
            mine = store.get('vgname', 'pve') == pool['vg'] and store.get('thinpool', 'data') == pool['lv']
            if mine or len(pools) == 1:
                moved += store['space'][node].get('moved', 0)
        return moved

    async def _pci(self, v, user):
        """Without a blacklist bridges, memory and processors are hidden [R]."""
        hidden = v.get('pci-class-blacklist', HIDDEN_CLASSES).split(';')
        return [dict(row) for row in self.nodes[v['node']].get('pci') or []
                if not any(h and str(row.get('class', '')).replace('0x', '').startswith(h) for h in hidden)]

    async def _mappings(self, v, user):
        """Mappings the user may audit, use or modify [R]; `checks` only with check-node [R 702]."""
        rows = []
        for mapping in self.pci_mappings:
            path = '/mapping/pci/' + mapping['id']
            if not any(self.allowed(user, path, 'Mapping.' + p) for p in ('Audit', 'Use', 'Modify')):
                continue
            row = dict({'type': 'pci', 'digest': sha1(repr(sorted(mapping.items())))}, **mapping)
            if v.get('check-node'):
                row['checks'] = self._mapping_checks(v['check-node'], mapping)
            rows.append(row)
        return rows

    def _mapping_checks(self, node, mapping):
        checks = []
        known = set(row.get('id') for row in (self.nodes.get(node) or {}).get('pci') or [])
        for entry in mapping.get('map', []):
            props = dict(part.split('=', 1) for part in entry.split(',') if '=' in part)
            if props.get('node') == node and props.get('path') not in known:
                checks.append({'severity': 'error', 'message': "Invalid configuration: pci device '{0}' not found\n"
                               .format(props.get('path'))})
        return checks

    # ----------------------------------------------------------------- history

    def _rrd(self, source, v):
        """The points recorded for a frame and a consolidation (AVERAGE unless asked), or none."""
        return ((source or {}).get(v.get('cf') or 'AVERAGE') or {}).get(v['timeframe']) or []

    async def _node_rrd(self, v, user):
        return self._rrd(self.nodes[v['node']].get('rrddata'), v)

    async def _guest_rrd(self, v, user):
        guest = self.guest(int(v['vmid']))
        if guest is None or guest.node != v['node']:
            raise PveError(500, 'no such VM')
        return self._rrd(self.guest_rrd.get(guest.vmid), v)

    async def _storage_rrd(self, v, user):
        store = self._store(v['storage'])
        source = store.get('rrddata') or {}
        return self._rrd(source.get(v['node'], source), v)
