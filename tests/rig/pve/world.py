"""The world a double begins with: world.json into the state of the double."""

import base64
import time

from fakepve import FakeVm
from fakepve.lxc import FakeCt, parse_size
from fakepve.qemu import DRIVE_KEY, split_drive
from fakepve.routing import split_list

from cloudinit import is_cloudinit
from config import typed
from drives import CLOUDINIT_SIZE, UNUSED_KEY

KEYS = ('cluster_name', 'version', 'release', 'repoid', 'quorate', 'time_scale', 'auth_delay', 'tokens', 'acl', 'nodes',
        'storages', 'guests', 'tasks', 'pci_mappings', 'pools', 'root_password')
STORAGE_OWN = ('space', 'files', 'volumes', 'rrddata', 'nodes')
POWER_KEYS = ('acpi', 'shutdown_secs', 'start_secs', 'stop_secs', 'start_error', 'hotplug_fails', 'agent', 'agent_hangs')


class WorldError(Exception):
    """A world.json that cannot be taken."""


def load(pve, world):
    """Fill a new double from a world."""
    unknown = [k for k in world if k not in KEYS]
    if unknown:
        raise WorldError('world.json: unknown key {0!r}'.format(unknown[0]))
    pve.cluster_name = world.get('cluster_name')
    pve.version = world.get('version', '9.2.11')
    pve.release_version = world.get('release') or '.'.join(pve.version.split('.')[:2])
    pve.repoid = world.get('repoid', '14a22df3')
    pve.quorate = world.get('quorate', True)
    pve.time_scale = float(world.get('time_scale', 0.02))
    pve.auth_delay = float(world.get('auth_delay', 0))
    pve.password = world.get('root_password', 'secret')
    pve.apitokens = dict(world.get('tokens') or {})
    pve.nodes = dict((name, load_node(node)) for name, node in (world.get('nodes') or {'pve': {}}).items())
    pve.pci_mappings = list(world.get('pci_mappings') or [])
    pve.storages = {}
    for sid, store in (world.get('storages') or {}).items():
        pve.storages[sid] = load_storage(store)
    for guest in world.get('guests') or []:
        add_guest(pve, guest)
    for sid, store in (world.get('storages') or {}).items():
        load_volumes(pve, sid, store)
    for guest in pve._guests():
        imply_volumes(pve, guest)
    for name, members in (world.get('pools') or {}).items():
        pve.pools[name] = set()
        for vmid in members:
            pve._pool_join(name, vmid)
    for number, task in enumerate(sorted(world.get('tasks') or [], key=lambda t: t['starttime'])):
        add_task(pve, task, number)
    pve.set_acl(world.get('acl') or [])
    for name, node in pve.nodes.items():
        node['boot_memory'] = pve.running_memory(name)


def load_node(node):
    """A node's record: online, status, lvmthin, pci, rrddata."""
    return {'online': node.get('online', True), 'ip': node.get('ip'), 'status': node.get('status'), 'lvmthin': node.get(
        'lvmthin') or [], 'pci': node.get('pci') or [], 'rrddata': node.get('rrddata')}


def load_storage(store):
    """A storage's record, without its volumes; `space` is what counts, `nodes` is a list as storage.cfg has it."""
    out = dict((k, v) for k, v in store.items() if k not in STORAGE_OWN)
    out.setdefault('type', 'dir')
    out.setdefault('active', 1)
    out.setdefault('content', '')
    if out['type'] == 'lvmthin':
        out.setdefault('vgname', 'pve')
        out.setdefault('thinpool', 'data')
    nodes = store.get('nodes')
    if nodes:
        out['nodes'] = nodes if isinstance(nodes, str) else ','.join(nodes)
    out.update(files=set(), volumes={}, rrddata=store.get('rrddata'), space=dict(
        (name, dict(space)) for name, space in (store.get('space') or {}).items()))
    return out


def home_of(pve, sid, vmid):
    """The node a volume of the world lies on: that of the guest that uses it, else the storage's first node."""
    if pve.storages[sid].get('shared'):
        return None
    guest = pve.guest(int(vmid)) if vmid is not None else None
    if guest is not None:
        return guest.node
    nodes = split_list(pve.storages[sid].get('nodes')) or sorted(pve.storages[sid]['space']) or sorted(pve.nodes)
    return nodes[0]


def load_volumes(pve, sid, store):
    """Files and volumes; they are part of the recorded space already, so nothing is charged."""
    volumes = pve.storages[sid]['volumes']
    for name, spec in (store.get('files') or {}).items():
        kind = name.split('/', 1)[0]
        record = {'content': kind, 'ctime': spec.get('ctime', int(time.time())), 'size': spec.get('size', 0),
                  'format': 'iso' if kind == 'iso' else name.rsplit('.', 1)[-1]}
        data = base64.b64decode(spec['base64']) if 'base64' in spec else \
            spec['text'].encode() if 'text' in spec else None
        if data is not None:
            record.update(size=len(data), sha256=pve.files.put(data))
        for key in ('virtual_size', 'node'):
            if spec.get(key) is not None:
                record[key] = spec[key]
        volumes[name] = record
    for name, spec in (store.get('volumes') or {}).items():
        record = dict({'content': 'images', 'format': 'raw', 'ctime': int(time.time())}, **spec)
        if record.get('node') is None:
            users = [g.node for g in pve._guests() if any(
                split_drive(v)[0] == '{0}:{1}'.format(sid, name) for v in g.config.values())]
            record['node'] = users[0] if users and not store.get('shared') else home_of(pve, sid, record.get('vmid'))
        volumes[name] = record


