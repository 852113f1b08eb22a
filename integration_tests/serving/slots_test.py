"""vLLM's V2 runner on a live engine writes what V1 writes, token for token.

Its kernels run in Triton's interpreter; the expert is the canned one of the V1 server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from integration_tests.harness import interpreted_triton
from integration_tests.harness.hosted import (
    HOST,
    Hosted,
    abort,
    finished,
    labelled,
    outcomes,
    streamed,
    with_adapter,
)
from integration_tests.harness.interpreted_servers import DRAFTS, Interpreted, ngrams
from integration_tests.harness.tiny_models import LONG_PROMPT, PROMPTS, TinyModels
from integration_tests.harness.vllm_servers import running
from vllm_logits_processor.runners.departures import IDLE_S
from vllm_logits_processor.testing.fake_expert import FakeExpert

#: Three slots for four prompts, and a cache of 192 tokens.
NARROW = ("--max-model-len", "128", "--num-gpu-blocks-override", "7", "--max-num-seqs", "3")
CHUNKED = ("--max-num-batched-tokens", "48")
WARM = ("--worker-cls", "integration_tests.harness.warm_worker.WarmWorker")
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Slots:
    """Servers on the V2 runner: without a section, with an expert, and drafting if it can."""

    bare: Hosted
    fused: Hosted
    drafting: Hosted | None = None
    #: Calls that the expert had received when all servers were ready.
    asked_at_start: int = 0


@pytest.fixture(scope="module")
def slots(
    tiny: TinyModels, canned: FakeExpert, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Slots]:
    folder = tmp_path_factory.mktemp("slots")
    traces = [folder / f"{name}.jsonl" for name in ("bare", "fused", "drafting")]
    variables = interpreted_triton.variables(folder)
    processor = ["--logits-processors", "vllm_logits_processor:FloeLogitsProcessor"]
    fused, drafting = (tiny.floe(canned, trace_file=str(trace)) for trace in traces[1:])
    bare = Interpreted(
        model=tiny.host,
        name="bare",
        core=0,
        arguments=["--max-model-len", "128", *processor],
        variables=variables,
    )
    specs = [
        bare,
        replace(
            bare,
            name="tiny",
            core=1,
            floe=fused,
            arguments=[*NARROW, *CHUNKED, *WARM, *with_adapter(tiny)],
        ),
    ]
    if DRAFTS:
        arguments = ["--max-model-len", "128", *ngrams(2)]
        specs.append(replace(bare, name="drafting", floe=drafting, arguments=arguments))
    before = len(canned.requests)
    with running(*specs, logs=folder) as servers:
        hosted = [Hosted(*each) for each in zip(servers, traces, strict=False)]
        bare_one, fused_one, *drafting_one = hosted
        yield Slots(
            bare_one,
            fused_one,
            drafting_one[0] if drafting_one else None,
            asked_at_start=len(canned.requests) - before,
        )


def test_the_runner_is_v2(slots: Slots) -> None:
    for hosted in filter(None, (slots.bare, slots.fused, slots.drafting)):
        assert "Using V2 Model Runner" in hosted.server.log.read_text()


def test_requests_that_vllm_makes_up_to_warm_up_are_dropped(slots: Slots) -> None:
    log = slots.fused.server.log.read_text()
    assert "warmed up with made-up requests" in log
    assert slots.asked_at_start == 0
    assert "floe_stream_finished" not in log
    assert not slots.fused.trace.exists()


def test_without_a_section_nothing_changes(slots: Slots, rows: Hosted) -> None:
    own = rows.server.tokens(PROMPTS, **HOST)
    assert slots.bare.server.tokens(PROMPTS) == own
    assert slots.fused.server.tokens(PROMPTS, **HOST) == own


def test_fused_as_on_v1_with_more_requests_than_slots(slots: Slots, rows: Hosted) -> None:
    ended = finished(slots.fused)
    fused = slots.fused.server.tokens(PROMPTS, **labelled("fused"))
    assert fused == rows.server.tokens(PROMPTS)
    assert outcomes(slots.fused, "fused") == {"fused": 24 * len(PROMPTS)}
    assert finished(slots.fused) == ended + len(PROMPTS)


def test_rows_of_chunks_are_left_alone(slots: Slots, rows: Hosted) -> None:
    options = {"max_tokens": 8}
    assert slots.fused.server.tokens(LONG_PROMPT, **options, **labelled("chunks")) == (
        rows.server.tokens(LONG_PROMPT, **options)
    )
    assert outcomes(slots.fused, "chunks") == {"fused": 8}


def test_preempted_requests_go_on_as_they_were(slots: Slots, rows: Hosted) -> None:
    long = {"max_tokens": 60, "ignore_eos": True}
    before, ended = slots.fused.server.counted("num_preemptions"), finished(slots.fused)
    together = slots.fused.server.tokens(PROMPTS[:3], **long, **labelled("preempted"))
    assert slots.fused.server.counted("num_preemptions") > before
    assert together == rows.server.tokens(PROMPTS[:3], **long)
    assert outcomes(slots.fused, "preempted") == {"fused": 180}
    assert finished(slots.fused) == ended + 3


def test_several_answers_fused_and_not(slots: Slots, rows: Hosted) -> None:
    options = {"n": 2, "seed": 3, "min_p": 1.0, "temperature": 0.8, "max_tokens": 8}
    twice = slots.fused.server.tokens(PROMPTS[1], **options)
    assert twice == 2 * rows.server.tokens(PROMPTS[1], max_tokens=8)


def test_structured_output_and_stop_strings(slots: Slots, rows: Hosted) -> None:
    structured = {"structured_outputs": {"choice": ["The mat was flat", "One hundred cats"]}}
    options = {**structured, "max_tokens": 40}
    assert slots.fused.server.complete(PROMPTS[0], **options) == (
        rows.server.complete(PROMPTS[0], **options)
    )
    (text,) = rows.server.complete(PROMPTS[2])
    assert slots.fused.server.complete(PROMPTS[2], stop=[text[8:11]]) == [
        text[: text.index(text[8:11])]
    ]


def test_streaming_says_the_same(slots: Slots, rows: Hosted) -> None:
    assert [streamed(slots.fused)] == rows.server.tokens(PROMPTS[0])


def test_an_aborted_answer_leaves_its_slot_clean(slots: Slots, rows: Hosted) -> None:
    # The end of the answer before is told of once the server has been idle, as this one's is.
    time.sleep(2 * IDLE_S)
    ended = finished(slots.fused)
    abort(slots.fused, max_tokens=100)
    # Nobody else is there: no step comes in which the end could be noticed.
    deadline = time.monotonic() + 30
    while finished(slots.fused) == ended and time.monotonic() < deadline:
        time.sleep(0.1)
    assert finished(slots.fused) == ended + 1
    assert slots.fused.server.tokens(PROMPTS) == rows.server.tokens(PROMPTS)
    assert 0 < outcomes(slots.fused, "aborted")["fused"] < 100


def test_an_adapter_of_the_host_is_fused_too(slots: Slots, rows: Hosted) -> None:
    tuned = slots.fused.server.tokens(PROMPTS, model="tuned", **labelled("tuned"))
    assert tuned == rows.server.tokens(PROMPTS, model="tuned")
    assert outcomes(slots.fused, "tuned").keys() == {"fused"}


@pytest.mark.skipif(not DRAFTS, reason="the V2 runner drafts n-grams from vLLM 0.32 on")
def test_drafted_rows_are_fused_as_if_one_came_after_the_other(slots: Slots, rows: Hosted) -> None:
    assert slots.drafting is not None
    prompts = [*PROMPTS, "The mat. The mat. The mat. The mat."]
    drafted = slots.drafting.server.tokens(prompts, max_tokens=48, **labelled("drafted"))
    assert drafted == rows.server.tokens(prompts, max_tokens=48)
    assert slots.drafting.server.counted("spec_decode_num_accepted_tokens") > 0
    seen = outcomes(slots.drafting, "drafted")
    assert seen.keys() == {"fused"}
    assert seen["fused"] > 48 * len(prompts)
