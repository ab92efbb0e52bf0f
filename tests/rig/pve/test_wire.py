"""The HTTP layer, the record, injected trouble, restarts and seeds."""

import base64
import json
import os
import signal
import socket
import unittest
import urllib.parse

from harness import GIB, ROOT, SECRET, STATUS, TOKEN, WEAK, Rig, make_world, qemu
from make_seed import make_iso
from test_double import Case

FORM = {'Content-Type': 'application/x-www-form-urlencoded'}
CONFIG = '/nodes/pve1/qemu/101/config'


class Wire(Case):
    def test_login(self):
        for token, reason in ((None, 'No ticket'), ('nobody@pve!x', 'Authentication failed!')):
            answer = self.rig.raw('GET', '/nodes', token=token)
            self.assertEqual((answer.status, answer.reason, answer.body), (401, reason, b''))
            self.assertEqual(answer.headers['Connection'], 'close')
        space = {'Authorization': 'PVEAPIToken {0}={1}'.format(TOKEN.replace('!', '%21'), SECRET)}
        self.assertEqual(self.rig.raw('GET', '/nodes', headers=space, token=None).status, 200)

    def test_bodies_where_none_may_be(self):
        for method in ('DELETE', 'GET'):
            answer = self.rig.raw(method, '/nodes/pve1/qemu/101', 'purge=1', FORM)
            reason = "Unexpected content for method '{0}'".format(method)
            self.assertEqual((answer.status, answer.reason, answer.body.decode()), (501, reason, reason))
        self.assertEqual(self.rig.raw('GET', CONFIG).status, 200)

    def test_chunked(self):
        answer = self.rig.raw('PUT', CONFIG, iter([b'description=x']), dict(FORM, **{'Transfer-Encoding': 'chunked'}))
        self.assertEqual(answer.status, 501)
        self.assertEqual(len(self.rig.control('GET', '/violations')), 1)

    def test_content_types(self):
        raw = self.rig.raw
        answer = raw('PUT', CONFIG, 'description=x', {'Content-Type': 'text/plain'})
        self.assertEqual((answer.status, answer.reason), (506, "upload 'Content-Type 'text/plain' not implemented"))
        answer = raw('PUT', CONFIG, json.dumps({'cores': 3, 'onboot': False}), {'Content-Type': 'application/json'})
        self.assertEqual(answer.status, 200)
        self.assertEqual(raw('PUT', CONFIG, 'description=plain').status, 200)
        config = self.rig.config(101)
        self.assertEqual((config['cores'], config['onboot'], config['description']), (3, 0, 'plain'))

    def test_methods(self):
        answer = self.rig.raw('PATCH', CONFIG)
        self.assertEqual((answer.status, answer.reason, answer.body), (501, "method 'PATCH' not available", b''))

    def test_unencoded_signs(self):
        answer = self.rig.raw('PUT', CONFIG, 'boot=order=scsi0', FORM)
        self.assertEqual(answer.errors, {'boot': 'invalid format - format error\nboot.legacy: value does not match the '
                                                 'regex pattern\n'})
        self.assertEqual(self.rig.raw('PUT', CONFIG, 'tags=a;b', FORM).errors.keys(), {'b'})
        self.assertEqual(self.rig.raw('PUT', CONFIG, 'tags=a%3Bb&boot=order%3Dscsi0', FORM).status, 200)
        found = [e['violations'] for e in self.rig.control('GET', '/violations')]
        self.assertIn("raw '='", found[0][0])
        self.assertIn("raw ';'", found[1][0])

    def test_large_bodies(self):
        answer = self.rig.raw('PUT', CONFIG, 'description=' + 'x' * (512 * 1024), FORM)
        self.assertEqual(answer.status, 501)
        self.assertEqual(self.rig.upload('store', 'iso', 'big.iso', bytes(3 * 1024 ** 2)).status, 200)

    def test_errors_end_the_connection(self):
        connection = self.rig.connection()
        connection.request('GET', '/api2/json/nosuch', headers={'Authorization': 'PVEAPIToken={0}={1}'.format(TOKEN, SECRET)})
        response = connection.getresponse()
        self.assertEqual(json.loads(response.read()), {'data': None, 'message': "Method 'GET /nosuch' not implemented"})
        self.assertEqual(response.headers['Connection'], 'close')
        connection.close()


