"""What the double does, where the real code was recorded or read. Run: python -m unittest discover -s tests/rig/pve"""

import unittest

from harness import GIB, ROOT, WEAK, Rig, make_world


class Case(unittest.TestCase):
    """A fresh double for every test."""

    world = None

    def setUp(self):
        self.rig = Rig(self.world)
        self.addCleanup(self.rig.close)

    def row(self, path, **wanted):
        """The one row of a list with these values."""
        rows = [r for r in self.rig.get(path) if all(r.get(k) == v for k, v in wanted.items())]
        self.assertEqual(len(rows), 1, rows)
        return rows[0]


class Reading(Case):
    def test_version_nodes_and_cluster(self):
        rig = self.rig
        self.assertEqual(rig.get('/version')['version'], '9.2.11')
        node = rig.get('/nodes')[0]
        self.assertEqual(node['ssl_fingerprint'], rig.ready['fingerprint'])
        self.assertEqual((node['maxmem'], node['mem'], node['maxcpu'], node['status']), (64 * GIB, 20 * GIB, 2, 'online'))
        self.assertEqual([r['type'] for r in rig.get('/cluster/status')], ['cluster', 'node'])
        self.assertEqual(rig.get('/cluster/nextid'), '100')
        self.assertEqual(rig.call('GET', '/cluster/nextid', vmid=101).errors, {'vmid': 'VM 101 already exists'})

    def test_resources_agree_with_the_rest(self):
        resources = dict((r['id'], r) for r in self.rig.get('/cluster/resources'))
        self.assertEqual(set(resources), {'qemu/9000', 'qemu/101', 'qemu/102', 'lxc/110', 'node/pve1',
                                          'storage/pve1/local-lvm', 'storage/pve1/store'})
        self.assertEqual(resources['qemu/102']['mem'], 5 * GIB)
        self.assertEqual(resources['storage/pve1/store']['maxdisk'], 100 * GIB)
        self.assertEqual(resources['lxc/110']['mem'], 1000)

    def test_storage_lists(self):
        row = self.row('/nodes/pve1/storage', storage='store')
        self.assertEqual((row['total'], row['used'], row['avail'], row['used_fraction']),
                         (100 * GIB, 10 * GIB, 80 * GIB, 0.1))
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/storage', WEAK).data, [])
        snippet = self.rig.volumes('store')['snippets/x.yaml']
        self.assertEqual((snippet['format'], snippet['size']), ('snippet', 29))

    def test_numbers_are_numbers_and_strings_strings(self):
        config = self.rig.config(101)
        self.assertEqual((config['cores'], config['onboot'], config['memory']), (4, 1, '4096'))
        self.assertEqual(self.rig.config(9000)['template'], 1)

    def test_pending_is_merged_unless_current(self):
        self.assertEqual(self.rig.config(102)['memory'], '4096')
        self.assertEqual(self.rig.config(102, current=1)['memory'], '8192')
        rows = self.rig.get('/nodes/pve1/qemu/102/pending')
        self.assertIn({'key': 'memory', 'value': '8192', 'pending': '4096'}, rows)

    def test_status_current(self):
        status = self.rig.get('/nodes/pve1/qemu/101/status/current')
        self.assertEqual((status['status'], status['cpus'], status['maxmem'], status['maxdisk'], status['ha']),
                         ('stopped', 2, 4 * GIB, 32 * GIB, {'managed': 0}))
        self.assertEqual(self.rig.get('/nodes/pve1/qemu/102/status/current')['uptime'], 500)

    def test_what_a_list_leaves_out_and_what_it_calls_otherwise(self):
        rig = self.rig
        rig.control('PATCH', '/guests/102', {'status': {'qmpstatus': 'internal-error'}, 'ha': 'not looked at'})
        row = self.row('/cluster/resources', id='qemu/102')
        self.assertEqual((row['status'], row.get('hastate')), ('internal-error', None))
        self.assertEqual(self.row('/nodes/pve1/qemu', vmid=102)['status'], 'running')
        self.assertEqual(rig.get('/nodes/pve1/qemu/102/status/current')['ha'], {'managed': 1, 'state': None})
        self.assertEqual(self.row('/cluster/ha/resources')['sid'], 'vm:102')

    def test_a_hot_plug_that_fails_leaves_its_value_pending(self):
        rig = self.rig
        rig.control('PATCH', '/guests/102', {'hotplug_fails': True, 'config': {'scsi5': 'local-lvm:vm-9999-pvc-1,size=10G'}})
        task = rig.post_config(102, delete='scsi5')
        self.assertIn('hotplug problem', task)
        self.assertIn('scsi5', rig.config(102, current=1))
        self.assertNotIn('scsi5', rig.config(102))
        self.assertIn({'key': 'scsi5', 'value': 'local-lvm:vm-9999-pvc-1,size=10G', 'delete': 1},
                      rig.get('/nodes/pve1/qemu/102/pending'))

    def test_an_image_in_a_drive_reads_back_with_its_size(self):
        rig = self.rig
        rig.control('PUT', '/files', {'node': 'pve1', 'volume': 'store:iso/x.iso', 'content': 'x' * 4096})
        rig.post_config(101, ide2='store:iso/x.iso,media=cdrom')
        self.assertEqual(rig.config(101)['ide2'], 'store:iso/x.iso,media=cdrom,size=4K')

    def test_tasks_and_their_filters(self):
        get = self.rig.get
        failed = get('/nodes/pve1/tasks', errors=1)
        self.assertEqual([(t['status'], t['id']) for t in failed], [('hotplug problem - duplicate property', '201')])
        self.assertEqual(len(get('/nodes/pve1/tasks')), 2)
        self.assertEqual(get('/nodes/pve1/tasks', source='active'), [])
        self.assertEqual(len(get('/nodes/pve1/tasks', typefilter='vzdump')), 1)
        self.assertEqual(len(get('/nodes/pve1/tasks', vmid=201, source='all')), 1)
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/tasks', limit=1).json['total'], 2)

    def test_bad_upids(self):
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/tasks/UPID:bad/status').errors,
                         {'upid': 'unable to parse worker upid'})

    def test_hardware_mappings_and_history(self):
        get = self.rig.get
        self.assertEqual([r['id'] for r in get('/nodes/pve1/hardware/pci')], ['0000:01:00.0'])
        self.assertEqual(get('/nodes/pve1/disks/lvmthin')[0]['used'], 100 * GIB)
        self.assertEqual(get('/cluster/mapping/pci', check_node='pve1')[0]['checks'], [])
        self.assertEqual(get('/cluster/mapping/pci', WEAK), [])
        self.assertEqual(get('/nodes/pve1/rrddata', timeframe='hour')[1], {'time': 120, 'cpu': 0.5})
        self.assertEqual(get('/nodes/pve1/rrddata', timeframe='hour', cf='MAX'), [{'time': 60}])
        self.assertEqual(get('/nodes/pve1/rrddata', timeframe='week'), [])
        self.assertEqual(get('/nodes/pve1/qemu/101/rrddata', timeframe='day'), [])

    def test_real_error_texts(self):
        for path, status, reason in (
                ('/nosuch', 501, "Method 'GET /nosuch' not implemented"),
                ('/nodes/nosuchnode/qemu', 500, "hostname lookup 'nosuchnode' failed - failed to get address info for: "
                                                'nosuchnode: Name or service not known'),
                ('/nodes/pve1/qemu/777/config', 500, "Configuration file 'nodes/pve1/qemu-server/777.conf' does not exist")):
            answer = self.rig.call('GET', path)
            self.assertEqual((answer.status, answer.reason), (status, reason))
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/qemu/abc/config').errors,
                         {'vmid': "type check ('integer') failed - got 'abc'"})


