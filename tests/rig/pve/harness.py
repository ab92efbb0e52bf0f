"""A double as a process, for the tests: start it, ask it, end it by its process id."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse

GIB = 1024 ** 3
HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN, ROOT, WEAK = 'capplan@pve!ci', 'root@pam!rig', 'weak@pve!ci'
SECRET = 'a-test-secret'
VM_PRIVILEGES = ['VM.Clone', 'VM.Audit', 'VM.Allocate', 'VM.PowerMgmt', 'VM.GuestAgent.Audit'] + [
    'VM.Config.' + name for name in 'CPU Memory Disk Options Network HWType CDROM Cloudinit'.split()]
STATUS = {
    'uptime': 4099, 'idle': 0, 'wait': 0, 'cpu': 0.1, 'loadavg': ['6.43', '6.75', '7.39'],
    'memory': {'total': 64 * GIB, 'used': 20 * GIB, 'free': 30 * GIB, 'available': 40 * GIB},
    'swap': {'total': 0, 'used': 0, 'free': 0}, 'ksm': {'shared': 0},
    'rootfs': {'total': 100 * GIB, 'used': 40 * GIB, 'avail': 55 * GIB, 'free': 60 * GIB},
    'cpuinfo': {'cpus': 2, 'cores': 2, 'sockets': 1, 'model': 'CPU', 'mhz': '2596.136'}}
POOL = {'vg': 'pve', 'lv': 'data', 'lv_size': 500 * GIB, 'used': 100 * GIB, 'metadata_size': 4 * GIB,
        'metadata_used': GIB // 10}
# A qcow2 header is all that is read of an image: its magic and its virtual size.
QCOW2 = b'QFI\xfb\0\0\0\3' + bytes(16) + (2 * GIB).to_bytes(8, 'big') + bytes(64)


def qemu(vmid, name, config, **more):
    """A guest of the world."""
    return dict({'vmid': vmid, 'kind': 'qemu', 'node': 'pve1', 'name': name, 'power': 'stopped', 'config': config}, **more)


def make_world(**changes):
    """A host with a thin pool, a file storage, a template, a stopped and a running VM and a container."""
    world = {
        'cluster_name': 'lab', 'version': '9.2.11', 'release': '9.2', 'quorate': True, 'time_scale': 0.01,
        'tokens': {TOKEN: SECRET, ROOT: SECRET, WEAK: SECRET},
        'acl': [{'user': TOKEN, 'path': '/', 'privileges': ['Sys.Audit'], 'propagate': False},
                {'user': TOKEN, 'path': '/nodes', 'privileges': ['Sys.Audit']},
                {'user': TOKEN, 'path': '/vms', 'privileges': VM_PRIVILEGES},
                {'user': TOKEN, 'path': '/storage', 'privileges': [
                    'Datastore.' + p for p in ('Allocate', 'AllocateSpace', 'AllocateTemplate', 'Audit')]},
                {'user': TOKEN, 'path': '/sdn/zones/localnetwork', 'privileges': ['SDN.Use']},
                {'user': TOKEN, 'path': '/mapping/pci/gpu0', 'privileges': ['Mapping.Use']},
                {'user': WEAK, 'path': '/nodes', 'privileges': ['Sys.Audit']}],
        'nodes': {'pve1': {
            'online': True, 'status': STATUS, 'lvmthin': [POOL],
            'pci': [{'id': '0000:01:00.0', 'class': '0x030000', 'vendor': '0x10de', 'device': '0x1eb8'},
                    {'id': '0000:00:01.0', 'class': '0x060400', 'vendor': '0x8086', 'device': '0x1901'}],
            'rrddata': {'AVERAGE': {'hour': [{'time': 60}, {'time': 120, 'cpu': 0.5}]}, 'MAX': {'hour': [{'time': 60}]}}}},
        'storages': {
            'local-lvm': {'type': 'lvmthin', 'content': 'images,rootdir', 'shared': 0, 'active': 1,
                          'space': {'pve1': {'total': 500 * GIB, 'used': 100 * GIB, 'avail': 400 * GIB}},
                          'volumes': {'base-9000-disk-0': {'size': 4 * GIB, 'vmid': 9000, 'used': GIB},
                                      'vm-9999-pvc-1': {'size': 10 * GIB, 'vmid': 9999}}},
            'store': {'type': 'dir', 'path': '/mnt/store', 'content': 'iso,import,snippets,images', 'nodes': ['pve1'],
                      'space': {'pve1': {'total': 100 * GIB, 'used': 10 * GIB, 'avail': 80 * GIB}},
                      'files': {'snippets/x.yaml': {'text': '#cloud-config\npackages: [jq]\n'},
                                'import/noble.qcow2': {'size': 600000000, 'virtual_size': 3 * GIB}}}},
        'guests': [
            qemu(9000, 'tmpl', {'scsi0': 'local-lvm:base-9000-disk-0,discard=on,size=4G', 'memory': '2048', 'cores': 2,
                                'ide2': 'local-lvm:vm-9000-cloudinit,media=cdrom', 'boot': 'order=scsi0', 'agent': '1',
                                'net0': 'virtio=BC:24:11:A5:51:8D,bridge=vmbr0', 'serial0': 'socket',
                                'smbios1': 'uuid=85f7b003-24c4-4f08-99f5-1ad1e1047a44'}, template=True),
            qemu(101, 'worker-1', {'scsi0': 'local-lvm:vm-101-disk-0,size=32G', 'memory': '4096', 'cores': '4',
                                   'boot': 'order=scsi0', 'onboot': 1, 'net0': 'virtio=BC:24:11:27:60:9D,bridge=vmbr0',
                                   'ide2': 'local-lvm:vm-101-cloudinit,media=cdrom,size=4M', 'ciuser': 'ubuntu',
                                   'ipconfig0': 'ip=10.0.0.5/24,gw=10.0.0.1', 'nameserver': '10.0.0.1',
                                   'searchdomain': 'lab'}),
            qemu(102, 'worker-2', {'scsi0': 'local-lvm:vm-102-disk-0,size=32G', 'memory': '8192', 'cores': 2,
                                   'boot': 'order=scsi0', 'agent': '1'}, power='running', pending={'memory': '4096'},
                 status={'mem': 5 * GIB, 'uptime': 500, 'cpus': 2, 'qmpstatus': 'running'}),
            {'vmid': 110, 'kind': 'lxc', 'node': 'pve1', 'name': 'dns', 'power': 'running', 'status': {'mem': 1000},
             'config': {'memory': 512, 'hostname': 'dns', 'rootfs': 'local-lvm:vm-110-disk-0,size=8G'}}],
        'tasks': [{'node': 'pve1', 'type': 'qmconfig', 'id': '201', 'user': 'root@pam', 'starttime': 1787215500,
                   'endtime': 1787215501, 'status': 'hotplug problem - duplicate property'},
                  {'node': 'pve1', 'type': 'vzdump', 'id': '', 'user': 'root@pam', 'starttime': 1787215600,
                   'endtime': 1787215700, 'status': 'OK'}],
        'pci_mappings': [{'id': 'gpu0', 'map': ['node=pve1,path=0000:01:00.0,id=10de:1eb8']}]}
    world.update(changes)
    return world


class Answer:
    """Status, reason phrase, headers, body and (for JSON) its data."""

    def __init__(self, response):
        self.status, self.reason, self.headers = response.status, response.reason, response.headers
        self.body = response.read()
        try:
            self.json = json.loads(self.body)
        except ValueError:
            self.json = None

    @property
    def data(self):
        return self.json['data']

    @property
    def errors(self):
        return self.json.get('errors') or {}


class Rig:
    """One double in a temporary folder."""

    def __init__(self, world=None):
        self.folder = tempfile.TemporaryDirectory()
        self.state = self.folder.name
        with open(os.path.join(self.state, 'world.json'), 'w', encoding='utf-8') as out:
            json.dump(world or make_world(), out)
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, 'double.py'), '--state', self.state],
                                        stdout=subprocess.PIPE)
        self.ready = json.loads(self.process.stdout.readline())
        self.tls = ssl.create_default_context(cafile=self.ready['certificate'])

    def end(self, number=signal.SIGTERM):
        """End the process by its id; returns its exit code."""
        os.kill(self.process.pid, number)
        self.process.stdout.close()
        return self.process.wait(10)

    def close(self):
        self.end()
        self.folder.cleanup()

    # ------------------------------------------------------------------- PVE

    def connection(self):
        where = urllib.parse.urlparse(self.ready['pve'])
        return http.client.HTTPSConnection(where.hostname, where.port, context=self.tls, timeout=20)

    def raw(self, method, path, body=None, headers=None, token=TOKEN):
        """One request with exactly these headers and this body."""
        connection = self.connection()
        sent = dict({'Authorization': 'PVEAPIToken={0}={1}'.format(token, SECRET)} if token else {}, **(headers or {}))
        try:
            connection.request(method, '/api2/json' + path, body, sent, encode_chunked='Transfer-Encoding' in sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def call(self, method, path, token=TOKEN, /, **params):
        """One request with form or query parameters; `_` in a name stands for `-`."""
        text = urllib.parse.urlencode(dict((k.replace('_', '-'), v) for k, v in params.items()))
        if method in ('GET', 'DELETE'):
            return self.raw(method, path + ('?' + text if text else ''), token=token)
        return self.raw(method, path, text, {'Content-Type': 'application/x-www-form-urlencoded'}, token)

    def get(self, path, token=TOKEN, /, **params):
        """The data of a GET that must work."""
        answer = self.call('GET', path, token, **params)
        if answer.status != 200:
            raise AssertionError('GET {0}: {1} {2}'.format(path, answer.status, answer.body))
        return answer.data

    def upload(self, storage, content, filename, data, file_first=False, field='filename', token=TOKEN, **fields):
        """A multipart upload, the fields before the file unless told otherwise."""
        parts = [(b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (k.replace('_', '-').encode(), v.encode()))
                 for k, v in dict({'content': content}, **fields).items()]
        part = (b'Content-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: application/octet-stream'
                b'\r\n\r\n' % (field.encode(), filename.encode())) + data
        parts = [part] + parts if file_first else parts + [part]
        body = b''.join(b'--BOUND\r\n' + p + b'\r\n' for p in parts) + b'--BOUND--\r\n'
        return self.raw('POST', '/nodes/pve1/storage/{0}/upload'.format(storage), body,
                        {'Content-Type': 'multipart/form-data; boundary=BOUND'}, token)

    def task(self, answer, token=TOKEN):
        """Wait for the task an answer names; its exit status."""
        if answer.status != 200:
            raise AssertionError('{0} {1}'.format(answer.status, answer.body))
        return self.wait(answer.data, token)

    def wait(self, upid, token=TOKEN):
        """The exit status of a task."""
        path = '/nodes/pve1/tasks/{0}/status'.format(urllib.parse.quote(upid, safe=''))
        for _ in range(500):
            status = self.get(path, token)
            if status['status'] == 'stopped':
                return status['exitstatus']
            time.sleep(0.02)
        raise AssertionError('{0} does not end'.format(upid))

    def log(self, upid, token=TOKEN):
        """The lines of a task log."""
        path = '/nodes/pve1/tasks/{0}/log'.format(urllib.parse.quote(upid, safe=''))
        return [row['t'] for row in self.get(path, token)]

    def config(self, vmid, /, **params):
        return self.get('/nodes/pve1/qemu/{0}/config'.format(vmid), **params)

    def post_config(self, vmid, /, **params):
        """POST config and the exit status of its task."""
        return self.task(self.call('POST', '/nodes/pve1/qemu/{0}/config'.format(vmid), **params))

    def power(self, vmid, action, **params):
        return self.task(self.call('POST', '/nodes/pve1/qemu/{0}/status/{1}'.format(vmid, action), **params))

    def volumes(self, storage):
        """{name: row} of a storage."""
        rows = self.get('/nodes/pve1/storage/{0}/content'.format(storage), ROOT)
        return dict((row['volid'].split(':', 1)[1], row) for row in rows)

    # --------------------------------------------------------------- control

    def control(self, method, path, body=None):
        """The control API's answer."""
        where = urllib.parse.urlparse(self.ready['control'])
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise AssertionError('{0} {1}: {2}'.format(method, path, data))
        return data
