"""The middleware: what it does with a request."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.settings import GateSettings
from floe_plugins.logs import log_with_vllm
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
from floe_plugins.middleware.cloud import Cloud, CloudReply, CloudSettings
from floe_plugins.middleware.texts import leaving

logger = logging.getLogger(__name__)

VERDICT_HEADER = b"x-floe-verdict"
ANSWERED_BY_HEADER = b"x-floe-answered-by"

# Routes whose requests are scanned, and take `vllm_xargs`.
_TEXT_ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/responses",
    "/v1/messages",
    "/invocations",
)
# Those of them that a cloud host knows as well.
_CLOUD_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/responses")

_XARGS = "vllm_xargs"
_MODE = "floe"
_HOST_ONLY = "host"
# Room for long prompts, and for pictures beside them.
_LARGEST_BODY = 32 * 2**20
_SERVED = 200


@functools.cache
def configured() -> tuple[Gate, Cloud | None]:
    """Return the gate and the cloud that the environment configures; once per process.

    Raises
    ------
    ConfigError, PluginError
        If the configuration is wrong, or a detector does not load.
    """
    log_with_vllm("floe_plugins")
    return _made(GateSettings.from_environment())


def _made(settings: GateSettings) -> tuple[Gate, Cloud | None]:
    cloud = None if settings.cloud is None else CloudSettings.from_mapping(settings.cloud)
    return settings.gate(), None if cloud is None else Cloud(cloud)


class PrivacyGate:
    """ASGI middleware that decides about every request before the server sees it.

    A request that is not clear is told to stay with the host, whatever the client wanted:
    ``vllm_xargs`` gets ``"floe": "host"``. A clear one is left as it is: that is no permission, as
    the logits processor decides once more for itself. Where a cloud is configured, a clear request
    is answered there, and so is what redaction leaves of one; if the cloud is down, here.

    Parameters
    ----------
    app : callable
        The ASGI application behind it.
    settings : GateSettings, optional
        The configuration; by default what ``FLOE_GATE_CONFIG`` names.

    Raises
    ------
    ConfigError, PluginError
        If the configuration is wrong, or a detector does not load.
    """

    def __init__(self, app: App, *, settings: GateSettings | None = None) -> None:
        self._app = app
        self._gate, self._cloud = configured() if settings is None else _made(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = _path(scope)
        if scope["type"] != "http" or scope["method"] != "POST" or path not in _TEXT_ROUTES:
            await self._app(scope, receive, send)
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
        send = with_headers(send, [(VERDICT_HEADER, decision.encode())])
        try:
            if clear is not None and await self._forwarded(scope, path, clear, replay, send):
                return
            own = body if decision == Decision.CLEAR else _kept_here(body)
            content = json.dumps(own).encode()
            replay.put(content)
            await self._app(with_length(scope, len(content)), replay, send)
        finally:
            replay.close()

    async def _forwarded(
        self, scope: Scope, path: str, body: Mapping[str, Any], replay: Replay, send: Send
    ) -> bool:
        """Have the cloud answer; False if it has not, and nothing has been sent to the client."""
        if self._cloud is None or self._cloud.rests or path not in _CLOUD_ROUTES:
            return False
        extra = body.get(_XARGS)
        if isinstance(extra, Mapping) and extra.get(_MODE) == _HOST_ONLY:
            return False
        if not await self._admitted(scope):
            return False
        # What is for this server means nothing to another one.
        sent = {key: value for key, value in body.items() if key != _XARGS}
        asking = asyncio.ensure_future(self._answer(path, sent, send))
        gone = asyncio.ensure_future(replay.after_body())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
            # A client that has gone wants no answer, from nobody.
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
        """Ask the server whether it would serve this client: its keys are its own matter.

        A server puts its own check of keys behind this middleware, and what is passed on to the
        cloud never gets there.
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
    from floe_plugins.connection_errors import CONNECTION_ERRORS

    try:
        async for piece in reply.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except CONNECTION_ERRORS as error:
        # Too late for the device to answer: the client has a part of the cloud's answer.
        logger.warning("The cloud broke off (%s) within its answer.", type(error).__name__)
        message = b'data: {"error": {"message": "The answer broke off.", "code": 502}}\n\n'
        await send({"type": "http.response.body", "body": message, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _path(scope: Scope) -> str:
    path: str = scope.get("path", "")
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


def _kept_here(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with the word that it stays with the host, whatever the client's was."""
    extra = body.get(_XARGS)
    # What is no table is left for the server to refuse.
    if extra is not None and not isinstance(extra, Mapping):
        return dict(body)
    return {**body, _XARGS: {**(extra or {}), _MODE: _HOST_ONLY}}
