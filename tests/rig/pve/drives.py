"""Disks of a VM: allocating, importing, detaching to unusedN, freeing, resizing, and the boot order that follows.

fakepve stores drive values literally. All of this was seen on the real code (proxmox.md section 3, samples 122-155,
403-405, 518-519, 622-623, 036-046).
"""

import re
import time

from fakepve import PveError, TaskError
from fakepve.lxc import SIZE_UNITS, format_size, parse_size
from fakepve.qemu import DRIVE_KEY, FIXED_KIB, NEW_DISK, is_cdrom, join_drive, split_drive, volume_ref
from fakepve.routing import die, param_error
from fakepve.storage import _is_file, spec_of

from cloudinit import is_cloudinit
from volumes import disk_size, real_use

UNUSED_KEY = re.compile(r'^unused\d+$')
CLOUDINIT_SIZE = 4 * 1024 ** 2
IMPORT_SYNTAX = "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"


def is_plain_cdrom(value):
    """A CD-ROM that is not the cloud-init drive."""
    volume, props = split_drive(value)
    return is_cdrom(volume, props) and not is_cloudinit(volume) and not volume.endswith(':cloudinit')


def boot_devices(config):
    """The devices of `boot: order=...`, or None where there is no such order."""
    text = str(config.get('boot') or '')
    if not text.startswith('order='):
        return None
    return [d for d in text[len('order='):].split(',')[0].split(';') if d]


def boot_text(devices):
    """The boot key for an order; an empty one is a single blank [R 125]."""
    return 'order=' + ';'.join(devices) if devices else ' '


