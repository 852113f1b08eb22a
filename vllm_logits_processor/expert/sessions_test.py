from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from floe_plugins.middleware.asgi import App
from floe_plugins.middleware.expert_sessions import ExpertSessions, SessionSettings
from floe_plugins.middleware.session_wire import (
    CONTENT_TYPE,
    HEADER,
    ID,
    MOST_IDS,
    NOT_KEPT,
    UNKNOWN,
    decode_request,
    encode_reply,
    pack,
)
from floe_plugins.testing.completions import CompletionsServer, post, row_of
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.expert.sessions import (
    Headers,
    KnownTexts,
    SessionAnswer,
    SessionClient,
    read_said,
)

ANNOUNCED = (HEADER, b"1")
PROMPT = [*range(500, 700)]


class Line:
    """What is between a client and a server that keeps sessions, and what may happen there."""

    def __init__(self, server_settings: SessionSettings | None = None) -> None:
        self.vllm = CompletionsServer()
        self.settings = server_settings or SessionSettings()
        self.key = "one"
        self.bodies: list[bytes] = []
        self.lose_reply = False
        self.now = 1000.0
        self.restart()
        self.sessions = SessionClient(top_k=4, clock=lambda: self.now)
        self.sessions.heard([ANNOUNCED])

    def restart(self) -> None:
        self.server: App = ExpertSessions(self.vllm, settings=self.settings)

    async def send(self, body: bytes) -> tuple[int, Headers, bytes]:
        self.bodies.append(body)
        reply = await post(self.server, body, content_type=CONTENT_TYPE, key=self.key)
        if self.lose_reply:
            raise ExpertError("The reply was lost.")
        return reply

    def ask(self, *prompts: Sequence[int], steps: int = 1) -> SessionAnswer | None:
        sent = self.sessions.ask(prompts, model="slm", steps=steps, send=self.send)
        return asyncio.run(sent)

    def asks_right(self, *prompts: Sequence[int]) -> SessionAnswer:
        """Ask, and check that the server was asked about these prompts and answered them."""
        answer = self.ask(*prompts)
        assert answer is not None
        assert answer.status == 200
        assert self.vllm.bodies[-1]["prompt"] == [[*each] for each in prompts]
        tokens, rows = read_said(answer.body, count=len(prompts))
        assert rows == [[row_of(each, top_k=4)] for each in prompts]
        assert tokens == [row[0][0][:1] for row in rows]
        return answer


@pytest.fixture
def line() -> Line:
    return Line()


def test_a_growing_text_costs_as_much_at_every_token(line: Line) -> None:
    text = [*PROMPT]
    line.asks_right(text)
    sizes = []
    for token in range(100):
        text.append(token)
        sizes.append(line.asks_right(text).sent_bytes)
    assert set(sizes) == {51}


def test_text_that_was_taken_back_goes_on_in_its_session(line: Line) -> None:
    line.asks_right(PROMPT)
    for shorter in (PROMPT[:-3], [*PROMPT[:-10], 1], PROMPT):
        assert line.asks_right(shorter).sent_bytes < 110
        (prompt,) = decode_request(line.bodies[-1]).prompts
        assert prompt.session == prompt.base == 1


def test_covers_of_one_text_build_upon_it_and_are_not_kept(line: Line) -> None:
    text = [*PROMPT]
    for token in range(40):
        text.append(token)
        covers = [text, text[:-1], [*text[:-2], 900]]
        size = line.asks_right(*covers).sent_bytes
        first, *others = decode_request(line.bodies[-1]).prompts
        assert first.session == 1
        assert {each.session for each in others} == {NOT_KEPT}
        if token:
            assert size < 110


def test_streams_with_one_beginning_share_it_and_part(line: Line) -> None:
    """As samples of one prompt, whose texts are equal at first."""
    streams = [[*PROMPT] for _ in range(6)]
    line.asks_right(*streams)
    assert len(line.bodies[-1]) < 4 * len(PROMPT) + 200
    sizes = []
    for step in range(120):
        for number, stream in enumerate(streams):
            stream.append((step * 7 + number) % 900)
        sizes.append(line.asks_right(*streams).sent_bytes)
    assert max(sizes) < 24 + 6 * (24 + 4 * 40)
    assert sizes[-1] == 23 + 6 * 28


def test_streams_that_come_in_turns_keep_their_sessions(line: Line) -> None:
    streams = [[number * 100 + each for each in range(30)] for number in range(8)]
    for stream in streams:
        line.asks_right(stream)
    order = random.Random(0)
    for step in range(200):
        stream = order.choice(streams)
        stream.append(step)
        assert line.asks_right(stream).sent_bytes == 51


def test_a_restart_costs_one_call_and_no_token(line: Line) -> None:
    line.asks_right(PROMPT)
    line.restart()
    before = len(line.bodies)
    line.asks_right([*PROMPT, 1])
    assert len(line.bodies) == before + 2
    assert line.asks_right([*PROMPT, 1, 2]).sent_bytes == 51