class Standalone(Case):
    world = make_world(cluster_name=None, version='8.4.1', release='8.4')

    def test_no_cluster_entry_and_no_memhost(self):
        self.assertEqual([r['type'] for r in self.rig.get('/cluster/status')], ['node'])
        self.assertNotIn('memhost', self.row('/nodes/pve1/qemu', vmid=102))


class NoRights(Case):
    world = make_world(acl=[])

    def test_an_empty_acl_forbids(self):
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/status').status, 403)
        self.assertEqual(self.rig.get('/cluster/resources', type='vm'), [])
        self.assertEqual(self.rig.call('GET', '/nodes/pve1/status', ROOT).status, 200)


class Access(Case):
    def test_wording(self):
        for method, path, params, reason in (
                ('POST', '/nodes/pve1/qemu/9000/clone', {'newid': 120}, '/vms/9000, VM.Clone'),
                ('POST', '/nodes/pve1/qemu/101/status/start', {}, '/vms/101, VM.PowerMgmt'),
                ('PUT', '/nodes/pve1/qemu/101/resize', {'disk': 'scsi0', 'size': '+1G'}, '/vms/101, VM.Config.Disk'),
                ('GET', '/nodes/pve1/storage/store/status', {},
                 '/storage/store, Datastore.Audit|Datastore.AllocateSpace')):
            answer = self.rig.call(method, path, WEAK, **params)
            self.assertEqual((answer.status, answer.reason), (403, 'Permission check failed ({0})'.format(reason)))

    def test_config_rights(self):
        put = '/nodes/pve1/qemu/101/config'
        self.assertEqual(self.rig.call('PUT', put, startup='order=3').reason, 'Permission check failed (/, Sys.Modify)')
        self.assertEqual(self.rig.call('PUT', put, args='-foo').reason, "only root can set 'args' config")
        self.assertEqual(self.rig.call('PUT', put, hostpci0='host=0000:01:00.0').reason,
                         "only root can set 'hostpci0' config for non-mapped devices")
        self.assertEqual(self.rig.call('PUT', put, hostpci0='mapping=gpu0').status, 200)
        self.assertEqual(self.rig.call('PUT', put, hostpci0='mapping=gpu1').reason,
                         'Permission check failed (/mapping/pci/gpu1, Mapping.Use)')

    def test_a_deeper_entry_replaces_and_a_task_reports_device_rights(self):
        self.rig.control('PUT', '/acl', [
            {'user': 'capplan@pve!ci', 'path': '/', 'privileges': ['Sys.Audit', 'VM.Config.Disk', 'VM.Audit']},
            {'user': 'capplan@pve!ci', 'path': '/vms/101', 'privileges': ['VM.Audit', 'VM.Config.CPU']}])
        self.assertEqual(self.rig.get('/access/permissions', path='/vms/101'),
                         {'/vms/101': {'VM.Audit': 1, 'VM.Config.CPU': 1}})
        self.assertEqual(self.rig.post_config(101, delete='scsi0'),
                         '403 Permission check failed (/vms/101, VM.Config.Disk)')


