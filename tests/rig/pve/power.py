"""Guests as the lists and status calls show them, and their power: start, stop, shutdown, reboot, the agent."""

import asyncio
import time

from fakepve import PveError, TaskError
from fakepve import schema as pve_schema
from fakepve.lxc import parse_size
from fakepve.qemu import DRIVE_KEY, is_cdrom, split_drive, volume_ref
from fakepve.routing import die, param_error

from cloudinit import custom_files
from drives import boot_devices
from nodes import memory_of
from routes import through

QEMU = '/nodes/{node}/qemu'
ONE = QEMU + '/{vmid}'
# Figures of the world's status that a change of power keeps.
KEPT_STATS = ('ha', 'serial')
# The state of a guest that is in HA resources and that the manager has not looked at yet: `state` is null [R].
NOT_LOOKED = 'not looked at'
PRESSURE = tuple('pressure' + name for name in ('cpusome', 'cpufull', 'iosome', 'iofull', 'memorysome', 'memoryfull'))


class Power:
    """Mixin: status rows from the world (fakepve has constants) and power tasks with the real errors in the task."""

    _qemu_list = through('qemu_list', QEMU)
    _status_current = through('status_current', ONE + '/status/current')

    # ------------------------------------------------------------------- rows

    @property
    def modern(self):
        """PVE 9 has memhost and pressure figures, PVE 8 does not [S]."""
        return int(self.release_version.split('.')[0]) >= 9

    def cpus_of(self, vm):
        """`vcpus`, else cores x sockets, capped at the host's threads [S, R]."""
        number = int(vm.config.get('vcpus') or int(vm.config.get('cores', 1)) * int(vm.config.get('sockets', 1)))
        host = ((self.nodes[vm.node].get('status') or {}).get('cpuinfo') or {}).get('cpus')
        return min(number, host) if host else number

    @staticmethod
    def boot_disk(vm):
        """The key of the first disk in the boot order, which is the one `maxdisk` is about [S]."""
        order = boot_devices(vm.config)
        if order is None:
            order = sorted(k for k in vm.config if DRIVE_KEY.match(k))
        for key in order:
            volume, props = split_drive(vm.config.get(key, ''))
            if DRIVE_KEY.match(key) and volume and not is_cdrom(volume, props):
                return key
        return None

    def _figures(self, vm):
        """What every view of a VM shares."""
        running = vm.status == 'running'
        key = self.boot_disk(vm)
        size = split_drive(vm.config[key])[1].get('size') if key else None
        data = {'cpu': 0, 'mem': 0, 'memhost': 0, 'maxmem': memory_of(vm), 'disk': 0,
                'maxdisk': (parse_size(size) or 0) if size else 0, 'netin': 0, 'netout': 0,
                'uptime': int(time.time() - vm.started_at) if running and vm.started_at else 0}
        if running:
            data.update(cpu=0.02, mem=data['maxmem'] // 2, memhost=data['maxmem'] // 2, diskread=0, diskwrite=0)
            data.update(dict.fromkeys(PRESSURE, 0))
        if not self.modern:
            for name in ('memhost',) + PRESSURE:
                data.pop(name, None)
        for name in ('tags', 'lock'):
            if vm.config.get(name):
                data[name] = vm.config[name]
        return data

    def vm_row(self, vm, full=False):
        """A row of GET /nodes/{node}/qemu [R 008]; `full` adds qmpstatus [R 705]; `template` is absent when 0."""
        data = {'vmid': vm.vmid, 'name': vm.config.get('name') or 'VM {0}'.format(vm.vmid), 'status': vm.status,
                'cpus': self.cpus_of(vm)}
        data.update(self._figures(vm))
        if 'serial0' in vm.config:
            data['serial'] = 1
        if vm.template:
            data['template'] = 1
        if vm.status == 'running':
            data['pid'] = 4000 + vm.vmid
        if vm.config.get('balloon'):
            data['balloon_min'] = int(vm.config['balloon']) * 1024 ** 2
            data['shares'] = int(vm.config.get('shares', 1000))
        stats = dict(vm.stats)
        if not full:
            stats = dict((k, x) for k, x in stats.items() if k in data or k in ('diskread', 'diskwrite'))
        else:
            data['qmpstatus'] = vm.qmpstatus
        data.update(stats)
        return data

    async def qemu_list(self, v, user):
        return [self.vm_row(vm, v.get('full')) for vm in self.vms if vm.node == v['node']
                and self.allowed(user, '/vms/{0}'.format(vm.vmid), 'VM.Audit')]

    async def status_current(self, v, user):
        """The row, with qmpstatus, ha and agent; more while it runs [R 104, 121, 233, 608]."""
        vm = self.find(v['node'], v['vmid'])
        data = self.vm_row(vm, full=True)
        state = None if vm.ha_state == NOT_LOOKED else vm.ha_state
        data['ha'] = {'managed': 1, 'state': state} if vm.ha_managed else {'managed': 0}
        if str(vm.config.get('agent', '0')).split(',')[0].replace('enabled=', '') == '1':
            data['agent'] = 1
        data.update(dict((k, x) for k, x in vm.stats.items() if k == 'ha'))
        return data

    def resource_row(self, guest, user):
        """A row of /cluster/resources [R 201]; without figures it is bare and `unknown` [R 609]. `status` is that of QMP,
        such as `internal-error`; the pool is left out without Pool.Audit on it [R, PVE::API2::Cluster]."""
        row = {'id': guest.guest, 'type': guest.guest.split('/')[0], 'vmid': guest.vmid, 'node': guest.node}
        if not self.nodes[guest.node].get('online', True):
            return dict(row, status='unknown')
        data = self.vm_row(guest) if row['type'] == 'qemu' else self._status(guest)
        data.setdefault('diskread', 0)
        data.setdefault('diskwrite', 0)
        keep = ('name', 'status', 'cpu', 'maxmem', 'mem', 'memhost', 'disk', 'maxdisk', 'netin', 'netout', 'diskread',
                'diskwrite', 'uptime', 'tags', 'lock')
        row.update((k, data[k]) for k in keep if k in data)
        row.update(maxcpu=data['cpus'], template=1 if guest.template else 0)
        if row['type'] == 'qemu' and row['status'] == 'running':
            row['status'] = guest.qmpstatus or 'running'
        if guest.pool and self.allowed(user, '/pool/' + guest.pool, 'Pool.Audit'):
            row['pool'] = guest.pool
        if guest.ha_managed and guest.ha_state != NOT_LOOKED:
            row['hastate'] = guest.ha_state
        return row

    # ------------------------------------------------------------------ power

    def power(self, guest, running):
        """Switch a guest on or off; what was recorded of its load is over."""
        if running and guest.guest.startswith('qemu/'):
            self.apply_pending(guest)
        guest.stats = dict((k, x) for k, x in guest.stats.items() if k in KEPT_STATS)
        guest.status = 'running' if running else 'stopped'
        guest.qmpstatus = guest.status
        guest.started_at = time.time() if running else None
        if running:
            guest.starts = (getattr(guest, 'starts', 0) or 0) + 1
        else:
            guest.ended_at = time.time()

    async def _status_action(self, request):
        """POST status/{action}: the checks are the schema's; even a missing VM gives a task that fails [R 307]."""
        action = request.match_info['action']
        template = '{0}/status/{1}'.format(ONE, action)
        if template not in pve_schema.load().paths:
            raise PveError(501, "Method 'POST {0}' not implemented".format(self.path_of(request)))

        async def act(v, user):
            self.need_quorum()
            if v.get('skiplock') and user != 'root@pam':
                raise param_error(skiplock='Only root may use this option.')
            vm = self.vm(int(v['vmid']))
            vm = vm if vm is not None and vm.node == v['node'] else None
            return await getattr(self, '_act_' + action.replace('-', '_'), self._act_other)(vm, v, user, request)
        return await self._stateful_handler(template, act)(request)

    async def _act_other(self, vm, v, user, request):
        """Actions that matter less (reset, suspend, resume) are fakepve's."""
        vm = self.find(v['node'], v['vmid'])
        action = self.path_of(request).rsplit('/', 1)[1]
        return await getattr(self, '_do_' + action)(vm, user, v)

    async def _power_task(self, kind, vm, v, user, body):
        """A power task under the config lock; `VM is locked` and a missing VM are its errors [R 227, 307]."""
        async def work():
            found = self.find(v['node'], v['vmid'])
            if not v.get('skiplock') and not (kind == 'qmstart' and found.lock == 'suspended'):
                if not (kind == 'qmstart' and found.template):
                    self._check_lock(found)
            return await body(found)
        return await self.task(v['node'], kind, v['vmid'], user, work, vm=vm)

    async def _act_start(self, vm, v, user, request):
        if vm is not None and vm.ha_managed and not vm.template:
            return await self._ha_request(vm, user, 'started')

        async def body(found):
            if found.template:
                raise TaskError("you can't start a vm if it's a template")
            if found.status == 'running':
                raise TaskError('VM {0} already running'.format(found.vmid))
            await self.pause(found.start_secs or 2)
            if found.start_error:
                raise TaskError(found.start_error)
            self.need_volumes(found)
            if found.lock == 'suspended':
                self._qm_lock(found, None)
            self.power(found, True)
        return await self._power_task('qmstart', vm, v, user, body)

    def need_volumes(self, vm):
        """Only a start finds out that a cicustom snippet, an ISO or a disk is missing [R 625 for the text]."""
        config = dict(vm.config, **dict((k, x) for k, x in vm.pending.items() if x is not None))
        named = list(custom_files(config).values())
        for key in sorted(config):
            if DRIVE_KEY.match(key):
                volume = split_drive(config[key])[0]
                if volume_ref(volume)[0] is not None:
                    named.append(volume)
        for volid in named:
            if self.volume_at(volid, vm.node)[2] is None:
                raise die("volume '{0}' does not exist".format(volid))

    async def _act_stop(self, vm, v, user, request):
        if vm is not None and vm.ha_managed:
            return await self._ha_request(vm, user, 'stopped')

        async def body(found):
            if found.status == 'running':
                await self.pause(found.stop_secs or 1)
                self.power(found, False)
        return await self._power_task('qmstop', vm, v, user, body)

    async def _act_shutdown(self, vm, v, user, request):
        """On a stopped VM it is no error [R 411]; a paused one needs forceStop [S]."""
        if vm is not None and vm.qmpstatus == 'paused' and not v.get('forceStop'):
            raise die('VM is paused - cannot shutdown')
        if vm is not None and vm.ha_managed:
            return await self._ha_request(vm, user, 'stopped')

        async def body(found):
            return await self._power_off(found, v)
        return await self._power_task('qmshutdown', vm, v, user, body)

    async def _power_off(self, vm, v):
        """Ask the guest; after the timeout (60 s unless given) it is killed with forceStop, else the task fails."""
        if vm.status != 'running':
            return None
        timeout = v['timeout'] if v.get('timeout') is not None else self.shutdown_default_timeout
        needs = vm.shutdown_secs or 3
        if vm.acpi and needs <= timeout:
            await self.pause(needs)
            self.power(vm, False)
            return None
        await self.pause(timeout)
        if v.get('forceStop'):
            self.power(vm, False)
            return 'VM still running - terminating now with SIGTERM'
        raise TaskError('VM quit/powerdown failed - got timeout')

    async def _act_reboot(self, vm, v, user, request):
        async def body(found):
            if found.status != 'running':
                raise TaskError('VM {0} not running'.format(found.vmid))
            await self._power_off(found, dict(v, forceStop=0))
            self.need_volumes(found)
            self.power(found, True)
        return await self._power_task('qmreboot', vm, v, user, body)

    async def _ha_request(self, vm, user, state):
        """The task ends when the request is queued; the HA manager acts some seconds later [S]."""
        async def later():
            await self.pause(self.ha_delay)
            self.power(vm, state == 'started')
            self.save()

        async def body():
            vm.ha_state = state
            if self.time_scale:
                self.background.append(asyncio.ensure_future(later()))
            else:
                await later()
        verb = 'start' if state == 'started' else 'stop'
        return await self.task(vm.node, 'ha' + verb, vm.vmid, user, body, log=[
            'Requesting HA {0} for VM {1}'.format(verb, vm.vmid)])

    async def _agent_call(self, match, values):
        """A stopped VM has its own text [R 320], a missing agent another [S]."""
        vm = self.find(values['node'], values['vmid'])
        if vm.status != 'running':
            raise PveError(500, 'VM {0} is not running'.format(vm.vmid))
        return await super()._agent_call(match, values)

    def _status(self, ct):
        """A container's row; the figures of the world are merged over it."""
        data = super()._status(ct)
        if not self.modern:
            for name in PRESSURE:
                data.pop(name, None)
        return data
