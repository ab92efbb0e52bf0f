"""The control API: what a test does to the world behind the PVE API's back, and what it looks at. JSON over HTTP."""

import json

from aiohttp import web

import world
from config import typed

POWER = {'running': True, 'stopped': False}


class BadRequest(Exception):
    """A control request that makes no sense."""


def merge(into, changes):
    """Merge nested objects; other values replace."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


class Control:
    """The control server of one double."""

    def __init__(self, pve):
        self.pve = pve
        self.runner = None
        self.port = None

    async def start(self, host, port):
        """Listen; port 0 takes a free one."""
        app = web.Application(middlewares=[self._errors], client_max_size=64 * 1024 ** 2)
        for method, path, handler in (
                ('GET', '/requests', self.requests), ('GET', '/violations', self.violations),
                ('POST', '/fail', self.fail), ('DELETE', '/fail', self.fail_clear), ('POST', '/network', self.network),
                ('PUT', '/acl', self.acl), ('POST', '/tokens', self.tokens), ('GET', '/guests', self.guests),
                ('POST', '/guests', self.guest_add), ('PATCH', '/guests/{vmid}', self.guest_change),
                ('DELETE', '/guests/{vmid}', self.guest_remove), ('GET', '/guests/{vmid}/seed', self.seed),
                ('PATCH', '/nodes/{name}', self.node_change), ('POST', '/quorum', self.quorum), ('PUT', '/files', self.file)):
            app.router.add_route(method, path, handler)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, host, port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self):
        """Stop listening."""
        await self.runner.cleanup()

    @web.middleware
    async def _errors(self, request, handler):
        """What a handler returns as JSON; 400 for a bad request, and the state on disk after a change."""
        try:
            data = await handler(request)
        except (BadRequest, world.WorldError, ValueError, KeyError, TypeError) as e:
            return web.json_response({'error': '{0}: {1}'.format(type(e).__name__, e)}, status=400)
        if request.method != 'GET':
            self.pve.save()
        return web.json_response(data)

    @staticmethod
    async def body(request):
        """The JSON body, an empty object without one."""
        data = await request.read()
        return json.loads(data) if data else {}

    def guest(self, request):
        """The guest of the path, or 400."""
        found = self.pve.guest(int(request.match_info['vmid']))
        if found is None:
            raise BadRequest('no guest {0}'.format(request.match_info['vmid']))
        return found

    # ------------------------------------------------------------ the requests

    async def requests(self, request):
        """The recorded requests from a number on."""
        return self.pve.recorder.since(int(request.query.get('from', 0)))

    async def violations(self, _request):
        """Those the real API would refuse."""
        return self.pve.recorder.violations()

    # ------------------------------------------------------------- the trouble

    async def fail(self, request):
        self.pve.faults.add(await self.body(request))

    async def fail_clear(self, _request):
        self.pve.faults.clear()

    async def network(self, request):
        self.pve.faults.network(await self.body(request))

    async def file(self, request):
        """A file that an admin puts on a storage of a host: snippets cannot be uploaded."""
        spec = await self.body(request)
        sid, _, name = spec['volume'].partition(':')
        kind, _, file = name.partition('/')
        self.pve.put_file(sid, kind, file, spec['content'].encode(), spec['node'])

    async def quorum(self, request):
        self.pve.quorate = bool((await self.body(request))['quorate'])

    async def acl(self, request):
        self.pve.set_acl(await self.body(request))

    async def tokens(self, request):
        self.pve.apitokens.update(await self.body(request))

    # -------------------------------------------------------------- the guests

    async def guests(self, _request):
        """Every guest, with how often it was started since the world began."""
        return [{'vmid': g.vmid, 'name': g.name, 'node': g.node, 'power': g.status, 'template': bool(g.template),
                 'config': g.config, 'pending': g.pending, 'pool': g.pool, 'starts': getattr(g, 'starts', 0) or 0} for g in self.pve._guests()]

    async def guest_add(self, request):
        guest = world.add_guest(self.pve, await self.body(request))
        world.imply_volumes(self.pve, guest)

    async def guest_remove(self, request):
        """The guest and its own volumes are gone, as after `qm destroy` at the console."""
        guest, pve = self.guest(request), self.pve
        for sid in pve.storages:
            for name in list(pve._volumes(sid)):
                if pve._volumes(sid)[name].get('vmid') == guest.vmid:
                    pve.drop_volume(sid, name)
        (pve.vms if guest in pve.vms else pve.cts).remove(guest)
        pve._pool_leave(guest.vmid)

    async def guest_change(self, request):
        """What an operator at the console, a guest or a power failure does."""
        guest, changes = self.guest(request), await self.body(request)
        known = ('config', 'delete', 'power', 'lock', 'name', 'status', 'ha', 'snapshots', 'pending') + world.POWER_KEYS
        unknown = [k for k in changes if k not in known]
        if unknown:
            raise BadRequest('unknown key {0!r}; known: {1}'.format(unknown[0], ', '.join(known)))
        guest.config.update((k, typed(k, v)) for k, v in (changes.get('config') or {}).items())
        for key in changes.get('delete') or []:
            guest.config.pop(key, None)
        if 'name' in changes:
            guest.config['name' if guest in self.pve.vms else 'hostname'] = changes['name']
        if guest in self.pve.vms:
            guest.name = guest.config.get('name') or 'VM {0}'.format(guest.vmid)
        if 'lock' in changes:
            self.pve._qm_lock(guest, changes['lock'])
        for key in world.POWER_KEYS:
            if key in changes:
                setattr(guest, key, changes[key])
        if 'ha' in changes:
            guest.ha_state = changes['ha']
        for key in ('snapshots', 'pending'):
            if key in changes:
                setattr(guest, key, changes[key])
        world.imply_volumes(self.pve, guest)
        if 'power' in changes and POWER[changes['power']] != (guest.status == 'running'):
            self.pve.power(guest, POWER[changes['power']])
        if 'status' in changes:
            guest.stats.update(changes['status'])
            guest.qmpstatus = guest.stats.get('qmpstatus', guest.status)

    async def seed(self, request):
        """The cloud-init seed the machine would find at boot."""
        return self.pve.seed(self.guest(request))

    async def node_change(self, request):
        """A node that fails or comes back, or other readings of it."""
        name, changes = request.match_info['name'], await self.body(request)
        node = self.pve.nodes.get(name)
        if node is None:
            raise BadRequest('no node {0}'.format(name))
        unknown = [k for k in changes if k not in ('online', 'status', 'lvmthin', 'pci', 'rrddata')]
        if unknown:
            raise BadRequest('unknown key {0!r}'.format(unknown[0]))
        if 'online' in changes:
            node['online'] = bool(changes['online'])
        if changes.get('status'):
            if node['status'] is None:
                node['status'] = {}
            if 'memory' in changes['status']:
                # The new reading holds for the guests that run now.
                node['status'] = self.pve.node_status(name)
                node['boot_memory'] = self.pve.running_memory(name)
            merge(node['status'], changes['status'])
        for key in ('lvmthin', 'pci', 'rrddata'):
            if key in changes:
                node[key] = changes[key]
        if 'rrddata' in changes:
            self.pve.store.save_histories(self.pve)