class Disks(Case):
    def test_detach_delete_import_resize(self):
        rig = self.rig
        self.assertEqual(rig.post_config(101, delete='scsi0'), 'OK')
        config = rig.config(101)
        self.assertEqual((config['unused0'], config['boot']), ('local-lvm:vm-101-disk-0', ' '))
        self.assertEqual(rig.post_config(101, delete='unused0'), 'OK')
        self.assertNotIn('vm-101-disk-0', rig.volumes('local-lvm'))
        self.assertEqual(rig.post_config(101, scsi0='local-lvm:0,import-from=store:import/noble.qcow2,ssd=1,discard=on',
                                         boot='order=scsi0'), 'OK')
        self.assertEqual(rig.config(101)['scsi0'], 'local-lvm:vm-101-disk-0,discard=on,size=3G,ssd=1')
        self.assertEqual(rig.volumes('local-lvm')['vm-101-disk-0']['size'], 3 * GIB)
        resize = '/nodes/pve1/qemu/101/resize'
        self.assertEqual(rig.task(rig.call('PUT', resize, disk='scsi0', size='32G')), 'OK')
        self.assertEqual(rig.task(rig.call('PUT', resize, disk='scsi0', size='+10G')), 'OK')
        self.assertIn('size=42G', rig.config(101)['scsi0'])
        self.assertEqual(rig.volumes('local-lvm')['vm-101-disk-0']['size'], 42 * GIB)
        self.assertEqual(rig.task(rig.call('PUT', resize, disk='scsi0', size='42G')), 'OK')
        self.assertEqual(rig.task(rig.call('PUT', resize, disk='scsi0', size='1G')), 'shrinking disks is not supported')
        self.assertEqual(rig.task(rig.call('PUT', resize, disk='scsi9', size='+1G')), "disk 'scsi9' does not exist")
        self.assertEqual(set(rig.call('PUT', resize, disk='hda', size='20gigs').errors), {'disk', 'size'})

    def test_replace_in_one_step_keeps_the_old_disk_as_unused(self):
        self.assertEqual(self.rig.post_config(101, scsi0='local-lvm:0,import-from=store:import/noble.qcow2'), 'OK')
        config = self.rig.config(101)
        self.assertEqual((config['scsi0'], config['unused0'], config['boot']),
                         ('local-lvm:vm-101-disk-1,size=3G', 'local-lvm:vm-101-disk-0', 'order=scsi0'))

    def test_unlink_takes_a_csi_volume_away_and_keeps_it_on_its_storage(self):
        rig = self.rig
        rig.call('POST', '/nodes/pve1/storage/local-lvm/content', vmid=9999, filename='vm-9999-pvc-z', size='1G')
        self.assertEqual(rig.post_config(101, scsi7='local-lvm:vm-9999-pvc-z'), 'OK')
        self.assertEqual(rig.call('PUT', '/nodes/pve1/qemu/101/unlink', idlist='scsi7').status, 200)
        config = rig.config(101)
        self.assertFalse([key for key in config if 'vm-9999-pvc-z' in str(config[key])])
        self.assertIn('vm-9999-pvc-z', rig.volumes('local-lvm'))

    def test_force_frees_at_once(self):
        self.assertEqual(self.rig.post_config(101, delete='scsi0', force=1), 'OK')
        self.assertNotIn('unused0', self.rig.config(101))
        self.assertNotIn('vm-101-disk-0', self.rig.volumes('local-lvm'))

    def test_import_errors(self):
        post = '/nodes/pve1/qemu/101/config'
        self.assertEqual(self.rig.call('POST', post, scsi0='store:8,import-from=store:import/noble.qcow2').errors, {
            'scsi0': "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"})
        self.assertEqual(self.rig.post_config(101, scsi0='store:0,import-from=store:import/missing.qcow2'),
                         "failed to stat '/mnt/store/import/missing.qcow2'")
        answer = self.rig.call('POST', post, scsi0='store:0,import-from=/mnt/store/import/noble.qcow2')
        self.assertTrue(answer.reason.startswith('Only root can pass arbitrary filesystem paths.'))

    def test_allocation_and_boot_order(self):
        rig = self.rig
        self.assertEqual(rig.call('PUT', '/nodes/pve1/qemu/101/config', scsi1='store:10').data, None)
        self.assertEqual(rig.config(101)['scsi1'], 'store:101/vm-101-disk-0.raw,size=10G')
        self.assertEqual(rig.post_config(101, boot='order=scsi7'), "invalid bootorder: device 'scsi7' does not exist'")
        self.assertEqual(rig.post_config(101, boot='order=scsi0;net0'), 'OK')
        self.assertEqual(rig.config(101)['boot'], 'order=scsi0;net0')

    def test_hot_plug_and_pending_on_a_running_vm(self):
        rig = self.rig
        self.assertEqual(rig.post_config(102, scsi3='local-lvm:vm-9999-pvc-1,backup=0'), 'OK')
        self.assertEqual(rig.config(102, current=1)['scsi3'], 'local-lvm:vm-9999-pvc-1,backup=0,size=10G')
        self.assertEqual(rig.post_config(102, delete='scsi3'), 'OK')
        config = rig.config(102, current=1)
        self.assertNotIn('scsi3', config)
        self.assertNotIn('unused0', config)
        self.assertIn('vm-9999-pvc-1', rig.volumes('local-lvm'))
        self.assertEqual(rig.post_config(102, cores=4), 'OK')
        self.assertEqual((rig.config(102)['cores'], rig.config(102, current=1)['cores']), (4, 2))
        self.assertIn("can't unplug bootdisk 'scsi0'", rig.post_config(102, delete='scsi0'))

    def test_space_follows(self):
        rig = self.rig
        before = self.row('/nodes/pve1/storage', storage='local-lvm')['used']
        self.assertEqual(rig.post_config(101, scsi1='local-lvm:100'), 'OK')
        self.assertEqual(self.row('/nodes/pve1/storage', storage='local-lvm')['used'], before)
        self.assertEqual(rig.post_config(101, scsi0='local-lvm:0,import-from=store:import/noble.qcow2'), 'OK')
        row = self.row('/nodes/pve1/storage', storage='local-lvm')
        self.assertEqual((row['used'], row['avail']), (before + 600000000, 400 * GIB - 600000000))
        self.assertEqual(rig.get('/nodes/pve1/disks/lvmthin')[0]['used'], 100 * GIB + 600000000)


