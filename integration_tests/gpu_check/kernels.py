"""The kernels of a step: right, with one wait, in what time and memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from floe_plugins.routers import EvidenceRouter
from integration_tests.gpu_check.sizes import Sizes, milliseconds
from vllm_logits_processor.alignment import align as align_module
from vllm_logits_processor.alignment import device_pass
from vllm_logits_processor.alignment.align import Aligned, align, row_sums, row_sums_on_device
from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.tail import tail_caps
from vllm_logits_processor.cells import Gains, SentGains
from vllm_logits_processor.fusion import fused_cells, weigh
from vllm_logits_processor.warm_passes import make_kernels

#: Most bytes that a step may take on the device beside the logits, and its most waits.
MOST_BYTES, MOST_WAITS = 64 * 2**20, 1
#: Largest relative error of a part's mass in float64.
MOST_ERROR = 1e-4


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Compare with float64 and with the CPU's pass; measure every number of rows and K."""
    maps = some_maps(sizes.columns, experts=max(sizes.columns // 5, 2 * max(sizes.ks)))
    make_kernels(device, columns=sizes.columns)
    cases = [
        one_case(device, sizes, maps, rows=rows, k=k) for rows, k in product(sizes.rows, sizes.ks)
    ]
    kinds: dict[str, dict[str, Any]] = {
        "masked": {"masked": 0.3},
        "far above": {"shift": 5e4},
        "far below": {"shift": -5e4},
        "bfloat16": {"dtype": torch.bfloat16},
    }
    errors = {
        name: worst_error(device, maps, columns=sizes.columns, k=min(sizes.ks), **changes)
        for name, changes in kinds.items()
    }
    return {"columns": sizes.columns, "cases": cases, "errors": errors}


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    said = [
        f"{name}: error {error:.1e}"
        for name, error in found["errors"].items()
        if not error <= MOST_ERROR
    ]
    for case in found["cases"]:
        name = f"{case['rows']} rows, K {case['k']}"
        if not case["error"] <= MOST_ERROR:
            said.append(f"{name}: error {case['error']:.1e}")
        if not case["held_alike"]:
            said.append(f"{name}: other tokens are held down than on the CPU")
        if not case["written_error"] <= MOST_ERROR:
            said.append(f"{name}: written logits differ by {case['written_error']:.1e}")
        if case["waits"] > MOST_WAITS:
            said.append(f"{name}: {case['waits']} waits")
        if (case["bytes"] or 0) > MOST_BYTES:
            said.append(f"{name}: {case['bytes']} bytes")
    return said


def some_maps(columns: int, *, experts: int) -> AlignmentMaps:
    """Make up maps: a few large groups and many small ones, by Zipf's law."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, experts + 1)
    owners = random.choice(experts, size=columns, p=shares / shares.sum()).astype(np.int32)
    owners[random.random(columns) < 0.05] = NOTHING
    return maps_from_firsts(owners, random.integers(NOTHING, columns, experts).astype(np.int32))


def some_top(maps: AlignmentMaps, *, rows: int, k: int) -> ExpertTopK:
    """Make up the expert's word: 95 % of its mass on K tokens."""
    random = np.random.default_rng(k)
    ids = np.stack([random.permutation(len(maps.extra))[:k] for _ in range(rows)])
    masses = -np.sort(-random.dirichlet(np.full(k, 0.3), rows), axis=1) * 0.95
    return ExpertTopK(token_ids=ids, logprobs=np.log(np.maximum(masses, 1e-9)))


def some_logits(
    device: torch.device,
    *,
    rows: int,
    columns: int,
    masked: float = 0.0,
    shift: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Make up a host's logits."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, columns, generator=generator) * 3
    logits[torch.rand(rows, columns, generator=generator) < masked] = -torch.inf
    return (logits + shift).to(dtype).to(device)


def worst_error(
    device: torch.device, maps: AlignmentMaps, *, columns: int, k: int, **changes: Any
) -> float:
    """Return the largest relative error of a part's mass, in float64."""
    logits = some_logits(device, rows=3, columns=columns, **changes)
    top = some_top(maps, rows=3, k=k)
    groups, caps = step_groups(maps, top), tail_caps(top, maps)
    sums = row_sums_on_device(
        logits, np.arange(3), groups, maps, token_ids=top.token_ids, caps=caps
    )
    wanted = defined_masses(logits, sums.groups, maps)
    return relative_error(sums.mass, wanted)


def relative_error(found: Any, wanted: Any) -> float:
    """Return the largest error of masses that are not negligible, relative to them."""
    large = wanted > 1e-12
    return float(np.max(np.abs(found[large] - wanted[large]) / wanted[large], initial=0.0))


def defined_masses(logits: torch.Tensor, groups: StepGroups, maps: AlignmentMaps) -> Any:
    """Return the mass of each part in float64, by torch's own operations on the device."""
    p = torch.softmax(logits.double(), dim=-1)
    count, columns = p.shape
    width = groups.sizes.shape[1] - 1
    tails = torch.ones_like(p, dtype=torch.bool)
    table = torch.zeros((count, width + 1), dtype=torch.float64, device=p.device)
    members = torch.from_numpy(np.array(maps.members, dtype=np.int64)).to(p.device)
    for row in range(count):
        runs = [
            members[begin : begin + size]
            for begin, size in zip(groups.begins[row, :-1], groups.sizes[row, :-1], strict=True)
        ]
        for group, run in enumerate(runs):
            table[row, group] = p[row, run].sum()
        tails[row, torch.cat(runs)] = False
    new = groups.single_group == NOTHING
    at = torch.from_numpy(groups.single_row * columns + groups.single_token).to(p.device)
    tails.view(-1)[at[torch.from_numpy(new).to(p.device)]] = False
    table[:, width] = (p * tails).sum(dim=1)
    return groups.with_singles(table.cpu().numpy(), p.view(-1)[at].cpu().numpy())


def one_case(
    device: torch.device, sizes: Sizes, maps: AlignmentMaps, *, rows: int, k: int
) -> dict[str, Any]:
    """Check and measure one number of rows and K."""
    logits = some_logits(device, rows=rows, columns=sizes.columns)
    top, places = some_top(maps, rows=rows, k=k), np.arange(rows)
    groups, caps = step_groups(maps, top), tail_caps(top, maps)
    arguments = (places, groups, maps)

    def read(where: torch.Tensor) -> Any:
        return row_sums_on_device(where, *arguments, token_ids=top.token_ids, caps=caps)

    found = read(logits)
    here = row_sums(logits.cpu(), *arguments, token_ids=top.token_ids, caps=caps)
    aligned = aligned_on(logits, top, maps)
    weights = weigh(EvidenceRouter(), aligned, np.zeros(rows))
    cells = fused_cells(logits, places, aligned, weights, greedy=np.ones(rows, np.bool_))
    assert cells.gains is not None
    packed = cells.gains.packed()
    reference = logits.cpu().clone()
    Gains.unpacked(packed, maps).write(reference, maps)
    written = logits.clone()

    def step() -> None:
        fresh = aligned_on(written, top, maps)
        again = fused_cells(written, places, fresh, weights, greedy=np.ones(rows, np.bool_))
        assert again.gains is not None
        SentGains.to(device, again.gains.packed()).write(written, maps)

    with waits_counted(device) as waits:
        step()
    spent = extra_bytes(device, step)
    return {
        "rows": rows,
        "k": k,
        "members": int(groups.sizes.sum()) // rows,
        "sent_bytes": packed.data.nbytes,
        "error": relative_error(found.mass, defined_masses(logits, found.groups, maps)),
        "held": int(found.held.sum()),
        "held_alike": bool(np.array_equal(found.held, here.held)),
        "written_error": float((written_once(logits, packed, maps) - reference).abs().max()),
        "waits": len(waits),
        "bytes": spent,
        "read_ms": milliseconds(lambda: read(logits), device, repeats=sizes.repeats),
        "step_ms": milliseconds(step, device, repeats=sizes.repeats),
        "log_softmax_ms": milliseconds(
            lambda: torch.log_softmax(logits, dim=-1), device, repeats=sizes.repeats
        ),
    }


def written_once(logits: torch.Tensor, packed: Any, maps: AlignmentMaps) -> torch.Tensor:
    """Return the logits with the gains, on the CPU."""
    written = logits.clone()
    SentGains.to(logits.device, packed).write(written, maps)
    return written.cpu()


def aligned_on(logits: torch.Tensor, top: ExpertTopK, maps: AlignmentMaps) -> Aligned:
    """Align by the kernels, also where they are interpreted on a CPU."""
    with patch.object(align_module, "row_sums", row_sums_on_device):
        return align(logits, np.arange(len(logits)), top, maps)


@contextmanager
def waits_counted(device: torch.device) -> Iterator[list[str]]:
    """Collect what waits for the device: each fetch of results, and what torch warns of."""
    waits: list[str] = []
    fetched = device_pass._fetched

    def fetching(buffer: torch.Tensor) -> Any:
        waits.append("results")
        return fetched(buffer)

    with patch.object(device_pass, "_fetched", fetching):
        if device.type != "cuda":
            yield waits
            return
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode("default")
    waits += [str(each.message) for each in said if "synchroniz" in str(each.message)]


def extra_bytes(device: torch.device, step: Any) -> int | None:
    """Return the most memory that a step takes on the device; None where that is not counted."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)
