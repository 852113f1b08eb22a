"""Runs steps of many streams along a text, and times what the serving process does in each."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, product
from pydoc_data.topics import topics
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from floe_plugins.gate import Decision, Gate
from floe_plugins.models import resolve
from floe_plugins.routers import EvidenceRouter
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import GEMMA, SMOLLM2
from integration_tests.benchmarks.step_cost.expert import TableExpert
from vllm_logits_processor import engine as engine_module
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.maps import load_maps
from vllm_logits_processor.alignment.prompt import Conversation
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine, Pair
from vllm_logits_processor.expert.dialects.dialect import Expected
from vllm_logits_processor.expert.dialects.vllm import VllmDialect
from vllm_logits_processor.expert.http import request_body
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.fusion import fused_cells
from vllm_logits_processor.observe import FusionMetrics
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import Stream

_PATIENCE_MS = 10_000.0
_SEEN_ROWS = 64


class Stretch(NamedTuple):
    """A piece of the text: the host's tokens of a prompt and of its continuation."""

    prompt: list[int]
    answer: list[int]


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure every number of rows and K, for a trusted expert and a gated one."""
    torch.set_num_threads(1)
    pair = load_pair()
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    gate = Gate(timeout_s=10)
    steps = options.warm_up + options.steps
    found = stretches(pair.host, text, gate, context=options.context, steps=steps)
    experts = {k: TableExpert(pair.expert.encode(text), k=k) for k in options.k}
    for _ in cli.progress(range(options.seen // (_SEEN_ROWS * steps)), "text seen before"):
        pieces = list(islice(found, _SEEN_ROWS))
        run(pair, next(iter(experts.values())), pieces, gate=None, warm_up=options.warm_up)
    # As vLLM does once a model is loaded: collections pass over what is there by then.
    gc.collect()
    gc.freeze()
    cases, wanted = [], []
    shapes = list(product((False, True), options.k, options.rows))
    for gated, k, rows in cli.progress(shapes, "cases"):
        case = run(
            pair,
            experts[k],
            list(islice(found, rows)),
            gate=gate if gated else None,
            warm_up=options.warm_up,
        )
        wanted += case.pop("wanted")
        cases.append({"rows": rows, "gated": gated, "k": k, **case})
    return {
        "host": GEMMA,
        "expert": SMOLLM2,
        "context": options.context,
        "seen": options.seen,
        "wanted": statistics.fmean(wanted),
        "cases": cases,
    }


def load_pair() -> Pair:
    """Load both tokenizers."""
    host, expert = (ByteVocabulary.from_pretrained(resolve(name)) for name in (GEMMA, SMOLLM2))
    expert.make_tables()
    return Pair(
        host=host,
        expert=expert,
        maps=load_maps(host, expert),
        conversation=Conversation(host, expert),
    )


def stretches(
    host: ByteVocabulary, text: bytes, gate: Gate, *, context: int, steps: int
) -> Iterator[Stretch]:
    """Yield pieces of a text that the gate clears, each with an answer of its own.

    Answers follow one another in the text, so that prompts overlap.
    """
    ids = host.encode(text)
    for begin in range(context, len(ids) - steps, steps):
        piece = Stretch(ids[begin - context : begin], ids[begin : begin + steps])
        whole = host.decode([*piece.prompt, *piece.answer]).decode("utf-8", "ignore")
        if gate.decide(whole).decision is Decision.CLEAR:
            yield piece


def run(
    pair: Pair, expert: TableExpert, pieces: list[Stretch], *, gate: Gate | None, warm_up: int
) -> dict[str, Any]:
    """Decode every piece as one row of the same steps; milliseconds are medians."""
    config = FloeConfig(
        expert=ExpertConfig(url="http://x", model="slm", tokenizer="t", trusted=gate is None),
        deadline_ms=_PATIENCE_MS,
        first_deadline_ms=_PATIENCE_MS,
    )
    pool = ExpertPool({"http://x": expert}, failures=3, cooldown_s=1.0)
    engine = FusionEngine(
        config=config,
        pair=pair,
        expert=pool,
        router=EvidenceRouter(),
        gate=gate,
        metrics=FusionMetrics(port=None),
    )
    streams: dict[int, Stream] = {}
    for row, piece in enumerate(pieces):
        stream = engine.new_stream(piece.prompt, [], RequestOptions(mode="fused"))
        assert stream is not None
        streams[row] = stream
    logits = torch.randn(len(pieces), len(pair.host), generator=torch.Generator().manual_seed(0))
    expected = Expected(
        top_k=config.expert.top_k,
        vocabulary=len(pair.expert),
        end_ids=np.asarray(pair.maps.end_ids),
        tokenizer=pair.expert,
    )
    times: dict[str, list[float]] = {}
    wanted, fused = [], 0
    for step in range(len(pieces[0].answer)):
        expert.asked = []
        begun = time.process_time()
        engine.begin_step(list(streams.values()))
        began = time.process_time()
        with _pass_timed() as passes:
            engine.decide(logits, streams)
        decided = time.process_time()
        if step >= warm_up:
            wanted.append(sum(map(len, expert.asked)) / len(pieces))
            fused += sum(stream.declined is None for stream in streams.values())
            spent = sum(passes)
            for name, seconds in (
                ("begin_ms", began - begun),
                ("decide_ms", decided - began - spent),
                ("calls_ms", _call_seconds(expert, expected) if expert.asked else 0.0),
                ("pass_ms", spent),
            ):
                times.setdefault(name, []).append(seconds * 1000)
        for stream, piece in zip(streams.values(), pieces, strict=True):
            stream.output_ids.append(piece.answer[step])
    for stream in streams.values():
        engine.end_stream(stream)
    count = len(pieces) * (len(pieces[0].answer) - warm_up)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "fused": fused / count,
        "wanted": wanted,
    }


def _call_seconds(expert: TableExpert, expected: Expected) -> float:
    """Return what the thread that calls the expert spends on the bodies of a step's calls."""
    dialect = VllmDialect(expected)
    took = 0.0
    for prompts in expert.asked:
        reply = expert.reply(prompts)
        begun = time.thread_time()
        request_body(dialect.body(prompts, model="slm", steps=1), {})
        dialect.read(reply, count=len(prompts), steps=1)
        took += time.thread_time() - begun
    return took


@contextmanager
def _pass_timed() -> Iterator[list[float]]:
    """Collect the processor seconds of alignment and of the cells that change."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run_timed(*arguments: Any, **options: Any) -> Any:
            begun = time.process_time()
            found = function(*arguments, **options)
            seconds.append(time.process_time() - begun)
            return found

        return run_timed

    with (
        patch.object(engine_module, "align", timed(align)),
        patch.object(engine_module, "fused_cells", timed(fused_cells)),
    ):
        yield seconds
