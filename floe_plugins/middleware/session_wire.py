"""What a host and an expert's server with sessions send each other: version 1 of the format.

All numbers are little-endian, and all token ids uint32. `docs/reference/serving.md` has the format
as tables. Both sides use this module.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from floe_plugins.vllm_replies import Rows

#: Media type of requests and replies in this format.
CONTENT_TYPE = b"application/x-floe"
#: The response header by which a server says which version it speaks.
HEADER = b"floe-sessions"
VERSION = 1
#: The HTTP status that asks for the whole text: a session is not known, or not as far.
UNKNOWN = 409

#: Bytes of one token id.
ID = 4
#: Bytes of a client's name, drawn at random: nobody else finds its sessions.
CLIENT = 12
#: Stands for a session's number: the text is not kept.
NOT_KEPT = 0
MOST_PROMPTS = 1024
MOST_STEPS = 64
#: Most ids of all prompts of a request together, for few bytes may name long sessions.
MOST_IDS = 2**20
_MOST_MODEL = 1024
_MOST_ID = 2**31 - 1

_REQUEST = struct.Struct(f"<B{CLIENT}sBHHH")
_DIGEST = 8
_PROMPT = struct.Struct(f"<IIII{_DIGEST}s")
_REPLY = struct.Struct("<BH")
_STEP = struct.Struct("<IH")


class WireError(ValueError):
    """A message that is not of this format; the sentence holds nothing of it but counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt: the beginning of a text that the server knows, and what follows.

    Attributes
    ----------
    session : int
        The client's number for the session that has this text from now on, or `NOT_KEPT`.
    base, offset : int
        The session that has the beginning, as the prompts before this one leave it, and how many of
        its ids that are. It may be `session` itself; with an offset of 0 it does not matter.
    added : bytes
        The following ids, as `pack` gives them.
    digest : bytes
        `digest_of` the whole prompt: what the server rebuilds is this or nothing.
    """

    session: int
    base: int
    offset: int
    added: bytes
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRequest:
    """One request for the next tokens of several prompts.

    Attributes
    ----------
    client : bytes
        The client's random name, `CLIENT` bytes.
    top_k : int
        Logprobs per step.
    steps : int
        How many tokens follow each prompt.
    """

    client: bytes
    model: str
    top_k: int
    steps: int
    prompts: tuple[Prompt, ...]


def pack(ids: Sequence[int]) -> bytes:
    """Return token ids as bytes.

    Raises
    ------
    WireError
        If one does not fit.
    """
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error:
        raise WireError("There are token ids below 0 or above 32 bits.") from None


def unpack(packed: bytes) -> list[int]:
    """Return the token ids that `pack` has packed."""
    ids: list[int] = np.frombuffer(packed, dtype="<u4").tolist()
    return ids


def digest_of(packed: bytes) -> bytes:
    """Return a short hash of packed ids."""
    return blake2b(packed, digest_size=_DIGEST).digest()


def encode_request(request: SessionRequest) -> bytes:
    """Return the body of a request.

    Raises
    ------
    WireError
        If a number or the model's name does not fit.
    """
    model = request.model.encode()
    try:
        parts = [
            _REQUEST.pack(
                VERSION,
                request.client,
                request.steps,
                request.top_k,
                len(model),
                len(request.prompts),
            ),
            model,
        ]
        for each in request.prompts:
            count = len(each.added) // ID
            parts.append(
                _PROMPT.pack(each.session, each.base, each.offset, count, each.digest) + each.added
            )
    except struct.error:
        raise WireError("A number of the request is too large.") from None
    return b"".join(parts)


def decode_request(data: bytes) -> SessionRequest:
    """Read the body of a request, and check it as far as it says itself.

    Raises
    ------
    WireError
        If it is of another version, cut off or too long, or a count or an id is out of range.
    """
    reader = _Reader(data)
    version, client, steps, top_k, model_bytes, count = reader.take(_REQUEST)
    if version != VERSION:
        raise WireError(f"The version is {version}; accepted is {VERSION}.")
    if not 1 <= steps <= MOST_STEPS or not 1 <= count <= MOST_PROMPTS:
        raise WireError(
            f"The request has {steps} steps and {count} prompts; accepted are 1 to {MOST_STEPS} "
            f"and 1 to {MOST_PROMPTS}."
        )
    if not 1 <= model_bytes <= _MOST_MODEL:
        raise WireError(f"The model's name has {model_bytes} bytes; accepted are 1 to 1024.")
    try:
        model = reader.bytes(model_bytes).decode()
    except UnicodeDecodeError:
        raise WireError("The model's name is not UTF-8.") from None
    prompts = []
    for _ in range(count):
        session, base, offset, ids, digest = reader.take(_PROMPT)
        added = reader.bytes(ids * ID)
        if not offset + ids:
            raise WireError("A prompt is empty.")
        if ids and int(np.frombuffer(added, dtype="<u4").max()) > _MOST_ID:
            raise WireError(f"There are token ids above {_MOST_ID}.")
        prompts.append(
            Prompt(session=session, base=base, offset=offset, added=added, digest=digest)
        )
    reader.end()
    return SessionRequest(
        client=client, model=model, top_k=top_k, steps=steps, prompts=tuple(prompts)
    )


def encode_reply(said: Rows) -> bytes:
    """Return the body of a reply.

    Logprobs are float32, which is what vLLM computes them in: nothing is rounded.

    Raises
    ------
    WireError
        If a number does not fit.
    """
    try:
        parts = [_REPLY.pack(VERSION, len(said))]
        for tokens, rows in said:
            parts.append(struct.pack("<B", len(tokens)))
            for own, (ids, logprobs) in zip(tokens, rows, strict=True):
                count = len(ids)
                parts.append(_STEP.pack(own, count))
                parts.append(struct.pack(f"<{count}I{count}f", *ids, *logprobs))
    except (struct.error, OverflowError, ValueError):
        raise WireError("A number of the reply is too large, or a row incomplete.") from None
    return b"".join(parts)


def decode_reply(data: bytes) -> Rows:
    """Read the body of a reply.

    Raises
    ------
    WireError
        If it is of another version, cut off or too long.
    """
    reader = _Reader(data)
    version, prompts = reader.take(_REPLY)
    if version != VERSION:
        raise WireError(f"The version is {version}; accepted is {VERSION}.")
    said: Rows = []
    for _ in range(prompts):
        tokens, rows = [], []
        for _ in range(reader.bytes(1)[0]):
            own, count = reader.take(_STEP)
            numbers = struct.unpack(f"<{count}I{count}f", reader.bytes(count * 2 * ID))
            tokens.append(own)
            rows.append(([*numbers[:count]], [*numbers[count:]]))
        said.append((tokens, rows))
    reader.end()
    return said


def most_reply_bytes(*, prompts: int, steps: int, top_k: int) -> int:
    """Return the size of the largest reply; vLLM may add the sampled token to the top K.

    A refusal is no larger than 1 kB.
    """
    return 1024 + _REPLY.size + prompts * (1 + steps * (_STEP.size + (top_k + 1) * 2 * ID))


class _Reader:
    """Takes a message apart, from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, format_: struct.Struct) -> tuple[Any, ...]:
        return format_.unpack(self.bytes(format_.size))

    def bytes(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise WireError(f"The message ends after {len(self._data)} bytes, within a part.")
        self._at += count
        return part

    def end(self) -> None:
        if self._at != len(self._data):
            raise WireError(f"The message has {len(self._data) - self._at} bytes too many.")