def test_what_is_sent_again_builds_upon_no_session_that_may_be_lost_too(line: Line) -> None:
    streams = [[*PROMPT, number] * 20 for number in range(3)]
    for stream in streams:
        line.asks_right(stream)
    line.restart()
    for number, stream in enumerate(streams):
        before = len(line.bodies)
        line.asks_right([*stream, 1])
        assert len(line.bodies) == before + (1 if number else 2)


def test_a_lost_reply_leaves_what_was_known_before(line: Line) -> None:
    line.asks_right(PROMPT)
    line.lose_reply = True
    with pytest.raises(ExpertError):
        line.ask([*PROMPT, 1])
    line.lose_reply = False
    assert line.asks_right([*PROMPT, 1, 2]).sent_bytes == 55


def test_a_detour_whose_reply_was_lost_does_not_become_part_of_the_text(line: Line) -> None:
    """The server's session has another text of that length by then: only the digest tells."""
    line.asks_right(PROMPT)
    line.lose_reply = True
    with pytest.raises(ExpertError):
        line.ask([*PROMPT[:-5], 1, 2, 3, 4, 5, 6])
    line.lose_reply = False
    before = len(line.bodies)
    line.asks_right([*PROMPT, 7])
    assert len(line.bodies) == before + 2


def test_another_key_opens_sessions_of_its_own(line: Line) -> None:
    line.asks_right(PROMPT)
    line.key = "two"
    before = len(line.bodies)
    line.asks_right([*PROMPT, 1])
    assert len(line.bodies) == before + 2


