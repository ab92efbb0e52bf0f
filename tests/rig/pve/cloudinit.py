"""Cloud-init: what PVE generates, and what a machine would find as its NoCloud seed at boot."""

import hashlib
import io
import ipaddress
import re
import urllib.parse

import pycdlib
from fakepve.qemu import DRIVE_KEY, NET_MODELS, is_cdrom, split_drive, split_props
from fakepve.routing import die

PARTS = ('user-data', 'meta-data', 'vendor-data', 'network-config')
CUSTOM = {'user': 'user-data', 'meta': 'meta-data', 'vendor': 'vendor-data', 'network': 'network-config'}
CLOUDINIT = re.compile(r'(?:^|[/:])vm-\d+-cloudinit(?:\.\w+)?$')


def is_cloudinit(volume):
    """True for a cloud-init drive's volume."""
    return bool(CLOUDINIT.search(str(volume)))


def custom_files(config):
    """{user|meta|vendor|network: volume id} of the cicustom key."""
    props = split_props('x,' + str(config.get('cicustom') or ''))[1]
    return dict((k, props[k]) for k in CUSTOM if props.get(k))


def user_data(config, vmid):
    """The generated user-data [R 033, 628]."""
    name = config.get('name') or 'VM{0}'.format(vmid)
    host, _, rest = name.partition('.')
    domain = rest or str(config.get('searchdomain') or '').split(' ')[0]
    lines = ['#cloud-config', 'hostname: ' + host, 'manage_etc_hosts: true',
             'fqdn: ' + (host + '.' + domain if domain else host)]
    user = config.get('ciuser')
    if user:
        lines.append('user: ' + user)
    if user == 'root':
        lines.append('disable_root: False')
    if config.get('cipassword'):
        lines.append('password: ' + config['cipassword'])
    keys = [k for k in urllib.parse.unquote(config.get('sshkeys') or '').split('\n') if k.strip()]
    if keys:
        lines += ['ssh_authorized_keys:'] + ['  - ' + k for k in keys]
    lines += ['chpasswd:', '  expire: False']
    if user != 'root':
        lines += ['users:', '  - default']
    if str(config.get('ciupgrade', 1)) == '1':
        lines.append('package_upgrade: true')
    return '\n'.join(lines) + '\n'


def _mac(value):
    """The MAC address in a net value, lower case."""
    props = split_props('x,' + str(value))[1]
    return next((props[m].lower() for m in NET_MODELS if m in props), props.get('macaddr', '').lower())


def _subnets(props):
    """The subnet lines of one NIC."""
    lines = []
    for key, kind in (('ip', '4'), ('ip6', '6')):
        value = props.get(key)
        if not value:
            continue
        if value in ('dhcp', 'auto'):
            lines.append('      - type: ' + ('dhcp' + kind if value == 'dhcp' else 'ipv6_slaac'))
            continue
        address = ipaddress.ip_interface(value)
        lines.append('      - type: static' + ('' if kind == '4' else '6'))
        lines.append("        address: '{0}'".format(address.ip if kind == '4' else value))
        if kind == '4':
            lines.append("        netmask: '{0}'".format(address.netmask))
        gateway = props.get('gw' if kind == '4' else 'gw6')
        if gateway:
            lines.append("        gateway: '{0}'".format(gateway))
    return lines


def network_config(config):
    """The generated network-config, version 1 [R 034]. Without nameserver and searchdomain the real one takes the
    host's resolver [S]; the double has none."""
    lines = ['version: 1', 'config:']
    for key in sorted(k for k in config if re.fullmatch(r'net\d+', k)):
        number = key[3:]
        if not config.get('ipconfig' + number):
            continue
        props = split_props('x,' + str(config['ipconfig' + number]))[1]
        lines += ['    - type: physical', '      name: eth' + number,
                  "      mac_address: '{0}'".format(_mac(config[key])), '      subnets:'] + _subnets(props)
    if config.get('nameserver') or config.get('searchdomain'):
        lines.append('    - type: nameserver')
    for key, title in (('nameserver', 'address'), ('searchdomain', 'search')):
        values = str(config.get(key) or '').split()
        if values:
            lines += ['      {0}:'.format(title)] + ["      - '{0}'".format(x) for x in values]
    return '\n'.join(lines) + '\n'


def meta_data(user, network):
    """The generated meta-data holds an instance-id only, the SHA-1 of the two others [R 035]."""
    return 'instance-id: {0}\n'.format(hashlib.sha1((user + network).encode()).hexdigest())


def generated(config, vmid):
    """What /cloudinit/dump shows; cicustom does not matter to it [R 628]."""
    user, network = user_data(config, vmid), network_config(config)
    return {'user-data': user, 'network-config': network, 'meta-data': meta_data(user, network)}


