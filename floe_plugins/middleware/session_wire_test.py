from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.middleware.session_wire import (
    CLIENT,
    MOST_PROMPTS,
    MOST_STEPS,
    Prompt,
    SessionRequest,
    WireError,
    decode_reply,
    decode_request,
    digest_of,
    encode_reply,
    encode_request,
    most_reply_bytes,
    pack,
    unpack,
)
from floe_plugins.vllm_replies import Rows

NUMBERS = st.integers(0, 2**32 - 1)
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
PROMPTS = st.builds(
    lambda session, base, offset, ids: Prompt(
        session=session, base=base, offset=offset, added=pack(ids), digest=digest_of(pack(ids))
    ),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    IDS,
)

REQUESTS = st.builds(
    lambda model, top_k, steps, prompts: SessionRequest(
        client=b"c" * CLIENT, model=model, top_k=top_k, steps=steps, prompts=tuple(prompts)
    ),
    st.text(min_size=1, max_size=30),
    st.integers(0, 1000),
    st.integers(1, MOST_STEPS),
    st.lists(PROMPTS, min_size=1, max_size=4),
)
LOGPROBS = st.floats(max_value=0, width=32, allow_nan=False)
ROWS = st.lists(st.tuples(st.integers(0, 2**31 - 1), LOGPROBS), max_size=4).map(
    lambda pairs: ([each for each, _ in pairs], [each for _, each in pairs])
)
REPLIES: st.SearchStrategy[Rows] = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), ROWS), max_size=3).map(
        lambda steps: ([own for own, _ in steps], [row for _, row in steps])
    ),
    max_size=4,
)


ONE = Prompt(session=1, base=1, offset=900, added=pack([5]), digest=digest_of(b""))


def request_of(*prompts: Prompt, top_k: int = 20, steps: int = 1) -> SessionRequest:
    return SessionRequest(
        client=bytes(CLIENT), model="slm", top_k=top_k, steps=steps, prompts=prompts or (ONE,)
    )


@given(REQUESTS)
def test_a_request_comes_out_as_it_went_in(request: SessionRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(REPLIES)
def test_a_reply_comes_out_as_it_went_in_to_the_last_bit(said: Rows) -> None:
    assert decode_reply(encode_reply(said)) == said


@given(st.one_of(REQUESTS.map(encode_request), REPLIES.map(encode_reply)), st.data())
def test_what_is_cut_off_or_too_long_is_refused(message: bytes, data: st.DataObject) -> None:
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    for broken in (cut, message + b"\0"):
        for read in (decode_request, decode_reply):
            with pytest.raises(WireError):
                read(broken)


@given(st.binary(max_size=200), st.sampled_from([decode_request, decode_reply]))
def test_any_bytes_are_read_or_refused(data: bytes, read: Callable[[bytes], object]) -> None:
    with suppress(WireError):
        assert read(bytes([1]) + data) is not None


def test_one_streams_request_and_reply_are_small_however_long_the_text() -> None:
    assert len(encode_request(request_of())) == 51
    row = ([*range(20)], [-1.0] * 20)
    assert len(encode_reply([([7], [row])])) == 170
    assert most_reply_bytes(prompts=1, steps=1, top_k=20) >= 170


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (request_of(steps=0), "0 steps"),
        (request_of(steps=MOST_STEPS + 1), "65 steps"),
        (replace(request_of(), prompts=()), "0 prompts"),
        (request_of(*[ONE] * (MOST_PROMPTS + 1)), "1025 prompts"),
        (replace(request_of(), model=""), "0 bytes"),
        (replace(request_of(), model="m" * 2000), "2000 bytes"),
        (request_of(replace(ONE, offset=0, added=b"")), "empty"),
        (request_of(replace(ONE, added=pack([5, 2**31]))), "above"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_counts_and_ids_out_of_range_are_refused(request_: SessionRequest, said: str) -> None:
    with pytest.raises(WireError, match=said):
        decode_request(encode_request(request_))


def test_another_version_and_a_name_that_is_no_text_are_refused() -> None:
    body = bytearray(encode_request(request_of()))
    with pytest.raises(WireError, match="accepted is 1"):
        decode_request(bytes([2, *body[1:]]))
    with pytest.raises(WireError, match="accepted is 1"):
        decode_reply(struct.pack("<BH", 2, 0))
    body[body.index(b"slm")] = 0xFF
    with pytest.raises(WireError, match="not UTF-8"):
        decode_request(bytes(body))


def test_what_does_not_fit_is_refused() -> None:
    assert unpack(pack([0, 2**32 - 1])) == [0, 2**32 - 1]
    for ids in ([-1], [2**32]):
        with pytest.raises(WireError, match="32 bits"):
            pack(ids)
    with pytest.raises(WireError, match="too large"):
        encode_request(request_of(top_k=70_000))
    for row in (([5], [1e300]), ([-5], [-1.0]), ([5], [-1.0, -2.0])):
        with pytest.raises(WireError, match="too large"):
            encode_reply([([5], [row])])


def test_half_precision_would_round_what_single_precision_does_not() -> None:
    """The reason for float32: see the page about the format."""
    logits = np.random.default_rng(1).normal(scale=4, size=(200, 50_000)).astype(np.float32)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    top = -np.sort(-logprobs, axis=1)[:, :20]
    (_, rows), *_ = decode_reply(encode_reply([([0], [([*range(20)], top[0].tolist())])]))
    assert rows[0][1] == top[0].tolist()
    halves = np.abs(top.astype(np.float16).astype(np.float32) - top)
    assert 1e-3 < halves.max() < 5e-3
