"""Worker tasks: how they run, end, are logged, listed and stopped."""

import asyncio
import contextvars
import itertools
import logging
import re
import time

from fakepve import PveError, TaskError
from fakepve.routing import param_error

from faults import OUTCOME
from routes import Listing

# The record of the task whose body runs.
CURRENT = contextvars.ContextVar('task', default=None)
UPID = re.compile(r'^UPID:([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:'
                  r'[^:\s]+:[^:\s]*:[^:\s]+:$')
# A worker that died without a word (its host or daemon was killed).
DIED = 'unexpected status'


def exit_text(error):
    """The exit status of a failed worker: one line, with the HTTP code of an API error in front where PVE has it."""
    if isinstance(error, TaskError):
        return ' '.join(str(error).split('\n')).strip()
    if isinstance(error, PveError):
        text = error.message
        if error.status in (400, 403):
            text = '{0} {1}'.format(error.status, text)
        for name, why in sorted((error.errors or {}).items()):
            text += ' {0}: {1}'.format(name, why.strip())
        return ' '.join(text.split('\n')).strip()
    return 'internal error: {0}'.format(error)


def is_failure(status):
    """PVE::UPID status_is_error: OK and WARNINGS are not."""
    return status != 'OK' and not status.startswith('WARNINGS: ')


