"""The control API: faults, the operator at the console, and what tests want to know."""

import time

from aiohttp import web

from seed import seed_of


class Control:
    """Plain HTTP beside the PVE API, for the rig only."""

    def __init__(self, double):
        self.double = double

    def app(self):
        app = web.Application(client_max_size=64 * 1024 ** 2)
        app.router.add_get('/requests', self.requests)
        app.router.add_get('/violations', self.violations)
        app.router.add_post('/fail', self.fail)
        app.router.add_delete('/fail', self.heal)
        app.router.add_post('/network', self.network)
        app.router.add_put('/acl', self.acl)
        app.router.add_post('/tokens', self.tokens)
        app.router.add_put('/files', self.files)
        app.router.add_get('/guests', self.guests)
        app.router.add_post('/guests', self.add_guest)
        app.router.add_patch('/guests/{vmid}', self.change_guest)
        app.router.add_delete('/guests/{vmid}', self.remove_guest)
        app.router.add_get('/guests/{vmid}/seed', self.seed)
        app.router.add_patch('/nodes/{node}', self.change_node)
        app.router.add_post('/quorum', self.quorum)
        return app

    def _done(self):
        self.double.changed()
        return web.json_response(None)

    def _vm(self, request):
        vm = self.double.vm(int(request.match_info['vmid']))
        if vm is None:
            raise web.HTTPNotFound(text='there is no VM {0}'.format(request.match_info['vmid']))
        return vm

    async def requests(self, request):
        return web.json_response(self.double.recorded[int(request.query.get('from', 0)):])

    async def violations(self, request):
        return web.json_response([one for one in self.double.recorded if one['violations']])

    async def fail(self, request):
        """{"method", "path" (concrete or a template), "status", "message", "after", "times", "delay"}, or "task", or "reset"."""
        rule = await request.json()
        if 'status' not in rule and 'task' not in rule and 'reset' not in rule and 'delay' not in rule:
            raise web.HTTPBadRequest(text='a fault needs a status, a task, a reset or a delay')
        self.double.rules.append(rule)
        return web.json_response(None)

    async def heal(self, request):
        self.double.rules.clear()
        for hung in self.double.hung:
            hung.set()
        self.double.hung.clear()
        self.double.network.update(latency=0.0, jitter=0.0, drop_rate=0.0)
        return web.json_response(None)

    async def network(self, request):
        self.double.network.update(await request.json())
        return web.json_response(None)

    async def acl(self, request):
        self.double.set_acl(await request.json())
        return self._done()

    async def tokens(self, request):
        self.double.apitokens.update(await request.json())
        return self._done()

    async def files(self, request):
        """{"storage", "name": "snippets/x.yaml", "text"}: what an admin copied to the host by hand."""
        file = await request.json()
        self.double.keep_file(file['storage'], file['name'], file['text'].encode())
        return self._done()

    async def guests(self, request):
        double = self.double
        return web.json_response([
            {'vmid': vm.vmid, 'name': vm.name, 'node': vm.node, 'power': vm.status, 'template': bool(vm.template),
             'lock': vm.lock, 'config': vm.config, 'starts': double.starts.get(vm.vmid, 0)} for vm in double.vms])

    async def add_guest(self, request):
        self.double.add_guest(await request.json())
        return self._done()

    async def change_guest(self, request):
        """{"config", "delete", "power", "lock", "name", "agent"}: behind the API's back."""
        vm, change = self._vm(request), await request.json()
        vm.config.update(change.get('config') or {})
        for key in change.get('delete') or []:
            vm.config.pop(key, None)
        if 'name' in change:
            vm.name = vm.config['name'] = change['name']
        if 'agent' in change:
            vm.agent = change['agent']
        if 'lock' in change:
            self.double._qm_lock(vm, change['lock'])
        power = change.get('power')
        if power and power != vm.status:
            vm.status = vm.qmpstatus = power
            vm.started_at = time.time() if power == 'running' else None
            if power == 'running':
                self.double.starts[vm.vmid] = self.double.starts.get(vm.vmid, 0) + 1
        return self._done()

    async def remove_guest(self, request):
        self.double.vms.remove(self._vm(request))
        return self._done()

    async def seed(self, request):
        return web.json_response(seed_of(self.double, self._vm(request)))

    async def change_node(self, request):
        name, change = request.match_info['node'], await request.json()
        if 'online' in change:
            self.double.nodes[name]['online'] = change['online']
        for key, value in (change.get('status') or {}).items():
            self.double.hosts[name]['status'][key] = value
        if 'rrddata' in change:
            self.double.hosts[name]['rrddata'] = change['rrddata']
        return self._done()

    async def quorum(self, request):
        self.double.quorate = (await request.json())['quorate']
        return self._done()
