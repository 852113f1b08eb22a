"""Sends a server that keeps sessions only what is new of each text.

A prompt comes without its stream's name: `KnownTexts` finds the session with the most of it. What
the server rebuilds has the digest of the whole prompt, so a wrong guess costs a call, never a
wrong distribution.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice

import numpy as np

from floe_plugins.middleware.session_wire import (
    CLIENT,
    HEADER,
    ID,
    MOST_IDS,
    MOST_PROMPTS,
    MOST_STEPS,
    NOT_KEPT,
    UNKNOWN,
    VERSION,
    Prompt,
    SessionRequest,
    WireError,
    decode_reply,
    digest_of,
    encode_request,
    pack,
)
from vllm_logits_processor.expert.protocol import ExpertError

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]

#: Sends a body in the format of sessions; returns status, headers and body of the reply.
SendBody = Callable[[bytes], Awaitable[tuple[int, Headers, bytes]]]

#: Most texts that a client remembers to have sent.
_MOST_TEXTS = 1024
#: Bytes of a text that are found again as one piece.
_CHUNK = 32 * ID
#: A prompt that is so much shorter than a session's text, or less, is that text, taken back: up to
#: a word for a cover. Otherwise it is another text with the same beginning.
_TAKEN_BACK = 16 * ID
#: Most texts with one beginning that are compared with a prompt.
_MOST_COMPARED = 64

#: Sessions that were lost in a row before they are left alone; and what a call that found its
#: session makes good.
_PATIENCE = 3.0
_FOUND = 0.1
#: Seconds for which they are left alone then.
_PAUSE_S = 60.0
#: Answers of a proxy, say, that a request in the ordinary way would get as well.
_NOT_ABOUT_SESSIONS = frozenset(
    {
        *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS),
        *(status for status in HTTPStatus if status >= HTTPStatus.INTERNAL_SERVER_ERROR),
    }
)


@dataclass
class _Text:
    """The ids that a server has of a session, and a hash for each whole chunk and all before it."""

    ids: bytes
    chunks: list[int]


class KnownTexts:
    """What a server knows of a client's texts, as far as its replies have said so.

    Parameters
    ----------
    most : int
        Most texts; the one that was not sent for longest is forgotten first.
    """

    def __init__(self, *, most: int = _MOST_TEXTS) -> None:
        self._most = most
        self._texts: OrderedDict[int, _Text] = OrderedDict()
        #: The sessions of each hash of chunks, the latest last.
        self._having: dict[int, dict[int, None]] = {}
        self._next = NOT_KEPT + 1

    def __len__(self) -> int:
        return len(self._texts)

    def plan(self, prompts: Sequence[bytes]) -> list[Prompt]:
        """Write packed prompts as sessions and what is new.

        Prompts of one stream stand side by side: the text, then covers of its last word. The first
        is what the session has from then on; the others build upon it, and are not kept.
        """
        planned: list[Prompt] = []
        taken: dict[int, bytes] = {}
        for prompt in prompts:
            base, offset, length = self._longest(prompt, taken)
            if taken:
                last = next(reversed(taken))
                common = _common(prompt, taken[last])
                if common and common >= offset:
                    base, offset, length = last, common, len(taken[last])
            if length - offset > _TAKEN_BACK and offset < _CHUNK:
                base, offset = NOT_KEPT, 0
            if base == NOT_KEPT or length - offset > _TAKEN_BACK:
                session = self._next
                self._next = self._next % (2**32 - 1) + 1
            else:
                session = NOT_KEPT if base in taken else base
            planned.append(
                Prompt(
                    session=session,
                    base=base,
                    offset=offset // ID,
                    added=prompt[offset:],
                    digest=digest_of(prompt),
                )
            )
            if session != NOT_KEPT:
                taken[session] = prompt
        return planned

    def confirm(self, planned: Sequence[Prompt], prompts: Sequence[bytes]) -> None:
        """Note that the server has answered a request with these prompts."""
        for each, prompt in zip(planned, prompts, strict=True):
            if each.session != NOT_KEPT:
                self._put(each.session, prompt)
        while len(self._texts) > self._most:
            session, text = self._texts.popitem(last=False)
            for chunk in text.chunks:
                self._unlist(chunk, session)

    def clear(self) -> None:
        """Forget all: the server does not know a session that it should.

        Others with the same beginning may be gone as well.
        """
        self._texts.clear()
        self._having.clear()

    def _longest(self, prompt: bytes, taken: Mapping[int, bytes]) -> tuple[int, int, int]:
        """Return the session with the longest beginning of a prompt; zeros if there is none.

        Parameters
        ----------
        taken : mapping of int to bytes
            What sessions have after the prompts before this one.

        Returns
        -------
        tuple of (int, int, int)
            The session; the bytes of the beginning, and of the session's whole text.
        """
        chunks = _chunks(prompt)
        count = len(chunks)
        while count and chunks[count - 1] not in self._having:
            count -= 1
        # Short texts have no whole chunk.
        having = self._having[chunks[count - 1]] if count else self._texts
        best = (NOT_KEPT, 0, 0)
        for session in islice(reversed(having), _MOST_COMPARED):
            if session in taken:
                ids = taken[session]
                common = _common(prompt, ids)
            else:
                ids = self._texts[session].ids
                # Equal hashes are taken for equal chunks: the digest tells where they were not.
                common = _common(prompt, ids, begin=count * _CHUNK, most=_CHUNK)
            # Of several, the text that is taken back least.
            if common and (common, -len(ids)) > (best[1], -best[2]):
                best = (session, common, len(ids))
        return best

    def _put(self, session: int, ids: bytes) -> None:
        chunks = _chunks(ids)
        before = self._texts.pop(session, None)
        kept = before.chunks if before else []
        shared = 0
        while shared < min(len(kept), len(chunks)) and kept[shared] == chunks[shared]:
            shared += 1
        for chunk in kept[shared:]:
            self._unlist(chunk, session)
        for chunk in chunks[shared:]:
            self._having.setdefault(chunk, {})[session] = None
        self._texts[session] = _Text(ids, chunks)

    def _unlist(self, chunk: int, session: int) -> None:
        sessions = self._having[chunk]
        del sessions[session]
        if not sessions:
            del self._having[chunk]


@dataclass(frozen=True, kw_only=True)
class SessionAnswer:
    """What came of a call by sessions.

    Attributes
    ----------
    status : int
        The server's own HTTP status.
    body : bytes
        Of a reply with status 200: see `decode_reply`.
    sent_bytes : int
        Size of the bodies that were sent, of both where the first named an unknown session.
    """

    status: int
    body: bytes
    sent_bytes: int


class SessionClient:
    """The client's half of ``floe_plugins.middleware.ExpertSessions``, for one server.

    Used from one thread. A server says in every reply to a completion whether it keeps sessions:
    show them all to `heard`.

    Parameters
    ----------
    top_k : int
        Logprobs per token.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, *, top_k: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._top_k = top_k
        self._clock = clock
        self._client = secrets.token_bytes(CLIENT)
        self._known = KnownTexts()
        self._offered = False
        self._patience = _PATIENCE
        self._paused_until = -math.inf
        self._said: set[str] = set()

    @property
    def available(self) -> bool:
        """Whether the server keeps sessions, and they are not left alone for a while."""
        return self._offered and self._clock() >= self._paused_until

    def heard(self, headers: Headers) -> bool:
        """Note whether a server's reply to a completion offers sessions, and return it."""
        offers = (HEADER, b"%d" % VERSION) in [(name.lower(), value) for name, value in headers]
        self._offered = self._offered or offers
        return offers

    async def ask(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int, send: SendBody
    ) -> SessionAnswer | None:
        """Ask for the next tokens by what is new; if the server has lost that, by all once more.

        Returns
        -------
        SessionAnswer or None
            None if the call is to be made in the ordinary way.
        """
        if not self.available or len(prompts) > MOST_PROMPTS or steps > MOST_STEPS:
            return None
        if sum(map(len, prompts)) > MOST_IDS:
            return None
        sent = 0
        try:
            packed = [pack(prompt) for prompt in prompts]
            for _ in range(2):
                planned = self._known.plan(packed)
                body = self._body(planned, model, steps)
                sent += len(body)
                status, headers, received = await send(body)
                if not self.heard(headers) and status not in _NOT_ABOUT_SESSIONS:
                    self._offered = False
                    self._pause("offers sessions, and something before it takes no request of one")
                    return None
                if status != UNKNOWN:
                    if status == HTTPStatus.OK:
                        self._known.confirm(planned, packed)
                        self._patience = min(_PATIENCE, self._patience + _FOUND)
                    return SessionAnswer(status=status, body=received, sent_bytes=sent)
                self._lost()
        except WireError:
            return None
        return None

    def _body(self, planned: Sequence[Prompt], model: str, steps: int) -> bytes:
        return encode_request(
            SessionRequest(
                client=self._client,
                model=model,
                top_k=self._top_k,
                steps=steps,
                prompts=tuple(planned),
            )
        )

    def _lost(self) -> None:
        """Note that the server does not know a session of a request, or not as far."""
        self._known.clear()
        self._patience -= 1
        if self._patience <= 0:
            self._pause("keeps losing its sessions: perhaps several workers share its address")

    def _pause(self, why: str) -> None:
        self._paused_until = self._clock() + _PAUSE_S
        self._patience = _PATIENCE
        if why not in self._said:
            self._said.add(why)
            logger.warning(
                "The expert %s. It is sent whole texts, and sessions are tried again every %.0f s.",
                why,
                _PAUSE_S,
            )