class Configuration(Case):
    def test_values_come_back_with_their_types(self):
        put = '/nodes/pve1/qemu/101/config'
        self.assertEqual(self.rig.call('PUT', put, cores=3, memory=2048, balloon=0, onboot=0, agent=1, description='d',
                                       tags='k8s;capplan').status, 200)
        config = self.rig.config(101)
        self.assertEqual([config[k] for k in ('cores', 'memory', 'balloon', 'onboot', 'agent', 'tags')],
                         [3, '2048', 0, 0, '1', 'capplan;k8s'])

    def test_refusals(self):
        put = '/nodes/pve1/qemu/101/config'
        call = self.rig.call
        self.assertEqual(call('PUT', put).reason, 'no options specified')
        self.assertEqual(call('PUT', put, memory=4096, digest='0' * 40).reason,
                         'checksum mismatch (file change by other user?)')
        self.assertEqual(call('PUT', put, memory=4096, digest=self.rig.config(101)['digest']).status, 200)
        self.assertEqual(call('PUT', put, delete='cores', cores=4).errors,
                         {'delete': "you can't use '-cores' and -delete cores' at the same time"})
        self.assertEqual(call('PUT', put, delete='scsi5').status, 200)
        self.assertEqual(call('PUT', put, balloon=99999).reason,
                         'balloon value too large (must be smaller than assigned memory)')
        self.assertEqual(call('PUT', put, description='z', skiplock=1).errors, {'skiplock': 'Only root may use this option.'})
        errors = call('PUT', put, memory='bogus', nosuch=1).errors
        self.assertIn("type check ('integer') failed - got 'bogus'", errors['memory'])
        self.assertIn('property is not defined in schema', errors['nosuch'])

    def test_lock_and_protection(self):
        rig, put = self.rig, '/nodes/pve1/qemu/101/config'
        rig.control('PATCH', '/guests/101', {'lock': 'backup'})
        self.assertEqual(rig.call('PUT', put, description='z').reason, 'VM is locked (backup)')
        self.assertEqual(rig.post_config(101, description='z'), 'VM is locked (backup)')
        self.assertEqual(rig.power(101, 'start'), 'VM is locked (backup)')
        self.assertEqual(rig.task(rig.call('DELETE', '/nodes/pve1/qemu/101')), 'VM is locked (backup)')
        self.assertEqual(rig.get('/nodes/pve1/qemu/101/status/current')['lock'], 'backup')
        rig.control('PATCH', '/guests/101', {'lock': None, 'config': {'protection': 1}})
        self.assertEqual(rig.call('DELETE', '/nodes/pve1/qemu/101').reason, "can't remove VM 101 - protection mode enabled")
        self.assertEqual(rig.post_config(101, delete='scsi0'), "can't remove drive 'scsi0' - protection mode enabled")

    def test_post_is_a_task_with_the_real_log(self):
        answer = self.rig.call('POST', '/nodes/pve1/qemu/101/config', memory=8192, cores=2)
        self.assertIn(':qmconfig:101:capplan@pve!ci:', answer.data)
        self.assertEqual(self.rig.task(answer), 'OK')
        self.assertEqual(self.rig.log(answer.data), ['update VM 101: -cores 2 -memory 8192', 'TASK OK'])
        self.assertIsNone(self.rig.call('POST', '/nodes/pve1/qemu/101/config', description='x', background_delay=5).data)