class Record(Case):
    def test_what_is_recorded(self):
        rig = self.rig
        rig.call('POST', CONFIG, cipassword='hidden', description='x')
        rig.get('/nodes/pve1/tasks', limit=1)
        rig.raw('GET', '/nodes', token=None)
        rig.upload('store', 'iso', 'w.iso', b'x')
        first, second, third, upload = rig.control('GET', '/requests')
        self.assertEqual((first['n'], first['method'], first['path'], first['user'], first['status']),
                         (1, 'POST', CONFIG, TOKEN, 200))
        self.assertEqual(first['form'], {'cipassword': '***', 'description': 'x'})
        self.assertTrue(first['upid'].startswith('UPID:pve1:'))
        self.assertEqual((second['query'], second['form'], second['violations']), ({'limit': '1'}, None, []))
        self.assertEqual((third['user'], third['status']), (None, 401))
        self.assertEqual(upload['form'], {'content': 'iso', 'filename': 'w.iso'})
        self.assertEqual([e['n'] for e in rig.control('GET', '/requests?from=3')], [3, 4])
        with open(os.path.join(rig.state, 'requests.jsonl'), encoding='utf-8') as lines:
            text = lines.read()
        self.assertEqual(len(text.splitlines()), 4)
        self.assertNotIn(SECRET, text)
        self.assertNotIn('hidden', text)

    def test_violations(self):
        call = self.rig.call
        call('GET', '/nodes/pve1/storage/store/content', content='iso')
        call('DELETE', '/nodes/pve1/storage/store/content/store%3Aiso%2Fx.iso')
        self.assertEqual(self.rig.control('GET', '/violations'), [])
        for method, path, params, text in (
                ('GET', '/nosuch', {}, 'no such path'), ('POST', '/nodes/pve1/status/foo', {}, 'no such path'),
                ('DELETE', '/version', {}, 'no such method'), ('POST', CONFIG, {'nope': 1}, 'nope: property is not defined'),
                ('POST', '/nodes/pve1/qemu/9000/clone', {}, 'newid: property is missing'),
                ('PUT', CONFIG, {'cores': 'x'}, "cores: type check ('integer') failed"),
                ('PUT', CONFIG, {'cores': 0}, 'cores: value must have a minimum'),
                ('PUT', CONFIG, {'net0': 'virtio,bogus=1'}, 'net0: invalid format'),
                ('GET', '/nodes/pve1/rrddata', {'timeframe': 'fortnight'}, 'timeframe: value')):
            call(method, path, **params)
            found = self.rig.control('GET', '/violations')[-1]
            self.assertIn(text, ' '.join(found['violations']), found)
        self.rig.upload('store', 'snippets', 'x.yaml', b'x')
        self.assertIn('content: value', self.rig.control('GET', '/violations')[-1]['violations'][0])