def read_iso(data):
    """(volume identifier, {part: text}) of a seed image."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(data))
    try:
        label = iso.pvd.volume_identifier.decode('ascii', 'replace').strip()
        kind = 'rr_path' if iso.has_rock_ridge() else 'joliet_path' if iso.has_joliet() else 'iso_path'
        found = {}
        for child in iso.list_children(**{kind: '/'}):
            if child is None or child.is_dot() or child.is_dotdot() or child.is_dir():
                continue
            name = iso.full_path_from_dirrecord(child, rockridge=kind == 'rr_path').lstrip('/')
            plain = name.split(';')[0].rstrip('.').lower()
            if plain in PARTS:
                out = io.BytesIO()
                iso.get_file_from_iso_fp(out, **{kind: '/' + name})
                found[plain] = out.getvalue().decode('utf-8', 'replace')
        return label, found
    finally:
        iso.close()


def seed_answer(source, parts=None, error=None):
    """The control API's answer about a seed."""
    answer = {'source': source}
    answer.update((name, (parts or {}).get(name)) for name in PARTS)
    return dict(answer, error=error)


class CloudInit:
    """Mixin: the dump and regenerate calls, and the seed as the machine sees it."""

    def _routes_rig_cloudinit(self):
        base = '/nodes/{node}/qemu/{vmid}/cloudinit'
        return [('GET', base + '/dump', self._cloudinit_dump), ('PUT', base, self._cloudinit_update)]

    async def _cloudinit_dump(self, v, user):
        """The generated part, from the pending values too."""
        vm = self.find(v['node'], v['vmid'])
        config = dict(vm.config)
        config.update(vm.pending)
        return generated(config, vm.vmid)[{'user': 'user-data', 'network': 'network-config',
                                           'meta': 'meta-data'}[v['type']]]

    async def _cloudinit_update(self, v, user):
        """Regenerate the drive: a missing snippet is noticed here [R 625]."""
        vm = self.find(v['node'], v['vmid'])
        self.custom_parts(vm)

    def custom_parts(self, vm):
        """The contents of the cicustom snippets, or 500 for one that does not exist."""
        parts = {}
        for kind, volid in custom_files(vm.config).items():
            volume = self.volume_at(volid, vm.node)[2]
            if volume is None:
                raise die("volume '{0}' does not exist".format(volid))
            parts[CUSTOM[kind]] = (self.file_bytes(volume) or b'').decode('utf-8', 'replace')
        return parts

    def drive_parts(self, vm):
        """The four files of the cloud-init drive: cicustom replaces generated ones [S], the instance-id follows."""
        custom = self.custom_parts(vm)
        user = custom.get('user-data', user_data(vm.config, vm.vmid))
        network = custom.get('network-config', network_config(vm.config))
        return {'user-data': user, 'network-config': network, 'vendor-data': custom.get('vendor-data'),
                'meta-data': custom.get('meta-data', meta_data(user, network))}

    def seed(self, vm):
        """What the machine finds at boot: from the bytes of an ISO it was given, or its cloud-init drive."""
        seeds, other = [], []
        for key in sorted(k for k in vm.config if DRIVE_KEY.match(k)):
            volume, props = split_drive(vm.config[key])
            if is_cloudinit(volume):
                seeds.append(('cloudinit', None))
            elif is_cdrom(volume, props) and ':' in volume:
                data = self.file_bytes(self.volume_at(volume, vm.node)[2])
                try:
                    label, parts = read_iso(data or b'')
                except Exception as e:  # noqa: BLE001 - pycdlib raises many kinds for what is no ISO9660 image
                    other.append('{0}: not an ISO9660 image: {1}'.format(volume, e))
                    continue
                if label.lower() == 'cidata':
                    seeds.append(('iso', parts))
                else:
                    other.append("{0}: the volume identifier is '{1}', not 'cidata'".format(volume, label))
        if len(seeds) > 1:
            return seed_answer('iso' if all(s == 'iso' for s, _ in seeds) else 'cloudinit',
                               error='{0} volumes called cidata at once'.format(len(seeds)))
        if not seeds:
            return seed_answer('iso' if other else 'none', error=other[0] if other else None)
        source, parts = seeds[0]
        if source == 'iso':
            missing = [p for p in ('user-data', 'meta-data') if p not in parts]
            return seed_answer('iso', parts, '{0} is missing'.format(missing[0]) if missing else None)
        try:
            return seed_answer('cloudinit', self.drive_parts(vm))
        except Exception as e:  # noqa: BLE001 - a missing snippet
            return seed_answer('cloudinit', error=str(e))