def imply_volumes(pve, guest):
    """Disks a guest's config names exist, even where world.json does not list them."""
    for key, value in list(guest.config.items()) + list(guest.pending.items()):
        if value is None or not (DRIVE_KEY.match(key) or UNUSED_KEY.match(key) or key == 'rootfs'
                                 or key.startswith('mp')):
            continue
        volume, props = split_drive(value)
        sid, found, name = volume.partition(':')
        if not found or sid not in pve.storages or name in pve.storages[sid]['volumes'] or not name or \
                name.startswith(('iso/', 'import/', 'snippets/', 'vztmpl/')):
            continue
        size = CLOUDINIT_SIZE if is_cloudinit(name) else parse_size(props['size']) if props.get('size') else 0
        node = None if pve.storages[sid].get('shared') else guest.node
        pve.storages[sid]['volumes'][name] = {
            'content': 'rootdir' if key == 'rootfs' or key.startswith('mp') else 'images', 'size': size, 'node': node,
            'format': pve._ext_format(name), 'vmid': pve.volume_owner(volume) or guest.vmid, 'ctime': 0}


def add_guest(pve, spec):
    """One guest of the world (or of the control API): {vmid, kind, node, name, power, config, ...}."""
    for key in ('vmid', 'node'):
        if key not in spec:
            raise WorldError('a guest without {0}'.format(key))
    if pve.guest(int(spec['vmid'])) is not None:
        raise WorldError('guest {0} exists'.format(spec['vmid']))
    if spec['node'] not in pve.nodes:
        raise WorldError('guest {0}: no node {1}'.format(spec['vmid'], spec['node']))
    pending = dict((k, v if v is None else typed(k, v)) for k, v in (spec.get('pending') or {}).items())
    config = dict((k, typed(k, v)) for k, v in (spec.get('config') or {}).items() if k not in ('digest', 'lock'))
    common = {'node': spec['node'], 'status': spec.get('power', 'stopped'), 'lock': spec.get('lock'),
              'template': bool(spec.get('template') or config.get('template'))}
    if spec.get('kind', 'qemu') == 'lxc':
        guest = FakeCt(int(spec['vmid']), name=spec.get('name'), config=spec.get('config'),
                       pending=spec.get('pending'), defaults='config' not in spec, **common)
        pve.cts.append(guest)
    else:
        name = spec.get('name') or config.get('name')
        guest = FakeVm(int(spec['vmid']), name or 'VM {0}'.format(spec['vmid']), config=config, pending=pending, **common)
        if name is None:
            guest.config.pop('name', None)
        if common['template']:
            guest.config['template'] = 1
        if common['lock']:
            guest.config['lock'] = common['lock']
        guest.ha_state = spec.get('ha')
        guest.snapshots = dict((name, dict(config)) for name, config in (spec.get('snapshots') or {}).items())
        for key in POWER_KEYS:
            if key in spec:
                setattr(guest, key, spec[key])
        pve.vms.append(guest)
    guest.started_at = None if spec.get('status') else guest.started_at
    guest.stats = dict(spec.get('status') or {})
    guest.qmpstatus = guest.stats.get('qmpstatus', guest.status)
    guest.starts = 0
    if spec.get('rrddata'):
        pve.guest_rrd[guest.vmid] = spec['rrddata']
    return guest


def add_task(pve, spec, number):
    """A task of the past; its UPID is made up unless it is given."""
    user = spec['user'] + ('!' + spec['tokenid'] if spec.get('tokenid') else '')
    pid, pstart = spec.get('pid', 500 + number), spec.get('pstart', 100000 + number)
    upid = spec.get('upid') or 'UPID:{0}:{1:08X}:{2:08X}:{3:08X}:{4}:{5}:{6}:'.format(
        spec['node'], pid, pstart, spec['starttime'], spec['type'], spec.get('id', ''), user)
    status = spec.get('status', 'OK')
    record = {'upid': upid, 'node': spec['node'], 'pid': pid, 'pstart': pstart, 'starttime': spec['starttime'],
              'type': spec['type'], 'id': str(spec.get('id', '')), 'user': user, 'status': 'stopped',
              'exitstatus': status, 'endtime': spec.get('endtime', spec['starttime']), 'log': list(spec.get('log') or [])}
    record['log'].append('TASK OK' if status == 'OK' else 'TASK ' + status if status.startswith('WARNINGS')
                         else 'TASK ERROR: ' + status)
    pve.tasks[upid] = record
    pve.tasklog.append(record)
