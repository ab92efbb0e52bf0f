"""Clones, destroys, uploads and the tasks that do them."""

import time
import unittest

from harness import GIB, QCOW2, WEAK, qemu
from test_double import Case


class Clones(Case):
    def clone(self, **params):
        return self.rig.call('POST', '/nodes/pve1/qemu/9000/clone', **params)

    def test_a_full_clone(self):
        rig = self.rig
        answer = self.clone(newid=103, name='worker-3', full=1, description='by capplan')
        self.assertIn(':qmclone:9000:capplan@pve!ci:', answer.data)
        during = rig.config(103)
        self.assertEqual((during['description'], during['lock']), (' qmclone temporary file', 'clone'))
        self.assertEqual(rig.task(answer), 'OK')
        config, old = rig.config(103), rig.config(9000)
        self.assertEqual((config['scsi0'], config['ide2'], config['name'], config['description']), (
            'local-lvm:vm-103-disk-0,discard=on,size=4G', 'local-lvm:vm-103-cloudinit,media=cdrom,size=4M', 'worker-3',
            'by capplan'))
        self.assertNotEqual(config['net0'], old['net0'])
        self.assertNotEqual(config['smbios1'], old['smbios1'])
        self.assertNotIn('template', config)
        self.assertNotIn('lock', config)
        self.assertEqual(self.row('/nodes/pve1/storage', storage='local-lvm')['used'], 101 * GIB)
        self.assertEqual(rig.log(answer.data)[-1], 'TASK OK')

    def test_sync_errors(self):
        for params, reason in (
                ({'newid': 101}, 'unable to create VM 101: config file already exists'),
                ({'newid': 120, 'storage': 'local-lvm'}, "parameter 'storage' not allowed for linked clones"),
                ({'newid': 120, 'target': 'pve2'}, "no such cluster node 'pve2'")):
            answer = self.clone(**params)
            self.assertEqual((answer.status, answer.reason), (500, reason))
        self.assertEqual(set(self.clone(newid=120, name='bad name!', full='maybe', nope=1).errors), {'name', 'full', 'nope'})

    def test_destroy_frees_only_what_is_the_vms(self):
        rig = self.rig
        self.assertEqual(rig.task(self.clone(newid=103)), 'OK')
        self.assertEqual(rig.post_config(103, scsi5='local-lvm:vm-9999-pvc-1', delete='ide2'), 'OK')
        self.assertEqual(rig.task(rig.call('DELETE', '/nodes/pve1/qemu/103', purge=1, destroy_unreferenced_disks=1)), 'OK')
        volumes = rig.volumes('local-lvm')
        self.assertIn('vm-9999-pvc-1', volumes)
        self.assertFalse([v for v in volumes if 'vm-103-' in v])
        self.assertEqual(rig.call('GET', '/nodes/pve1/qemu/103/status/current').reason,
                         "Configuration file 'nodes/pve1/qemu-server/103.conf' does not exist")

    def test_a_template_with_linked_clones_on_files(self):
        rig = self.rig
        rig.control('POST', '/guests', qemu(9001, 'files', {'scsi0': 'store:9001/base-9001-disk-0.qcow2,size=2G'},
                                            template=True))
        self.assertEqual(rig.task(rig.call('POST', '/nodes/pve1/qemu/9001/clone', newid=104)), 'OK')
        self.assertEqual(rig.config(104)['scsi0'], 'store:9001/base-9001-disk-0.qcow2/104/vm-104-disk-0.qcow2,size=2G')
        self.assertEqual(rig.task(rig.call('DELETE', '/nodes/pve1/qemu/9001')),
                         "base volume 'store:9001/base-9001-disk-0.qcow2' is still in use by linked cloned")


