"""Hosts with real figures, guests that come from a snapshot, and tasks that may go wrong.

fakepve answers node status, thin pools, mappings and archives with made-up values, shows the running configuration
only, and lists tasks without PVE's filters (proxmox.md, section 7).
"""

import asyncio
import base64
import json
import time

from fakepve.model import PveError, TaskError
from fakepve.routing import param_error
from fakepve.server import USER, int_param, ok, params
from fakepve.storage import _is_file

from disks import Disks
from seed import missing_snippets
from wire import upload_of


def running_memory(double, node):
    """Bytes of memory that the running guests of a host were given."""
    vms = sum(int(str(vm.config.get('memory', 512)).split('=')[-1]) for vm in double.vms
              if vm.node == node and vm.status == 'running')
    cts = sum(int(ct.config.get('memory', 512)) for ct in double.cts if ct.node == node and ct.status == 'running')
    return (vms + cts) * 1024 ** 2


class Machine(Disks):
    """The world of a snapshot."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.standalone = False
        self.hosts = {}
        self.spaces = {}
        self.contents = {}
        self.mappings = []
        self.base_memory = {}
        # How often a VM was started since the world began: a boot is a rise.
        self.starts = {}
        self.next_task = None
        self.hung = []

    def settle_in(self, world):
        """Take up world.json; tests/rig/src/double.rs is the one place that knows its fields."""
        self.standalone = world['cluster_name'] is None
        self.cluster_name = world['cluster_name'] or 'lab'
        self.version, self.release_version = world['version'], world['release']
        self.quorate, self.time_scale = world['quorate'], world['time_scale']
        self.apitokens = dict(world['tokens'])
        self.set_acl(world['acl'])
        self.nodes = dict((name, {'online': host['online']}) for name, host in world['nodes'].items())
        self.hosts = world['nodes']
        self.storages = {}
        for sid, storage in world['storages'].items():
            self._settle_storage(sid, storage)
        for guest in world['guests']:
            self.add_guest(guest)
        for task in world['tasks']:
            self._settle_task(task)
        self.mappings = world['pci_mappings']
        self.base_memory = dict((node, running_memory(self, node)) for node in self.nodes)

    def _settle_storage(self, sid, storage):
        store = {'type': storage['type'], 'content': storage['content'], 'shared': storage['shared'],
                 'active': storage['active'], 'files': set(), 'volumes': dict(storage.get('volumes') or {})}
        if storage.get('nodes'):
            store['nodes'] = ','.join(storage['nodes'])
        if storage['type'] == 'lvmthin':
            store.update(vgname='pve', thinpool='data')
        if _is_file(store):
            store['path'] = '/var/lib/vz' if sid == 'local' else '/mnt/pve/' + sid
        self.spaces[sid] = storage['space']
        store['avail'] = max([space['avail'] for space in storage['space'].values()], default=0)
        self.spaces[sid]['start'] = store['avail']
        self.storages[sid] = store
        for name, content in (storage.get('files') or {}).items():
            data = base64.b64decode(content['base64']) if 'base64' in content else content.get('text', '').encode()
            self.keep_file(sid, name, data, content.get('size'))

    def keep_file(self, sid, name, data, size=None):
        """A file of a storage with its content; `iso/x.iso`, `snippets/x.yaml`, `import/x.qcow2`."""
        kind, _, file_name = name.partition('/')
        self.storages[sid]['volumes'][name] = {'content': kind, 'size': len(data) if size is None else size,
                                               'ctime': int(time.time()), 'format': file_name.rsplit('.', 1)[-1]}
        self.contents[(sid, name)] = data

    def add_guest(self, guest):
        """A guest of world.json, or one that appears later."""
        if guest.get('kind') == 'lxc':
            ct = self.add_ct(guest['vmid'], guest['name'], guest['node'], guest['power'], guest['config'],
                             lock=guest.get('lock'), defaults=False)
            ct.stats = guest.get('status') or {}
            return
        config = guest['config']
        vm = self.add_vm(guest['vmid'], guest['name'], guest['node'], guest['power'], config=config,
                         pending=guest.get('pending'), template=guest.get('template', False), lock=guest.get('lock'))
        if guest.get('lock'):
            vm.config['lock'] = guest['lock']
        vm.stats = dict(guest.get('status') or {})
        # What follows from the configuration is worked out from it, also when that changes.
        if vm.stats.get('maxmem') == int(str(config.get('memory', 512))) * 1024 ** 2:
            vm.stats.pop('maxmem')
        if vm.stats.get('cpus') == int(config.get('cores', 1)) * int(config.get('sockets', 1)):
            vm.stats.pop('cpus')

    def _settle_task(self, task):
        upid, pid, _ = self._upid(task['node'], task['type'], task['id'], task['user'])
        record = {'upid': upid, 'node': task['node'], 'pid': pid, 'pstart': pid * 7, 'starttime': task['starttime'],
                  'endtime': task['endtime'], 'type': task['type'], 'id': task['id'], 'user': task['user'],
                  'status': 'stopped', 'exitstatus': task['status'], 'log': ['TASK ERROR: ' + task['status']]}
        self.tasks[upid] = record
        self.tasklog.append(record)

    def set_acl(self, rows):
        """Who may do what; with no row nobody but root may do anything."""
        self.acl = {}
        for row in rows:
            self.grant(row['user'], row['path'], *row['privileges'])

    # ---------------------------------------------------------------- hosts

    def _routes_hosts(self):
        node = '/nodes/{node}'
        return [('GET', node + '/status', self._host_status), ('GET', node + '/disks/lvmthin', self._host_pools),
                ('GET', node + '/rrddata', self._host_archive), ('GET', node + '/qemu/{vmid}/rrddata', self._guest_archive),
                ('GET', node + '/storage/{storage}/rrddata', self._storage_archive),
                ('GET', node + '/hardware/pci', self._host_pci), ('GET', node + '/time', self._host_time), ('GET', '/cluster/mapping/pci', self._pci_mappings)]

    async def _host_status(self, v, user):
        """The host's figures; memory follows the guests that were started or stopped since the world began."""
        self._need_online(v['node'])
        status = json.loads(json.dumps(self.hosts[v['node']]['status']))
        more = running_memory(self, v['node']) - self.base_memory.get(v['node'], 0)
        memory = status.get('memory') or {}
        for name, sign in (('used', 1), ('free', -1), ('available', -1)):
            if name in memory:
                memory[name] = max(0, memory[name] + sign * more)
        return status

    def _need_online(self, node):
        if not self.nodes[node].get('online', True):
            raise PveError(595, 'No route to host')

    async def _host_pools(self, v, user):
        """Thin pools; what storages of the pool's volume group allocated since counts as used in full."""
        pools = json.loads(json.dumps(self.hosts[v['node']]['lvmthin']))
        for sid, store in self.storages.items():
            if store['type'] == 'lvmthin':
                for pool in pools:
                    if (pool['vg'], pool['lv']) == (store.get('vgname'), store.get('thinpool')):
                        pool['used'] += self._allocated(sid)
        return pools

    def _allocated(self, sid):
        """Bytes allocated on a storage since the world began."""
        return self.spaces[sid]['start'] - self.storages[sid]['avail']

    async def _host_archive(self, v, user):
        data = self.hosts[v['node']].get('rrddata') or {}
        return data.get(v.get('cf') or 'AVERAGE', {}).get(v['timeframe'], [])

    async def _guest_archive(self, v, user):
        return []

    async def _storage_archive(self, v, user):
        return []

    async def _host_time(self, v, user):
        return {'time': int(time.time()), 'localtime': int(time.time()), 'timezone': 'UTC'}

    async def _host_pci(self, v, user):
        return self.hosts[v['node']].get('pci') or []

    async def _pci_mappings(self, v, user):
        """Filtered by Mapping.Audit, Mapping.Use or Mapping.Modify on each mapping, without a word."""
        audit = ('Mapping.Audit', 'Mapping.Use', 'Mapping.Modify')
        return [one for one in self.mappings
                if any(self.allowed(user, '/mapping/pci/' + one['id'], priv) for priv in audit)]

    def _host_row(self, name):
        """The figures of a host in the lists."""
        host, online = self.hosts[name], self.nodes[name].get('online', True)
        row = {'node': name, 'id': 'node/' + name, 'type': 'node', 'level': '', 'status': 'online' if online else 'offline'}
        if online:
            status = host['status']
            memory, rootfs = status.get('memory') or {}, status.get('rootfs') or {}
            row.update(cpu=status.get('cpu', 0.02), maxcpu=(status.get('cpuinfo') or {}).get('cpus', 1),
                       mem=memory.get('used', 0), maxmem=memory.get('total', 0), disk=rootfs.get('used', 0),
                       maxdisk=rootfs.get('total', 0), uptime=status.get('uptime', 0))
        return row

    async def _nodes(self, request):
        return ok([dict(self._host_row(name), ssl_fingerprint=self.fingerprint) for name in sorted(self.nodes)])

    async def _resources(self, request):
        rows = json.loads((await super()._resources(request)).text)['data']
        out = []
        for row in rows:
            if row['type'] == 'node':
                row = self._host_row(row['node'])
            elif row['type'] == 'storage':
                if not self._can_audit(request[USER], row['storage']):
                    continue
                item = self._status_item(row['storage'], row['node'])
                row.update(disk=item['used'], maxdisk=item['total'])
            out.append(row)
        return ok(out)

    async def _cluster_status(self, request):
        self.require(request[USER], '/', 'Sys.Audit')
        rows = json.loads((await super()._cluster_status(request)).text)['data']
        return ok([row for row in rows if not (self.standalone and row['type'] == 'cluster')])

    def _status_item(self, name, node, formats=False):
        item = super()._status_item(name, node, formats)
        space = self.spaces[name].get(node)
        if space and item['active']:
            more = self._allocated(name)
            item.update(total=space['total'], used=space['used'] + more, avail=max(0, space['avail'] - more))
        return item

    # --------------------------------------------------------------- guests

    async def _config_get(self, request):
        """Pending values are merged in, unless `current` asks for those in force."""
        vm = self._vm(request, 'VM.Audit')
        config = dict(vm.config)
        if str(request.query.get('current', '0')) not in ('1', 'true'):
            for key, value in vm.pending.items():
                if value is None:
                    config.pop(key, None)
                else:
                    config[key] = value
        for key in ('memory', 'agent'):
            if key in config:
                config[key] = str(config[key])
        return ok(dict(config, digest=vm.digest()))

    async def _upload(self, request):
        """An upload keeps its bytes. fakepve takes `iso`; `import` is taken here by the same rules."""
        body = await request.read()
        boundary = request.headers.get('Content-Type', '').partition('boundary=')[2].strip('"')
        order, fields, name, data = upload_of(body, boundary)
        if 'content' not in order[:-1] or order[-1] != 'filename' or name is None:
            # PVE reads no parameter that comes after the file.
            raise param_error(content='property is missing and it is not optional')
        sid, content = request.match_info['storage'], fields.get('content')
        if content == 'import':
            user = request[USER]
            self.require(user, '/storage/' + sid, 'Datastore.AllocateTemplate')

            async def body_():
                self.keep_file(sid, 'import/' + name, data)
            return ok(await self.task(request.match_info['node'], 'imgcopy', '', user, body_))
        response = await super()._upload(request)
        if response.status == 200:
            self.contents[(sid, '{0}/{1}'.format(content, name))] = data
        return response

    # ---------------------------------------------------------------- tasks

    async def task(self, node, ttype, tid, user, body, vm=None, lock=True, log=()):
        """A task of fakepve's, with the end that a test asked for, kept on disk when it is over."""
        fate, self.next_task = self.next_task, None

        async def work():
            if fate == 'hang':
                ended = asyncio.Event()
                self.hung.append(ended)
                await ended.wait()
            elif fate and not fate.startswith('WARNINGS'):
                raise TaskError(fate)
            if ttype == 'qmstart' and vm is not None:
                missing = missing_snippets(self, vm)
                if missing:
                    raise TaskError("volume '{0}' does not exist".format(missing[0]))
            note = await body()
            if ttype == 'qmclone' and vm is not None:
                self.own_cloudinit(vm)
            if ttype in ('qmstart', 'qmreboot') and vm is not None:
                self.starts[vm.vmid] = self.starts.get(vm.vmid, 0) + 1
            return note

        async def kept():
            try:
                return await work()
            finally:
                # fakepve writes the end of the task right after this, without a pause.
                asyncio.get_running_loop().call_soon(over)

        def over():
            record = self.tasks[upid]
            if fate and fate.startswith('WARNINGS') and record.get('exitstatus') == 'OK':
                record['exitstatus'] = fate
                record['log'][-1] = 'TASK ' + fate
            self.changed()

        upid = await super().task(node, ttype, tid, user, kept, vm=vm, lock=lock, log=log)
        return upid

    async def _task_list(self, request):
        """PVE's filters: errors, typefilter, source (running tasks are `active`, ended ones `archive`)."""
        node, user = request.match_info['node'], request[USER]
        p = self._verify(request, await params(request))
        audit = self.allowed(user, '/nodes/' + node, 'Sys.Audit')
        rows = []
        for task in sorted(self.tasklog, key=lambda one: -one['starttime']):
            running = task['status'] == 'running'
            if task['node'] != node or not (audit or self._task_owner(user, task)):
                continue
            if p.get('vmid') is not None and task['id'] != str(p['vmid']):
                continue
            if p.get('typefilter') and task['type'] != p['typefilter']:
                continue
            if p.get('source', 'archive') != 'all' and running != (p.get('source') == 'active'):
                continue
            good = task.get('exitstatus') == 'OK' or str(task.get('exitstatus')).startswith('WARNINGS')
            if str(p.get('errors', '0')) in ('1', 'True', 'true') and (running or good):
                continue
            rows.append(self._task_view(task, True))
        start = int_param(p, 'start', 0)
        return ok(rows[start:start + int_param(p, 'limit', 50)])
