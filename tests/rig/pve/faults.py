"""Injected trouble: answers instead of or after the work, failing tasks, cut connections, slow networks."""

import asyncio
import contextvars
import random
import urllib.parse

from fakepve import errors

# How the task that a request starts shall end: None, 'hang' or a text such as 'WARNINGS: 1'.
OUTCOME = contextvars.ContextVar('outcome', default=None)
# Task types fakepve's table lacks.
TASK_TYPES = {'config': 'qmconfig', 'resize': 'resize', 'upload': 'imgcopy', 'download-url': 'download',
              '{volume}': 'imgdel'}
KEYS = ('method', 'path', 'status', 'message', 'after', 'times', 'delay', 'task', 'reset')


def task_type(template):
    """The type in the UPID of a task that this method starts."""
    last = template.rsplit('/', 1)[-1]
    return TASK_TYPES.get(last) or errors.task_type(template)


class Rule:
    """One POST /fail: which requests it meets, and what happens to them."""

    def __init__(self, spec):
        unknown = [k for k in spec if k not in KEYS]
        if unknown:
            raise ValueError('unknown key {0!r}; known: {1}'.format(unknown[0], ', '.join(KEYS)))
        for key in ('method', 'path'):
            if not spec.get(key):
                raise ValueError('{0} is missing'.format(key))
        self.spec = spec
        self.left = spec.get('times')
        self.after = bool(spec.get('after'))
        self.delay = float(spec.get('delay') or 0)
        self.status = spec.get('status')
        self.message = spec.get('message') or 'injected failure'
        self.task = spec.get('task')
        self.reset = bool(spec.get('reset'))

    def meets(self, method, path, template):
        """True for the concrete path (percent-encoded or not) or the schema template of the request."""
        if self.spec['method'] not in ('*', method):
            return False
        wanted = self.spec['path']
        return wanted == template or urllib.parse.unquote(wanted) == urllib.parse.unquote(path)


class Faults:
    """The rules in force, and the network's condition."""

    def __init__(self):
        self.rules = []
        self.released = asyncio.Event()
        self.latency = 0.0
        self.drop_rate = 0.0
        self.random = random.Random()

    def add(self, spec):
        """A new rule."""
        self.rules.append(Rule(spec))

    def clear(self):
        """Forget the rules; tasks that hang go on with their work."""
        self.rules = []
        self.released.set()
        self.released = asyncio.Event()

    def take(self, method, path, template):
        """The first rule that meets the request, counted down, or None."""
        for rule in self.rules:
            if rule.meets(method, path, template):
                if rule.left is not None:
                    rule.left -= 1
                    if rule.left <= 0:
                        self.rules.remove(rule)
                return rule
        return None

    def network(self, spec):
        """POST /network: latency in real seconds, the share of requests dropped, the seed of that chance."""
        self.latency = float(spec.get('latency', self.latency))
        self.drop_rate = float(spec.get('drop_rate', self.drop_rate))
        if 'seed' in spec:
            self.random.seed(spec['seed'])

    def dropped(self):
        """True if the network loses this request."""
        return bool(self.drop_rate) and self.random.random() < self.drop_rate