class Faults(Case):
    def fail(self, **spec):
        self.rig.control('POST', '/fail', spec)

    def test_instead_and_counted(self):
        self.fail(method='PUT', path='/nodes/{node}/qemu/{vmid}/config', status=500, message='boom', times=1)
        answer = self.rig.call('PUT', CONFIG, description='x')
        self.assertEqual((answer.status, answer.reason, answer.json['message']), (500, 'boom', 'boom\n'))
        self.assertNotIn('description', self.rig.config(101))
        self.assertEqual(self.rig.call('PUT', CONFIG, description='x').status, 200)

    def test_after_the_work_was_done(self):
        self.fail(method='PUT', path=CONFIG, status=596, message='Connection timed out', after=True)
        self.assertEqual(self.rig.call('PUT', CONFIG, description='x').status, 596)
        self.assertEqual(self.rig.config(101)['description'], 'x')
        self.rig.control('DELETE', '/fail')
        self.assertEqual(self.rig.call('PUT', CONFIG, description='y').status, 200)

    def test_tasks_that_fail_warn_and_hang(self):
        rig, path = self.rig, '/nodes/pve1/qemu/101/status/start'
        self.fail(method='POST', path=path, task='start failed: QEMU exited with code 1', times=1)
        self.assertEqual(rig.power(101, 'start'), 'start failed: QEMU exited with code 1')
        self.assertEqual(rig.get('/nodes/pve1/qemu/101/status/current')['status'], 'stopped')
        self.fail(method='POST', path=path, task='WARNINGS: 1', times=1)
        answer = rig.call('POST', path)
        self.assertEqual(rig.task(answer), 'WARNINGS: 1')
        self.assertEqual(rig.log(answer.data)[-1], 'TASK WARNINGS: 1')
        self.assertEqual(rig.get('/nodes/pve1/qemu/101/status/current')['status'], 'running')
        self.fail(method='POST', path='/nodes/{node}/qemu/{vmid}/clone', task='hang')
        upid = rig.call('POST', '/nodes/pve1/qemu/9000/clone', newid=130).data
        self.assertEqual(rig.config(130)['lock'], 'clone')
        self.assertEqual([t['upid'] for t in rig.get('/nodes/pve1/tasks', source='active')], [upid])
        rig.control('DELETE', '/fail')
        self.assertEqual(rig.wait(upid), 'OK')
        self.fail(method='POST', path='/nodes/{node}/qemu/{vmid}/clone', task='hang')
        upid = rig.call('POST', '/nodes/pve1/qemu/9000/clone', newid=131).data
        rig.call('DELETE', '/nodes/pve1/tasks/' + urllib.parse.quote(upid, safe=''))
        self.assertEqual(rig.wait(upid), 'received interrupt')

    def test_cut_connections(self):
        self.fail(method='PUT', path=CONFIG, reset=True, times=1)
        with self.assertRaises(OSError):
            self.rig.call('PUT', CONFIG, description='x')
        self.assertNotIn('description', self.rig.config(101))
        self.fail(method='PUT', path=CONFIG, reset=True, after=True, times=1)
        with self.assertRaises(OSError):
            self.rig.call('PUT', CONFIG, description='x')
        self.assertEqual(self.rig.config(101)['description'], 'x')
        self.assertIsNone(self.rig.control('GET', '/requests')[0]['status'])

    def test_the_network(self):
        self.rig.control('POST', '/network', {'latency': 0, 'drop_rate': 1, 'seed': 1})
        with self.assertRaises(OSError):
            self.rig.get('/version')
        self.rig.control('POST', '/network', {'drop_rate': 0})
        self.assertEqual(self.rig.call('GET', '/version').status, 200)

    def test_a_rule_must_make_sense(self):
        for spec in ({'path': '/x'}, {'method': 'GET', 'path': '/x', 'nosuch': 1}):
            with self.assertRaises(AssertionError):
                self.rig.control('POST', '/fail', spec)


class Restart(Case):
    def kill(self):
        """kill -9, and start again on the same folder."""
        before = self.rig.ready
        self.assertEqual(self.rig.end(signal.SIGKILL), -signal.SIGKILL)
        self.rig.start()
        self.assertEqual(self.rig.ready, before)

    def test_nothing_that_was_answered_is_lost(self):
        rig = self.rig
        self.assertEqual(rig.task(rig.upload('store', 'iso', 'w.iso', make_iso({'user-data': 'u', 'meta-data': 'm'}))), 'OK')
        self.assertEqual(rig.power(101, 'start'), 'OK')
        self.assertEqual(rig.call('PUT', CONFIG, ide3='store:iso/w.iso,media=cdrom', cores=1).status, 200)
        rig.control('PUT', '/acl', [{'user': WEAK, 'path': '/', 'privileges': ['Sys.Audit', 'VM.Audit']}])
        rig.control('POST', '/tokens', {'new@pve!t': SECRET})
        paths = ('/cluster/resources', CONFIG, '/nodes/pve1/qemu/101/pending', '/nodes/pve1/storage', '/nodes/pve1/status',
                 '/nodes/pve1/storage/store/content', '/nodes/pve1/rrddata?timeframe=hour', '/access/permissions',
                 '/nodes/pve1/tasks', '/nodes/pve1/disks/lvmthin')
        times = ('uptime',)

        def look():
            rows = [rig.get(p, ROOT) for p in paths]
            return json.loads(json.dumps(rows), object_hook=lambda d: {k: v for k, v in d.items() if k not in times})
        before, seed = look(), rig.control('GET', '/guests/101/seed')
        self.kill()
        self.assertEqual(look(), before)
        self.assertEqual(rig.control('GET', '/guests/101/seed'), seed)
        self.assertEqual(rig.get('/version', 'new@pve!t')['version'], '9.2.11')
        self.assertEqual(rig.call('GET', CONFIG).status, 403)
        self.assertEqual([e['n'] for e in rig.control('GET', '/requests')],
                         list(range(1, len(rig.control('GET', '/requests')) + 1)))
        self.assertEqual([g['starts'] for g in rig.control('GET', '/guests') if g['vmid'] == 101], [1])

    def test_tasks_that_ran_are_dead(self):
        rig = self.rig
        rig.control('POST', '/fail', {'method': 'POST', 'path': '/nodes/{node}/qemu/{vmid}/clone', 'task': 'hang'})
        clone = rig.call('POST', '/nodes/pve1/qemu/9000/clone', newid=130).data
        rig.control('PATCH', '/guests/102', {'acpi': False})
        shutdown = rig.call('POST', '/nodes/pve1/qemu/102/status/shutdown', timeout=10000).data
        self.kill()
        for upid in (clone, shutdown):
            self.assertEqual(rig.wait(upid), 'unexpected status')
        self.assertEqual(rig.config(130)['lock'], 'clone')
        self.assertEqual(rig.call('PUT', '/nodes/pve1/qemu/102/config', description='x').status, 200)
        self.assertNotIn(rig.call('POST', '/nodes/pve1/qemu/101/status/start').data, (clone, shutdown))

    def test_sigterm_ends_it(self):
        self.assertEqual(self.rig.end(), 0)
        self.rig.start()


