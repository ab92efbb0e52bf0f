"""The record of every request and of what the real API's schema would refuse in it."""

import json
import os
import re
import urllib.parse

from fakepve import schema

SECRET = re.compile(r'password|secret|ticket|otp|tfa|token(?!id)', re.I)
API = ('/api2/json', '/api2/extjs')


def api_path(raw_path):
    """The path below the API prefix, still percent-encoded."""
    path = raw_path.split('?', 1)[0]
    for prefix in API:
        if path == prefix or path.startswith(prefix + '/'):
            return path[len(prefix):] or '/'
    return path


def resolve(path):
    """The schema match of a percent-encoded API path, or None; slashes in a volume id are part of the name."""
    plain = '/'.join(urllib.parse.unquote(piece) for piece in path.split('/'))
    found = schema.load().match('/'.join(path.split('/')))
    if found:
        found.params = dict((k, urllib.parse.unquote(v)) for k, v in found.params.items())
        return found
    volume = re.fullmatch(r'/nodes/([^/]+)/storage/([^/]+)/content/(.+)', plain)
    if volume:
        template = '/nodes/{node}/storage/{storage}/content/{volume}'
        names = dict(zip(('node', 'storage', 'volume'), volume.groups(), strict=True))
        return schema.Match(template, names, schema.load().paths[template])
    return None


def schema_violations(method, path, values):
    """What the schema refuses: unknown path, method or parameter, missing, type, enum, pattern, range, format."""
    match = resolve(path)
    if match is None:
        return ["no such path: {0}".format(path)]
    info = match.methods.get(method)
    if info is None:
        return ["no such method: {0} {1}".format(method, match.template)]
    spec = info.get('parameters') or {}
    declared = spec.get('properties', {})
    given = dict((k, v) for k, v in values.items() if v is not None or k not in declared)
    given.update((k, v) for k, v in match.params.items() if k in declared)
    _, errors = schema.validate(spec, given)
    return ['{0}: {1}'.format(name, text.strip()) for name, text in sorted(errors.items())]


def without_secrets(values):
    """The parameters with *** in place of password-like values."""
    if values is None:
        return None
    return dict((k, '***' if SECRET.search(k) else v) for k, v in values.items())


class Recorder:
    """DIR/requests.jsonl, one object per request, kept over restarts."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'requests.jsonl')
        self.entries = []
        if os.path.exists(self.path):
            with open(self.path, encoding='utf-8') as lines:
                self.entries = [json.loads(line) for line in lines if line.endswith('\n')]
        self.out = open(self.path, 'a', encoding='utf-8')  # noqa: SIM115 - open as long as the process lives

    def add(self, entry):
        """Number the request and write it before it is answered."""
        entry = dict({'n': len(self.entries) + 1}, **entry)
        entry['query'] = without_secrets(entry['query'])
        entry['form'] = without_secrets(entry['form'])
        self.entries.append(entry)
        self.out.write(json.dumps(entry) + '\n')
        self.out.flush()

    def since(self, number):
        """The requests from this number on."""
        return [e for e in self.entries if e['n'] >= number]

    def violations(self):
        """The requests the real API would refuse."""
        return [e for e in self.entries if e['violations']]
