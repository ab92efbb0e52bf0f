"""The configuration of a VM: reading with pending changes merged, writing with the real checks and hot-plug rules."""

import asyncio
import hashlib
import json
import re

from fakepve import PveError, TaskError
from fakepve import schema as pve_schema
from fakepve.qemu import DRIVE_KEY, is_cdrom, split_drive, with_mac
from fakepve.routing import die, param_error, split_list

from drives import UNUSED_KEY, is_plain_cdrom
from routes import through

QEMU = '/nodes/{node}/qemu/{vmid}'
# Parameters of a config request that are not config keys.
REQUEST_ONLY = ('node', 'vmid', 'digest', 'delete', 'revert', 'force', 'skiplock', 'background_delay',
                'import-working-storage')
CPU = 'affinity cores cpu cpulimit cpuunits numa smp sockets vcpus'.split()
MEMORY = 'allow-ksm balloon hugepages keephugepages memory shares'.split()
HARDWARE = ('acpi amd-sev arch audio0 hotplug intel-tdx kvm machine rng0 scsihw smbios1 tablet tdf vga vmgenid '
            'watchdog').split()
OPTIONS = ('agent autostart bios description freeze keyboard localtime migrate_downtime migrate_speed name onboot '
           'ostype protection reboot spice_enhancements startdate startup tags template').split()
CLOUDINIT = 'cicustom cipassword citype ciupgrade ciuser nameserver searchdomain sshkeys'.split()
DISK = 'boot bootdisk vmstatestorage'.split()
# What a running VM takes at once besides hot-pluggable devices [S fast_plug_option].
AT_ONCE = ('description hookscript lock migrate_downtime migrate_speed name onboot protection shares startup tags '
           'vmstatestorage').split() + CLOUDINIT
# The default `hotplug: network,disk,usb`: not ide, sata, efidisk and tpmstate.
HOT_DEVICE = re.compile(r'^(scsi|virtio|net|usb)\d+$')


def typed(key, value):
    """A config value as the API gives it: numbers where the schema has integers and booleans [R]."""
    props = pve_schema.load().paths[QEMU + '/config']['POST']['parameters']['properties']
    spec = props.get(key) or props.get(re.sub(r'\d+$', '[n]', key)) or {}
    if spec.get('type') in ('integer', 'number', 'boolean'):
        return pve_schema.check_value({'type': spec['type']}, value)[0]
    return str(value)


def is_option(key):
    """True for a key the configuration knows."""
    props = pve_schema.load().paths[QEMU + '/config']['POST']['parameters']['properties']
    return key in props or re.sub(r'\d+$', '[n]', key) in props


