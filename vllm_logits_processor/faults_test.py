"""Whole steps with an expert that fails in every way a server can, and then recovers.

The servers are real ones on loopback, see `testing.fake_expert`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from floe_plugins.routers import BUILT_IN_ROUTERS
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.expert.build import build_expert
from vllm_logits_processor.observe import FusionMetrics
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.testing.engines import EXPERT, HOST, PAIR, some_logits, stream_of
from vllm_logits_processor.testing.fake_expert import FakeExpert, completion, fake_expert
from vllm_logits_processor.warm_passes import make_pass

DEADLINE_S, FIRST_S, COOLDOWN_S, FAILURES = 0.1, 0.25, 0.4, 3
#: Time that a step may take beyond its deadline on a busy machine.
SLACK_S = 0.15

CAT = EXPERT.encode(b" cat")[0]


def well(body: dict[str, Any]) -> bytes:
    steps = [{CAT: math.log(0.9)}] * body["max_tokens"]
    return completion(*(steps for _ in body["prompt"]))


def hang(server: FakeExpert) -> None:
    server.delay_s = 3.0


def drip(server: FakeExpert) -> None:
    server.drips_s = 0.5


def come_late(server: FakeExpert) -> None:
    server.delay_s = DEADLINE_S + 0.03


def answer_500(server: FakeExpert) -> None:
    server.status = 500


def answer_429(server: FakeExpert) -> None:
    server.status = 429


def answer_garbage(server: FakeExpert) -> None:
    server.answer = lambda _: b'{"choices": ['


def answer_wrong_ids(server: FakeExpert) -> None:
    server.answer = lambda body: completion(*([{10**6: -1.0}] for _ in body["prompt"]))


def break_off(server: FakeExpert) -> None:
    server.breaks = True


def refuse(server: FakeExpert) -> None:
    server.refuses_connections = True


def heal(server: FakeExpert) -> None:
    server.delay_s = server.drips_s = 0.0
    server.status, server.answer = 200, well
    server.breaks = server.refuses_connections = False


FAULTS = [
    hang,
    drip,
    come_late,
    answer_500,
    answer_429,
    answer_garbage,
    answer_wrong_ids,
    break_off,
    refuse,
]


class Run:
    """An engine whose expert has real servers, and one decoding stream."""

    def __init__(
        self,
        servers: list[FakeExpert],
        *,
        deadline_s: float = DEADLINE_S,
        first_s: float = FIRST_S,
        **expert: Any,
    ) -> None:
        self.servers = servers
        urls = tuple(server.url for server in servers)
        self.config = FloeConfig(
            expert=ExpertConfig(
                url=urls if len(urls) > 1 else urls[0],
                model="slm",
                tokenizer="t",
                trusted=True,
                top_k=1,
                **expert,
            ),
            deadline_ms=1000 * deadline_s,
            first_deadline_ms=1000 * first_s,
            breaker_failures=FAILURES,
            breaker_cooldown_s=COOLDOWN_S,
        )
        self.states: list[str] = []
        pool = build_expert(
            self.config.expert,
            vocabulary=len(EXPERT),
            end_ids=PAIR.maps.end_ids,
            breaker_failures=FAILURES,
            breaker_cooldown_s=COOLDOWN_S,
            timeout_s=5.0,
            on_breaker=lambda *, url, state: self.states.append(state),
        )
        self.engine = FusionEngine(
            config=self.config,
            pair=PAIR,
            expert=pool,
            router=next(each for each in BUILT_IN_ROUTERS if each.name == "mean"),
            gate=None,
            metrics=FusionMetrics(port=None),
        )
        self.stream = self.open(b"The cat sat on the wa")
        self.longest_s = 0.0

    def open(self, text: bytes) -> Stream:
        return stream_of(self.engine, text)

    def step(self, *others: Stream) -> str:
        """Decode a token of each stream beside a row of the host's; return the first's outcome."""
        streams = dict(enumerate((self.stream, *others)))
        before = dict(self.stream.summary.tokens)
        logits = some_logits(len(streams) + 1)
        begun = time.monotonic()
        self.engine.begin_step(list(streams.values()))
        self.engine.decide(logits, streams).write(logits)
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        assert torch.equal(logits[-1], some_logits(len(streams) + 1)[-1])
        for stream in streams.values():
            stream.output_ids += HOST.encode(b" mat")
        after = self.stream.summary.tokens
        (outcome,) = [each for each in after if after[each] != before.get(each, 0)]
        return outcome

    def until(self, wanted: Callable[[str], bool], *, seconds: float) -> list[str]:
        """Decode until a step's outcome is wanted; return the outcomes."""
        outcomes: list[str] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            outcomes.append(self.step())
            if wanted(outcomes[-1]):
                return outcomes
            time.sleep(0.005)
        raise AssertionError(f"{outcomes[-20:]}, breaker {self.states}")

    @property
    def asked(self) -> int:
        return sum(len(server.requests) for server in self.servers)


