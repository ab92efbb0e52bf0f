"""The double against what is known of the real API; run with the double's own Python: `python -m unittest`."""

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from make_seed import main as make_seed

HERE = os.path.dirname(os.path.abspath(__file__))
GIB = 1024 ** 3
TOKEN, WEAK = 'root@pam!test=secret', 'weak@pve!test=other'


def world():
    space = {'pve1': {'total': 500 * GIB, 'used': 100 * GIB, 'avail': 400 * GIB}}
    config = {'name': 'worker', 'memory': '4096', 'cores': 4, 'scsi0': 'local-lvm:vm-201-disk-0,size=32G',
              'scsi1': 'local-lvm:vm-9999-pvc-a,size=1G', 'boot': 'order=scsi0', 'smbios1': 'uuid=aaaa'}
    template = {'name': 'template', 'memory': '2048', 'cores': 2, 'template': 1, 'scsi0': 'local-lvm:base-9000-disk-0,size=3G',
                'ide2': 'local-lvm:vm-9000-cloudinit,media=cdrom', 'boot': 'order=scsi0', 'net0': 'virtio=BC:24:11:00:00:01,bridge=vmbr0'}
    return {
        'cluster_name': None, 'version': '9.2.11', 'release': '9.2', 'quorate': True, 'time_scale': 0.02,
        'tokens': {'root@pam!test': 'secret', 'weak@pve!test': 'other'},
        'acl': [{'user': 'weak@pve!test', 'path': '/', 'privileges': ['VM.Audit']}],
        'nodes': {'pve1': {'online': True, 'pci': [], 'status': {'memory': {'total': 64 * GIB, 'used': 20 * GIB, 'free': 44 * GIB}},
                           'lvmthin': [{'lv': 'data', 'vg': 'pve', 'lv_size': 500 * GIB, 'used': 100 * GIB, 'metadata_size': GIB,
                                        'metadata_used': 0}]}},
        'storages': {'local': {'type': 'dir', 'content': 'iso,import,snippets', 'shared': 0, 'active': 1, 'space': space,
                               'files': {'import/noble.qcow2': {'size': 3 * GIB}}},
                     'local-lvm': {'type': 'lvmthin', 'content': 'images', 'shared': 0, 'active': 1, 'space': space,
                                   'volumes': {'base-9000-disk-0': {'content': 'images', 'format': 'raw', 'size': 3 * GIB, 'vmid': 9000},
                                               'vm-201-disk-0': {'content': 'images', 'format': 'raw', 'size': 32 * GIB, 'vmid': 201}}}},
        'guests': [{'vmid': 201, 'kind': 'qemu', 'node': 'pve1', 'name': 'worker', 'power': 'stopped', 'config': config},
                   {'vmid': 9000, 'kind': 'qemu', 'node': 'pve1', 'name': 'template', 'power': 'stopped', 'template': True,
                    'config': template}],
        'tasks': [{'node': 'pve1', 'type': 'vzdump', 'id': '201', 'user': 'root@pam', 'starttime': 100, 'endtime': 200,
                   'status': 'job errors'}],
        'pci_mappings': [{'id': 'gpu0', 'map': ['node=pve1,path=0000:01:00.0,id=10de:1eb8']}],
    }


class Refused(Exception):
    def __init__(self, status, reason, body):
        super().__init__('{0} {1}'.format(status, reason))
        self.status, self.reason, self.body = status, reason, body


class DoubleCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        with open(os.path.join(self.folder, 'world.json'), 'w', encoding='utf-8') as out:
            json.dump(world(), out)
        self.launch()

    def launch(self):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, 'double.py'), '--state', self.folder],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.at = json.loads(self.process.stdout.readline())
        self.tls = ssl.create_default_context(cafile=self.at['certificate'])

    def tearDown(self):
        self.end(signal.SIGTERM)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()

    def call(self, method, path, form=None, token=TOKEN, headers=None, body=None):
        """The data of an answer; Refused for anything but 200."""
        if form is not None and body is None:
            body = urllib.parse.urlencode(form).encode()
            headers = dict(headers or {}, **{'Content-Type': 'application/x-www-form-urlencoded'})
        request = urllib.request.Request(self.at['pve'] + '/api2/json' + path, data=body, method=method,
                                         headers=dict(headers or {}, Authorization='PVEAPIToken=' + token))
        try:
            with urllib.request.urlopen(request, context=self.tls) as answer:
                return json.load(answer)['data']
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, error.reason, error.read()) from None

    def task(self, method, path, form=None):
        """The exit status of the task that a request starts."""
        return self.follow(self.call(method, path, form))

    def follow(self, upid):
        for _ in range(500):
            status = self.call('GET', '/nodes/pve1/tasks/{0}/status'.format(urllib.parse.quote(upid, safe='')))
            if status['status'] == 'stopped':
                return status['exitstatus']
            time.sleep(0.02)
        return 'still running'

    def control(self, method, path, value=None):
        data = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(urllib.request.Request(self.at['control'] + path, data=data, method=method)) as answer:
            return json.load(answer)

    def config(self, vmid=201):
        return self.call('GET', '/nodes/pve1/qemu/{0}/config'.format(vmid))

    def change(self, **form):
        return self.task('POST', '/nodes/pve1/qemu/201/config', {key: value for key, value in form.items()})


