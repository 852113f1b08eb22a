"""An expert behind a completions server with top-K logprobs.

This is the transport; what is asked and how a reply is read is its dialect's affair. Requests run
on the event loop of one thread, `LoopThread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from floe_plugins.config import ApiKey
from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of
from floe_plugins.middleware.session_wire import CONTENT_TYPE, most_reply_bytes
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.dialects.detect import (
    REFUSED_FIELD,
    Detected,
    Reply,
    detect,
    is_asked,
)
from vllm_logits_processor.expert.dialects.dialect import Dialect, Expected, unlisted
from vllm_logits_processor.expert.dialects.known import KnownServer
from vllm_logits_processor.expert.protocol import (
    Continuation,
    ExpertError,
    ExpertReply,
    NoSuchModelError,
    checked_continuations,
)
from vllm_logits_processor.expert.sessions import SessionClient, read_said
from vllm_logits_processor.expert.transport import MOST_BYTES_OF_PAGE, Transport
from vllm_logits_processor.observe import server_of

T = TypeVar("T")


class LoopThread:
    """An event loop in its own thread, for callers that must not block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="floe-expert", daemon=True
        )
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `coroutine` on the loop; cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call`, which must not block, on the loop after `seconds`."""
        self.loop.call_soon_threadsafe(lambda: self.loop.call_later(seconds, call))

    def close(self) -> None:
        """Cancel running coroutines, then end the thread."""
        if self.loop.is_closed():
            return
        self.submit(_cancel_the_rest()).result(timeout=5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        self.loop.close()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


logger = logging.getLogger(__name__)

#: Most bytes of a reply per requested logprob, and in addition per prompt; a larger reply is not
#: read to its end.
_BYTES_PER_LOGPROB = 256
_BYTES_PER_PROMPT = 65_536
#: Time limit in seconds for scoring a prompt; no token waits for it.
_SCORE_TIMEOUT_S = 30.0
#: Time limit in seconds for finding out which dialect a server speaks.
_DECIDE_TIMEOUT_S = 10.0
_SERVER = b"server"

#: Requests the unfused distribution from a server that runs Floe itself. Without it, two servers
#: that are each other's experts, or one that is its own, would send requests forever. Other servers
#: ignore it.
_UNFUSED: dict[str, Any] = {"vllm_xargs": {"floe": "host"}}


class CompletionsExpert:
    """Requests the next tokens of many prompts at once, without blocking the caller.

    All calls run on the event loop of one thread, over persistent connections. No lock is held
    while a call is in flight.

    A dialect that the server has to be asked for is asked for at once, in the background. While the
    server has not told, each call asks first, and fails if it does not tell: no text is sent in a
    dialect that was guessed. After an error, and when no connection is open any more, it is asked
    anew, since another server may have been started there.

    Parameters
    ----------
    url : str
        Base URL without ``/completions``, such as ``http://127.0.0.1:8001/v1``.
    top_k : int
        Logprobs per token; the server must allow as many (vLLM: ``--max-logprobs``).
    vocabulary : int
        Number of the expert's tokens.
    end_ids : int32 array
        The expert's end tokens, joined into one event.
    api : str
        The dialect, as in `expert.api`.
    model : str, optional
        The configured name of the model, for a server with one model and adapters.
    tokenizer : ByteVocabulary, optional
        The expert's, for dialects that need it.
    api_key : ApiKey, optional
        Sent as a bearer token.
    ca_file : Path, optional
        Certificates (PEM) to verify the server with, instead of the system's.
    timeout_s : float
        Seconds after which a call is abandoned. The caller's deadline for a token is shorter; a
        reply that misses it is discarded on arrival.
    loop : LoopThread, optional
        Shared with other servers, and closed by its creator; by default the expert's own.
    sessions : bool
        Whether a server that keeps sessions is sent only what is new of each text.
    on_reached : callable, optional
        Called on the loop, which it must not block, when the server answers for the first time, and
        for the first time after an error.
    """

    def __init__(
        self,
        *,
        url: str,
        top_k: int,
        vocabulary: int,
        end_ids: TokenArray,
        api: str = "vllm",
        model: str | None = None,
        tokenizer: ByteVocabulary | None = None,
        api_key: ApiKey | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        loop: LoopThread | None = None,
        sessions: bool = True,
        on_reached: Callable[[], None] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._top_k = top_k
        self._api = api
        self._model = model
        self._expected = Expected(
            top_k=top_k, vocabulary=vocabulary, end_ids=end_ids, tokenizer=tokenizer
        )
        #: Whether the server accepts requests with the mark; None until it has accepted one.
        self._takes_mark: bool | None = None
        self._timeout_s = timeout_s
        self._sessions = SessionClient(top_k=top_k) if sessions else None
        self._hinted: set[int] = set()
        self._transport = Transport(
            self._url,
            key=api_key or ApiKey(),
            tls=ssl.create_default_context(cafile=ca_file),
        )
        self._closed = False
        self._owns_loop = loop is None
        self._loop = loop or LoopThread()
        self._on_reached = on_reached
        self._reached = False
        self._server = KnownServer(
            ask=self._detect,
            connected=lambda: self._transport.connected,
            server=self._transport.authority,
            api=api,
            expected=self._expected,
            base=model,
        )
        if self._server.found is None and model is not None:
            self._loop.submit(self._find_early(model))

    @property
    def scores(self) -> bool:
        """Whether prompts can be scored, as far as is known."""
        return self._server.found is None or self._server.found[1].abilities.scores

    @property
    def context(self) -> int | None:
        """The most tokens of a text, those to come among them, if the server has said so."""
        return None if self._server.found is None else self._server.found[0].context

    @property
    def keeps_sessions(self) -> bool:
        """Whether the server is sent what is new of each text, as far as is known."""
        return self._sessions is not None and self._sessions.available

    def decided(self) -> Future[tuple[Detected, Dialect]]:
        """Return the server's dialect and why, or the error for which it is not known."""
        return self._loop.submit(self._find(self._model or ""))

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Send one request for all `prompts` and return at once; see `Expert.start`.

        Cancelling the future ends the request.
        """
        return self._loop.submit(_as_expert_error(self._ask(prompts, model, steps)))

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Send one request for ln p of the tokens of `prompt`; see `Expert.score`."""
        return self._loop.submit(_as_expert_error(self._score(prompt, model)))

    def close(self) -> None:
        """Close the connections, and the thread if it is this expert's own."""
        if self._closed:
            return
        self._closed = True
        self._loop.submit(self._transport.close()).result(timeout=5)
        if self._owns_loop:
            self._loop.close()

    async def _ask(self, prompts: Sequence[Sequence[int]], model: str, steps: int) -> ExpertReply:
        _, dialect = await self._find(model)
        by_session = await self._ask_by_session(dialect, prompts, model, steps)
        if by_session is not None:
            return by_session
        found: list[Continuation | None] = [None] * len(prompts)
        sent = received = 0
        for places in dialect.rounds(prompts):
            asked = [prompts[place] for place in places]
            out, back, said = await self._complete(dialect, asked, model, steps)
            again = [place for place, each in enumerate(said) if each is None]
            if again and steps > 1:
                short = [asked[place] for place in again]
                more_out, more_back, once = await self._complete(dialect, short, model, 1)
                out, back, said = out + more_out, back + more_back, list(said)
                for place, each in zip(again, once, strict=True):
                    said[place] = each
            sent, received = sent + out, received + back
            for place, each in zip(places, said, strict=True):
                found[place] = each
        return ExpertReply(
            continuations=tuple(unlisted() if each is None else each for each in found),
            sent_bytes=sent,
            received_bytes=received,
        )

    async def _complete(
        self, dialect: Dialect, prompts: Sequence[Sequence[int]], model: str, steps: int
    ) -> tuple[int, int, Sequence[Continuation | None]]:
        """Send one request; return the sizes of both bodies, and what it says of each prompt."""
        per_prompt = _BYTES_PER_PROMPT + steps * (self._top_k + 2) * _BYTES_PER_LOGPROB
        sent, received = await self._post(
            dialect,
            dialect.body(prompts, model=model, steps=steps),
            limit=len(prompts) * per_prompt,
            timeout_s=self._timeout_s,
        )
        return sent, len(received), dialect.read(received, count=len(prompts), steps=steps)

    async def _ask_by_session(
        self, dialect: Dialect, prompts: Sequence[Sequence[int]], model: str, steps: int
    ) -> ExpertReply | None:
        """Send what is new of each prompt; return None where the call goes the ordinary way."""
        if self._sessions is None or not self._sessions.available:
            return None
        if not dialect.abilities.takes_ids:
            return None
        limit = most_reply_bytes(prompts=len(prompts), steps=steps, top_k=self._top_k)
        url = f"{self._url}/completions"
        send = partial(self._transport.exchange, url, limit=limit, content_type=CONTENT_TYPE)
        async with self._in_time(self._timeout_s):
            answer = await self._sessions.ask(prompts, model=model, steps=steps, send=send)
        if answer is None:
            return None
        self._check(answer.status, dialect.hints)
        tokens, rows = read_said(answer.body, count=len(prompts))
        continuations = checked_continuations(
            tokens,
            rows,
            steps=steps,
            vocabulary=self._expected.vocabulary,
            end_ids=self._expected.end_ids,
        )
        return ExpertReply(
            continuations=continuations,
            sent_bytes=answer.sent_bytes,
            received_bytes=len(answer.body),
        )

    async def _score(self, prompt: Sequence[int], model: str) -> float:
        _, dialect = await self._find(model)
        values = dialect.score_body(prompt, model=model)
        limit = _BYTES_PER_PROMPT + len(prompt) * _BYTES_PER_LOGPROB
        _, received = await self._post(dialect, values, limit=limit, timeout_s=_SCORE_TIMEOUT_S)
        return dialect.read_score(received, prompt)

    async def _find_early(self, model: str) -> None:
        # The first call asks again, and its error is reported.
        with contextlib.suppress(ExpertError):
            await self._find(model)

    async def _find(self, model: str) -> tuple[Detected, Dialect]:
        """Return the server's dialect and why; ask the server first if that is in doubt."""
        before = self._server.found
        found = await self._server.current(model)
        if before is not None and found is not before:
            # Another server may refuse what that one has accepted.
            self._takes_mark = None
        return found

    async def _detect(self, model: str) -> Detected:
        async with self._in_time(min(self._timeout_s, _DECIDE_TIMEOUT_S)):
            detected = await detect(
                self._fetch, self._url, api=self._api, model=self._model or model
            )
        if is_asked(self._api):
            self._note_reached()
        return detected

    def _note_reached(self) -> None:
        if not self._reached:
            self._reached = True
            if self._on_reached is not None:
                self._on_reached()

    def _doubt(self) -> None:
        """Note that another server may be there by the next call."""
        self._reached = False
        self._server.doubt()

    async def _fetch(self, method: str, url: str, values: Mapping[str, Any] | None) -> Reply:
        body = None if values is None else request_body(values, {})
        return await self._send(url, body, limit=MOST_BYTES_OF_PAGE, method=method)

    async def _post(
        self, dialect: Dialect, values: Mapping[str, Any], *, limit: int, timeout_s: float
    ) -> tuple[int, bytes]:
        """Send a request; return the size of its body, and the reply of at most `limit` bytes.

        If a server that has never accepted the mark refuses a request, it is sent once more without
        the mark.
        """
        url = dialect.endpoint(self._url)
        marked = dialect.marked and self._takes_mark is not False
        async with self._in_time(timeout_s):
            body = request_body(values, _UNFUSED if marked else {})
            reply = await self._send(url, body, limit=limit)
            if reply.status in REFUSED_FIELD and marked and self._takes_mark is None:
                plain = request_body(values, {})
                again = await self._send(url, plain, limit=limit)
                if again.status == HTTPStatus.OK:
                    self._takes_mark = False
                    logger.warning(
                        "The expert takes no field vllm_xargs and is asked without it: were it "
                        "a server with Floe that has this one for its expert, they would ask "
                        "each other without end."
                    )
                    reply, body = again, plain
        self._check(reply.status, dialect.hints)
        if marked and self._takes_mark is None:
            self._takes_mark = True
        return len(body), reply.body

    @asynccontextmanager
    async def _in_time(self, timeout_s: float) -> AsyncIterator[None]:
        """Turn what may come of a connection within a time into `ExpertError`."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except (*CONNECTION_ERRORS, TimeoutError, OSError) as error:
            self._doubt()
            raise self._unanswered(error) from None

    def _check(self, status: int, hints: Mapping[int, str]) -> None:
        if status == HTTPStatus.OK:
            self._note_reached()
        else:
            if status == HTTPStatus.NOT_FOUND or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self._doubt()
            kind = NoSuchModelError if status == HTTPStatus.NOT_FOUND else ExpertError
            raise kind(self._status(status, hints))

    def _unanswered(self, error: BaseException) -> ExpertError:
        # The message is not shown: it may quote what was sent.
        cause = cause_of(error, url=self._url)
        return ExpertError(f"The expert at {server_of(self._url)} did not answer: {cause}.")

    async def _send(
        self, url: str, body: bytes | None, *, limit: int, method: str = "POST"
    ) -> Reply:
        """Send a request; only the body of a successful reply is read."""
        status, headers, received = await self._transport.exchange(
            url, body, limit=limit, method=method
        )
        if self._sessions is not None:
            self._sessions.heard(headers)
        server = next((each for name, each in headers if name.lower() == _SERVER), b"")
        return Reply(status=status, server=server.decode("latin-1"), body=received)

    def _status(self, status: int, hints: Mapping[int, str]) -> str:
        """Return the status as a sentence, the first time with its likely cause."""
        message = f"The expert answered HTTP {status}."
        if status in hints and status not in self._hinted:
            self._hinted.add(status)
            logger.error("%s Perhaps %s.", message, hints[status])
        return message


async def _as_expert_error(answer: Coroutine[Any, Any, T]) -> T:
    """Return an answer; any error of reading it becomes `ExpertError`."""
    try:
        return await answer
    except ExpertError:
        raise
    except Exception as error:  # noqa: BLE001 - a reply may hold anything
        reason = type(error).__name__
    raise ExpertError(f"The expert's reply cannot be read ({reason}).")


def request_body(values: Mapping[str, Any], mark: Mapping[str, Any]) -> bytes:
    """Return the body of a request with the fields of both, as JSON."""
    fields = {**values, **mark}
    try:
        # Half a millisecond where the standard library takes ten, for the ids of 64 texts.
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        # A client may name a model by what is no Unicode; the server says that it has none such.
        return json.dumps(fields, separators=(",", ":"), default=msgspec.json.decode).encode()
