"""Which part of the API a request is for, told by the very path that the router matches.

Below a prefix (Serve's ``route_prefix``, a server's root path) a request's whole path begins with
it, and a guard that read that one would let through what the router answers.
"""

from starlette._utils import get_route_path
from starlette.types import Scope

OPEN = frozenset({"", "/docs", "/openapi.json", "/healthz", "/readyz"})
"""The page, the description and the health checks, less a slash at the end."""
STATIC = "/static/"
QUESTIONS = ("/v1/chat/", "/v1/tasks/")


def route_path(scope: Scope) -> str:
    """Return a request's path below the app's prefix.

    Mounted apps shorten it, so it is to be asked before the request is passed on.
    """
    return get_route_path(scope)


def is_open(path: str) -> bool:
    """Return whether anybody may read what stands at a path below the prefix."""
    return path.rstrip("/") in OPEN or path.startswith(STATIC)


def is_question(scope: Scope) -> bool:
    """Return whether a request asks the model: such are counted, limited and written down."""
    asks = scope["type"] == "http" and scope["method"] == "POST"
    return asks and route_path(scope).startswith(QUESTIONS)
