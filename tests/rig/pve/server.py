"""The double itself: fakepve with the mixins of this folder, behind the real HTTP layer's rules."""

import asyncio
import json
import re
import time

from aiohttp import web
from fakepve import FakePve, PveError
from fakepve import schema as pve_schema
from fakepve.errors import strip_prefix
from fakepve.server import GENERIC, USER, error

import recorder
import wire
from access import Access
from cloudinit import CloudInit
from config import Config
from drives import Drives
from faults import OUTCOME, Faults, task_type
from ha import HighAvailability
from lifecycle import Lifecycle
from nodes import Nodes
from power import Power
from routes import Listing, through
from state import Files, Store
from tasks import Tasks
from volumes import Volumes

PARAMS = web.RequestKey('params', dict)
UPLOAD = web.RequestKey('upload', tuple)
LARGEST_UPLOAD = 16 * 1024 ** 3
TASK = '/nodes/{node}/tasks'
UNDEFINED = 'property is not defined in schema and the schema does not allow additional properties'


class Cut(Exception):
    """The connection ends without an answer."""


class Double(Access, Tasks, Nodes, Power, Config, Drives, Lifecycle, Volumes, CloudInit, HighAvailability,
             FakePve):
    """A Proxmox VE host or cluster that remembers what was done to it."""

    _version = through('version_info', '/version')
    _nodes = through('node_list', '/nodes')
    _resources = through('resource_list', '/cluster/resources')
    _cluster_status = through('cluster_status', '/cluster/status')
    _task_list = through('task_list', TASK)
    _task_status = through('task_status', TASK + '/{upid}/status')
    _task_log = through('task_log', TASK + '/{upid}/log')

    def __init__(self, directory, host, port):
        super().__init__(host=host, port=port)
        self.client_max_size = LARGEST_UPLOAD
        self.body_timeout = 600.0
        self.store = Store(directory)
        self.files = Files(directory + '/files')
        self.recorder = recorder.Recorder(directory)
        self.faults = Faults()
        self.fingerprint = ''
        self.repoid = ''
        self.auth_delay = 0.0
        self.pci_mappings = []
        self.guest_rrd = {}
        self.acl_exact = set()
        self.workers = {}
        self.background = []

    def save(self):
        """Put the state on disk before anything of it is answered."""
        self.store.save(self)

    # ------------------------------------------------------------ the request

    @staticmethod
    def params(request):
        """The parameters as the real parser reads them."""
        return dict(request.get(PARAMS) or {})

    @staticmethod
    def user_of(request):
        return request[USER]

    @staticmethod
    def upload_of(request):
        """(fields, file name, bytes) of an upload request."""
        return request.get(UPLOAD) or ({}, None, None)

    @staticmethod
    def path_of(request):
        """The path as messages name it: decoded, without the API prefix."""
        return strip_prefix(request.path)

    def match_of(self, request):
        return recorder.resolve(recorder.api_path(request.rel_url.raw_path))

    @staticmethod
    def reply(data):
        """The envelope; task lists and logs also have `total` [R]."""
        if isinstance(data, Listing):
            return web.json_response({'data': data.rows, 'total': data.total})
        return web.json_response({'data': data})

    def _stateful_handler(self, template, handler):
        """fakepve's, with the parameters of the real parser and lists that have a total."""
        async def serve(request):
            names = dict(request.match_info)
            known = pve_schema.load().paths[template]
            names = dict((k, v) for k, v in names.items() if '{' + k + '}' in template)

            async def call(_match, values):
                return await handler(values, request[USER])
            match = pve_schema.Match(template, names, known)
            return self.reply(await self.answer(request, match, self.params(request), request[USER], call))
        return serve

    def _lxc_handler(self, fn):
        """fakepve's, with the parameters of the real parser."""
        async def serve(request):
            async def call(_match, values):
                return await fn(request[USER], values)
            return self.reply(await self.answer(request, self.match_of(request), self.params(request), request[USER],
                                                call))
        return serve

    async def _generic(self, request):
        return self.reply(await self.answer(request, request[GENERIC], self.params(request), request[USER]))

    async def _agent(self, request):
        return self.reply(await self.answer(request, self.match_of(request), self.params(request), request[USER],
                                            self._agent_call))

    async def answer(self, request, match, params, user, call=None):
        """An unknown path is 501 like an unknown method, never 404 [R 301, 302]; permissions come before the
        parameters [R 410]; an unknown key of a property string is named like any other [R 030]."""
        if match is None or request.method not in match.methods:
            raise PveError(501, "Method '{0} {1}' not implemented".format(request.method, self.path_of(request)))
        info = match.methods[request.method]
        declared = (info.get('parameters') or {}).get('properties', {})
        values = dict(params, **match.params)
        if all(k in values or s.get('optional') or '[n]' in k for k, s in declared.items()):
            self.check_permissions(user, info.get('permissions'), values, declared)
        try:
            return await super().answer(request, match, params, user, call)
        except PveError as e:
            for name, text in (e.errors or {}).items():
                key = re.fullmatch('invalid format - invalid key in comma-separated list property: (.*)\n', text)
                if key:
                    e.errors[name] = 'invalid format - format error\n{0}.{1}: {2}\n'.format(name, key.group(1), UNDEFINED)
            raise

    def _record(self, request, body):
        """fakepve's own record is not kept: see recorder.py."""

    # --------------------------------------------------------- the HTTP layer

    def _build_app(self):
        app = super()._build_app()
        app.middlewares.insert(0, self._wire)
        return app

    @web.middleware
    async def _wire(self, request, handler):
        """Around everything: the server's refusals, faults, the state on disk, the record."""
        entry = {'at': time.time(), 'method': request.method, 'path': recorder.api_path(request.rel_url.raw_path),
                 'query': {}, 'form': None, 'user': None, 'status': None, 'violations': []}
        try:
            response = await self._serve(request, handler, entry)
        except wire.Refused as e:
            entry['violations'].append(e.reason)
            response = web.Response(status=e.status, reason=e.reason, body=e.body.encode())
            response.headers.pop('Content-Type', None)
        except PveError as e:
            response = error(e.status, e.message, e.errors)
        except Cut:
            self.recorder.add(entry)
            request.transport.abort()
            return web.Response()
        except web.HTTPException as e:
            response = error(e.status, e.reason)
        response = await self._finish(request, response)
        entry['status'] = response.status
        body = response.body if response.status == 200 else None
        if body and body.startswith(b'{"data": "UPID:'):
            entry['upid'] = json.loads(body)['data']
        if request.method != 'GET':
            self.save()
        self.recorder.add(entry)
        return response

    async def _serve(self, request, handler, entry):
        """Read the request in the real server's order: start line, login, body."""
        method, headers = request.method, request.headers
        await asyncio.sleep(self.faults.latency)
        wire.check_start(method, headers)
        if self.faults.dropped():
            raise Cut
        match = self.match_of(request)
        try:
            entry['user'] = self._authenticate(request)
        except PveError:
            if not self.is_world(match, method):
                raise
        body = b''
        if headers.get('Content-Length', '0') != '0':
            wire.check_body(method, headers)
            body = await request.read()
        query, form, found = wire.read_params(method, headers, request.rel_url.raw_query_string, body)
        values = dict(form or {}, **query)
        if wire.is_upload(method, headers):
            fields, filename, data = request[UPLOAD] = wire.parse_upload(body, wire.boundary_of(headers))
            form = {'content': fields.get('content'), 'filename': filename}
            values = dict(fields, **({'filename': filename} if filename else {}))
        entry.update(query=query, form=form)
        entry['violations'] += found + recorder.schema_violations(method, entry['path'], values)
        known = (match.methods.get(method) or {}).get('parameters') if match else None
        declared = (known or {}).get('properties', {})
        # A known parameter without a value is like none at all; an unknown one is refused by its name.
        request[PARAMS] = dict((k, v) for k, v in values.items() if v is not None or k not in declared)
        rule = self.faults.take(method, entry['path'], match.template if match else None)
        return await (self._faulty(rule, request, handler, match, entry) if rule else handler(request))

    async def _faulty(self, rule, request, handler, match, entry):
        """One injected fault: in place of the work, after it, or in the task it starts."""
        if not rule.after:
            await asyncio.sleep(rule.delay)
        if rule.task and not (rule.task == 'hang' or rule.task.startswith('WARNINGS')):
            node = match.params.get('node') or sorted(self.nodes)[0]
            upid = await self.failed_task(node, task_type(match.template), match.params.get('vmid', ''),
                                          entry['user'] or 'root@pam', rule.task)
            return self.reply(upid)
        instead = not rule.after and (rule.status is not None or rule.reset)
        if not instead:
            token = OUTCOME.set(rule.task)
            try:
                response = await handler(request)
            finally:
                OUTCOME.reset(token)
        if rule.after:
            await asyncio.sleep(rule.delay)
            self.save()
        if rule.reset:
            raise Cut
        return error(rule.status, rule.message) if rule.status is not None else response

    async def _finish(self, request, response):
        """401 has no body (but /access/ticket's) and comes late [R 210-214]; the connection ends after any error."""
        if response.status < 400:
            return response
        if response.status == 401:
            await asyncio.sleep(self.auth_delay)
            if not request.path.endswith('/access/ticket'):
                response = web.Response(status=401, reason=response.reason)
                response.headers.pop('Content-Type', None)
        elif response.status == 501 and response.content_type == 'application/json':
            # The only message without a line end [R 301].
            body = json.loads(response.text)
            response = web.json_response(dict(body, message=body['message'].rstrip('\n')), status=501,
                                         reason=response.reason)
        response.force_close()
        return response