class Seeds(Case):
    def seed(self, vmid=101):
        return self.rig.control('GET', '/guests/{0}/seed'.format(vmid))

    def attach(self, key, data):
        """Upload an ISO and put it in a drive."""
        self.assertEqual(self.rig.task(self.rig.upload('store', 'iso', key + '.iso', data)), 'OK')
        drive = {key: 'store:iso/{0}.iso,media=cdrom'.format(key)}
        self.assertEqual(self.rig.call('PUT', CONFIG, **drive).status, 200)

    def test_the_generated_seed(self):
        seed = self.seed()
        self.assertEqual((seed['source'], seed['error'], seed['vendor-data']), ('cloudinit', None, None))
        self.assertEqual(seed['user-data'], (
            '#cloud-config\nhostname: worker-1\nmanage_etc_hosts: true\nfqdn: worker-1.lab\nuser: ubuntu\n'
            'chpasswd:\n  expire: False\nusers:\n  - default\npackage_upgrade: true\n'))
        self.assertEqual(seed['network-config'], (
            "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: 'bc:24:11:27:60:9d'\n"
            "      subnets:\n      - type: static\n        address: '10.0.0.5'\n        netmask: '255.255.255.0'\n"
            "        gateway: '10.0.0.1'\n    - type: nameserver\n      address:\n      - '10.0.0.1'\n      search:\n"
            "      - 'lab'\n"))
        self.assertRegex(seed['meta-data'], '^instance-id: [0-9a-f]{40}\n$')
        dump = self.rig.get('/nodes/pve1/qemu/101/cloudinit/dump', type='user')
        self.assertEqual(dump, seed['user-data'])

    def test_the_name_and_ciupgrade(self):
        self.assertEqual(self.rig.call('PUT', CONFIG, name='w9', ciupgrade=0, sshkeys='ssh-ed25519%20AAAA%20a%40b').status,
                         200)
        user = self.seed()['user-data']
        self.assertIn('hostname: w9\n', user)
        self.assertIn('ssh_authorized_keys:\n  - ssh-ed25519 AAAA a@b\n', user)
        self.assertNotIn('package_upgrade', user)

    def test_cicustom(self):
        self.assertEqual(self.rig.post_config(101, cicustom='vendor=store:snippets/x.yaml'), 'OK')
        seed = self.seed()
        self.assertEqual(seed['vendor-data'], '#cloud-config\npackages: [jq]\n')
        self.assertIn('hostname: worker-1', seed['user-data'])
        self.assertEqual(self.rig.post_config(101, cicustom='user=store:snippets/none.yaml'), 'OK')
        self.assertIn("volume 'store:snippets/none.yaml' does not exist", self.seed()['error'])

    def test_an_uploaded_iso(self):
        files = {'user-data': '#cloud-config\n', 'meta-data': 'instance-id: x\nlocal-hostname: w\n', 'network-config': 'n\n'}
        self.attach('ide2', make_iso(files, 'CIDATA'))
        self.assertEqual(self.seed(), dict({'source': 'iso', 'error': None, 'vendor-data': None}, **files))

    def test_wrong_and_doubled_seeds(self):
        self.attach('ide3', make_iso({'user-data': 'u', 'meta-data': 'm'}))
        self.assertIn('2 volumes called cidata', self.seed()['error'])
        self.attach('ide2', b'not an image')
        self.assertEqual(self.seed()['source'], 'iso')
        self.assertIsNone(self.seed()['error'])
        self.attach('ide3', make_iso({'user-data': 'u'}, 'OTHER'))
        self.assertIsNotNone(self.seed()['error'])
        self.assertEqual(self.seed(102), {'source': 'none', 'error': None, 'user-data': None, 'meta-data': None,
                                          'vendor-data': None, 'network-config': None})


