"""Milliseconds of fusion after the expert has answered, against those of one ``log_softmax``.

What is timed is all that a step does with the expert's words and the host's rows: stacking the
words, alignment, the router, the cells that change, and writing them. The yardstick is
``torch.log_softmax`` of the same rows, as one would call it, and once more into memory that is held
ready, which spares it the page faults. The floor is one sum over the rows: reading them once.
Milliseconds are those of the thread on its core, which on an idle machine are those of the clock:
neither side waits for anything, and what else the machine does is not to count.

Maps and top-K are real where the embedded models are installed: Gemma-3-270M hosts (262,144
tokens), and SmolLM2 says what follows a text of its own. A smaller vocabulary is that of Gemma cut
off: its first tokens are the frequent ones. Without the models, group sizes follow Zipf's law, as
the real ones roughly do (the largest group, all that begins with a blank, is 6 % of the
vocabulary), and so does the choice of expert tokens.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from floe_plugins.routers import EvidenceRouter
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.models import GEMMA, SMOLLM2
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, load_maps, maps_from_firsts
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.lookahead import stacked
from vllm_logits_processor.fusion import fused_cells, weigh

ROWS = (1, 8, 32)
VOCABULARIES = (151_936, 262_144)
TOP_K = (20, 100, 1000)

#: The aim: at most so many times log_softmax, for so many rows.
AIM, AIMED_ROWS = 2.0, (8, 32)

TEXT = (
    "Question: A farmer keeps 14 hens, each of which lays 5 eggs a week. She sells the eggs by the "
    "dozen at 3 dollars. How much does she earn in 6 weeks?\nAnswer: The hens lay 14 * 5 = 70 eggs "
    "a week, which makes 420 eggs in 6 weeks, or 35 dozen. She earns 35 * 3 = 105 dollars.\n\n"
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One number of rows, vocabulary and K.

    Attributes
    ----------
    rows, vocabulary, k : int
    members : int
        Host tokens in the known groups, mean of the rows.
    apply_ms : float
        Milliseconds of fusion, median.
    log_softmax_ms : float
        Milliseconds of ``torch.log_softmax``, median.
    ratio : float
        The former over the latter.
    log_softmax_ready_ms, ratio_ready : float
        The same with log_softmax's output in memory that is held ready.
    floor_ms : float
        Milliseconds of one sum over the rows.
    """

    rows: int
    vocabulary: int
    k: int
    members: int
    apply_ms: float
    log_softmax_ms: float
    ratio: float
    log_softmax_ready_ms: float
    ratio_ready: float
    floor_ms: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Maps and what an expert says, real or made up; `top` has many rows and the largest K."""

    maps: AlignmentMaps
    top: ExpertTopK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Cost of fusion after the join, against log_softmax; one thread.")
    for name, values in (("--rows", ROWS), ("--vocabulary", VOCABULARIES), ("--k", TOP_K)):
        shown = ", ".join(str(value) for value in values)
        parser.add_argument(name, type=int, nargs="+", default=values, help=f"default: {shown}")
    parser.add_argument("--repeats", type=int, default=25, help="timed runs of each (default: 25)")
    parser.add_argument("--synthetic", action="store_true", help="leave the models alone")
    options = parser.parse_args(arguments)
    if min(*options.rows, *options.vocabulary, *options.k, options.repeats) < 1:
        parser.error("--rows, --vocabulary, --k and --repeats are at least 1")
    torch.set_num_threads(1)
    embedded = None if options.synthetic else _embedded(max(options.k), max(options.rows))
    cases = []
    for vocabulary in options.vocabulary:
        pair = _cut(embedded, vocabulary) or synthetic(vocabulary, k=max(options.k))
        chosen = [(rows, k) for rows in options.rows for k in options.k]
        for rows, k in cli.progress(chosen, f"{vocabulary} tokens"):
            cases.append(
                measure(pair, rows=rows, vocabulary=vocabulary, k=k, times=options.repeats)
            )
    cli.show(
        options,
        {"maps": "synthetic" if embedded is None else f"{GEMMA} with {SMOLLM2}"}
        | {"aim": AIM, "cases": [asdict(case) for case in cases]},
        header=[field.name for field in fields(Case)],
        rows=[list(asdict(case).values()) for case in cases],
        remarks=[
            _conclusion(cases),
            f"Medians of {options.repeats} interleaved runs on one thread; its own milliseconds.",
        ],
    )
    return 0


def _conclusion(cases: Sequence[Case]) -> str:
    """Hold the cases that the aim is about against it."""
    aimed = [case for case in cases if case.rows in AIMED_ROWS]
    if not aimed:
        return f"None of the rows that the aim is about ({AIMED_ROWS})."
    worst = max(aimed, key=lambda case: case.ratio)
    met = sum(case.ratio <= AIM for case in aimed)
    return (
        f"At most {AIM:g} times log_softmax, the aim at {' and '.join(map(str, AIMED_ROWS))} rows, "
        f"in {met} of {len(aimed)} cases; at worst {worst.ratio:.2f} ({worst.rows} rows of "
        f"{worst.vocabulary:,}, K = {worst.k:,})."
    )


def measure(pair: Pair, *, rows: int, vocabulary: int, k: int, times: int) -> Case:
    """Measure one case."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(rows, vocabulary, generator=generator) * 3
    logits, ready = before.clone(), torch.empty_like(before)
    words = [
        ExpertTopK(token_ids=row.token_ids[:, :k], logprobs=row.logprobs[:, :k])
        for row in (pair.top.row(at % len(pair.top.token_ids)) for at in range(rows))
    ]
    places, evidence, router = np.arange(rows), np.zeros(rows), EvidenceRouter()

    def fuse() -> int:
        aligned = align(logits, places, stacked(words), pair.maps)
        cells = fused_cells(logits, places, aligned, weigh(router, aligned, evidence))
        cells.write(logits)
        return int(aligned.groups.sizes.sum())

    members = fuse()
    measured: dict[str, list[float]] = {}
    tasks: dict[str, Callable[[], object]] = {
        "apply": fuse,
        "log_softmax": lambda: torch.log_softmax(logits, dim=-1),
        "ready": lambda: torch.log_softmax(logits, dim=-1, out=ready),
        "floor": lambda: logits.sum(dim=-1),
    }
    for _ in range(times):
        for name, task in tasks.items():
            # The forward pass has just written the rows.
            logits.copy_(before)
            begun = time.thread_time()
            task()
            measured.setdefault(name, []).append((time.thread_time() - begun) * 1000)
    ms = {name: statistics.median(values) for name, values in measured.items()}
    return Case(
        rows=rows,
        vocabulary=vocabulary,
        k=k,
        members=members // rows,
        apply_ms=ms["apply"],
        log_softmax_ms=ms["log_softmax"],
        ratio=ms["apply"] / ms["log_softmax"],
        log_softmax_ready_ms=ms["ready"],
        ratio_ready=ms["apply"] / ms["ready"],
        floor_ms=ms["floor"],
    )