class Uploads(Case):
    def test_iso(self):
        rig = self.rig
        answer = rig.upload('store', 'iso', 'w1.iso', b'x' * 374784)
        self.assertIn(':imgcopy::capplan@pve!ci:', answer.data)
        self.assertEqual(rig.task(answer), 'OK')
        self.assertEqual(rig.log(answer.data)[-2:], ['finished file import successfully', 'TASK OK'])
        self.assertEqual(rig.volumes('store')['iso/w1.iso']['size'], 374784)
        self.assertEqual(self.row('/nodes/pve1/storage', storage='store')['used'], 10 * GIB + 374784)
        self.assertEqual(rig.task(rig.upload('store', 'iso', 'w1.iso', b'y' * 100)), 'OK')
        self.assertEqual(self.row('/nodes/pve1/storage', storage='store')['used'], 10 * GIB + 100)
        put = '/nodes/pve1/qemu/101/config'
        self.assertEqual(rig.call('PUT', put, ide3='store:iso/w1.iso').errors,
                         {'ide3': "explicit 'media=cdrom' is required for iso images"})
        self.assertEqual(rig.call('PUT', put, ide2='store:iso/none.iso,media=cdrom').reason,
                         "volume 'store:iso/none.iso' does not exist")
        self.assertEqual(rig.call('PUT', put, ide2='store:iso/w1.iso,media=cdrom').status, 200)
        config = rig.config(101)
        self.assertEqual((config['ide2'], config['boot']), ('store:iso/w1.iso,media=cdrom,size=100', 'order=scsi0;ide2'))
        self.assertNotIn('vm-101-cloudinit', rig.volumes('local-lvm'))

    def test_deleting_needs_allocate(self):
        rig = self.rig
        self.assertEqual(rig.task(rig.upload('store', 'iso', 'w1.iso', b'abc')), 'OK')
        path = '/nodes/pve1/storage/store/content/store%3Aiso%2Fw1.iso'
        self.assertEqual(rig.call('DELETE', path, WEAK).reason, 'Permission check failed (/storage/store, Datastore.Allocate)')
        for lines in (["Removed volume 'store:iso/w1.iso'", 'TASK OK'],
                      ["disk image '/mnt/store/template/iso/w1.iso' does not exist", "Removed volume 'store:iso/w1.iso'",
                       'TASK OK']):
            answer = rig.call('DELETE', path)
            self.assertEqual(rig.task(answer), 'OK')
            self.assertEqual(rig.log(answer.data), lines)

    def test_refused_uploads(self):
        upload = self.rig.upload
        self.assertEqual(upload('store', 'snippets', 'x.yaml', b'x').errors, {
            'content': "value 'snippets' does not have a value in the enumeration 'iso, vztmpl, import'"})
        self.assertEqual(upload('store', 'iso', 'w1.yaml', b'x').errors, {'filename': 'wrong file extension'})
        self.assertEqual(upload('store', 'import', 'n.img', b'x').errors, {'filename': 'invalid filename or wrong extension'})
        self.assertEqual(upload('store', 'iso', 'w.iso', b'x', file_first=True).errors,
                         {'content': 'property is missing and it is not optional'})
        self.assertNotEqual(upload('store', 'iso', 'w.iso', b'x', field='file').status, 200)
        self.assertNotEqual(upload('local-lvm', 'iso', 'w.iso', b'x').status, 200)

    def test_errors_of_the_copy(self):
        rig = self.rig
        self.assertIn('Image is not in qcow2 format', rig.task(rig.upload('store', 'import', 'fake.qcow2', b'no image')))
        status = rig.task(rig.upload('store', 'iso', 'w2.iso', b'x', checksum='0' * 64, checksum_algorithm='sha256'))
        self.assertTrue(status.startswith('checksum mismatch: got '), status)

    def test_an_uploaded_image_is_imported_with_its_virtual_size(self):
        rig = self.rig
        self.assertEqual(rig.task(rig.upload('store', 'import', 'small.qcow2', QCOW2)), 'OK')
        self.assertEqual(rig.post_config(101, scsi1='local-lvm:0,import-from=store:import/small.qcow2'), 'OK')
        self.assertIn('size=2G', rig.config(101)['scsi1'])


class Tasks(Case):
    def test_a_running_task_can_be_stopped(self):
        rig = self.rig
        rig.control('PATCH', '/guests/102', {'acpi': False})
        upid = rig.call('POST', '/nodes/pve1/qemu/102/status/shutdown', timeout=1000).data
        running = rig.get('/nodes/pve1/tasks', source='active')
        self.assertEqual([t['upid'] for t in running], [upid])
        self.assertNotIn('endtime', running[0])
        answer = rig.call('PUT', '/nodes/pve1/qemu/102/config', description='x')
        self.assertEqual(answer.reason, "can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout")
        self.assertEqual(rig.call('DELETE', '/nodes/pve1/tasks/' + upid.replace(':', '%3A')).status, 200)
        self.assertEqual(rig.wait(upid), 'received interrupt')
        self.assertEqual(rig.call('PUT', '/nodes/pve1/qemu/102/config', description='x').status, 200)

    def test_the_status_of_a_task(self):
        upid = self.rig.call('POST', '/nodes/pve1/qemu/101/status/start').data
        time.sleep(0.2)
        status = self.rig.get('/nodes/pve1/tasks/{0}/status'.format(upid.replace(':', '%3A')))
        self.assertEqual([status[k] for k in ('user', 'tokenid', 'type', 'id', 'status', 'exitstatus')],
                         ['capplan@pve', 'ci', 'qmstart', '101', 'stopped', 'OK'])
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/tasks/{0}/status'.format(upid.replace(':', '%3A')), WEAK).status,
                         200)


if __name__ == '__main__':
    unittest.main()