class Config:
    """Mixin: GET/PUT/POST config and GET pending."""

    _config_get = through('config_get', QEMU + '/config')
    _config_put = through('config_put', QEMU + '/config')
    _config_post = through('config_post', QEMU + '/config')
    _pending = through('config_pending', QEMU + '/pending')

    @staticmethod
    def digest_of(vm):
        """The SHA-1 of what the config file would hold, pending section and snapshots included [S]."""
        blob = json.dumps([vm.config, vm.pending, vm.snapshots], sort_keys=True)
        return hashlib.sha1(blob.encode()).hexdigest()

    # ----------------------------------------------------------------- reading

    async def config_get(self, v, user):
        """With the pending values merged in, or the running ones with current=1 [R 113, 114]."""
        vm = self.find(v['node'], v['vmid'])
        if v.get('snapshot'):
            if v['snapshot'] not in vm.snapshots:
                raise die("snapshot '{0}' does not exist".format(v['snapshot']))
            return dict(vm.snapshots[v['snapshot']], digest=self.digest_of(vm))
        data = dict(vm.config)
        if not v.get('current'):
            data.update(vm.pending)
        data = dict((k, x) for k, x in data.items() if x is not None)
        if 'cipassword' in data:
            data['cipassword'] = '**********'
        return dict(data, digest=self.digest_of(vm))

    async def config_pending(self, v, user):
        """Every key with its value, and what it becomes at the next start [R 112]; `digest` is one of the rows."""
        vm = self.find(v['node'], v['vmid'])
        rows = [{'key': 'digest', 'value': self.digest_of(vm)}]
        for key in sorted(set(vm.config) | set(vm.pending)):
            row = {'key': key}
            if key in vm.config:
                row['value'] = vm.config[key]
            if key in vm.pending:
                row.update({'delete': 1} if vm.pending[key] is None else {'pending': vm.pending[key]})
            rows.append(row)
        return rows

    # ----------------------------------------------------------------- writing

    async def config_put(self, v, user):
        """Synchronous; real PVE answers after at most 10 s of waiting for the lock [R 222]."""
        vm, change = self._begin(v, user)
        await self._locked(vm, lambda: self._change(vm, user, change))

    async def config_post(self, v, user):
        """A qmconfig task: the lock, the digest and all device errors are the task's [R 153, 223; digest I]."""
        vm, change = self._begin(v, user)

        async def body():
            await self.pause(1)
            await self._change(vm, user, change)
        upid = await self.task(vm.node, 'qmconfig', vm.vmid, user, body, vm=vm)
        delay, record = v.get('background_delay'), self.tasks[upid]
        if not delay:
            return upid
        if upid in self.workers:
            await asyncio.wait([self.workers[upid]], timeout=delay)
        if record['status'] == 'running':
            return upid
        if record['exitstatus'] != 'OK':
            raise die('failed to update VM {0}: {1}'.format(vm.vmid, record['exitstatus']))
        return None

    async def _locked(self, vm, work):
        try:
            await self.acquire(vm, 'config')
        except TaskError as e:
            raise die(str(e)) from e
        try:
            await work()
        except TaskError as e:
            raise die(str(e)) from e
        finally:
            self.release(vm, 'config')

    def _begin(self, v, user):
        """The checks before the lock: the same for PUT and POST."""
        self.need_quorum()
        if v.get('skiplock') and user != 'root@pam':
            raise param_error(skiplock='Only root may use this option.')
        vm = self.find(v['node'], v['vmid'])
        updates = dict((k, x) for k, x in v.items() if k not in REQUEST_ONLY)
        deletes = split_list(v.get('delete'))
        reverts = split_list(v.get('revert'))
        if not updates and not deletes and not reverts:
            raise die('no options specified')
        for key in deletes:
            if key in updates:
                raise param_error(delete="you can't use '-{0}' and -delete {0}' at the same time".format(key))
            if not is_option(key):
                raise param_error(delete="unknown option '{0}'".format(key))
        for key in sorted(updates) + deletes:
            self._check_privilege(vm, key, user)
        for key in sorted(updates):
            if DRIVE_KEY.match(key):
                self.check_drive(user, vm, key, updates[key])
            elif key.startswith('hostpci'):
                self._check_hostpci(vm, key, updates[key], user)
        line = ' '.join('-{0} {1}'.format(k, '<hidden>' if k == 'cipassword' else v[k]) for k in sorted(v)
                        if k not in ('node', 'vmid', 'background_delay'))
        return vm, {'updates': updates, 'deletes': deletes, 'reverts': reverts, 'force': v.get('force'),
                    'digest': v.get('digest'), 'skiplock': v.get('skiplock'), 'line': line}

    def _check_privilege(self, vm, key, user):
        """check_vm_modify_config_perm: devices are checked later, where it depends on their value [S]."""
        path, base = '/vms/{0}'.format(vm.vmid), key.rstrip('0123456789')
        if DRIVE_KEY.match(key) or UNUSED_KEY.match(key) or base in ('serial', 'usb', 'hostpci', 'parallel'):
            return
        if key in CLOUDINIT or base == 'ipconfig':
            if not (self.allowed(user, path, 'VM.Config.Cloudinit') or self.allowed(user, path, 'VM.Config.Network')):
                raise PveError(403, 'Permission check failed ({0}, VM.Config.Cloudinit|VM.Config.Network)'.format(path))
            return
        for keys, priv in ((CPU, 'CPU'), (MEMORY, 'Memory'), (HARDWARE, 'HWType'), (OPTIONS, 'Options'),
                           (DISK, 'Disk')):
            if key in keys:
                self.require(user, path, 'VM.Config.' + priv)
                if key == 'startup':
                    self.require(user, '/', 'Sys.Modify')
                return
        if base == 'net':
            self.require(user, path, 'VM.Config.Network')
        elif key == 'cdrom':
            self.require(user, path, 'VM.Config.CDROM')
        elif base == 'numa':
            self.require(user, path, 'VM.Config.CPU')
        elif user != 'root@pam':
            raise die("only root can set '{0}' config".format(key))

    def _check_hostpci(self, vm, key, value, user):
        """Raw devices are for root only [R 029]; mapped ones need Mapping.Use [R 603]."""
        mapping = re.search(r'(?:^|,)mapping=([^,]+)', value)
        if not mapping and user != 'root@pam':
            raise die("only root can set '{0}' config for non-mapped devices".format(key))
        self.require(user, '/vms/{0}'.format(vm.vmid), 'VM.Config.HWType')
        if mapping:
            self.require(user, '/mapping/pci/' + mapping.group(1), 'Mapping.Use')

    def _check_device(self, vm, key, value, user):
        """The privileges that depend on a device: a task error where the request is a task [R]."""
        path = '/vms/{0}'.format(vm.vmid)
        if UNUSED_KEY.match(key):
            self.require(user, path, 'VM.Config.Disk')
        elif DRIVE_KEY.match(key):
            volume, props = split_drive(value or '')
            self.require(user, path, 'VM.Config.CDROM' if is_cdrom(volume, props) or volume.endswith(':cloudinit')
                         else 'VM.Config.Disk')
            if volume.endswith(':cloudinit'):
                self.require(user, path, 'VM.Config.Cloudinit')
        elif re.match(r'^(serial|parallel|usb|hostpci)\d+$', key):
            self.require(user, path, 'VM.Config.HWType')
        elif key.startswith('net'):
            self.check_bridge(user, value)

    def check_bridge(self, user, value):
        """A NIC's bridge needs SDN.Use on its zone path, with the VLAN tag where there is one [R]."""
        bridge = re.search(r'(?:^|,)bridge=([^,]+)', value or '')
        if not bridge:
            return
        tag = re.search(r'(?:^|,)tag=(\d+)', value)
        path = '/sdn/zones/localnetwork/' + bridge.group(1) + ('/' + tag.group(1) if tag else '')
        self.require(user, path, 'SDN.Use')

    # ---------------------------------------------------------------- applying

    async def _change(self, vm, user, change):
        """Under the config lock: check, then delete, then set; a running VM keeps what cannot be hot-plugged pending."""
        if change['digest'] and change['digest'] != self.digest_of(vm):
            raise die('checksum mismatch (file change by other user?)')
        if not change['skiplock']:
            self._check_lock(vm)
        updates = change['updates']
        self._check_balloon(vm, updates)
        self.log('update VM {0}: {1}'.format(vm.vmid, change['line']))
        for key in change['reverts']:
            vm.pending.pop(key, None)
        problems = {}
        for key in change['deletes']:
            self._delete_key(vm, key, user, change['force'], problems)
        others = dict((k, x) for k, x in updates.items() if k != 'boot')
        for key in sorted(others):
            await self._set_key(vm, key, others[key], user, problems)
        if 'boot' in updates:
            self.check_boot(vm, updates['boot'], vm.pending)
            self._keep(vm, 'boot', updates['boot'])
        vm.name = vm.config.get('name') or 'VM {0}'.format(vm.vmid)
        if problems:
            raise param_error(**problems)

    @staticmethod
    def _check_balloon(vm, updates):
        """Ballooning cannot exceed the memory [R 620]."""
        both = dict(vm.config, **dict((k, x) for k, x in vm.pending.items() if x is not None))
        both.update(updates)
        if ('memory' in updates or 'balloon' in updates) and both.get('balloon'):
            if int(both['balloon']) > int(str(both.get('memory', 512)).split('=')[-1]):
                raise die('balloon value too large (must be smaller than assigned memory)')

    def _delete_key(self, vm, key, user, force, problems):
        vm.pending.pop(key, None)
        if key not in vm.config:
            return
        self._check_device(vm, key, str(vm.config[key]), user)
        if UNUSED_KEY.match(key):
            self.delete_unused(vm, key, user)
            return
        if DRIVE_KEY.match(key):
            self.protect(vm, "can't remove drive '{0}'".format(key))
        if vm.status == 'running' and not self._hot(vm, key, None):
            vm.pending[key] = None
        elif DRIVE_KEY.match(key):
            if vm.status == 'running' and key == self.boot_disk(vm):
                vm.pending[key] = None
                problems[key] = "hotplug problem - can't unplug bootdisk '{0}'\n".format(key)
                return
            if vm.status == 'running' and self._fails(vm, key):
                vm.pending[key] = None
                problems[key] = "hotplug problem - error unplugging device '{0}'\n".format(key)
                return
            self.drop_drive(vm, key, user, force)
        else:
            vm.config.pop(key)

    async def _set_key(self, vm, key, value, user, problems):
        self._check_device(vm, key, value if isinstance(value, str) else '', user)
        if DRIVE_KEY.match(key):
            old = vm.config.get(key)
            if old is not None and split_drive(old)[0] != split_drive(value)[0] and not is_plain_cdrom(old):
                self.protect(vm, "can't remove drive '{0}'".format(key))
            if 'import-from=' in value:
                await self.pause(8)
            value = self.new_drive(vm, key, value)
            if vm.status == 'running' and self._fails(vm, key):
                vm.pending[key] = value
                problems[key] = "hotplug problem - adding drive failed\n"
            elif vm.status == 'running' and not self._hot(vm, key, value):
                vm.pending[key] = value
            else:
                vm.pending.pop(key, None)
                self.place_drive(vm, key, value, user)
            return
        if re.match(r'^net\d+$', key):
            value = with_mac(value)
        elif key == 'tags':
            value = ';'.join(sorted(set(t.lower() for t in re.split(r'[;,\s]+', value) if t)))
        self._keep(vm, key, value)

    def _keep(self, vm, key, value):
        """Set a key now, or leave it pending on a running VM."""
        if vm.status == 'running' and not self._hot(vm, key, value) and vm.config.get(key) != value:
            vm.pending[key] = value
            return
        vm.pending.pop(key, None)
        vm.config[key] = value

    @staticmethod
    def _fails(vm, key):
        """True for a device of a guest that does not acknowledge: a hot-plug or hot-unplug ends as a task error while the
        value stays pending [R 400 `hotplug problem`]."""
        return bool(getattr(vm, 'hotplug_fails', None)) and bool(HOT_DEVICE.match(key))

    @staticmethod
    def _hot(vm, key, value):
        """True if a running VM takes the change at once [R 109-114 for what it does not, S for the rest]."""
        if key in AT_ONCE or key.startswith('ipconfig') or HOT_DEVICE.match(key):
            return True
        if key == 'balloon':
            return bool(value) and vm.config.get('balloon', 1) != 0
        both_cdroms = value is not None and is_plain_cdrom(str(vm.config.get(key, ''))) and is_plain_cdrom(str(value))
        return bool(DRIVE_KEY.match(key)) and both_cdroms

    def apply_pending(self, vm, user='root@pam'):
        """What a start does: pending drives replace and release the old ones as on a stopped VM."""
        pending, vm.pending = vm.pending, {}
        for key, value in pending.items():
            if value is None and key in vm.config and DRIVE_KEY.match(key):
                self.drop_drive(vm, key, user)
            elif value is None:
                vm.config.pop(key, None)
            elif DRIVE_KEY.match(key):
                self.place_drive(vm, key, value, user)
            else:
                vm.config[key] = value
        vm.name = vm.config.get('name') or 'VM {0}'.format(vm.vmid)