class Disks(DoubleCase):
    def test_a_disk_grows_and_never_shrinks(self):
        path = '/nodes/pve1/qemu/201/resize'
        self.assertEqual(self.task('PUT', path, {'disk': 'scsi0', 'size': '+8G'}), 'OK')
        self.assertIn('size=40G', self.config()['scsi0'])
        # Recorded: the request is taken, the task says no.
        self.assertEqual(self.task('PUT', path, {'disk': 'scsi0', 'size': '1G'}), 'shrinking disks is not supported')
        self.assertEqual(self.task('PUT', path, {'disk': 'scsi9', 'size': '+1G'}), "disk 'scsi9' does not exist")

    def test_a_disk_that_is_taken_away_is_kept_until_it_is_deleted_once_more(self):
        self.assertEqual(self.change(delete='scsi0'), 'OK')
        config = self.config()
        self.assertEqual((config['unused0'], config['boot']), ('local-lvm:vm-201-disk-0', ' '))
        self.assertEqual(self.change(delete='unused0'), 'OK')
        self.assertNotIn('unused0', self.config())
        volumes = [one['volid'] for one in self.call('GET', '/nodes/pve1/storage/local-lvm/content')]
        self.assertNotIn('local-lvm:vm-201-disk-0', volumes)

    def test_a_csi_volume_is_never_kept_aside_nor_freed(self):
        self.call('PUT', '/nodes/pve1/qemu/201/unlink', {'idlist': 'scsi1'})
        self.assertFalse([key for key in self.config() if key in ('scsi1', 'unused0')])

    def test_an_import_makes_a_volume_and_a_missing_source_is_a_failed_task(self):
        self.assertEqual(self.change(scsi0='local-lvm:0,import-from=local:import/noble.qcow2,discard=on'), 'OK')
        config = self.config()
        self.assertEqual(config['scsi0'], 'local-lvm:vm-201-disk-1,discard=on,size=3G')
        self.assertEqual((config['unused0'], config['boot']), ('local-lvm:vm-201-disk-0', 'order=scsi0'))
        self.assertIn('failed to stat', self.change(scsi2='local-lvm:0,import-from=local:import/none.qcow2'))

    def test_a_disk_is_plugged_into_a_running_vm_at_once_and_cores_wait(self):
        self.assertEqual(self.task('POST', '/nodes/pve1/qemu/201/status/start'), 'OK')
        self.assertEqual(self.change(scsi2='local-lvm:vm-9999-pvc-b,backup=0', cores='2'), 'OK')
        now = self.call('GET', '/nodes/pve1/qemu/201/config?current=1')
        self.assertIn('vm-9999-pvc-b', now['scsi2'])
        self.assertEqual((now['cores'], self.config()['cores']), (4, 2))

    def test_a_clone_has_volumes_a_uuid_and_a_cloud_init_drive_of_its_own(self):
        self.assertEqual(self.task('POST', '/nodes/pve1/qemu/9000/clone', {'newid': 301, 'full': 1, 'name': 'new'}), 'OK')
        config = self.config(301)
        self.assertEqual((config['scsi0'], config['ide2']), ('local-lvm:vm-301-disk-0,size=3G', 'local-lvm:vm-301-cloudinit,media=cdrom'))
        self.assertNotEqual(config['net0'], self.config(9000)['net0'])
        self.assertNotIn('template', config)


