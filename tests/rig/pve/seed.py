"""What a machine finds when it boots: its NoCloud seed, read from what it was really given."""

import hashlib
import io
import urllib.parse

import pycdlib
from fakepve.qemu import DRIVE_KEY, is_cdrom, split_drive, volume_ref

FILES = ('user-data', 'meta-data', 'vendor-data', 'network-config')
# cicustom's names for them (PVE::QemuServer::Cloudinit).
CUSTOM = {'user': 'user-data', 'meta': 'meta-data', 'vendor': 'vendor-data', 'network': 'network-config'}


def custom_of(vm):
    """{part: volume id} of cicustom."""
    pairs = [one.partition('=') for one in str(vm.config.get('cicustom', '')).split(',') if one]
    return dict((CUSTOM[name], volid) for name, _, volid in pairs if name in CUSTOM)


def missing_snippets(double, vm):
    """Snippets that cicustom names and that are not there: the start of the VM fails."""
    return [volid for volid in custom_of(vm).values() if tuple(volid.split(':', 1)) not in double.contents]


def read_image(data):
    """({file: text}, error) of an ISO 9660 image; cloud-init looks for the label `cidata` in any case."""
    image = pycdlib.PyCdlib()
    try:
        image.open_fp(io.BytesIO(data))
    except pycdlib.pycdlibexception.PyCdlibException as error:
        return {}, 'the image is no ISO 9660: {0}'.format(error)
    label = image.pvd.volume_identifier.decode('ascii', 'replace').strip()
    if label.lower() != 'cidata':
        return {}, 'the image is labelled `{0}`, not `cidata`'.format(label)
    found = {}
    for name in FILES:
        for kind, path in (('rr_path', '/' + name), ('joliet_path', '/' + name),
                           ('iso_path', '/{0}.;1'.format(name.upper().replace('-', '_')))):
            out = io.BytesIO()
            try:
                image.get_file_from_iso_fp(out, **{kind: path})
            except pycdlib.pycdlibexception.PyCdlibException:
                continue
            found[name] = out.getvalue().decode('utf-8', 'replace')
            break
    image.close()
    return found, None


def generated(vm):
    """What PVE makes of the configuration: its meta-data holds the instance-id only."""
    config = vm.config
    user = ['#cloud-config', 'hostname: {0}'.format(vm.name), 'manage_etc_hosts: true', 'fqdn: {0}'.format(vm.name)]
    if config.get('ciuser'):
        user.append('user: {0}'.format(config['ciuser']))
    if config.get('sshkeys'):
        user.append('ssh_authorized_keys:')
        user += ['  - ' + key for key in urllib.parse.unquote(config['sshkeys']).splitlines() if key]
    user += ['chpasswd:', '  expire: False', 'users:', '  - default']
    if str(config.get('ciupgrade', 1)) not in ('0', 'false'):
        user.append('package_upgrade: true')
    network = ['version: 1', 'config:']
    for number in range(32):
        address = config.get('ipconfig{0}'.format(number))
        if address is None:
            continue
        parts = dict(one.partition('=')[::2] for one in str(address).split(','))
        network += ['    - type: physical', '      name: eth{0}'.format(number), '      subnets:']
        if parts.get('ip') and parts['ip'] != 'dhcp':
            network += ['      - type: static', "        address: '{0}'".format(parts['ip'])]
            if parts.get('gw'):
                network.append("        gateway: '{0}'".format(parts['gw']))
        else:
            network.append('      - type: dhcp4')
    user, network = '\n'.join(user) + '\n', '\n'.join(network) + '\n'
    meta = 'instance-id: {0}\n'.format(hashlib.sha1((user + network).encode()).hexdigest())
    return {'user-data': user, 'meta-data': meta, 'network-config': network}


def seed_of(double, vm):
    """The seed of a VM: {'source', the four files, 'error'}."""
    answer = dict(dict.fromkeys(FILES), source='none', error=None)
    seeds = []
    for key in sorted(vm.config):
        volume, props = split_drive(str(vm.config[key])) if DRIVE_KEY.match(key) else ('', {})
        if not is_cdrom(volume, props):
            continue
        if 'cloudinit' in volume:
            files = generated(vm)
            for name, volid in custom_of(vm).items():
                data = double.contents.get(tuple(volid.split(':', 1)))
                files[name] = data.decode('utf-8', 'replace') if data is not None else None
            seeds.append(('cloudinit', files, None))
        elif volume_ref(volume) in double.contents:
            files, error = read_image(double.contents[volume_ref(volume)])
            seeds.append(('iso', files, error))
    if len(seeds) > 1 and sum(error is None for _, _, error in seeds) > 1:
        return dict(answer, error='two drives are labelled `cidata`: which one a machine reads is chance')
    for source, files, error in seeds:
        answer.update(files, source=source, error=error)
        if error is None:
            break
    return answer
