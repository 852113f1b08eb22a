"""ASGI middleware by which a host sends an expert's server only what is new of its texts."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from floe_plugins.config import Settings, Wording
from floe_plugins.errors import ConfigError
from floe_plugins.middleware.asgi import (
    App,
    DisconnectedError,
    Event,
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
from floe_plugins.middleware.routes import kept_here, path_of
from floe_plugins.middleware.session_store import Name, SessionStore
from floe_plugins.middleware.session_wire import (
    CONTENT_TYPE,
    HEADER,
    ID,
    MOST_IDS,
    NOT_KEPT,
    UNKNOWN,
    VERSION,
    SessionRequest,
    WireError,
    decode_request,
    digest_of,
    encode_reply,
    unpack,
)
from floe_plugins.vllm_replies import ReplyError, read_rows

#: The environment variable with the settings, a JSON object.
VARIABLE = "FLOE_SESSIONS"

_PATH = "/v1/completions"
_MODELS = ("GET", "/v1/models")
_ANNOUNCED = (HEADER, str(VERSION).encode())
#: Most bytes of a request, for the server checks its key only behind this middleware; `MOST_IDS`
#: fit in.
_LARGEST_BODY = 5 * 2**20


class SessionSettings(Settings):
    """The bounds of the sessions."""

    wording: ClassVar[Wording] = Wording(
        wrong=f"{VARIABLE}: {{key}} is {{value}}; accepted is {{accepted}}.",
        unknown=f"{VARIABLE} has the key {{key!r}}; {{listed}}",
        missing=f"{VARIABLE} has no {{key}}.",
    )

    sessions: int = Field(
        default=4096, ge=1, description="most sessions, of all clients; one for each stream"
    )
    ids: int = Field(
        default=8_000_000,
        ge=1,
        description="most token ids of all sessions together, four bytes each",
    )
    idle_s: Annotated[float, Field(gt=0)] = Field(
        default=300.0, description="seconds after which a session that nobody uses is gone"
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read what `VARIABLE` holds; all defaults if it is not set.

        Raises
        ------
        ConfigError
            If it is no JSON object, has an unknown key or a value that is not accepted.
        """
        text = os.environ.get(VARIABLE)
        if not text:
            return cls()
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, Mapping):
            raise ConfigError(
                f'{VARIABLE} is no JSON object; accepted is one such as {{"idle_s": 300}}.'
            )
        return cls(**values)

    def store(self) -> SessionStore:
        """Return an empty store with these bounds."""
        return SessionStore(most_sessions=self.sessions, most_ids=self.ids, idle_s=self.idle_s)


@functools.cache
def configured() -> SessionSettings:
    """Return the settings of the environment.

    Raises
    ------
    ConfigError
        They are wrong.
    """
    return SessionSettings.from_environment()


