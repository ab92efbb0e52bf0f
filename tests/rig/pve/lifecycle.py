"""Clones and destroys."""

import re
import uuid

from fakepve import FakeVm, PveError, TaskError
from fakepve.lxc import format_size, split_props
from fakepve.qemu import (CLONE_SKIP, DRIVE_KEY, drives_of, is_cdrom, join_drive, split_drive, volume_ref, with_mac)
from fakepve.routing import die, param_error, split_list
from fakepve.storage import _is_file

from cloudinit import is_cloudinit
from volumes import GIB, real_use

TEMPORARY = ' qmclone temporary file'


class Lifecycle:
    """Mixin: fakepve's clone copies the cloud-init drive as it is and shows the new config early; its destroy frees
    whatever is attached."""

    # ------------------------------------------------------------------ clone

    def _clone_target(self, v, src, full):
        """The node a clone ends up on; another node needs shared storage for every drive [R 024, S]."""
        target = v.get('target')
        if not target or target in (v['node'], 'localhost'):
            return v['node']
        if target not in self.nodes:
            raise die("no such cluster node '{0}'".format(target))
        for _key, volume, _props in drives_of(src.config):
            sid = volume_ref(volume)[0]
            if sid and not self.storages.get(sid, {}).get('shared'):
                raise die("can't clone VM to node '{0}' (VM uses local storage)".format(target))
        return target

    def _clone_checks(self, v, user, src, full):
        """The errors that come before any task."""
        storage, newid = v.get('storage'), int(v['newid'])
        if storage:
            if 'images' not in split_list(self._store(storage).get('content')):
                raise param_error(storage="storage '{0}' does not support vm images".format(storage))
            self.require(user, '/storage/' + storage, 'Datastore.AllocateSpace')
        self._check_lock(src)
        if v.get('snapname') and v['snapname'] not in src.snapshots:
            raise die("snapshot '{0}' does not exist".format(v['snapname']))
        for key in ('storage', 'format'):
            if v.get(key) and not full:
                raise die("parameter '{0}' not allowed for linked clones".format(key))
        if self._qm_taken(newid):
            raise die('unable to create VM {0}: config file already exists'.format(newid))

    def _clone_config(self, v, user, old, full):
        """(plain keys of the new config, {key: (volume, options)} of drives to copy)."""
        plain, drives = {}, {}
        for key in sorted(old):
            value = old[key]
            if key in CLONE_SKIP or re.fullmatch(r'unused\d+', key):
                continue
            if re.fullmatch(r'net\d+', key):
                self.check_bridge(user, value)
                plain[key] = with_mac(value, fresh=True)
            elif DRIVE_KEY.match(key):
                volume, props = split_drive(value)
                if volume_ref(volume)[0] is None or (is_cdrom(volume, props) and not is_cloudinit(volume)):
                    plain[key] = value
                    continue
                if not full and not is_cloudinit(volume) and 'base-' not in volume:
                    raise die("Linked clone feature is not supported for drive '{0}'".format(key))
                self.require(user, '/storage/' + (v.get('storage') or volume_ref(volume)[0]),
                             'Datastore.AllocateSpace')
                drives[key] = (volume, props)
            else:
                mapping = re.search(r'mapping=([^,]+)', str(value)) if key.startswith('hostpci') else None
                if mapping:
                    self.require(user, '/mapping/pci/' + mapping.group(1), 'Mapping.Use')
                plain[key] = value
        return plain, drives

    async def _qm_clone(self, v, user):
        """POST clone: until it is done the new config holds a lock and a note only [R 616]; a failed one leaves
        nothing; the cloud-init drive is made anew, also by a linked clone [R 015, 021]."""
        self.need_quorum()
        self._qm_check_pool(v.get('pool'))
        src = self.find(v['node'], v['vmid'])
        full = v['full'] if v.get('full') is not None else not src.template
        target = self._clone_target(v, src, full)
        self._clone_checks(v, user, src, full)
        old = src.snapshots[v['snapname']] if v.get('snapname') else src.config
        plain, drives = self._clone_config(v, user, old, full)
        vmid, name = int(v['newid']), v.get('name') or 'Copy-of-VM-{0}'.format(src.config.get('name') or src.vmid)
        new = FakeVm(vmid, name, node=v['node'])
        new.config = {'description': TEMPORARY}
        self._qm_lock(new, 'clone')
        self.vms.append(new)
        if v.get('pool'):
            self._pool_join(v['pool'], vmid)

        async def body():
            made = []
            try:
                config = await self._clone_drives(v, new, plain, drives, full, made)
            except BaseException as e:
                for volid in made:
                    self._qm_free(volid)
                self.vms.remove(new)
                self._pool_leave(vmid)
                if isinstance(e, (PveError, TaskError)):
                    raise TaskError('clone failed: {0}'.format(getattr(e, 'message', e))) from e
                raise
            new.config = dict(config, name=name)
            if v.get('description'):
                new.config['description'] = v['description']
            new.lock, new.node = None, target
        return await self.task(v['node'], 'qmclone', src.vmid, user, body, vm=new, lock=False, log=[
            'creating a clone of VM {0} with ID {1}'.format(src.vmid, vmid)])

    async def _clone_drives(self, v, new, plain, drives, full, made):
        config = dict(plain)
        for key in sorted(drives):
            volume, props = drives[key]
            sid, name = volume_ref(volume)
            if is_cloudinit(volume):
                self.log('create full clone of drive {0} ({1})'.format(key, volume))
                volid, size = self.alloc_cloudinit(new, v.get('storage') or sid), 4 * 1024 ** 2
                self.log("allocated target volume '{0}'".format(volid))
            else:
                volid, size = await self._clone_disk(v, new, key, volume, full)
            made.append(volid)
            config[key] = join_drive(volid, dict(props, size=format_size(size)))
        smbios = split_props('x,' + str(config.get('smbios1', '')))[1]
        smbios['uuid'] = str(uuid.uuid4())
        config['smbios1'] = ','.join('{0}={1}'.format(k, smbios[k]) for k in sorted(smbios))
        if config.get('vmgenid'):
            config['vmgenid'] = str(uuid.uuid4())
        return config

    async def _clone_disk(self, v, new, key, volume, full):
        """Copy or link one disk: a link uses nothing, a copy what its source uses. (volume id, size)."""
        sid, name, known = self.volume_at(volume, new.node)
        if known is None:
            raise die("volume '{0}' does not exist".format(volume))
        size, used = int(known.get('size') or 0), real_use(known)
        self.log('create {0} clone of drive {1} ({2})'.format('full' if full else 'linked', key, volume))
        if not full:
            await self.pause(1)
            base = '{0}/{1}'.format(known.get('vmid'), name.split('/')[-1]) if _is_file(self.storages[sid]) else None
            volid, _ = self._qm_alloc(sid, new.vmid, known.get('format'), size, linked_from=base)
            self._volumes(sid)[volid.split(':', 1)[1]]['parent'] = name.split('/')[-1]
            return volid, size
        dest = v.get('storage') or sid
        volid, _ = self._qm_alloc(dest, new.vmid, v.get('format') or (known.get('format') if dest == sid else None),
                                  size, used=used)
        self.log("allocated target volume '{0}'".format(volid))
        try:
            await self.pause(2 + min(60, 2 * used / GIB))
        except BaseException:
            self._qm_free(volid)
            raise
        gib = '{0:.1f} GiB'.format(size / GIB)
        self.log('transferred 0.0 B of {0} (0.00%)\ntransferred {0} of {0} (100.00%)'.format(gib))
        return volid, size

    # ---------------------------------------------------------------- destroy

    async def _qm_destroy(self, v, user):
        """DELETE a VM: running, HA and protection are refused at once, a lock and linked clones in the task; only
        its own images are freed, attached ISOs and other VMs' disks stay [R 108, 230, 414-419, 610]."""
        self.need_quorum()
        vm = self.find(v['node'], v['vmid'])
        vmid = vm.vmid
        if v.get('skiplock') and user != 'root@pam':
            raise param_error(skiplock='Only root may use this option.')
        self.protect(vm, "can't remove VM {0}".format(vmid))
        if vm.ha_managed and not v.get('purge'):
            raise die('unable to remove VM {0} - used in HA resources and purge parameter not set.'.format(vmid))
        if vm.status == 'running':
            raise die('VM {0} is running - destroy failed'.format(vmid))

        async def body():
            if not v.get('skiplock'):
                self._check_lock(vm)
            self._check_linked(vm)
            await self.pause(2)
            for volid in sorted(self._destroyed_volumes(vm, v.get('destroy-unreferenced-disks'))):
                self._qm_free(volid)
            self.vms.remove(vm)
            self._pool_leave(vmid)
            path = '/vms/{0}'.format(vmid)
            if v.get('purge') and self.acl:
                self.acl = dict((u, [e for e in entries if e[0] != path]) for u, entries in self.acl.items())
            return 'purging VM {0} from related configurations..'.format(vmid) if v.get('purge') else None
        return await self.task(vm.node, 'qmdestroy', vmid, user, body, vm=vm)

    def _destroyed_volumes(self, vm, unreferenced):
        found = set(split_drive(value)[0] for conf in [vm.config] + list(vm.snapshots.values())
                    for key, value in conf.items() if DRIVE_KEY.match(key) or re.fullmatch(r'unused\d+', key))
        if unreferenced:
            found |= set('{0}:{1}'.format(sid, name) for sid in self.storages for name in self._volumes(sid))
        return set(volid for volid in found if ':' in volid and self.volume_owner(volid) == vm.vmid)

    def _check_linked(self, vm):
        """A template's disk in use by linked clones [R 418]. On lvmthin nothing tells (the clone's name does not hold
        its base) and the removal goes through [S]."""
        for _key, volume, _props in drives_of(vm.config, skip_cdrom=True):
            sid, name = volume_ref(volume)
            if sid in self.storages and any(other.startswith(name + '/') for other in self._volumes(sid)):
                raise TaskError("base volume '{0}' is still in use by linked cloned".format(volume))
