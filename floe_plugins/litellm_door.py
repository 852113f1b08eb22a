"""Keeps clients from the routes of a LiteLLM proxy on which no hook sees their text."""

from __future__ import annotations

import logging
import re
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.middleware.asgi import App, Receive, Scope, Send, refuse

logger = logging.getLogger(__name__)

# Routes to models on which the proxy calls the guardrail, and, for each deployment, its hook: what
# may not leave is held there. The proxy has further ones that ask a provider without any hook, as
# those that count tokens do.
_HELD = re.compile(
    r"/(?:chat/completions|completions|embeddings|moderations|responses|messages|rerank"
    r"|audio/(?:transcriptions|translations|speech)|images/(?:generations|edits)"
    r"|models/[^/]+:(?:generateContent|streamGenerateContent)|files|batches)"
)
_BARE = re.compile(
    r"(?:/v1|/v2|/v1beta|/openai|/openai/v1|/openai/deployments/[^/]+|/engines/[^/]+|/cursor)?"
)
# Known to ask a provider, whatever the proxy takes them for.
_COUNTING = re.compile(r"count_?tokens|token_counter|input_tokens|transform_request", re.IGNORECASE)
_BODIES = ("POST", "PUT", "PATCH")


class Door:
    """ASGI middleware in front of a proxy.

    Parameters
    ----------
    app : callable
        The proxy's application with all of its own middleware.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            # What goes over it later passes no hook. 1008: against the server's policy.
            await send({"type": "websocket.close", "code": 1008, "reason": "The privacy gate."})
            return
        if scope["type"] == "http" and scope["method"] in _BODIES and _unheld(scope):
            message = (
                "The privacy gate keeps this request here: the proxy asks its providers on this "
                "route without showing the text to the gate."
            )
            await refuse(send, 403, message)
            return
        await self._app(scope, receive, send)


def stand_before_proxy() -> None:
    """Put the door in front of the proxy that is starting in this process; once.

    Raises
    ------
    ConfigError
        If there is no such proxy, or it has no place for the door.
    """
    from litellm.proxy.proxy_server import app

    if isinstance(app.middleware_stack, Door):
        return
    stack: Any = app.middleware_stack
    if stack is None:
        # Not asked yet: it makes its stack at the first event, with this around all the others.
        app.add_middleware(Door)
    elif callable(stack):
        # It reads its configuration while it starts, when the stack is there already.
        app.middleware_stack = Door(stack)
    else:
        raise ConfigError("This LiteLLM has no place for the gate in front of its routes.")
    logger.info("The gate stands in front of the proxy's routes.")


def _unheld(scope: Scope) -> bool:
    from litellm.proxy.auth.route_checks import RouteChecks

    path = str(scope["path"]).removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
    if _COUNTING.search(path):
        return True
    held = _HELD.search(path)
    if held and held.end() == len(path) and _BARE.fullmatch(path[: held.start()]):
        return False
    # Other paths of the proxy ask a model, too; those that manage it ask none. What a configuration
    # passes through calls the guardrail, which refuses it.
    return bool(RouteChecks.is_llm_api_route(path))
