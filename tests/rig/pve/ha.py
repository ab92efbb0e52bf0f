"""High availability as far as a planner reads it; fakepve answers these paths with made-up rows."""

from fakepve.routing import die, sha1


class HighAvailability:
    """Mixin: resources and status of the guests that the world says are managed ("ha": "started")."""

    def _routes_rig_ha(self):
        base = '/cluster/ha/'
        return [('GET', base + 'resources', self._ha_resources), ('GET', base + 'status/current', self._ha_status),
                ('GET', base + 'rules', self._ha_rules), ('GET', base + 'groups', self._ha_groups)]

    def _managed(self):
        return [g for g in self._guests() if g.ha_managed]

    def ha_sid(self, guest):
        return '{0}:{1}'.format('vm' if guest.guest.startswith('qemu/') else 'ct', guest.vmid)

    async def _ha_resources(self, v, user):
        """One row per managed guest [R 606]."""
        rows = [{'sid': self.ha_sid(g), 'type': self.ha_sid(g)[:2], 'state': g.ha_state} for g in self._managed()]
        return [dict(row, digest=sha1(repr(rows))) for row in rows]

    async def _ha_status(self, v, user):
        """Quorum and fencing rows, and a service row per managed guest [R 317, 607]."""
        node = sorted(self.nodes)[0]
        armed = 'armed' if self._managed() else 'standby'
        rows = [{'id': 'quorum', 'type': 'quorum', 'node': node, 'status': 'OK' if self.quorate else 'No quorum on node '
                 "'{0}'!".format(node), 'quorate': 1 if self.quorate else 0}]
        if self.modern:
            rows.append({'id': 'fencing', 'type': 'fencing', 'node': node, 'armed-state': armed, 'status': {
                'armed': 'armed (CRM watchdog active)', 'standby': 'standby (CRM watchdog standby)'}[armed]})
        for guest in self._managed():
            sid = self.ha_sid(guest)
            rows.append({'id': 'service:' + sid, 'type': 'service', 'sid': sid, 'node': guest.node,
                         'state': guest.ha_state, 'crm_state': guest.ha_state, 'request_state': guest.ha_state,
                         'status': '{0} ({1}, {2})'.format(sid, guest.node, guest.ha_state)})
        return rows

    async def _ha_rules(self, v, user):
        return []

    async def _ha_groups(self, v, user):
        """PVE 9 has rules instead of groups [R 319]."""
        if self.modern:
            raise die('cannot index groups: ha groups have been migrated to rules')
        return []
