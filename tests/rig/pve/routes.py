"""How an API method of the double is written: async (self, values, user), after the schema's checks."""


class Listing:
    """A list whose answer also has `total`."""

    def __init__(self, rows, total):
        self.rows = rows
        self.total = total


def through(name, template):
    """A request handler (fakepve's signature) that checks the request as the schema says, then calls `name`."""
    async def handler(self, request):
        return await self._stateful_handler(template, getattr(self, name))(request)
    return handler
