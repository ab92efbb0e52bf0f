"""Volumes, files and space of the storages.

What a volume really occupies (its `used`) is what moves the figures of a storage: an empty new disk uses nothing,
a full clone what its source uses, an import the size of its file, an upload its bytes. A disk of the world whose
use is not given counts as a tenth of its size.
"""

import hashlib
import struct
import time

from fakepve import PveError, TaskError
from fakepve.routing import die, param_error, split_list
from fakepve.storage import _is_file, spec_of

import wire

UPLOAD_ENDS = {'iso': ('.iso', '.img'), 'import': ('.ova', '.qcow2', '.raw', '.vmdk'),
               'vztmpl': ('.tar.gz', '.tar.xz', '.tar.zst')}
GIB = 1024 ** 3


def real_use(volume):
    """Bytes a volume occupies."""
    if volume.get('used') is not None:
        return volume['used']
    size = int(volume.get('size') or 0)
    return size // 10 if volume['content'] in ('images', 'rootdir') else size


def disk_size(volume, data):
    """The virtual size of a disk image: from a qcow2 header, else as given, else the file size in whole GiB."""
    if data and data[:4] == b'QFI\xfb' and len(data) >= 32:
        return struct.unpack('>Q', data[24:32])[0]
    if volume.get('virtual_size'):
        return volume['virtual_size']
    size = int(volume.get('size') or 0)
    return size if volume.get('format') == 'raw' else -(-size // GIB) * GIB


class Volumes:
    """Mixin: space per node, files with contents, uploads by the real rules (fakepve adds sizes up and keeps none)."""

    # ------------------------------------------------------------------- space

    def _on_node(self, sid, volume, node):
        """A volume of a storage that is not shared exists on one node only."""
        return self.storages[sid].get('shared') or volume.get('node') in (None, node)

    def _volumes(self, name):
        """Everything on the storage. fakepve also invents what configs name; the world puts that in at load."""
        return self.storages[name].setdefault('volumes', {})

    def _charge(self, sid, node, size):
        """Take (or give back, below zero) bytes of a storage on a node; everywhere if it is shared."""
        store = self.storages[sid]
        nodes = list(store['space']) if store.get('shared') else [node]
        for name in nodes:
            space = store['space'].get(name)
            if space is None:
                continue
            if size > 0 and size > space['avail']:
                raise die("unable to write to storage '{0}': No space left on device".format(sid))
            space['used'] += size
            space['avail'] -= size
            space['moved'] = space.get('moved', 0) + size

    def put_volume(self, sid, name, volume, node):
        """Add or silently overwrite a volume, with its space."""
        volumes = self._volumes(sid)
        old = real_use(volumes[name]) if name in volumes else 0
        self._charge(sid, node, real_use(volume) - old)
        volumes[name] = dict(volume, node=None if self.storages[sid].get('shared') else node)

    def drop_volume(self, sid, name):
        """Remove a volume and give its space back; True if it was there."""
        volume = self._volumes(sid).pop(name, None)
        if volume is None:
            return False
        self._charge(sid, volume.get('node') or next(iter(self.storages[sid]['space']), None), -real_use(volume))
        return True

    def volume_at(self, volid, node):
        """(storage id, name, volume) of a volume id on a node, the volume None where it does not exist."""
        sid, _, name = str(volid).partition(':')
        if sid not in self.storages:
            return sid, name, None
        volume = self._volumes(sid).get(name)
        return sid, name, volume if volume and self._on_node(sid, volume, node) else None

    def _qm_alloc(self, sid, vmid, fmt, size, linked_from=None, used=0):
        """vdisk_alloc: thin, so an empty disk takes no space; returns (volume id, format)."""
        store = self.storages[sid]
        if not store.get('active', 1):
            raise die("storage '{0}' is not online".format(sid))
        fmt = fmt or store.get('format') or (spec_of(store) or {'format': 'raw'})['format']
        name, fmt = self._volume_name(store, vmid, fmt, self._qm_free_name(sid, vmid, fmt))
        if linked_from and _is_file(store):
            name = '{0}/{1}'.format(linked_from, name)
        self.put_volume(sid, name, {'content': 'images', 'format': fmt, 'size': size, 'vmid': vmid, 'used': used,
                                    'ctime': int(time.time())}, self.guest(vmid).node)
        return '{0}:{1}'.format(sid, name), fmt

    def _qm_free(self, volid):
        """vdisk_free of an image; files such as ISOs are never freed this way."""
        sid, _, name = str(volid).partition(':')
        if sid in self.storages and self._volumes(sid).get(name, {}).get('content') == 'images':
            self.drop_volume(sid, name)

    # ------------------------------------------------------------------ status

    @staticmethod
    def _options_of(store):
        hidden = ('files', 'avail', 'active', 'volumes', 'total', 'space', 'rrddata')
        return dict((k, v) for k, v in store.items() if k not in hidden)

    def _status_item(self, name, node, formats=False):
        """As fakepve's, with the figures of this node; avail + used need not be total [R]."""
        item = super()._status_item(name, node, formats)
        space = self.storages[name]['space'].get(node)
        if item['active'] and space:
            item.update((k, space[k]) for k in ('total', 'used', 'avail'))
        return item

    def storage_rows(self, name):
        """The rows of /cluster/resources, one per node [R 201]; no figures where it is not active."""
        store, rows = self.storages[name], []
        for node in self._storage_nodes(name):
            row = {'id': 'storage/{0}/{1}'.format(node, name), 'type': 'storage', 'storage': name, 'node': node,
                   'plugintype': store.get('type', 'dir'), 'content': store.get('content', ''),
                   'shared': 1 if store.get('shared') else 0, 'status': 'unknown'}
            space = store['space'].get(node)
            if store.get('active', 1) and space and self.nodes[node].get('online', True):
                row.update(status='available', disk=space['used'], maxdisk=space['total'])
            rows.append(row)
        return rows

    # ----------------------------------------------------------------- content

    def _item(self, name, volname, vol):
        """A content row [R 007]: `used` and `parent` for images in files, format `snippet` for snippets."""
        item = super()._item(name, volname, vol)
        item.pop('used', None)
        if vol['content'] == 'snippets':
            item['format'] = 'snippet'
        if vol['content'] == 'images' and _is_file(self.storages[name]):
            item.update(used=real_use(vol), parent=vol.get('parent'))
        return item

    async def _content_list(self, v, user):
        """Only what the user may use, on this node."""
        rows = await super()._content_list(v, user)
        sid = v['storage']
        return [r for r in rows
                if self._on_node(sid, self._volumes(sid)[r['volid'].split(':', 1)[1]], v['node'])]

    async def _content_delete(self, v, user):
        """Deleting needs Datastore.Allocate [R]; a missing file is only noted in the log [R 408]."""
        sid, name, volid, _store, vtype, owner, _fmt = self._volume_target(v)
        if vtype == 'backup' and owner:
            return await super()._content_delete(v, user)
        self.require(user, '/storage/' + sid, 'Datastore.Allocate')

        async def body():
            await self.pause(1)
            if not self.drop_volume(sid, name):
                self.log("disk image '{0}' does not exist".format(self._volume_path(sid, name, vtype)))
            return "Removed volume '{0}'".format(volid)
        ident = '{0}@{1}'.format(owner, sid) if owner is not None else sid
        return await self.task(v['node'], 'imgdel', ident, user, body)

    # ----------------------------------------------------------------- uploads

    def _check_upload(self, v):
        """The checks before the task: the storage's kind and contents, the file name's ending [R 505, 509]."""
        store = self._active_store(v['storage'], v['node'])
        self._need_file_storage(store, "can't upload to storage type '{0}'")
        if v['content'] not in split_list(store.get('content')):
            raise die("storage '{0}' does not support '{1}' content".format(v['storage'], v['content']))
        name = wire.content_filename(v['filename'])
        if not name.lower().endswith(UPLOAD_ENDS[v['content']]):
            raise param_error(filename='invalid filename or wrong extension' if v['content'] == 'import'
                              else 'wrong file extension')
        return name

    async def _upload(self, request):
        """POST upload: the fields before the file part count, the bytes are kept, a task copies them [R 502-516]."""
        fields, filename, data = self.upload_of(request)
        if filename is None:
            raise PveError(400, 'Parameter verification failed.',
                           {'filename': 'property is missing and it is not optional'})
        values = dict(fields, filename=filename)

        async def call(_match, v):
            return await self._import_file(v, self.user_of(request), data)
        match = self.match_of(request)
        return self.reply(await self.answer(request, match, values, self.user_of(request), call))

    async def _import_file(self, v, user, data):
        name, sid, node, kind = self._check_upload(v), v['storage'], v['node'], v['content']
        temporary = '/var/tmp/pveupload-' + hashlib.sha256(data).hexdigest()[:32]
        target = self._volume_path(sid, '{0}/{1}'.format(kind, name), kind)

        async def body():
            await self.pause(1)
            self.log('starting file import from: ' + temporary)
            if v.get('checksum'):
                self.log('calculating checksum...')
                got = hashlib.new(v.get('checksum-algorithm', 'sha256').replace('-', ''), data).hexdigest()
                if got != v['checksum'].lower():
                    raise TaskError("checksum mismatch: got '{0}' != expect '{1}'".format(got, v['checksum']))
            if name.endswith('.qcow2') and data[:4] != b'QFI\xfb':
                self.log("command '/usr/bin/qemu-img info '--output=json' {0} -f qcow2' failed: exit code 1".format(
                    temporary))
                raise TaskError("qemu-img: Could not open '{0}': Image is not in qcow2 format".format(temporary))
            self.log('target node: {0}\ntarget file: {1}\nfile size is: {2}\ncommand: cp -- {3} {1}'.format(
                node, target, len(data), temporary))
            self.put_file(sid, kind, name, data, node)
            return 'finished file import successfully'
        return await self.task(node, 'imgcopy', '', user, body)

    def put_file(self, sid, kind, name, data, node):
        """Keep a file with its bytes on a storage."""
        self.put_volume(sid, '{0}/{1}'.format(kind, name), {
            'content': kind, 'size': len(data), 'ctime': int(time.time()), 'sha256': self.files.put(data),
            'format': 'iso' if kind == 'iso' else name.rsplit('.', 1)[-1]}, node)

    def file_bytes(self, volume):
        """The contents of a file, or None where the world gave only its size."""
        return self.files.get(volume['sha256']) if volume and volume.get('sha256') else None

    async def _download_url(self, request):
        """POST download-url: nothing is fetched, the file appears with a size and no contents [T]."""
        async def call(_match, v):
            name = self._check_upload(v)

            async def body():
                await self.pause(5)
                self.put_volume(v['storage'], '{0}/{1}'.format(v['content'], name), {
                    'content': v['content'], 'size': 1024 ** 2, 'ctime': int(time.time()),
                    'format': 'iso' if v['content'] == 'iso' else name.rsplit('.', 1)[-1]}, v['node'])
            return await self.task(v['node'], 'download', name, self.user_of(request), body)
        return self.reply(await self.answer(request, self.match_of(request), self.params(request),
                                            self.user_of(request), call))
