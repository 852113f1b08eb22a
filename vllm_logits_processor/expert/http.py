"""An expert behind an OpenAI-compatible completions endpoint with top-K logprobs.

Requests run on the event loop of one thread, `LoopThread`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpcore

from floe_plugins.config import ApiKey, ApiKeyError
from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of
from floe_plugins.middleware.session_wire import CONTENT_TYPE, UNKNOWN, most_reply_bytes
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.protocol import (
    MOST_LOGPROB,
    Continuation,
    ExpertError,
    ExpertReply,
    NoSuchModelError,
    checked_continuations,
)
from vllm_logits_processor.expert.sessions import Headers, SessionClient, read_said

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


_TOKEN_ID = "token_id:"

#: Errors raised while reading a reply that has another shape, is nested too deeply for the parser,
#: or holds numbers beyond the range of a float.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def read_continuations(
    data: bytes,
    *,
    count: int,
    steps: int,
    vocabulary: int,
    end_ids: TokenArray,
) -> tuple[Continuation, ...]:
    """Read the continuation of each of `count` prompts, in their order.

    Parameters
    ----------
    data : bytes
        Body of the reply.
    steps, vocabulary, end_ids
        See `checked_continuations`.

    Raises
    ------
    ExpertError
        If the reply is not a completion of each prompt with logprobs by token id, or
        `checked_continuations` refuses it.
    """
    try:
        choices: list[dict[str, Any]] = json.loads(data)["choices"]
        by_index = {choice["index"]: choice["logprobs"] for choice in choices}
        if sorted(by_index) != list(range(count)) or len(choices) != count:
            raise ExpertError(f"The expert's reply has not one choice for each of {count} prompts.")
        said = [by_index[place] for place in range(count)]
        tokens = [read_token_ids(each["tokens"]) for each in said]
        rows = [
            [(read_token_ids(row), [*map(float, row.values())]) for row in each["top_logprobs"]]
            for each in said
        ]
    except _MALFORMED as error:
        raise _not_a_completion(error) from None
    return checked_continuations(tokens, rows, steps=steps, vocabulary=vocabulary, end_ids=end_ids)


def read_score(data: bytes, prompt: Sequence[int]) -> float:
    """Read the sum of ln p of the tokens of `prompt`, from the second on (vLLM's format), nats.

    Parameters
    ----------
    data : bytes
        Body of the reply.
    prompt : sequence of int
        The tokens that were sent, at least two.

    Raises
    ------
    ExpertError
        If the reply does not have one logprob, at most zero, for each of these tokens.
    """
    try:
        (choice,) = json.loads(data)["choices"]
        (first, *rest) = choice["prompt_logprobs"]
        if first is not None or len(rest) != len(prompt) - 1:
            raise ExpertError("The expert's reply has not one logprob for each prompt token.")
        logprobs = [
            float(row[str(token)]["logprob"]) for row, token in zip(rest, prompt[1:], strict=True)
        ]
    except _MALFORMED as error:
        raise _not_a_completion(error) from None
    total = sum(logprobs)
    if not (math.isfinite(total) and max(logprobs) <= MOST_LOGPROB):
        raise ExpertError("The expert's reply has logprobs that are NaN or above zero.")
    return total


def read_token_ids(tokens: Iterable[str]) -> list[int]:
    """Read tokens spelled ``token_id:N``, all at once: this is the client's inner loop.

    Raises
    ------
    ExpertError
        If a token is spelled differently.
    """
    words = list(tokens)
    before, *ids = "".join(words).split(_TOKEN_ID)
    if before or len(ids) != len(words):
        raise ExpertError(
            "The expert's reply gives tokens by their spelling; needed is a server that knows "
            "return_tokens_as_token_ids, such as vLLM."
        )
    return [*map(int, ids)]


def _not_a_completion(error: Exception) -> ExpertError:
    return ExpertError(
        f"The expert's reply is not a completion with logprobs ({type(error).__name__})."
    )


logger = logging.getLogger(__name__)

#: Most bytes of a reply per requested logprob, and in addition per prompt; a larger reply is not
#: read to its end.
_BYTES_PER_LOGPROB = 256
_BYTES_PER_PROMPT = 65_536
#: Time limit in seconds for scoring a prompt; no token waits for it.
_SCORE_TIMEOUT_S = 30.0

#: Requests the unfused distribution from a server that runs Floe itself. Without it, two servers
#: that are each other's experts, or one that is its own, would send requests forever. Other servers
#: ignore it.
_UNFUSED: dict[str, Any] = {"vllm_xargs": {"floe": "host"}}
#: Statuses of servers that refuse unknown fields.
_REFUSED_FIELD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)

#: The usual cause of a status. The server's own message is never shown: it may quote the text.
_HINTS = {
    400: "it may allow fewer logprobs than expert.top_k (vLLM: --max-logprobs), have a shorter "
    "context, or have been given a tokenizer that is not the model's",
    401: "it wants another API key: see expert.api_key_env and expert.api_key_file",
    403: "it wants another API key: see expert.api_key_env and expert.api_key_file",
    404: "it has no such model or adapter, or expert.url does not end before /completions",
    413: "it takes only smaller requests",
    422: "it does not know a field of the request: it must be a completions server that takes "
    "token ids and returns logprobs, such as vLLM",
    429: "it limits how often it may be asked",
}


class CompletionsExpert:
    """Requests the next tokens of many prompts at once, without blocking the caller.

    All calls run on the event loop of one thread, over persistent connections. No lock is held
    while a call is in flight.

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
    """

    def __init__(
        self,
        *,
        url: str,
        top_k: int,
        vocabulary: int,
        end_ids: TokenArray,
        api_key: ApiKey | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        loop: LoopThread | None = None,
        sessions: bool = True,
    ) -> None:
        self._url = f"{url.rstrip('/')}/completions"
        self._top_k = top_k
        self._vocabulary = vocabulary
        self._end_ids = end_ids
        self._key = api_key or ApiKey()
        #: Whether the server accepts requests with the mark; None until it has accepted one.
        self._takes_mark: bool | None = None
        self._timeout_s = timeout_s
        self._sessions = SessionClient(top_k=top_k) if sessions else None
        self._hinted: set[int] = set()
        self._authority = urlsplit(self._url).netloc.rpartition("@")[2].encode()
        # One layer below httpx, which doubles the time of each call. The proxy settings of the
        # environment do not apply to a server that the configuration names.
        self._client = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(cafile=ca_file), max_connections=None
        )
        self._closed = False
        self._owns_loop = loop is None
        self._loop = loop or LoopThread()

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Send one request for all `prompts` and return at once; see `Expert.start`.

        Cancelling the future ends the request.
        """
        return self._loop.submit(self._ask(prompts, model, steps))

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Send one request for ln p of the tokens of `prompt`; see `Expert.score`."""
        return self._loop.submit(self._score(prompt, model))

    def close(self) -> None:
        """Close the connections, and the thread if it is this expert's own."""
        if self._closed:
            return
        self._closed = True
        self._loop.submit(self._client.aclose()).result(timeout=5)
        if self._owns_loop:
            self._loop.close()

    async def _ask(self, prompts: Sequence[Sequence[int]], model: str, steps: int) -> ExpertReply:
        short = await self._ask_by_session(prompts, model, steps)
        if short is not None:
            return short
        values = {
            "model": model,
            "prompt": prompts,
            "max_tokens": steps,
            "logprobs": self._top_k,
            # Distinct tokens may have one spelling; ids cannot collide.
            "return_tokens_as_token_ids": True,
        }
        per_prompt = _BYTES_PER_PROMPT + steps * (self._top_k + 2) * _BYTES_PER_LOGPROB
        sent, received = await self._post(
            values, limit=len(prompts) * per_prompt, timeout_s=self._timeout_s
        )
        return ExpertReply(
            continuations=read_continuations(
                received,
                count=len(prompts),
                steps=steps,
                vocabulary=self._vocabulary,
                end_ids=self._end_ids,
            ),
            sent_bytes=sent,
            received_bytes=len(received),
        )

    async def _ask_by_session(
        self, prompts: Sequence[Sequence[int]], model: str, steps: int
    ) -> ExpertReply | None:
        """Send what is new of each prompt; return None where the call goes the ordinary way."""
        if self._sessions is None or not self._sessions.available:
            return None
        limit = most_reply_bytes(prompts=len(prompts), steps=steps, top_k=self._top_k)
        send = partial(self._exchange, limit=limit, content_type=CONTENT_TYPE)
        async with self._in_time(self._timeout_s):
            answer = await self._sessions.ask(prompts, model=model, steps=steps, send=send)
        if answer is None:
            return None
        self._check(answer.status)
        tokens, rows = read_said(answer.body, count=len(prompts))
        continuations = checked_continuations(
            tokens, rows, steps=steps, vocabulary=self._vocabulary, end_ids=self._end_ids
        )
        return ExpertReply(
            continuations=continuations,
            sent_bytes=answer.sent_bytes,
            received_bytes=len(answer.body),
        )

    async def _score(self, prompt: Sequence[int], model: str) -> float:
        values = {"model": model, "prompt": [prompt], "max_tokens": 1, "prompt_logprobs": 0}
        limit = _BYTES_PER_PROMPT + len(prompt) * _BYTES_PER_LOGPROB
        _, received = await self._post(values, limit=limit, timeout_s=_SCORE_TIMEOUT_S)
        return read_score(received, prompt)

    async def _post(
        self, values: Mapping[str, Any], *, limit: int, timeout_s: float
    ) -> tuple[int, bytes]:
        """Send a request; return the size of its body, and the reply of at most `limit` bytes.

        If a server that has never accepted the mark refuses a request, it is sent once more without
        the mark.
        """
        async with self._in_time(timeout_s):
            body = _body(values, _UNFUSED if self._takes_mark is not False else {})
            status, received = await self._send(body, limit=limit)
            if status in _REFUSED_FIELD and self._takes_mark is None:
                plain = _body(values, {})
                again, without = await self._send(plain, limit=limit)
                if again == HTTPStatus.OK:
                    self._takes_mark = False
                    logger.warning(
                        "The expert takes no field vllm_xargs and is asked without it: were it "
                        "a server with Floe that has this one for its expert, they would ask "
                        "each other without end."
                    )
                    status, received, body = again, without, plain
        self._check(status)
        if self._takes_mark is None:
            self._takes_mark = True
        return len(body), received

    @asynccontextmanager
    async def _in_time(self, timeout_s: float) -> AsyncIterator[None]:
        """Turn what may come of a connection within a time into `ExpertError`."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except (*CONNECTION_ERRORS, TimeoutError, OSError) as error:
            # The message is not shown: it may quote what was sent.
            cause = cause_of(error, url=self._url)
            raise ExpertError(f"The expert did not answer: {cause}.") from None

    def _check(self, status: int) -> None:
        if status != HTTPStatus.OK:
            kind = NoSuchModelError if status == HTTPStatus.NOT_FOUND else ExpertError
            raise kind(self._status(status))

    async def _send(self, body: bytes, *, limit: int) -> tuple[int, bytes]:
        """Return status and body; only the body of a successful reply is read."""
        status, headers, received = await self._exchange(body, limit=limit)
        if self._sessions is not None:
            self._sessions.heard(headers)
        return status, received

    async def _exchange(
        self, body: bytes, *, limit: int, content_type: bytes = b"application/json"
    ) -> tuple[int, Headers, bytes]:
        """Return status, headers and body; of most errors the body is not read."""
        headers = [
            (b"Host", self._authority),
            (b"Content-Type", content_type),
            (b"Content-Length", str(len(body)).encode()),
            *self._authorization(),
        ]
        received = bytearray()
        async with self._client.stream(
            "POST", self._url, content=body, headers=headers
        ) as response:
            # Another request follows one for an unknown session: the connection is kept for it.
            if response.status in (HTTPStatus.OK, UNKNOWN):
                async for part in response.aiter_stream():
                    received += part
                    if len(received) > limit:
                        raise ExpertError(f"The expert's reply is larger than {limit} bytes.")
        return response.status, response.headers, bytes(received)

    def _authorization(self) -> list[tuple[bytes, bytes]]:
        try:
            return self._key.headers()
        except ApiKeyError as error:
            # Fails like any other call: the file may exist again for the next one.
            raise ExpertError(str(error)) from None

    def _status(self, status: int) -> str:
        """Return the status as a sentence, the first time with its likely cause."""
        message = f"The expert answered HTTP {status}."
        if status in _HINTS and status not in self._hinted:
            self._hinted.add(status)
            logger.error("%s Perhaps %s.", message, _HINTS[status])
        return message


def _body(values: Mapping[str, Any], mark: Mapping[str, Any]) -> bytes:
    return json.dumps({**values, "temperature": 0.0, **mark}, separators=(",", ":")).encode()