def read_said(
    data: bytes, *, count: int
) -> tuple[list[list[int]], list[list[tuple[list[int], list[float]]]]]:
    """Read the tokens and rows of each of `count` prompts, as `checked_continuations` takes them.

    Raises
    ------
    ExpertError
        If the reply is malformed or has another number of prompts.
    """
    try:
        said = decode_reply(data)
    except WireError as error:
        raise ExpertError(f"The expert's reply by session is unusable: {error}") from None
    if len(said) != count:
        raise ExpertError(f"The expert's reply by session has not one part for each of {count}.")
    return [tokens for tokens, _ in said], [rows for _, rows in said]


def _chunks(ids: bytes) -> list[int]:
    """Return a hash for each whole chunk, of it and all before it."""
    chained = 0
    whole = range(0, len(ids) - _CHUNK + 1, _CHUNK)
    return [chained := hash((chained, ids[at : at + _CHUNK])) for at in whole]


def _common(one: bytes, other: bytes, *, begin: int = 0, most: int | None = None) -> int:
    """Return how many bytes of whole ids two texts begin with.

    Parameters
    ----------
    begin : int
        They are equal up to here.
    most : int, optional
        Bytes after `begin` that are compared; by default all.
    """
    end = min(len(one), len(other), begin + most if most else len(one))
    if one[begin:end] == other[begin:end]:
        return end
    ours, theirs = (np.frombuffer(each[begin:end], dtype="<u4") for each in (one, other))
    return begin + int(np.argmax(ours != theirs)) * ID