class Host(DoubleCase):
    def test_memory_follows_the_guests_that_run(self):
        self.assertEqual(self.task('POST', '/nodes/pve1/qemu/201/status/start'), 'OK')
        self.assertEqual(self.call('GET', '/nodes/pve1/status')['memory'], {'total': 64 * GIB, 'used': 24 * GIB, 'free': 40 * GIB})

    def test_tasks_are_filtered_as_pve_does(self):
        self.assertEqual(self.change(name='renamed'), 'OK')
        failed = self.call('GET', '/nodes/pve1/tasks?errors=1&source=archive&limit=500')
        self.assertEqual([(one['type'], one['status']) for one in failed], [('vzdump', 'job errors')])
        self.assertEqual(self.call('GET', '/nodes/pve1/tasks?source=active'), [])

    def test_a_host_alone_has_no_cluster_and_its_own_certificate(self):
        self.assertEqual([one['type'] for one in self.call('GET', '/cluster/status')], ['node'])
        self.assertEqual(self.call('GET', '/nodes')[0]['ssl_fingerprint'], self.at['fingerprint'])

    def test_lists_are_shortened_without_a_word(self):
        self.assertEqual(len(self.call('GET', '/nodes/pve1/qemu', token=WEAK)), 2)
        self.assertEqual(self.call('GET', '/nodes/pve1/storage', token=WEAK), [])
        self.assertEqual(self.call('GET', '/cluster/mapping/pci', token=WEAK), [])
        with self.assertRaises(Refused) as refused:
            self.call('GET', '/nodes/pve1/status', token=WEAK)
        self.assertEqual((refused.exception.status, refused.exception.reason), (403, 'Permission check failed (/nodes/pve1, Sys.Audit)'))


class Layer(DoubleCase):
    def violations(self):
        return [one['violations'] for one in self.control('GET', '/violations')]

    def test_a_wrong_token_is_answered_with_an_empty_body(self):
        with self.assertRaises(Refused) as refused:
            self.call('GET', '/version', token='root@pam!test=wrong')
        self.assertEqual((refused.exception.status, refused.exception.body), (401, b''))

    def test_what_the_http_layer_does_not_read_is_refused_and_counted(self):
        for method, body, kind, status in [('DELETE', b'purge=1', 'application/x-www-form-urlencoded', 501),
                                           ('POST', b'cores=2', 'text/plain', 506), ('POST', b'x' * 600000, 'application/json', 501)]:
            with self.assertRaises(Refused) as refused:
                self.call(method, '/nodes/pve1/qemu/201' + ('/config' if method == 'POST' else ''), body=body,
                          headers={'Content-Type': kind})
            self.assertEqual(refused.exception.status, status)
        self.assertEqual(len(self.violations()), 3)

    def test_values_that_pve_would_misread_are_counted(self):
        self.call('PUT', '/nodes/pve1/qemu/201/config', body=b'boot=order=scsi0', headers={'Content-Type': 'application/x-www-form-urlencoded'})
        self.call('PUT', '/nodes/pve1/qemu/201/config', {'boot': 'order=scsi0;scsi1'})
        self.assertEqual(self.violations(), [['`boot` has a raw = in its value']])

    def test_no_secret_is_recorded(self):
        self.call('PUT', '/nodes/pve1/qemu/201/config', {'sshkeys': 'ssh-ed25519%20AAAA', 'cipassword': 'hunter2'})
        with open(os.path.join(self.folder, 'requests.jsonl'), encoding='utf-8') as log:
            text = log.read()
        for word in ('secret', 'hunter2', 'AAAA'):
            self.assertNotIn(word, text)


class Faults(DoubleCase):
    def test_an_answer_can_be_wrong_although_the_work_was_done(self):
        self.control('POST', '/fail', {'method': 'PUT', 'path': '/nodes/{node}/qemu/{vmid}/config', 'status': 596,
                                       'message': 'Connection timed out', 'after': True, 'times': 1})
        with self.assertRaises(Refused) as refused:
            self.call('PUT', '/nodes/pve1/qemu/201/config', {'tags': 'x'})
        self.assertEqual((refused.exception.status, refused.exception.reason), (596, 'Connection timed out'))
        self.assertEqual(self.config()['tags'], 'x')

    def test_a_task_ends_as_asked(self):
        rule = {'method': 'POST', 'path': '/nodes/pve1/qemu/201/config', 'times': 1}
        for task, done in (('got timeout', False), ('WARNINGS: 1', True)):
            self.control('POST', '/fail', dict(rule, task=task))
            self.assertEqual(self.change(tags=task[:3].lower()), task)
            self.assertEqual(self.config().get('tags') == task[:3].lower(), done)
        self.control('POST', '/fail', dict(rule, task='hang'))
        upid = self.call('POST', '/nodes/pve1/qemu/201/config', {'tags': 'hang'})
        time.sleep(0.2)
        self.assertEqual(self.call('GET', '/nodes/pve1/tasks?source=active')[0]['upid'], upid)
        self.control('DELETE', '/fail')
        self.assertEqual(self.follow(upid), 'OK')

    def test_a_kill_loses_nothing_that_was_answered_and_ends_what_ran(self):
        self.assertEqual(self.change(tags='kept'), 'OK')
        self.control('POST', '/fail', {'method': 'POST', 'path': '/nodes/pve1/qemu/201/config', 'task': 'hang'})
        upid = self.call('POST', '/nodes/pve1/qemu/201/config', {'tags': 'lost'})
        before = self.at
        self.end(signal.SIGKILL)
        self.launch()
        self.assertEqual(self.at, before)
        self.assertEqual(self.follow(upid), 'unexpected status')
        self.assertEqual(self.config()['tags'], 'kept')


