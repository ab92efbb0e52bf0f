"""The state on disk: everything that was answered survives kill -9."""

import hashlib
import json
import os

from fakepve import FakeVm
from fakepve.lxc import FakeCt

VM_FIELDS = ('name', 'node', 'status', 'qmpstatus', 'config', 'pending', 'template', 'lock', 'pool', 'snapshots',
             'stats', 'started_at', 'agent', 'agent_hangs', 'acpi', 'shutdown_secs', 'start_secs', 'stop_secs',
             'start_error', 'hotplug_fails', 'ha_state', 'starts')
CT_FIELDS = ('node', 'status', 'config', 'pending', 'snapshots', 'pool', 'stats', 'started_at', 'pid', 'ha_state',
             'starts')
PLAIN = ('cluster_name', 'version', 'release_version', 'repoid', 'quorate', 'time_scale', 'auth_delay', 'password',
         'apitokens', 'pci_mappings', 'tasklog')


def write_atomically(path, data):
    """Write a file so that a reader (or a restart) sees the old or the new one, never a part."""
    temporary = path + '.new'
    with open(temporary, 'wb') as out:
        out.write(data)
    os.replace(temporary, path)


class Files:
    """File contents by their hash, in a folder."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)

    def put(self, data):
        """Keep the bytes; returns their name."""
        name = hashlib.sha256(data).hexdigest()
        path = os.path.join(self.directory, name)
        if not os.path.exists(path):
            write_atomically(path, data)
        return name

    def get(self, name):
        """The bytes of a name."""
        with open(os.path.join(self.directory, name), 'rb') as f:
            return f.read()


def without(record, *keys):
    """The record without some keys."""
    return dict((k, v) for k, v in record.items() if k not in keys)


def dump(pve):
    """The whole state as JSON-able data; the histories (rrddata) are apart, they never change."""
    return {
        'plain': dict((name, getattr(pve, name)) for name in PLAIN),
        'acl': pve.acl_entries(),
        'nodes': dict((name, without(node, 'rrddata')) for name, node in pve.nodes.items()),
        'storages': dict((sid, without(s, 'files', 'rrddata')) for sid, s in pve.storages.items()),
        'vms': [dict(((f, getattr(vm, f, None)) for f in VM_FIELDS), vmid=vm.vmid) for vm in pve.vms],
        'cts': [dict(((f, getattr(ct, f, None)) for f in CT_FIELDS), vmid=ct.vmid) for ct in pve.cts],
        'pools': dict((name, sorted(ids)) for name, ids in pve.pools.items()),
        'pool_info': dict((n, {'comment': i['comment'], 'storage': sorted(i['storage'])})
                          for n, i in pve.pool_info.items()),
    }


def histories(pve):
    """The recorded histories of nodes, storages and guests."""
    return {'nodes': dict((n, node.get('rrddata')) for n, node in pve.nodes.items()),
            'storages': dict((s, store.get('rrddata')) for s, store in pve.storages.items()),
            'guests': pve.guest_rrd}


def restore(pve, saved, history):
    """Go on from a saved state: tasks that ran are dead and hold no locks; config locks stay."""
    for name, value in saved['plain'].items():
        setattr(pve, name, value)
    pve.tasks = dict((record['upid'], record) for record in pve.tasklog)
    pve.nodes = dict((n, dict(node, rrddata=history['nodes'].get(n))) for n, node in saved['nodes'].items())
    pve.storages = dict((s, dict(store, files=set(), rrddata=history['storages'].get(s)))
                        for s, store in saved['storages'].items())
    pve.guest_rrd = dict((int(vmid), data) for vmid, data in history['guests'].items())
    for record in saved['vms']:
        vm = FakeVm(record['vmid'], record['name'])
        for field in VM_FIELDS:
            setattr(vm, field, record[field])
        pve.vms.append(vm)
    for record in saved['cts']:
        ct = FakeCt(record['vmid'], defaults=False)
        for field in CT_FIELDS:
            setattr(ct, field, record[field])
        pve.cts.append(ct)
    pve.pools = dict((name, set(ids)) for name, ids in saved['pools'].items())
    pve.pool_info = dict((n, {'comment': i['comment'], 'storage': set(i['storage'])})
                         for n, i in saved['pool_info'].items())
    pve.set_acl(saved['acl'])
    pve.revive_tasks()


class Store:
    """DIR/saved.json and its companions."""

    def __init__(self, directory):
        self.saved = os.path.join(directory, 'saved.json')
        self.history = os.path.join(directory, 'rrddata.json')

    def exists(self):
        """True if there is a state to go on from."""
        return os.path.exists(self.saved)

    def save(self, pve):
        """Write the state."""
        write_atomically(self.saved, json.dumps(dump(pve)).encode())

    def save_histories(self, pve):
        """Write the histories: at the beginning, and when a test gives a node another."""
        write_atomically(self.history, json.dumps(histories(pve)).encode())

    def load(self, pve):
        """Read both back."""
        with open(self.saved, encoding='utf-8') as f:
            saved = json.load(f)
        with open(self.history, encoding='utf-8') as f:
            restore(pve, saved, json.load(f))
