"""The HTTP layer in front of fakepve: PVE's quirks, the recorder, and answers that go wrong on demand.

proxmox.md names the quirks of pve-http-server (AnyEvent.pm) that fakepve does not have.
"""

import asyncio
import json
import os
import re
import time
import urllib.parse

from aiohttp import web
from fakepve import schema as pve_schema
from fakepve.server import API, USER, FakePve

# Body limit of pve-http-server 5.2.1 for everything but uploads.
BODY_MAX = 512 * 1024
# The only content types PVE parses; anything else is answered with 506.
CONTENT_TYPES = ('application/x-www-form-urlencoded', 'application/json', 'multipart/form-data')
SECRET = re.compile(r'password|secret|ticket|otp|sshkeys', re.I)


def form_of(request, body):
    """The body's parameters, and what PVE's own parser would misread in them."""
    if not body:
        return {}, []
    if request.content_type == 'application/json':
        try:
            data = json.loads(body)
            return (data, []) if isinstance(data, dict) else ({}, ['the body is no JSON object'])
        except ValueError:
            return {}, ['the body is no JSON']
    text = body.decode('utf-8', 'replace')
    wrong = []
    for pair in text.split('&'):
        # AnyEvent.pm splits at every `=` and keeps the second piece, and takes `;` for `&`.
        if pair.count('=') > 1:
            wrong.append('`{0}` has a raw = in its value'.format(pair.split('=')[0]))
        if ';' in pair:
            wrong.append('`{0}` has a raw ; in its value'.format(pair.split('=')[0]))
    return dict(urllib.parse.parse_qsl(text, keep_blank_values=True)), wrong


def upload_of(body, boundary):
    """([field names in order], {field: value}, file name, data) of a multipart body."""
    order, fields, name, data = [], {}, None, b''
    for part in body.split(b'--' + boundary.encode())[1:-1]:
        head, _, content = part[2:-2].partition(b'\r\n\r\n')
        line = head.decode('utf-8', 'replace').split('\r\n')[0]
        field = (re.search(r'[; ]name="?([^";]+)"?', line) or [None, ''])[1]
        order.append(field)
        file_name = re.search(r'filename="?([^";]+)"?', line)
        if file_name:
            name, data = file_name[1], content
        else:
            fields[field] = content.decode('utf-8', 'replace')
    return order, fields, name, data


def schema_violations(method, path, values):
    """What the official schema says against the request."""
    plain = '/'.join(urllib.parse.unquote(segment) for segment in path.split('/'))
    match = pve_schema.load().match(plain)
    if match is None:
        return ['{0} is no path of the API'.format(path)]
    info = match.methods.get(method)
    if info is None:
        return ['{0} {1} is no method of the API'.format(method, match.template)]
    declared = (info.get('parameters') or {}).get('properties', {})
    values = dict(values)
    values.update((name, value) for name, value in match.params.items() if name in declared)
    _, errors = pve_schema.validate(info.get('parameters'), values)
    return ['{0}: {1}'.format(name, why) for name, why in sorted(errors.items())]