class TwoNodes(Case):
    world = make_world(
        nodes={'pve1': {'status': STATUS}, 'pve2': {'status': STATUS}},
        storages={'local-lvm': {'type': 'lvmthin', 'content': 'images', 'space': {
            name: {'total': 100 * GIB, 'used': 0, 'avail': 100 * GIB} for name in ('pve1', 'pve2')}},
            'nas': {'type': 'nfs', 'content': 'images,iso', 'shared': 1, 'space': {
                name: {'total': 100 * GIB, 'used': 0, 'avail': 100 * GIB} for name in ('pve1', 'pve2')},
                'files': {'iso/a.iso': {'base64': base64.b64encode(b'abc').decode()}}}},
        guests=[qemu(101, 'a', {'scsi0': 'local-lvm:vm-101-disk-0,size=8G'}),
                qemu(201, 'b', {'scsi0': 'nas:201/vm-201-disk-0.qcow2,size=8G'}, template=True)])

    def test_a_node_that_fails(self):
        self.rig.control('PATCH', '/nodes/pve1', {'online': False})
        answer = self.rig.call('GET', CONFIG)
        self.assertEqual((answer.status, answer.reason), (595, 'No route to host'))
        self.assertEqual(self.row('/nodes', node='pve1')['status'], 'offline')
        self.assertEqual(self.row('/cluster/resources', vmid=101)['status'], 'unknown')

    def test_volumes_are_on_their_node(self):
        self.assertEqual(len(self.rig.get('/nodes/pve1/storage/local-lvm/content')), 1)
        self.assertEqual(self.rig.get('/nodes/pve2/storage/local-lvm/content'), [])
        self.assertEqual(len(self.rig.get('/nodes/pve2/storage/nas/content', ROOT)), 2)

    def test_clones_to_another_node_need_shared_storage(self):
        rig = self.rig
        answer = rig.call('POST', '/nodes/pve1/qemu/101/clone', newid=300, target='pve2')
        self.assertEqual(answer.reason, "can't clone VM to node 'pve2' (VM uses local storage)")
        answer = rig.call('POST', '/nodes/pve1/qemu/201/clone', newid=301, target='pve2', full=1)
        self.assertEqual(rig.task(answer), 'OK')
        self.assertEqual(rig.get('/nodes/pve2/qemu/301/config')['scsi0'], 'nas:301/vm-301-disk-0.qcow2,size=8G')


class Behind(Case):
    def test_the_world_changes_behind_the_api(self):
        rig = self.rig
        rig.control('PATCH', '/guests/102', {'power': 'stopped', 'config': {'cores': '8'}, 'delete': ['agent'],
                                             'name': 'renamed'})
        config = rig.config(102)
        self.assertEqual((config['cores'], config['name'], 'agent' in config), (8, 'renamed', False))
        self.assertEqual(rig.get('/nodes/pve1/status')['memory']['used'], 12 * GIB)
        rig.control('PATCH', '/nodes/pve1', {'status': {'memory': {'used': 5 * GIB}}})
        self.assertEqual(rig.get('/nodes/pve1/status')['memory']['used'], 5 * GIB)
        rig.control('POST', '/guests', qemu(150, 'new', {'scsi0': 'local-lvm:vm-150-disk-0,size=1G'}))
        self.assertIn('vm-150-disk-0', rig.volumes('local-lvm'))
        rig.control('DELETE', '/guests/150')
        self.assertNotIn('vm-150-disk-0', rig.volumes('local-lvm'))
        with self.assertRaises(AssertionError):
            rig.control('PATCH', '/guests/150', {'power': 'running'})

    def test_only_loopback(self):
        for text in (self.rig.ready['pve'], self.rig.ready['control']):
            self.assertEqual(socket.gethostbyname(urllib.parse.urlparse(text).hostname), '127.0.0.1')


class Instant(unittest.TestCase):
    def test_without_time_tasks_end_before_the_answer(self):
        rig = Rig(make_world(time_scale=0))
        self.addCleanup(rig.close)
        self.assertEqual(rig.power(101, 'start'), 'OK')
        self.assertEqual(rig.task(rig.call('POST', '/nodes/pve1/qemu/9000/clone', newid=103, full=1)), 'OK')
        self.assertEqual(rig.config(103)['name'], 'Copy-of-VM-tmpl')


if __name__ == '__main__':
    unittest.main()
