"""What a change of a VM's configuration does to its disks.

fakepve stores drive options as they come. The real code (qemu-server) allocates `STORAGE:GiB` and `import-from`,
turns a disk that is taken away into `unusedN`, frees an `unusedN` that is deleted, and plugs and unplugs disks of a
running VM at once (hotplug=disk,network,usb is the default). Seen on the real code: proxmox.md, section 3.
"""

import re

from fakepve.lxc import SIZE_UNITS, format_size
from fakepve.model import PveError, TaskError
from fakepve.qemu import DRIVE_KEY, NEW_DISK, is_cdrom, join_drive, split_drive, volume_ref
from fakepve.server import FakePve

# Numbers in the answers of the real API; everything else of a form stays text.
NUMBERS = ('cores', 'sockets', 'vcpus', 'balloon', 'onboot', 'template', 'protection', 'numa', 'tablet', 'kvm', 'acpi',
           'ciupgrade')
# Keys whose change reaches a running VM at once (hotplug_pending of qemu-server with its default options).
HOT = re.compile(r'^(scsi\d+|virtio\d+|net\d+|unused\d+|usb\d+)$')


def size_of(text):
    """Bytes of `20G`, `4M`, `1048576`."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT]?)', str(text))
    if not found:
        raise PveError(400, 'Parameter verification failed.', {'size': "value does not match the regex pattern"})
    return int(float(found[1]) * {'': 1, **SIZE_UNITS}[found[2]])


class Disks(FakePve):
    """FakePve whose disks are allocated, kept aside and freed."""

    def _routes_disks(self):
        return [('PUT', '/nodes/{node}/qemu/{vmid}/resize', self._resize),
                ('PUT', '/nodes/{node}/qemu/{vmid}/unlink', self._unlink)]

    # --------------------------------------------------------------- config

    async def _apply_config(self, vm, user, p):
        p = dict(p)
        force = str(p.pop('force', '0')) in ('1', 'true')
        for key in NUMBERS:
            if re.fullmatch(r'\d+', str(p.get(key, ''))):
                p[key] = int(p[key])
        deletes = [key for key in str(p.get('delete') or '').split(',') if key]
        before = dict(vm.config)
        made = {key: self._new_volume(vm, key, value, user) for key, value in p.items() if DRIVE_KEY.match(key)}
        await super()._apply_config(vm, user, {**p, **{key: value for key, value in made.items() if value}})
        # No await from here on: nobody sees the change half done.
        for key in list(vm.pending):
            if vm.status == 'running' and HOT.match(key):
                value = vm.pending.pop(key)
                if value is None:
                    vm.config.pop(key, None)
                else:
                    vm.config[key] = value
        for key in set(deletes) | set(made):
            self._put_aside(vm, key, before.get(key), force)

    def _new_volume(self, vm, key, value, user):
        """The drive's value once its volume exists; None if the request names one that does."""
        volume, props = split_drive(str(value))
        source = props.pop('import-from', None)
        found = NEW_DISK.match(volume)
        if volume.endswith(':cloudinit'):
            props.pop('format', None)
            return join_drive(self._cloudinit_volume(volume_ref(volume)[0], vm.vmid), dict(props, media='cdrom'))
        if not found or is_cdrom(volume, props):
            return None
        sid = found[1]
        self._qm_image_store(sid, user)
        size = int(float(found[2]) * SIZE_UNITS['G'])
        if source is not None:
            size = self._imported(source)
        if size <= 0:
            raise PveError(500, "unable to create a volume of size 0 on storage '{0}'".format(sid))
        volid, _ = self._qm_alloc(sid, vm.vmid, props.pop('format', None), size)
        return join_drive(volid, dict(props, size=format_size(size)))

    def _qm_new_drive(self, vmid, key, value, default):
        """At the creation of a VM: fakepve calls the cloud-init drive a disk like any other."""
        volume, props = split_drive(value)
        if not volume.endswith(':cloudinit'):
            return super()._qm_new_drive(vmid, key, value, default)
        volid = self._cloudinit_volume(volume_ref(volume)[0] or default, vmid)
        return join_drive(volid, dict(props, media='cdrom')), [volid]

    def _cloudinit_volume(self, sid, vmid):
        """The volume of a cloud-init drive: vm-<vmid>-cloudinit, 4 MiB (PVE::QemuServer::Cloudinit)."""
        name = 'vm-{0}-cloudinit'.format(vmid)
        self.storages[sid].setdefault('volumes', {})[name] = {'content': 'images', 'format': 'raw', 'size': 4 * 1024 ** 2, 'vmid': vmid}
        return '{0}:{1}'.format(sid, name)

    def _imported(self, source):
        """Size of a volume that is imported; the real task fails where it is missing."""
        sid, name = volume_ref(source)
        volume = self._volumes(sid).get(name) if sid in self.storages else None
        if volume is None:
            raise PveError(500, "failed to stat '{0}'".format(source))
        # `import/x.qcow2` is as large as its disk here; a real one is sparse.
        return int(volume.get('size') or 0)

    def _put_aside(self, vm, key, old, force):
        """What becomes of a disk whose key was deleted or set to another volume."""
        if old is None or vm.config.get(key) == old or key in vm.pending:
            return
        volume, props = split_drive(str(old))
        if volume_ref(volume)[0] is None or volume == split_drive(str(vm.config.get(key, '')))[0]:
            return
        if not DRIVE_KEY.match(key) and not key.startswith('unused'):
            return
        # A CSI volume belongs to the owner 9999, and PVE frees no disk that is not the VM's own.
        own = 'vm-{0}-'.format(vm.vmid) in volume
        if is_cdrom(volume, props):
            if 'cloudinit' in volume:
                self._qm_free(volume)
            return
        if key.startswith('unused') or force:
            if own:
                self._qm_free(volume)
            return
        if own:
            taken = {name for name in vm.config if name.startswith('unused')}
            number = next(n for n in range(256) if 'unused{0}'.format(n) not in taken)
            vm.config['unused{0}'.format(number)] = volume
        boot = [one for one in str(vm.config.get('boot', '')).removeprefix('order=').split(';') if one != key]
        if str(vm.config.get('boot', '')).startswith('order=') and key not in vm.config:
            # Seen on the real code: an empty order is one space.
            vm.config['boot'] = 'order=' + ';'.join(boot) if boot else ' '

    async def _unlink(self, v, user):
        """PUT …/unlink: what `delete` does, by another name (PVE::API2::Qemu unlink calls update_vm)."""
        vm = self.find(v['node'], v['vmid'])
        keys = str(v['idlist']).replace(';', ',').replace(' ', ',')
        await self._apply_config(vm, user, {'delete': keys, **({'force': 1} if v.get('force') else {})})

    # --------------------------------------------------------------- resize

    async def _resize(self, v, user):
        """PUT …/resize: a task that grows the disk; a disk is never made smaller."""
        vm = self.find(v['node'], v['vmid'])
        self.require(user, '/vms/{0}'.format(vm.vmid), 'VM.Config.Disk')
        self._check_lock(vm)

        async def body():
            key, text = v['disk'], str(v['size'])
            if key not in vm.config:
                raise TaskError("disk '{0}' does not exist".format(key))
            volume, props = split_drive(vm.config[key])
            sid, name = volume_ref(volume)
            store = self.storages.get(sid) or {}
            now = size_of(props.get('size', '0'))
            new = now + size_of(text[1:]) if text.startswith('+') else size_of(text)
            if new < now:
                raise TaskError("shrinking disks is not supported")
            if 'avail' in store and new - now > store['avail']:
                raise TaskError("unable to resize volume: No space left on device")
            if 'avail' in store:
                store['avail'] -= new - now
            store.setdefault('volumes', {}).setdefault(name, {'content': 'images', 'format': 'raw', 'vmid': vm.vmid})['size'] = new
            vm.config[key] = join_drive(volume, dict(props, size=format_size(new)))
            return 'Image resized.'
        return await self.task(vm.node, 'resize', vm.vmid, user, body, vm=vm)

    # ---------------------------------------------------------------- clone

    def own_cloudinit(self, vm):
        """After a clone: the real code makes the clone a cloud-init drive of its own; fakepve shares the template's."""
        for key, value in list(vm.config.items()):
            volume, props = split_drive(str(value)) if DRIVE_KEY.match(key) else ('', {})
            if 'cloudinit' in volume and 'vm-{0}-'.format(vm.vmid) not in volume:
                sid, _ = volume_ref(volume)
                vm.config[key] = join_drive(self._cloudinit_volume(sid, vm.vmid), props)