def test_workers_in_turns_end_the_sessions_for_a_while(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has only half of what the client has sent."""
    workers = [ExpertSessions(line.vllm, settings=line.settings) for _ in range(2)]
    text, plain = [*PROMPT], 0
    with caplog.at_level(logging.WARNING):
        for step in range(60):
            text.append(step)
            line.server = workers[len(line.bodies) % 2]
            answer = line.ask(text)
            if answer is None:
                plain += 1
            else:
                assert answer.status == 200
                assert line.vllm.bodies[-1]["prompt"] == [text]
    assert plain > 40
    assert "keeps losing its sessions" in caplog.text
    line.now += 61
    assert line.sessions.available


async def _answered(status: int, headers: Headers = ()) -> tuple[int, Headers, bytes]:
    return status, headers, b""


@pytest.mark.parametrize("status", [400, 404, 413, 415, 200])
def test_a_server_that_takes_no_sessions_is_asked_as_before(line: Line, status: int) -> None:
    """Such as one that was restarted without them, or that has a privacy gate in front of them."""
    sent = line.sessions.ask([PROMPT], model="slm", steps=1, send=lambda _: _answered(status))
    assert asyncio.run(sent) is None
    assert not line.sessions.available
    # Not even if its other replies announce them.
    line.sessions.heard([ANNOUNCED])
    assert not line.sessions.available
    line.now += 61
    assert line.sessions.available


@pytest.mark.parametrize("status", [401, 429, 500, 502, 503])
def test_an_error_that_says_nothing_of_sessions_is_the_calls(line: Line, status: int) -> None:
    sent = line.sessions.ask([PROMPT], model="slm", steps=1, send=lambda _: _answered(status))
    answer = asyncio.run(sent)
    assert answer is not None
    assert answer.status == status
    assert line.sessions.available


def test_a_batch_with_too_many_ids_goes_the_ordinary_way_and_sessions_go_on(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.asks_right(PROMPT)
    before = len(line.bodies)
    half = [7] * (MOST_IDS // 2)
    with caplog.at_level(logging.WARNING):
        assert line.ask(half, half, [7]) is None
    assert len(line.bodies) == before
    assert caplog.records == []
    assert line.sessions.available
    assert line.asks_right([*PROMPT, 1]).sent_bytes == 51


def test_an_unknown_session_is_asked_once_more_and_no_further(line: Line) -> None:
    calls = []

    async def forgetful(body: bytes) -> tuple[int, Headers, bytes]:
        calls.append(body)
        return UNKNOWN, [ANNOUNCED], b""

    assert asyncio.run(line.sessions.ask([PROMPT], model="slm", steps=1, send=forgetful)) is None
    assert len(calls) == 2


def test_nothing_is_sent_before_the_server_has_offered_sessions() -> None:
    sessions = SessionClient(top_k=4)
    assert not sessions.available
    for headers in ([], [(HEADER, b"2")], [(b"server", b"1")]):
        assert not sessions.heard(headers)
        assert not sessions.available
    assert sessions.heard([(b"Floe-Sessions", b"1")])
    assert sessions.available


@pytest.mark.parametrize(
    ("prompts", "steps"), [([[-1]], 1), ([[2**32]], 1), ([[1]], 65), ([[1]] * 1025, 1)]
)
def test_what_the_format_cannot_hold_goes_the_ordinary_way(
    line: Line, prompts: list[list[int]], steps: int
) -> None:
    assert line.ask(*prompts, steps=steps) is None
    assert line.bodies == []


@pytest.mark.parametrize("body", [b"", b"\2\0\0", b"\1\1\0", encode_reply([])])
def test_a_malformed_reply_is_an_error_of_the_expert(body: bytes) -> None:
    with pytest.raises(ExpertError, match="reply by session"):
        read_said(body, count=1)


#: What may happen: a stream grows, is taken back, is copied with what follows; and the rest.
EVENTS = st.one_of(
    st.tuples(st.just("grow"), st.integers(0, 5), st.integers(1, 70)),
    st.tuples(st.just("take back"), st.integers(0, 5), st.integers(1, 90)),
    st.tuples(st.just("fork"), st.integers(0, 5), st.integers(1, 90)),
    st.tuples(st.just("covers"), st.integers(0, 5), st.integers(1, 4)),
    st.tuples(st.just("detour"), st.integers(0, 5), st.integers(1, 16)),
    st.tuples(
        st.sampled_from(["all", "restart", "key", "lose", "other worker", "later"]),
        st.just(0),
        st.just(0),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(EVENTS, max_size=60),
    st.randoms(use_true_random=False),
    st.sampled_from([(1, 100), (3, 300), (8, 10_000)]),
)
def test_what_the_server_rebuilds_is_the_whole_text_or_the_client_falls_back(
    events: list[tuple[str, int, int]], chance: random.Random, bounds: tuple[int, int]
) -> None:
    sessions, ids = bounds
    line = Line(SessionSettings(sessions=sessions, ids=ids))
    streams: list[list[int]] = [[1, 2, 3]]
    workers: list[App] = [line.server, ExpertSessions(line.vllm, settings=line.settings)]

    def more(count: int) -> list[int]:
        # Few different ids: texts are equal by chance, too.
        return [chance.randrange(3) for _ in range(count)]

    for event, number, size in events:
        stream = streams[number % len(streams)]
        asked = [stream]
        match event:
            case "grow":
                stream.extend(more(size))
            case "take back":
                del stream[max(1, len(stream) - size) :]
            case "fork":
                streams.append([*stream[: max(1, len(stream) - size)], *more(3)])
                asked = streams[-1:]
            case "covers":
                asked = [stream, *([*stream[:-cut], 7] for cut in range(1, size))]
            case "detour":
                # The server gets another text in the session, and the client hears nothing of it.
                line.lose_reply = True
                with suppress(ExpertError):
                    line.ask([*stream[: max(1, len(stream) - size)], *more(size + 1)])
                line.lose_reply = False
                stream.extend(more(1))
            case "all":
                asked = streams
            case "restart":
                line.restart()
                workers[0] = line.server
            case "key":
                line.key = chance.choice(["one", "two"])
            case "lose":
                line.lose_reply = True
            case "other worker":
                line.server = chance.choice(workers)
            case "later":
                line.now += 61
        seen = len(line.vllm.bodies)
        try:
            answer = line.ask(*asked)
        except ExpertError:
            line.lose_reply = False
            continue
        if answer is None:
            # Two misses, or a pause: the ordinary request has the whole text.
            assert len(line.vllm.bodies) == seen
            continue
        assert answer.status == 200
        assert [body["prompt"] for body in line.vllm.bodies[seen:]] == [asked]
        _, rows = read_said(answer.body, count=len(asked))
        assert rows == [[row_of(each, top_k=4)] for each in asked]


def test_requests_in_flight_at_once_are_each_right() -> None:
    line = Line()
    text = [*PROMPT]
    line.asks_right(text)
    line.vllm.bodies.clear()

    async def run() -> list[Any]:
        longer = [[*text, *range(count)] for count in (1, 5, 2)] + [text[:-4]]
        calls = [line.sessions.ask([each], model="slm", steps=1, send=line.send) for each in longer]
        for answer, each in zip(await asyncio.gather(*calls), longer, strict=True):
            assert answer is not None
            assert read_said(answer.body, count=1)[1] == [[row_of(each, top_k=4)]]
        return longer

    sent = asyncio.run(run())
    assert sorted(body["prompt"][0] for body in line.vllm.bodies) == sorted(sent)
    line.asks_right([*text, 9])


def test_few_texts_are_remembered() -> None:
    known = KnownTexts(most=3)
    for number in range(10):
        prompts = [pack([number] * 100)]
        known.confirm(known.plan(prompts), prompts)
    assert len(known) == 3
    assert len(known._having) == 3 * 3


def test_a_step_costs_less_than_the_texts_in_json() -> None:
    """Eight streams of 2,000 tokens, with covers."""
    known = KnownTexts()
    texts = [[number, *range(2000)] for number in range(8)]
    ours, json_s = [], []
    for step in range(20):
        prompts = []
        for text in texts:
            text.append(step)
            prompts += [text, text[:-1], text[:-2]]
        begun = time.perf_counter()
        json.dumps(prompts)
        json_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        packed = [pack(prompt) for prompt in prompts]
        planned = known.plan(packed)
        known.confirm(planned, packed)
        ours.append(time.perf_counter() - begun)
        if step:
            assert sum(len(each.added) for each in planned) == 8 * ID
    assert min(ours) < min(json_s)
