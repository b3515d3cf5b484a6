"""One page and an API over HTTP: pictures in, the records of the viewer out (extra `web`).

The way of a request: `guard` (who asks) -> `body` (how much) -> `form` -> `uploads` and `orders` (what is asked) ->
`jobs` (the queue) -> `worker` -> `answers` (one pass for several orders, cut apart again).
"""

from vitscope.serve.app import create_app
from vitscope.serve.guard import LOOPBACK, Hosts
from vitscope.serve.limits import Limits

__all__ = ["LOOPBACK", "Hosts", "Limits", "create_app"]