class Power(Case):
    def memory(self):
        return self.rig.get('/nodes/pve1/status')['memory']

    def test_start_and_stop_move_the_memory_of_the_node(self):
        rig = self.rig
        self.assertEqual(rig.power(101, 'start'), 'OK')
        self.assertEqual(self.memory(), {'total': 64 * GIB, 'used': 24 * GIB, 'free': 26 * GIB, 'available': 36 * GIB})
        self.assertEqual(rig.power(101, 'start'), 'VM 101 already running')
        self.assertEqual(rig.call('DELETE', '/nodes/pve1/qemu/101', purge=1).reason, 'VM 101 is running - destroy failed')
        self.assertEqual(rig.power(101, 'stop'), 'OK')
        self.assertEqual(rig.power(101, 'stop'), 'OK')
        self.assertEqual(self.memory()['used'], 20 * GIB)
        self.assertEqual(rig.power(777, 'start'), "Configuration file 'nodes/pve1/qemu-server/777.conf' does not exist")
        self.assertEqual(rig.power(9000, 'start'), "you can't start a vm if it's a template")
        starts = dict((g['vmid'], g['starts']) for g in rig.control('GET', '/guests'))
        self.assertEqual((starts[101], starts[102]), (1, 0))

    def test_a_start_takes_the_pending_values(self):
        self.assertEqual(self.rig.power(102, 'shutdown', timeout=30), 'OK')
        self.assertEqual(self.rig.power(102, 'start'), 'OK')
        self.assertEqual(self.rig.config(102, current=1)['memory'], '4096')
        self.assertEqual(self.row('/nodes/pve1/qemu', vmid=102)['maxmem'], 4 * GIB)

    def test_shutdown(self):
        rig = self.rig
        self.assertEqual(rig.power(101, 'shutdown', timeout=30, forceStop=1), 'OK')
        rig.control('PATCH', '/guests/102', {'acpi': False})
        self.assertEqual(rig.power(102, 'shutdown', timeout=5), 'VM quit/powerdown failed - got timeout')
        self.assertEqual(rig.power(102, 'shutdown', timeout=5, forceStop=1), 'OK')
        self.assertEqual(rig.get('/nodes/pve1/qemu/102/status/current')['status'], 'stopped')

    def test_cicustom_and_cdroms_are_checked_at_start_only(self):
        rig = self.rig
        self.assertEqual(rig.post_config(101, cicustom='user=store:snippets/missing.yaml'), 'OK')
        self.assertEqual(rig.power(101, 'start'), "volume 'store:snippets/missing.yaml' does not exist")
        answer = rig.call('PUT', '/nodes/pve1/qemu/101/cloudinit')
        self.assertEqual((answer.status, answer.reason), (500, "volume 'store:snippets/missing.yaml' does not exist"))

    def test_the_agent(self):
        path = '/nodes/pve1/qemu/{0}/agent/network-get-interfaces'
        self.assertEqual(self.rig.call('GET', path.format(101)).reason, 'VM 101 is not running')
        self.assertEqual(self.rig.call('GET', path.format(102)).reason, 'QEMU guest agent is not running')
        self.rig.control('PATCH', '/guests/102', {'agent': {'interfaces': [{'name': 'eth0'}]}})
        self.assertEqual(self.rig.get(path.format(102)), {'result': [{'name': 'eth0'}]})

    def test_no_quorum(self):
        self.rig.control('POST', '/quorum', {'quorate': False})
        self.assertEqual(self.rig.get('/cluster/status')[0]['quorate'], 0)
        self.assertEqual(self.rig.call('POST', '/nodes/pve1/qemu/101/status/start').reason, 'cluster not ready - no quorum?')


if __name__ == '__main__':
    unittest.main()