class Tasks:
    """Mixin: fakepve has tasks; added are outcomes, real log lines, filters, stopping and survival of a restart."""

    def _routes_rig_tasks(self):
        return [('DELETE', '/nodes/{node}/tasks/{upid}', self._task_stop)]

    def log(self, line):
        """Add a line to the log of the task that runs."""
        record = CURRENT.get()
        if record is not None:
            record['log'].extend(line.split('\n'))

    async def task(self, node, ttype, tid, user, body, vm=None, lock=True, log=()):
        """Start a worker; the log of a failed one ends in one TASK ERROR line, as the recorded logs do [R]."""
        upid, pid, start = self._upid(node, ttype, tid, user)
        record = {'upid': upid, 'node': node, 'pid': pid, 'pstart': pid * 7, 'starttime': start, 'type': ttype,
                  'id': str(tid), 'user': user, 'status': 'running', 'log': list(log)}
        self.tasks[upid] = record
        self.tasklog.append(record)
        outcome = OUTCOME.get()
        work = self._run_task(record, body, vm if lock else None, outcome)
        if self.time_scale or outcome == 'hang':
            self.workers[upid] = asyncio.ensure_future(work)
        else:
            await work
        return upid

    async def _run_task(self, record, body, vm, outcome):
        token = CURRENT.set(record)
        try:
            status = await self._work(record, body, vm, outcome)
        finally:
            CURRENT.reset(token)
        record['log'].append({'OK': 'TASK OK'}.get(status) or (
            'TASK ERROR: ' + status if is_failure(status) else 'TASK ' + status))
        record.update(status='stopped', exitstatus=status, endtime=int(time.time()))
        self.workers.pop(record['upid'], None)
        self.save()

    async def _work(self, record, body, vm, outcome):
        """Run the body under the config lock; returns the exit status."""
        released = self.faults.released
        try:
            if vm is not None:
                if vm.lock_holder is not None:
                    self.log('trying to acquire lock...')
                await self.acquire(vm, record['upid'])
            try:
                if outcome == 'hang':
                    await released.wait()
                note = await body()
                if note:
                    record['log'].extend(str(note).split('\n'))
            finally:
                if vm is not None:
                    self.release(vm, record['upid'])
        except (TaskError, PveError) as e:
            return exit_text(e)
        except asyncio.CancelledError:
            return 'received interrupt'
        except Exception as e:  # noqa: BLE001 - a worker that fails in an unforeseen way is a failed task
            logging.getLogger('double').exception('task %s', record['upid'])
            return exit_text(e)
        return outcome if outcome and outcome.startswith('WARNINGS') else 'OK'

    async def failed_task(self, node, ttype, tid, user, text):
        """A task that ends with this text and does nothing else."""
        async def body():
            raise TaskError(text)
        return await self.task(node, ttype, tid, user, body)

    def revive_tasks(self):
        """After a restart: what ran then died [S RESTEnvironment: a worker without an end line]; pids go on."""
        for record in self.tasklog:
            if record['status'] == 'running':
                record.update(status='stopped', exitstatus=DIED, endtime=int(time.time()))
        self._pids = itertools.count(max([r['pid'] for r in self.tasklog], default=999) + 1)

    # ---------------------------------------------------------------- answers

    def _task_view(self, task, listing=False):
        """A task as the API shows it: the token's name is in `tokenid`, not in `user` [R]."""
        data = dict((k, v) for k, v in task.items() if k != 'log')
        user, _, token = data['user'].partition('!')
        data['user'] = user
        if token:
            data['tokenid'] = token
        if not listing:
            data.pop('endtime', None)
            return data
        data.pop('status')
        if 'exitstatus' in data:
            data['status'] = data.pop('exitstatus')
        return data

    def _task_seen(self, task, v):
        """The filters of the task list; the default source `archive` holds the ended tasks only [D]."""
        ended = 'endtime' in task
        status = task.get('exitstatus') or ''
        source = v.get('source') or 'archive'
        kinds = [k for k in re.split(r'[\s,;]+', v.get('statusfilter') or '') if k]
        kind = 'ok' if status == 'OK' else 'warning' if status.startswith('WARNINGS') else \
            'unknown' if status == DIED else 'error'
        return not any((
            source != 'all' and ended == (source == 'active'),
            v.get('vmid') is not None and task['id'] != str(v['vmid']),
            v.get('typefilter') and task['type'] != v['typefilter'],
            v.get('userfilter') and v['userfilter'] not in task['user'],
            v.get('errors') and not (ended and is_failure(status)),
            v.get('since') is not None and task['starttime'] < v['since'],
            v.get('until') is not None and task['starttime'] > v['until'],
            kinds and (not ended or kind not in kinds)))

    async def task_list(self, v, user):
        """GET /nodes/{node}/tasks: newest first, own tasks or all with Sys.Audit, and the number of all matches."""
        audit = self.allowed(user, '/nodes/' + v['node'], 'Sys.Audit')
        found = [t for t in reversed(self.tasklog) if t['node'] == v['node'] and self._task_seen(t, v)
                 and (audit or self._task_owner(user, t))]
        found.sort(key=lambda t: -t['starttime'])
        start, limit = v.get('start') or 0, v.get('limit', 50)
        page = found[start:start + limit] if limit else found[start:]
        return Listing([self._task_view(t, True) for t in page], len(found))

    def _find_task(self, v, user):
        """The task of a UPID: 400 for a malformed or unknown one; its owner and Sys.Audit may see it."""
        upid = v['upid']
        if not UPID.match(upid):
            raise param_error(upid='unable to parse worker upid')
        task = self.tasks.get(upid)
        if task is None:
            raise param_error(upid='no such task')
        if not self._task_owner(user, task):
            self.require(user, '/nodes/' + task['node'], 'Sys.Audit')
        return task

    async def task_status(self, v, user):
        return self._task_view(self._find_task(v, user))

    async def task_log(self, v, user):
        """An empty log reads `no content` [R]; `total` counts every line."""
        lines = self._find_task(v, user)['log'] or ['no content']
        start, limit = v.get('start') or 0, v.get('limit', 50)
        rows = [{'n': n + 1, 't': t} for n, t in enumerate(lines)]
        return Listing(rows[start:start + limit] if limit else rows[start:], len(rows))

    async def _task_stop(self, v, user):
        """DELETE: needs the owner or Sys.Modify; the worker is interrupted and ends with an error [S]."""
        if not UPID.match(v['upid']):
            raise param_error(upid='unable to parse worker upid')
        task = self.tasks.get(v['upid'])
        if task is not None and not self._task_owner(user, task):
            self.require(user, '/nodes/' + task['node'], 'Sys.Modify')
        worker = self.workers.get(v['upid'])
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])
            if task['status'] == 'running':  # it had not begun
                task['log'].append('TASK ERROR: received interrupt')
                task.update(status='stopped', exitstatus='received interrupt', endtime=int(time.time()))
                self.workers.pop(v['upid'], None)