class Drives:
    """Mixin: what happens to volumes when drive keys are set and deleted."""

    def volume_owner(self, volid):
        """The VM a volume belongs to by its name, which is not always the one it is attached to."""
        sid, name = volume_ref(str(volid))
        if sid not in self.storages:
            return None
        volume = self._volumes(sid).get(name)
        if volume and volume.get('vmid') is not None:
            return int(volume['vmid'])
        found = re.search(r'(?:^|/)(?:vm|base)-(\d+)-', name)
        return int(found.group(1)) if found else None

    # ------------------------------------------------------------ sync checks

    def check_drive(self, user, vm, key, value):
        """Checks made before the task is forked: import syntax [R 145], paths [R 146], access, ISO media [R 405]."""
        volume, props = split_drive(value)
        source = props.get('import-from')
        if source is None:
            sid, name = volume_ref(volume)
            own = sid in self.storages and self.volume_owner(volume) == vm.vmid
            if own and not NEW_DISK.match(volume) and not volume.endswith(':cloudinit'):
                self._parse_volname(self._store(sid), name)
                return
            self._qm_check_drive(user, vm.vmid, None, key, value, None)
            return
        found = NEW_DISK.match(volume)
        if not found or not found.group(1) or float(found.group(2)):
            raise param_error(**{key: IMPORT_SYNTAX})
        if source.startswith('/') and user != 'root@pam':
            raise die('Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 651.')
        self._qm_image_store(found.group(1), user)
        self._check_source(user, key, source)

    def _check_source(self, user, key, source):
        """The source of an import: type `import`, or a disk of another VM (which needs VM.Clone there) [R, S]."""
        sid, name = volume_ref(source)
        vtype, owner, _fmt = self._parse_volname(self._store(sid), name)
        if vtype == 'images' and owner:
            self.require(user, '/vms/{0}'.format(owner), 'VM.Clone')
            return
        self._check_access(user, sid, vtype, owner, source)
        if vtype != 'import' or not name.lower().endswith(('.qcow2', '.raw', '.vmdk', '.ova')):
            raise param_error(**{key: "'{0}' has wrong type '{1}' - not an image".format(source, vtype)})

    # -------------------------------------------------------------- new drives

    def new_drive(self, vm, key, value):
        """The config value of a drive once its disk is made, imported or looked up. Runs inside the task."""
        volume, props = split_drive(value)
        props = dict(props)
        if 'import-from' in props:
            return self._import_drive(vm, key, volume, props)
        if volume.endswith(':cloudinit'):
            props.pop('format', None)
            volid = self.alloc_cloudinit(vm, volume.split(':')[0])
            return join_drive(volid, dict(props, media='cdrom'))
        found = NEW_DISK.match(volume)
        if found and not is_cdrom(volume, props):
            kib = FIXED_KIB.get(key)
            size = kib * 1024 if kib else int(float(found.group(2)) * SIZE_UNITS['G'])
            volid, _ = self._qm_alloc(found.group(1), vm.vmid, props.pop('format', None), size)
            value = join_drive(volid, dict(props, size=format_size(size)))
            self.log("{0}: successfully created disk '{1}'".format(key, value))
            return value
        if not volume or volume in ('none', 'cdrom') or volume.startswith('/'):
            return join_drive(volume, props)
        _sid, _name, known = self.volume_at(volume, vm.node)
        if known is None:
            raise die("volume '{0}' does not exist".format(volume))
        if known.get('size'):
            props['size'] = format_size(int(known['size']))
        return join_drive(volume, props)

    def _import_drive(self, vm, key, target, props):
        """scsi0=store:0,import-from=source: a new disk of the source's size, options as given [R 129-132]."""
        source = props.pop('import-from')
        sid, name, volume = self.volume_at(source, vm.node)
        if volume is None:
            kind = name.split('/', 1)[0]
            raise TaskError("failed to stat '{0}'".format(self._volume_path(sid, name, kind)))
        size = disk_size(volume, self.file_bytes(volume))
        self.log('create full clone of drive ({0})'.format(source))
        dest = target.split(':')[0]
        kinds = (spec_of(self.storages[dest]) or {}).get('formats') or ['raw']
        fmt = props.pop('format', None) or (volume.get('format') if volume.get('format') in kinds else None)
        volid, _ = self._qm_alloc(dest, vm.vmid, fmt, size, used=min(size, real_use(volume)))
        self.log("allocated target volume '{0}'".format(volid))
        value = join_drive(volid, dict(props, size=format_size(size)))
        gib = '{0:.1f} GiB'.format(size / SIZE_UNITS['G'])
        self.log('transferred 0.0 B of {0} (0.00%)\ntransferred {0} of {0} (100.00%)'.format(gib))
        self.log("{0}: successfully created disk '{1}'".format(key, value))
        return value

    def alloc_cloudinit(self, vm, sid):
        """The cloud-init drive's own volume vm-<id>-cloudinit (in a qcow2 file on file storages) [R 015]."""
        files = _is_file(self.storages[sid])
        name = 'vm-{0}-cloudinit'.format(vm.vmid)
        name = '{0}/{1}.qcow2'.format(vm.vmid, name) if files else name
        self.put_volume(sid, name, {'content': 'images', 'format': 'qcow2' if files else 'raw', 'vmid': vm.vmid,
                                    'size': CLOUDINIT_SIZE, 'used': 0, 'ctime': int(time.time())}, vm.node)
        return '{0}:{1}'.format(sid, name)

    # --------------------------------------------------------------- detaching

    def release_drive(self, vm, key, value, user, force=False):
        """What becomes of a drive's volume when its key goes: cloud-init drives are freed, CD-ROMs stay where they
        are, the VM's own disks become unusedN or are freed with `force`, other VMs' disks are just let go [R, S]."""
        volume, props = split_drive(value)
        if is_cloudinit(volume):
            self._qm_free(volume)
            return
        if is_cdrom(volume, props) or self.volume_owner(volume) != vm.vmid:
            return
        if force:
            self._free_own(vm, volume, user)
        else:
            self.add_unused(vm, volume)

    @staticmethod
    def add_unused(vm, volume):
        """The lowest free unusedN for a volume no other key names."""
        if any(split_drive(v)[0] == volume for k, v in vm.config.items() if DRIVE_KEY.match(k) or UNUSED_KEY.match(k)):
            return
        number = 0
        while 'unused{0}'.format(number) in vm.config:
            number += 1
        vm.config['unused{0}'.format(number)] = volume

    def _free_own(self, vm, volume, user):
        """try_deallocate_drive: frees what the VM owns; needs Datastore.AllocateSpace there [S]."""
        sid, _ = volume_ref(volume)
        if self.volume_owner(volume) != vm.vmid:
            return
        self.require(user, '/storage/' + str(sid), 'Datastore.AllocateSpace')
        for snap in vm.snapshots.values():
            if any(split_drive(v)[0] == volume for k, v in snap.items() if DRIVE_KEY.match(k)):
                raise die("unable to delete '{0}' - volume is still in use (snapshot?)".format(volume))
        self._qm_free(volume)

    def delete_unused(self, vm, key, user):
        """delete=unusedN destroys the volume, with or without `force` [R 126]."""
        self.protect(vm, "can't remove unused disk '{0}'".format(key))
        self._free_own(vm, split_drive(vm.config[key])[0], user)
        vm.config.pop(key)

    def drop_drive(self, vm, key, user, force=False):
        """Delete a drive key: the volume as release_drive says, and the boot order without it [R 125, 144]."""
        value = vm.config.pop(key)
        self.release_drive(vm, key, value, user, force)
        order = boot_devices(vm.config)
        if order is not None and key in order:
            vm.config['boot'] = boot_text([d for d in order if d != key])

    def place_drive(self, vm, key, value, user):
        """Set a drive key: what was there is released, a CD-ROM joins the end of the boot order [R 139, 519]."""
        old = vm.config.get(key)
        vm.config[key] = value
        if old is not None and split_drive(old)[0] != split_drive(value)[0]:
            self.release_drive(vm, key, old, user)
        order = boot_devices(vm.config)
        if order is not None and is_plain_cdrom(value) and key not in order:
            vm.config['boot'] = boot_text(order + [key])

    @staticmethod
    def check_boot(vm, text, others):
        """The devices of a new boot order must exist [R 153, with its stray quote]."""
        known = dict(vm.config, **others)
        for device in boot_devices({'boot': text}) or []:
            if known.get(device) is None:
                raise die("invalid bootorder: device '{0}' does not exist'".format(device))

    # ------------------------------------------------------------------ resize

    def _routes_rig_drives(self):
        return [('PUT', '/nodes/{node}/qemu/{vmid}/resize', self._resize),
                ('PUT', '/nodes/{node}/qemu/{vmid}/unlink', self._unlink)]

    async def _unlink(self, v, user):
        """PUT unlink is PUT config with `delete`, by another name [S]: proxmox-csi detaches with it."""
        change = {'node': v['node'], 'vmid': v['vmid'], 'delete': v['idlist']}
        if v.get('force'):
            change['force'] = v['force']
        return await self.config_put(change, user)

    async def _resize(self, v, user):
        """PUT resize answers a task; its errors are the task's [R 036-046]. Shrinking is refused, the same size is
        no error, `+10G` adds."""
        self.need_quorum()
        if v.get('skiplock') and user != 'root@pam':
            raise param_error(skiplock='Only root may use this option.')
        node, vmid, key = v['node'], v['vmid'], v['disk']

        async def body():
            vm = self.find(node, vmid)
            if v.get('digest') and v['digest'] != self.digest_of(vm):
                raise die('checksum mismatch (file change by other user?)')
            self._check_lock(vm)
            if key not in vm.config:
                raise TaskError("disk '{0}' does not exist".format(key))
            volume, props = split_drive(vm.config[key])
            if is_cdrom(volume, props):
                raise TaskError("you can't resize a cdrom")
            sid, name, known = self.volume_at(volume, node)
            if known is None:
                raise TaskError("can't resize volume: {0} if its size is unknown".format(volume))
            self.require(user, '/storage/' + sid, 'Datastore.AllocateSpace')
            old = int(known['size'])
            size = parse_size(v['size'].lstrip('+')) + (old if v['size'].startswith('+') else 0)
            if size < old:
                raise TaskError('shrinking disks is not supported')
            await self.pause(1)
            if size > old:
                known['used'] = real_use(known)
                known['size'] = size
                vm.config[key] = join_drive(volume, dict(props, size=format_size(size)))
            return 'Image resized.' if _is_file(self.storages[sid]) else \
                'Logical volume {0}/{1} successfully resized.'.format(self.storages[sid].get('vgname', 'pve'), name)
        vm = self.vm(int(vmid))
        return await self.task(node, 'resize', vmid, user, body, vm=vm)

    def protect(self, vm, what):
        """PVE::QemuConfig check_protection."""
        if str(vm.config.get('protection', 0)) == '1':
            raise PveError(500, '{0} - protection mode enabled'.format(what))
