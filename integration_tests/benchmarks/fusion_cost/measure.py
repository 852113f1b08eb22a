"""Times a step's fusion and the yardsticks on the same rows, in turn."""

import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from floe_plugins.routers import EvidenceRouter
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import GEMMA, SMOLLM2
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.groups import ExpertTopK, stacked
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, load_maps, maps_from_firsts
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.fusion import fused_cells, weigh

#: The aim: at most so many times log_softmax, for so many rows.
AIM, AIMED_ROWS = 2.0, (8, 32)

TEXT = (
    "Question: A farmer keeps 14 hens, each of which lays 5 eggs a week. She sells the eggs by the "
    "dozen at 3 dollars. How much does she earn in 6 weeks?\nAnswer: The hens lay 14 * 5 = 70 eggs "
    "a week, which makes 420 eggs in 6 weeks, or 35 dozen. She earns 35 * 3 = 105 dollars.\n\n"
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
)


class Pair(NamedTuple):
    """Maps and what an expert says, real or made up; `top` has many rows and the largest K."""

    maps: AlignmentMaps
    top: ExpertTopK


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure every vocabulary, number of rows and K, on one thread."""
    torch.set_num_threads(1)
    embedded = None if options.synthetic else _embedded(max(options.k), max(options.rows))
    cases = []
    for vocabulary in options.vocabulary:
        pair = _cut(embedded, vocabulary) or synthetic(vocabulary, k=max(options.k))
        chosen = list(product(options.rows, options.k))
        for rows, k in cli.progress(chosen, f"{vocabulary} tokens"):
            size = {"rows": rows, "vocabulary": vocabulary, "k": k}
            cases.append(one_case(pair, **size, times=options.repeats))
    maps = "synthetic" if embedded is None else f"{GEMMA} with {SMOLLM2}"
    return {"maps": maps, "aim": AIM, "cases": cases}


def one_case(pair: Pair, *, rows: int, vocabulary: int, k: int, times: int) -> dict[str, Any]:
    """Measure one case; milliseconds are medians."""
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
    return {
        "rows": rows,
        "vocabulary": vocabulary,
        "k": k,
        "members": members // rows,  # host tokens in the known groups, mean of the rows
        "apply_ms": ms["apply"],
        "log_softmax_ms": ms["log_softmax"],
        "ratio": ms["apply"] / ms["log_softmax"],
        "log_softmax_ready_ms": ms["ready"],  # into memory that is held ready
        "ratio_ready": ms["apply"] / ms["ready"],
        "floor_ms": ms["floor"],  # one sum over the rows
    }


def synthetic(vocabulary: int, *, k: int, rows: int = 32) -> Pair:
    """Make up maps and an expert's words, by Zipf's law."""
    random = np.random.default_rng(vocabulary)
    experts = max(k, vocabulary // 5)
    ranks = np.arange(1, experts + 1)
    owners = random.choice(experts, size=vocabulary, p=(1 / ranks) / (1 / ranks).sum())
    firsts = random.integers(0, vocabulary, experts)
    maps = maps_from_firsts(owners.astype(np.int32), firsts.astype(np.int32))
    # For one in sixteen, g leads out of the group, as it does for the real pair.
    maps.extra[random.random(experts) > 1 / 16] = NOTHING
    shares = ranks**-0.5 / (ranks**-0.5).sum()
    ids = np.stack([random.choice(experts, size=k, replace=False, p=shares) for _ in range(rows)])
    masses = -np.sort(-random.dirichlet(np.full(k + 1, 0.05), rows)[:, :k])
    return Pair(maps, ExpertTopK(token_ids=ids, logprobs=np.log(np.maximum(masses, 1e-30))))


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
    top = ExpertTopK(token_ids=best.indices.numpy(), logprobs=best.values.numpy())
    return Pair(maps, top)


def _cut(pair: Pair | None, vocabulary: int) -> Pair | None:
    """Leave the host its first `vocabulary` tokens; None where it has not as many."""
    if pair is None or vocabulary > len(pair.maps.first_expert):
        return None
    first_host = np.where(pair.maps.first_host < vocabulary, pair.maps.first_host, NOTHING)
    first_expert = np.array(pair.maps.first_expert[:vocabulary])
    return Pair(maps=maps_from_firsts(first_expert, first_host.astype(np.int32)), top=pair.top)