@contextmanager
def running(count: int = 1, **expert: Any) -> Iterator[Run]:
    with ExitStack() as stack:
        servers = [stack.enter_context(fake_expert(well)) for _ in range(count)]
        run = Run(servers, **expert)
        stack.callback(run.engine.close)
        yield run


SETUPS: dict[str, dict[str, Any]] = {
    "one": {},
    "ahead": {"lookahead": 4},
    "hedged": {"count": 2, "hedge_ms": 20.0},
}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile what a server compiles when it starts."""
    make_pass()
    with running() as run:
        run.until(lambda outcome: outcome == "fused", seconds=60)


@pytest.mark.parametrize(
    ("fault", "setup"),
    [
        *((fault, "one") for fault in FAULTS),
        *((fault, "hedged") for fault in (hang, drip, come_late, answer_500, refuse)),
        *((fault, "ahead") for fault in (hang, come_late)),
    ],
)
def test_the_breaker_keeps_its_promise(fault: Callable[[FakeExpert], None], setup: str) -> None:
    with running(**SETUPS[setup]) as run:
        run.until(lambda outcome: outcome == "fused", seconds=3)
        for server in run.servers:
            fault(server)
        # Each server fails several times in a row, ...
        run.until(lambda outcome: outcome == "open", seconds=3)
        assert run.states.count("open") == len(run.servers)
        # ... then gets no calls but probes, and no step waits for those either.
        run.longest_s = 0.0
        asked, begun = run.asked, time.monotonic()
        outcomes = []
        while time.monotonic() < begun + 2.3 * COOLDOWN_S:
            outcomes.append(run.step())
            time.sleep(0.005)
        assert run.longest_s < SLACK_S
        # A long first call is inconclusive, and is followed by a second probe.
        probes = 2 * len(run.servers) * (2 if fault is come_late else 1)
        assert run.asked - asked <= probes
        # On a busy machine a probe may have failed before its own step looks at it.
        assert set(outcomes) <= {"open", "failed"}
        assert outcomes.count("failed") <= probes
        assert run.states.count("half-open") >= len(run.servers)
        for server in run.servers:
            heal(server)
        begun = time.monotonic()
        run.until(lambda outcome: outcome == "fused", seconds=3)
        # Another probe would come a cooldown later.
        assert time.monotonic() - begun < 2 * COOLDOWN_S + SLACK_S


def test_a_hanging_expert_costs_no_row_more_than_the_deadline() -> None:
    """Two fused rows and one of the host's; new requests arrive while no server replies."""
    threads = threading.active_count()
    with running() as run:
        other = run.open(b"A cat")
        run.step(other)
        for server in run.servers:
            server.delay_s = 1.5
        run.longest_s = 0.0
        begun, outcomes = time.monotonic(), set()
        while time.monotonic() < begun + 3 * COOLDOWN_S:
            newcomer = run.open(b"The mat")
            outcomes.add(run.step(other, newcomer))
            run.engine.end_stream(newcomer)
            time.sleep(0.005)
        assert outcomes == {"late", "open"}
        assert run.longest_s < DEADLINE_S + SLACK_S
        # Hanging calls are cancelled in the end.
        assert run.asked < 30
    assert threading.active_count() <= threads + 30


def test_a_newcomer_is_fused_from_where_it_is_when_its_reply_comes_late() -> None:
    with running(lookahead=4) as run:
        run.servers[0].delay_s = DEADLINE_S + 0.05
        assert run.step() == "reading"
        run.servers[0].delay_s = 0.0
        outcomes = run.until(lambda outcome: outcome == "fused", seconds=3)
        # On a busy machine the next call may miss its deadline, too.
        assert set(outcomes[:-1]) <= {"reading", "late"}
        assert run.states == ["closed"]


def test_rows_that_decode_do_not_wait_for_a_newcomers_reading() -> None:
    with running(deadline_s=0.6, first_s=5.0) as run:
        assert run.step() == "fused"
        read = threading.Event()

        def slow_to_read(body: dict[str, Any]) -> bytes:
            if EXPERT.encode(b"The") in body["prompt"]:
                read.wait(5)
            return well(body)

        run.servers[0].answer = slow_to_read
        newcomer = run.open(b"The")
        assert run.step(newcomer) == "fused"
        assert newcomer.summary.tokens == {"reading": 1}
        # From its second step on no step waits for it.
        run.longest_s = 0.0
        assert run.step(newcomer) == "fused"
        assert newcomer.summary.tokens == {"reading": 2}
        assert run.longest_s < 0.5
        read.set()
