"""Logins and permissions as PVE::AccessControl decides them."""

import urllib.parse

from fakepve import PveError, shapes

# Paths GET /access/permissions shows besides those of the ACL, when something is held there [S].
KNOWN_PATHS = ('/', '/access', '/access/groups', '/mapping', '/nodes', '/pool', '/sdn', '/storage', '/vms')


def is_root(user):
    """root@pam, or one of its tokens."""
    return user.split('!')[0] == 'root@pam'


def covers(granted, path):
    """True if an ACL entry on `granted` is at or above the path."""
    return granted == '/' or path == granted or path.startswith(granted + '/')


class Access:
    """Mixin: API tokens by header, and privileges that a deeper ACL entry replaces."""

    def _authenticate(self, request):
        """`No ticket` without a login, `Authentication failed!` for a bad token [R]; the header's value is
        %-decoded, and a space may stand for the first `=` [R]. A cookie wins over the header [S]."""
        header = request.headers.get('Authorization', '')
        if request.path.endswith('/access/ticket') or request.cookies.get('PVEAuthCookie'):
            return super()._authenticate(request)
        if header[:12] not in ('PVEAPIToken=', 'PVEAPIToken '):
            raise PveError(401, 'No ticket')
        tokenid, _, secret = urllib.parse.unquote(header[12:]).partition('=')
        if not secret or self.apitokens.get(tokenid) != secret:
            raise PveError(401, 'Authentication failed!')
        return tokenid

    def set_acl(self, entries):
        """Replace the ACL by entries {user, path, privileges, propagate (default true)}."""
        self.acl = {}
        self.acl_exact = set()
        for entry in entries:
            self.grant(entry['user'], entry['path'], *entry['privileges'])
            if not entry.get('propagate', True):
                path = entry['path'].rstrip('/') or '/'
                self.acl_exact |= set((entry['user'], path, p) for p in entry['privileges'])

    def acl_entries(self):
        """The ACL in the form set_acl takes."""
        out = []
        for user, entries in self.acl.items():
            for path, privs in entries:
                for flag in (True, False):
                    held = sorted(p for p in privs if ((user, path, p) not in self.acl_exact) == flag)
                    if held:
                        out.append({'user': user, 'path': path, 'privileges': held, 'propagate': flag})
        return out

    def _held_by(self, user_id, path):
        """{privilege: propagates} of one user or token: the deepest entry on the way to the path counts alone [S
        PVE::AccessControl roles]."""
        held = {}
        for granted in sorted(set(p for p, _ in self.acl.get(user_id, ()) if covers(p, path)), key=len):
            here = {}
            for entry_path, privs in self.acl[user_id]:
                if entry_path == granted:
                    for priv in privs:
                        propagates = (user_id, granted, priv) not in self.acl_exact
                        if propagates or granted == path:
                            here[priv] = propagates
            held = here or held
        return held

    def privileges(self, user, path):
        """What the user or token holds on the path, by itself, by its user and by the pools the path is in."""
        if self.acl is None or is_root(user):
            return dict.fromkeys(shapes.PRIVILEGES, True)
        paths = [path]
        if path.startswith('/vms/') and path[5:].isdigit():
            paths += ['/pool/' + name for name, ids in self.pools.items() if int(path[5:]) in ids]
        out = {}
        for user_id in dict.fromkeys((user.split('!')[0], user)):
            for one in paths:
                out.update(self._held_by(user_id, one))
        return out

    def allowed(self, user, path, priv):
        """fakepve unites all entries above a path; the real code lets the deepest one replace the others [S]."""
        return priv in self.privileges(user, path)

    async def _permissions(self, v, user):
        """GET /access/permissions: path -> privilege -> 1, or 0 where it does not propagate [D]."""
        who = v.get('userid') or user
        if who != user and who != user.split('!')[0]:
            self.require(user, '/access', 'Sys.Audit')
        if v.get('path') is not None:
            paths = [v['path']]
        else:
            paths = set(KNOWN_PATHS)
            for user_id in (who, who.split('!')[0]):
                paths |= set(p for p, _ in (self.acl or {}).get(user_id, ()))
        out = {}
        for path in sorted(paths):
            held = self.privileges(who, path)
            if held:
                out[path] = dict((p, 1 if held[p] else 0) for p in sorted(held))
        return out
