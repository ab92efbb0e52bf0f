"""The HTTP layer of PVE (pve-http-server): what it refuses before any API code runs, and how it reads a body.

fakepve answers through aiohttp's own parser, so none of this is reproduced there. Pure functions: nothing
here knows the state of the double.
"""

import json
import re
import urllib.parse

METHODS = ('GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS')
BODY_METHODS = ('POST', 'PUT')
# Since pve-http-server 5.2.1; 64 KiB before that.
BODY_LIMIT = 512 * 1024
FORM = 'application/x-www-form-urlencoded'
JSON = 'application/json'


class Refused(Exception):
    """A request the HTTP server itself refuses: status, reason phrase, body text."""

    def __init__(self, status, reason, body=None):
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.body = reason if body is None else body


def content_type(headers):
    """The media type without its parameters, lower case, or None without the header."""
    value = headers.get('Content-Type')
    return value.split(';', 1)[0].strip().lower() if value is not None else None


def boundary_of(headers):
    """The boundary of a multipart/form-data body, or None."""
    found = re.search(r'boundary="?([^";]+)"?', headers.get('Content-Type', ''))
    return found.group(1) if found and content_type(headers) == 'multipart/form-data' else None


def is_upload(method, headers):
    """Real PVE takes multipart bodies only by POST (they have no size limit)."""
    return method == 'POST' and boundary_of(headers) is not None


def check_start(method, headers):
    """Refusals before the login is looked at: unknown methods (501, no body) and chunked requests (501)."""
    if method not in METHODS:
        raise Refused(501, "method '{0}' not available".format(method), '')
    if headers.get('Transfer-Encoding'):
        raise Refused(501, 'chunked transfer encoding not supported')


def check_body(method, headers):
    """Refusals of a body by its headers: wrong method 501, too large 501, unknown content type 506."""
    length = int(headers.get('Content-Length') or 0)
    if not length:
        return
    if method not in BODY_METHODS:
        raise Refused(501, "Unexpected content for method '{0}'".format(method))
    if is_upload(method, headers):
        return
    if length > BODY_LIMIT:
        raise Refused(501, 'for data too large')
    kind = content_type(headers)
    if kind not in (None, '', FORM, JSON):
        raise Refused(506, "upload 'Content-Type '{0}' not implemented".format(kind))


# ------------------------------------------------------------------ parameters

def _unescape(text):
    return urllib.parse.unquote_to_bytes(text.replace('+', ' ')).decode('utf-8', 'replace')


def decode_urlencoded(data):
    """PVE::APIServer::AnyEvent decode_urlencoded: `;` separates like `&`, and split(/=/) keeps the 2nd piece only.

    A name without `=` (or with nothing after it) has no value (None); a repeated name becomes a list.
    """
    out = {}
    for pair in re.split('[&;]', data):
        if not pair:
            continue
        pieces = pair.split('=')
        name = _unescape(pieces[0])
        value = _unescape(pieces[1]) if len(pieces) > 1 and pieces[1] != '' else None
        if value is not None and out.get(name) is not None:
            old = out[name]
            value = old + [value] if isinstance(old, list) else [old, value]
        out[name] = value
    return out


def raw_signs(data, where):
    """Violations: values with a raw `=` or `;` lose what follows it on a real server."""
    if not data:
        return []
    out = []
    if ';' in data:
        out.append("{0}: a raw ';' separates parameters; percent-encode it".format(where))
    for pair in re.split('[&;]', data):
        if pair.count('=') > 1:
            out.append("{0}: the value of '{1}' holds a raw '='; percent-encode it".format(
                where, _unescape(pair.split('=')[0])))
    return out


def read_params(method, headers, query, body):
    """(query, form, violations): the parameters as the real parser takes them; form is None without a body."""
    given = decode_urlencoded(query) if query else {}
    violations = raw_signs(query, 'query')
    if method not in BODY_METHODS or not body or boundary_of(headers):
        return given, None, violations
    if content_type(headers) == JSON:
        try:
            form = json.loads(body)
        except (ValueError, RecursionError) as e:
            raise Refused(500, 'malformed JSON string') from e
        if not isinstance(form, dict):
            raise Refused(500, 'malformed JSON string, not an object')
        return given, form, violations
    text = body.decode('utf-8', 'replace')
    return given, decode_urlencoded(text), violations + raw_signs(text, 'form')


# --------------------------------------------------------------------- uploads

def _disposition(head):
    """(field name, file name or None) of a part, or Refused: its headers must start with Content-Disposition."""
    line = head.split('\r\n', 1)[0]
    if not line.lower().startswith('content-disposition: form-data'):
        raise Refused(400, 'upload failed: a part must start with its Content-Disposition header')
    name = re.search(r'[; ]name="([^"]*)"', line)
    filename = re.search(r'[; ]filename="([^"]*)"', line)
    return name.group(1) if name else '', filename.group(1) if filename else None


def parse_upload(body, boundary):
    """(fields, file name, file bytes) of an upload: the real server ignores the fields after the file part."""
    fields = {}
    for part in body.split(b'--' + boundary.encode())[1:]:
        if part.startswith(b'--'):
            break
        head, found, data = part[2:].partition(b'\r\n\r\n')
        if not found:
            raise Refused(400, 'upload failed: malformed part')
        data = data[:-2] if data.endswith(b'\r\n') else data
        name, filename = _disposition(head.decode('utf-8', 'replace'))
        if filename is None:
            fields[name] = data.decode('utf-8', 'replace')
            continue
        if name != 'filename':
            raise Refused(400, "wrong field name '{0}' for file upload, expected 'filename'".format(name))
        return fields, filename, data
    return fields, None, None


def content_filename(name):
    """PVE::Storage::normalize_content_filename: no folders, and `_` for anything unusual."""
    return re.sub(r'[^-a-zA-Z0-9_.]', '_', re.sub(r'^.*[/\\]', '', name))