class Seeds(DoubleCase):
    def upload(self, fields, file_first=False):
        parts = ['--b\r\nContent-Disposition: form-data; name="content"\r\n\r\niso\r\n'.encode()]
        parts.append(b'--b\r\nContent-Disposition: form-data; name="filename"; filename="seed.iso"\r\n'
                     b'Content-Type: application/octet-stream\r\n\r\n' + fields + b'\r\n')
        if file_first:
            parts.reverse()
        return self.call('POST', '/nodes/pve1/storage/local/upload', body=b''.join(parts) + b'--b--\r\n',
                         headers={'Content-Type': 'multipart/form-data; boundary=b'})

    def image(self):
        folder = tempfile.mkdtemp()
        for name, text in (('user-data', '#cloud-config\nhostname: x\n'), ('meta-data', 'local-hostname: x\n')):
            with open(os.path.join(folder, name), 'w', encoding='utf-8') as out:
                out.write(text)
        make_seed(folder, os.path.join(folder, 'seed.iso'))
        with open(os.path.join(folder, 'seed.iso'), 'rb') as image:
            return image.read()

    def test_a_machine_reads_the_image_that_it_was_given(self):
        self.assertEqual(self.follow(self.upload(self.image())), 'OK')
        self.assertEqual(self.change(ide2='local:iso/seed.iso,media=cdrom'), 'OK')
        seed = self.control('GET', '/guests/201/seed')
        self.assertEqual((seed['source'], seed['error']), ('iso', None))
        self.assertEqual(seed['user-data'], '#cloud-config\nhostname: x\n')
        self.assertIsNone(seed['vendor-data'])

    def test_an_image_of_another_label_is_none(self):
        image = bytearray(self.image())
        at = image.index(b'cidata')
        while at >= 0:
            image[at:at + 6] = b'nodata'
            at = image.find(b'cidata')
        self.assertEqual(self.follow(self.upload(bytes(image))), 'OK')
        self.assertEqual(self.change(ide2='local:iso/seed.iso,media=cdrom'), 'OK')
        self.assertIn('not `cidata`', self.control('GET', '/guests/201/seed')['error'])

    def test_the_parts_of_an_upload_have_their_order(self):
        with self.assertRaises(Refused) as refused:
            self.upload(self.image(), file_first=True)
        self.assertEqual(refused.exception.status, 400)
        self.assertEqual(len(self.control('GET', '/violations')), 1)

    def test_what_pve_generates_has_no_host_name_in_its_meta_data(self):
        seed = self.control('GET', '/guests/9000/seed')
        self.assertIn('hostname: template', seed['user-data'])
        self.assertTrue(seed['meta-data'].startswith('instance-id: '))
        self.assertNotIn('hostname', seed['meta-data'])

    def test_a_snippet_that_is_missing_shows_at_the_start_only(self):
        self.assertEqual(self.change(ide2='local-lvm:cloudinit', cicustom='vendor=local:snippets/join.yaml'), 'OK')
        self.assertEqual(self.task('POST', '/nodes/pve1/qemu/201/status/start'), "volume 'local:snippets/join.yaml' does not exist")
        self.control('PUT', '/files', {'storage': 'local', 'name': 'snippets/join.yaml', 'text': '#cloud-config\n'})
        self.assertEqual(self.task('POST', '/nodes/pve1/qemu/201/status/start'), 'OK')
        self.assertEqual(self.control('GET', '/guests/201/seed')['vendor-data'], '#cloud-config\n')


if __name__ == '__main__':
    unittest.main()