class Wire(FakePve):
    """FakePve behind PVE's HTTP layer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rules = []
        self.recorded = []
        self.folder = None

    def changed(self):
        """Called after every request that may have changed the world."""

    def _build_app(self):
        app = super()._build_app()
        app.middlewares.insert(0, self._wire)
        return app

    @web.middleware
    async def _wire(self, request, handler):
        path = request.rel_url.raw_path
        if not path.startswith(API + '/'):
            return await handler(request)
        path = path[len(API):]
        body = await request.read()
        form, violations = ({}, []) if request.content_type == 'multipart/form-data' else form_of(request, body)
        shown = form
        if request.content_type == 'multipart/form-data':
            shown, wrong = self._upload_shown(request, body)
            violations = violations + wrong
            values = dict(shown)
        else:
            values = {**dict(request.query), **form}
        refusal = self._refuse(request, body)
        if refusal is not None:
            violations.append('{0} {1}'.format(refusal.status, refusal.reason))
        violations += schema_violations(request.method, path, values)
        rule = self._rule(request.method, path)
        response = refusal or await self._answer_or_fail(request, handler, rule)
        if response.status == 401:
            response = web.Response(status=401, reason=response.reason)  # PVE sends no body
        if response.status >= 400:
            response.force_close()
        if request.method != 'GET':
            self.changed()
        self._note(request, path, shown, response, violations)
        return response

    @staticmethod
    def _refuse(request, body):
        """The answer of PVE's HTTP layer to what it does not read at all."""
        if request.method in ('GET', 'DELETE') and body:
            return web.Response(status=501, reason="Unexpected content for method '{0}'".format(request.method))
        if 'chunked' in request.headers.get('Transfer-Encoding', '').lower():
            return web.Response(status=501, reason='chunked transfer encoding not supported')
        if body and 'Content-Type' in request.headers and request.content_type not in CONTENT_TYPES:
            return web.Response(status=506, reason='unable to parse content type')
        if len(body) > BODY_MAX and request.content_type != 'multipart/form-data':
            return web.Response(status=501, reason='for data too large')
        return None

    @staticmethod
    def _upload_shown(request, body):
        """What is recorded of an upload, and where its parts are not as PVE reads them."""
        boundary = (re.search(r'boundary="?([^";]+)"?', request.headers.get('Content-Type', '')) or [None, ''])[1]
        order, fields, name, _ = upload_of(body, boundary)
        wrong = []
        if order and order[-1] != 'filename':
            wrong.append('the part of the file is not called `filename`, or is not the last')
        if 'content' not in order[:-1]:
            wrong.append('`content` does not come before the file')
        return dict(fields, filename=name or ''), wrong

    # --------------------------------------------------------------- faults

    def _rule(self, method, path):
        """The first fault that is meant for this request; one that was for so many requests is used up."""
        plain = '/'.join(urllib.parse.unquote(segment) for segment in path.split('/'))
        match = pve_schema.load().match(plain)
        for rule in list(self.rules):
            if rule['method'] == method and rule['path'] in (plain, match and match.template):
                if rule.get('times') is not None:
                    rule['times'] -= 1
                    if rule['times'] <= 0:
                        self.rules.remove(rule)
                return rule
        return None

    async def _answer_or_fail(self, request, handler, rule):
        if rule and rule.get('delay'):
            await asyncio.sleep(rule['delay'])
        if rule and 'task' not in rule and not rule.get('after'):
            return self._wrong(request, rule)
        # A task that goes wrong is started by the handler, which reads what it is to do from here.
        self.next_task = rule['task'] if rule and 'task' in rule else None
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, reason=error.reason)
        finally:
            self.next_task = None
        return self._wrong(request, rule) if rule and rule.get('after') else response

    @staticmethod
    def _wrong(request, rule):
        if rule.get('reset'):
            request.transport.abort()
            return web.Response(status=499, reason='connection reset')
        message = rule.get('message') or 'fault'
        return web.json_response({'data': None, 'message': message + '\n'}, status=rule['status'], reason=message)

    # ------------------------------------------------------------- recorder

    def _note(self, request, path, form, response, violations):
        """Append the request to the log. The Authorization header is never looked at."""
        upid = None
        if response.status == 200 and isinstance(response, web.Response) and response.text:
            data = json.loads(response.text).get('data')
            upid = data if isinstance(data, str) and data.startswith('UPID:') else None
        hide = {name: '***' if SECRET.search(name) else value for name, value in form.items()}
        entry = {'n': len(self.recorded), 'at': time.time(), 'method': request.method, 'path': path,
                 'query': dict(request.query), 'form': hide, 'user': request.get(USER), 'status': response.status,
                 'upid': upid, 'violations': violations}
        self.recorded.append(entry)
        with open(os.path.join(self.folder, 'requests.jsonl'), 'a', encoding='utf-8') as log:
            log.write(json.dumps(entry) + '\n')