class ExpertSessions:
    """ASGI middleware that keeps the token ids of a host's texts between its calls.

    A request in the format of `session_wire` holds what is new of each text. The server behind gets
    the whole of it, as an ordinary request for the host alone, and its reply goes back in short
    form. Everything else passes, with a response header that says what this server can do.

    A session belongs to the API key that opened it. One of another key, one that is gone and one
    that was never there are answered alike. Only what the server has answered with 200 is kept: who
    has no valid key opens nothing.

    Parameters
    ----------
    app : callable
        The ASGI application behind it.
    settings : SessionSettings, optional
        By default those of the environment.

    Raises
    ------
    ConfigError
        The environment's settings are wrong.
    """

    def __init__(self, app: App, *, settings: SessionSettings | None = None) -> None:
        self._app = app
        self._store = (configured() if settings is None else settings).store()
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        route = (scope["method"], path_of(scope)) if scope["type"] == "http" else None
        if route == _MODELS:
            # A host that asks who is there sends no text twice: its first call opens a session.
            await self._app(scope, receive, with_headers(send, [_ANNOUNCED]))
        elif route != ("POST", _PATH):
            await self._app(scope, receive, send)
        elif _header(scope, b"content-type") != CONTENT_TYPE:
            await self._app(scope, receive, with_headers(send, [_ANNOUNCED]))
        else:
            await self._by_session(scope, receive, send)

    async def _by_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request in short form.

        Without the header that announces sessions, a refusal tells the client to send this request
        in the ordinary way.
        """
        try:
            if _header(scope, b"content-encoding") not in (b"", b"identity"):
                raise WireError("The body is compressed.")
            request = decode_request(await read_body(receive, most=_LARGEST_BODY))
        except DisconnectedError:
            return
        except TooLargeError:
            await refuse(send, 413, f"The body is larger than {_LARGEST_BODY} bytes.")
            return
        except WireError as error:
            await refuse(send, 400, f"The request is no request of a session: {error}")
            return
        if sum(each.offset + len(each.added) // ID for each in request.prompts) > MOST_IDS:
            await refuse(send, 413, f"The prompts have more than {MOST_IDS} token ids.")
            return
        rebuilt = self._rebuilt(request, _owner(scope))
        send = with_headers(send, [_ANNOUNCED])
        if rebuilt is None:
            await refuse(send, UNKNOWN, "The session is not known, or not as far: send it all.")
            return
        texts, kept = rebuilt
        reply = await self._ask(_completion(request, texts), len(texts), scope, receive, send)
        if reply is None:
            return
        for name, text in kept.items():
            self._store.put(name, text)
        self._expire()
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    def _rebuilt(
        self, request: SessionRequest, owner: bytes
    ) -> tuple[list[bytes], dict[Name, bytes]] | None:
        """Return the prompts, packed, and what sessions have after them.

        None if one of them cannot be rebuilt as it was sent.
        """
        texts: list[bytes] = []
        kept: dict[Name, bytes] = {}
        for each in request.prompts:
            beginning: bytes | None = b""
            if each.offset:
                base = (owner, request.client, each.base)
                if base in kept:
                    beginning = kept[base][: each.offset * ID]
                else:
                    beginning = self._store.beginning(base, each.offset)
            if beginning is None:
                return None
            text = beginning + each.added
            # This server may have missed what the client has told another worker since.
            if digest_of(text) != each.digest:
                return None
            texts.append(text)
            if each.session != NOT_KEPT:
                kept[owner, request.client, each.session] = text
        return texts, kept

    async def _ask(
        self,
        completion: Mapping[str, Any] | None,
        prompts: int,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> bytes | None:
        """Ask the server; return its reply in short form, None if the client has its answer."""
        body = json.dumps(completion, separators=(",", ":")).encode()
        replay = Replay(receive)
        replay.put(body)
        caught = _Caught(send)
        try:
            await self._app(_as_json(scope, len(body)), replay, caught)
        finally:
            replay.close()
        if caught.body is None:
            return None
        try:
            return encode_reply(read_rows(caught.body, prompts=prompts))
        except ReplyError as error:
            unusable = f"The server's reply is unusable: it {error}."
            await refuse(send, HTTPStatus.BAD_GATEWAY, unusable)
            return None
        except WireError as error:
            await refuse(send, HTTPStatus.BAD_GATEWAY, f"The server's reply is unusable: {error}")
            return None

    def _expire(self) -> None:
        """Drop idle sessions, now and in time: also where no request follows."""
        if self._timer is not None:
            self._timer.cancel()
        left = self._store.expire()
        loop = asyncio.get_running_loop()
        self._timer = None if left is None else loop.call_later(left, self._expire)


class _Caught:
    """Keeps the body of a successful reply back, and lets every other reply pass.

    Attributes
    ----------
    body : bytes or None
        The whole body; None if there is none to keep.
    """

    def __init__(self, send: Send) -> None:
        self.body: bytes | None = None
        self._send = send
        self._passes = False
        self._pieces: list[bytes] = []

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._passes = event["status"] != HTTPStatus.OK
        if self._passes:
            await self._send(event)
        elif event["type"] == "http.response.body":
            self._pieces.append(event.get("body", b""))
            if not event.get("more_body", False):
                self.body = b"".join(self._pieces)


def _completion(request: SessionRequest, texts: list[bytes]) -> dict[str, Any] | None:
    body: dict[str, Any] = {
        "model": request.model,
        "prompt": [unpack(text) for text in texts],
        "max_tokens": request.steps,
        "logprobs": request.top_k,
        "return_tokens_as_token_ids": True,
        "temperature": 0.0,
    }
    # Whatever stands behind, a gate or a processor of Floe: nothing of this goes on elsewhere.
    return kept_here(_PATH, body)


def _header(scope: Scope, name: bytes) -> bytes:
    """Return a header's value in lower case; of several all, joined."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return b", ".join(values).strip().lower()


def _owner(scope: Scope) -> bytes:
    """Return whose sessions a request may use: a hash of its API key, or of having none."""
    keys = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    return hashlib.sha256(b"\n".join(keys)).digest()


def _as_json(scope: Scope, length: int) -> Scope:
    kept = [each for each in scope["headers"] if each[0].lower() != b"content-type"]
    typed = {**scope, "headers": [*kept, (b"content-type", b"application/json")]}
    return with_length(typed, length)
