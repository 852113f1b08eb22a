"""ASGI middleware that decides about every request."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.settings import CloudSettings, GateSettings
from floe_plugins.middleware.asgi import (
    App,
    DisconnectedError,
    Receive,
    Replay,
    Scope,
    Send,
    TooLargeError,
    read_body,
    refuse,
    with_headers,
    with_length,
)
from floe_plugins.middleware.cloud import Cloud, CloudReply
from floe_plugins.middleware.request_texts import leaving, why_of
from floe_plugins.middleware.routes import (
    BODILESS,
    asks_for_host_only,
    is_free_of_text,
    kept_here,
    path_of,
    without_options,
)
from floe_plugins.system import log_with_vllm

logger = logging.getLogger(__name__)

VERDICT_HEADER = b"x-floe-verdict"
WHY_HEADER = b"x-floe-why"
ANSWERED_BY_HEADER = b"x-floe-answered-by"

# Routes that a cloud also serves.
_CLOUD_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/responses")

# Enough for long prompts with pictures.
_LARGEST_BODY = 32 * 2**20
_SERVED = 200
_JSON = re.compile(
    rb"application/(?:[\w.-]+\+)?json(?:\s*;\s*(?!charset)[\w-]+=[^;]*|\s*;\s*charset=\"?utf-?8\"?)*\s*;?"
)


@functools.cache
def configured() -> tuple[Gate, Cloud | None]:
    """Return the gate and the cloud that the environment configures; made once per process.

    Raises
    ------
    ConfigError, PluginError
        The configuration is wrong, or a detector does not load.
    """
    log_with_vllm("floe_plugins")
    return _made(GateSettings.from_environment())


def _made(settings: GateSettings) -> tuple[Gate, Cloud | None]:
    cloud = None if settings.cloud is None else CloudSettings.from_mapping(settings.cloud)
    return settings.gate(), None if cloud is None else Cloud(cloud)


class PrivacyGate:
    """ASGI middleware that decides about every request before the server sees it.

    A request that is not clear stays with the host, whatever the client wrote: its ``vllm_xargs``
    get ``"floe": "host"``. A clear request passes unchanged. That is not a permission: the logits
    processor decides again for itself. If a cloud is configured, it answers clear requests and what
    redaction leaves of others; if it is down, this server answers.

    The middleware scans requests to every route except those by which no token is generated. It
    refuses what it cannot read, and requests that are not clear to routes without ``vllm_xargs``.

    Parameters
    ----------
    app : callable
        The ASGI application behind it.
    settings : GateSettings, optional
        The configuration; by default what ``FLOE_GATE_CONFIG`` names.

    Raises
    ------
    ConfigError, PluginError
        The configuration is wrong, or a detector does not load.
    """

    def __init__(self, app: App, *, settings: GateSettings | None = None) -> None:
        self._app = app
        self._gate, self._cloud = configured() if settings is None else _made(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            # Its messages are not a body that could be scanned. 1008: against the server's policy.
            await send({"type": "websocket.close", "code": 1008, "reason": "The privacy gate."})
            return
        path = path_of(scope) if scope["type"] == "http" else ""
        if scope["type"] != "http" or scope["method"] in BODILESS or is_free_of_text(path):
            await self._app(scope, receive, send)
            return
        if not _is_plain_json(scope):
            message = (
                "The privacy gate reads JSON in UTF-8 without a content-encoding, and no other "
                "body: this one is not passed on."
            )
            await refuse(send, 415, message)
            return
        try:
            content = await read_body(receive, most=_LARGEST_BODY)
        except DisconnectedError:
            return
        except TooLargeError:
            await refuse(send, 413, f"The body is larger than {_LARGEST_BODY} bytes.")
            return
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            await refuse(send, 400, "The body is no JSON object.")
            return
        await self._serve(scope, path, body, Replay(receive), send)

    async def _serve(
        self, scope: Scope, path: str, body: dict[str, Any], replay: Replay, send: Send
    ) -> None:
        verdict, clear = await leaving(self._gate, body)
        decision = str(verdict.decision) if verdict is not None else str(Decision.LOCAL)
        why = why_of(verdict)
        send = with_headers(send, [(VERDICT_HEADER, decision.encode()), (WHY_HEADER, why.encode())])
        if decision != Decision.CLEAR:
            logger.info("A request to %s is %s: %s.", path, decision, why)
        try:
            if clear is not None and await self._forwarded(scope, path, clear, replay, send):
                return
            own = body if decision == Decision.CLEAR else kept_here(path, body)
            if own is None:
                message = (
                    f"The privacy gate keeps this request from the expert ({decision}: {why}), and "
                    "this route has no field that says so: use /v1/completions or "
                    "/v1/chat/completions."
                )
                await refuse(send, 400, message)
                return
            content = json.dumps(own).encode()
            replay.put(content)
            await self._app(with_length(scope, len(content)), replay, send)
        finally:
            replay.close()

    async def _forwarded(
        self, scope: Scope, path: str, body: Mapping[str, Any], replay: Replay, send: Send
    ) -> bool:
        """Let the cloud answer; return False if it does not and the client has received nothing."""
        path = path.rstrip("/")
        if self._cloud is None or self._cloud.paused or path not in _CLOUD_ROUTES:
            return False
        if asks_for_host_only(body):
            return False
        if not await self._admitted(scope):
            return False
        # Options of this server mean nothing to another one.
        asking = asyncio.ensure_future(self._answer(path, without_options(body), send))
        gone = asyncio.ensure_future(replay.after_body())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
            # A client that has disconnected needs no answer from either.
            return await asking if asking.done() else True
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)

    async def _answer(self, path: str, body: Mapping[str, Any], send: Send) -> bool:
        assert self._cloud is not None
        reply = await self._cloud.ask(path, body)
        if reply is None:
            return False
        headers = [(b"content-type", reply.content_type), (ANSWERED_BY_HEADER, b"cloud")]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await _pass_on(reply, send)
        return True

    async def _admitted(self, scope: Scope) -> bool:
        """Ask the server whether it would serve this client.

        A server checks keys behind this middleware, which a request to the cloud never reaches.
        """
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(event: Any) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]

        path = f"{scope.get('root_path', '')}/v1/models"
        probe = {**scope, "method": "GET", "path": path, "raw_path": path.encode()}
        await self._app(with_length({**probe, "query_string": b""}, 0), receive, send)
        if status != _SERVED:
            logger.info("The server answers this client's probe with %d: no cloud for it.", status)
        return status == _SERVED


async def _pass_on(reply: CloudReply, send: Send) -> None:
    from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of

    try:
        async for piece in reply.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except CONNECTION_ERRORS as error:
        # Too late for the device to answer: the client has received a part of the cloud's answer.
        logger.warning("The cloud broke off within its answer: %s.", cause_of(error, url=""))
        message = b'data: {"error": {"message": "The answer broke off.", "code": 502}}\n\n'
        await send({"type": "http.response.body", "body": message, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_plain_json(scope: Scope) -> bool:
    """Return whether a body is JSON by its headers, neither compressed nor in another encoding."""
    for name, value in scope["headers"]:
        name, value = name.lower(), value.strip().lower()
        if name == b"content-encoding" and value not in (b"", b"identity"):
            return False
        if name == b"content-type" and not _JSON.fullmatch(value):
            return False
    return True