def synthetic(vocabulary: int, *, k: int, rows: int = 32) -> Pair:
    """Make up maps and an expert's words, by Zipf's law."""
    random = np.random.default_rng(vocabulary)
    experts = max(k, vocabulary // 5)
    ranks = np.arange(1, experts + 1)
    owners = random.choice(experts, size=vocabulary, p=(1 / ranks) / (1 / ranks).sum())
    maps = maps_from_firsts(
        owners.astype(np.int32), random.integers(0, vocabulary, experts).astype(np.int32)
    )
    # For one in sixteen, g leads out of the group, as it does for the real pair.
    maps.extra[random.random(experts) > 1 / 16] = NOTHING
    shares = ranks**-0.5 / (ranks**-0.5).sum()
    ids = np.stack([random.choice(experts, size=k, replace=False, p=shares) for _ in range(rows)])
    masses = -np.sort(-random.dirichlet(np.full(k + 1, 0.05), rows)[:, :k])
    return Pair(
        maps=maps, top=ExpertTopK(token_ids=ids, logprobs=np.log(np.maximum(masses, 1e-30)))
    )


def _embedded(k: int, rows: int) -> Pair | None:
    """Return the embedded models' maps and what SmolLM2 says along a text; None without them."""
    try:
        host, expert = resolve(GEMMA), resolve(SMOLLM2)
    except FloeError as error:
        cli.note(f"{error} Synthetic maps are used.")
        return None
    vocabulary = ByteVocabulary.from_pretrained(expert)
    maps = load_maps(ByteVocabulary.from_pretrained(host), vocabulary)
    model = AutoModelForCausalLM.from_pretrained(expert, dtype=torch.float32)
    tokens = torch.tensor([vocabulary.encode(TEXT.encode())])
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(tokens).logits[0, -rows:].double(), dim=-1)
    best = logprobs.topk(k, dim=-1)
    return Pair(
        maps=maps,
        top=ExpertTopK(token_ids=best.indices.numpy(), logprobs=best.values.numpy()),
    )


def _cut(pair: Pair | None, vocabulary: int) -> Pair | None:
    """Leave the host its first `vocabulary` tokens; None where it has not as many."""
    if pair is None or vocabulary > len(pair.maps.first_expert):
        return None
    first_host = np.where(pair.maps.first_host < vocabulary, pair.maps.first_host, NOTHING)
    first_expert = np.array(pair.maps.first_expert[:vocabulary])
    return Pair(maps=maps_from_firsts(first_expert, first_host.astype(np.int32)), top=pair.top)


if __name__ == "__main__":
    sys.exit(cli.command(main))
