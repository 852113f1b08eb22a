from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from floe_plugins.isolated_plugins import IsolatedRouter
from floe_plugins.routers import ConstantRouter
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, maps_from_firsts
from vllm_logits_processor.alignment.packed import Packed
from vllm_logits_processor.cells import PARTS, FusedCells, Gains
from vllm_logits_processor.fusion import fused_cells, weigh

MAPS = maps_from_firsts(
    np.array([0, 0, 1, NOTHING, NOTHING, NOTHING], np.int32), np.array([3, 0], np.int32)
)
TOP = ExpertTopK(token_ids=np.array([[0, 1]] * 2), logprobs=np.log([[0.6, 0.3], [0.2, 0.7]]))
ROWS = np.array([2, 0])


def some_logits() -> torch.Tensor:
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    logits[0, 1] = -torch.inf
    return logits


def cells_of(logits: torch.Tensor) -> FusedCells:
    aligned = align(logits, ROWS, TOP, MAPS)
    weights = weigh(ConstantRouter(name="mean", value=0.0), aligned, np.zeros(2))
    return fused_cells(logits, ROWS, aligned, weights)


def test_what_is_sent_to_other_ranks_is_what_is_written_here() -> None:
    here, there = some_logits(), some_logits()
    cells = cells_of(here)
    assert cells.gains is not None
    sent = Packed.read(PARTS, cells.gains.packed().data.copy())
    cells.write(here)
    FusedCells(Gains.unpacked(sent, MAPS), MAPS).write(there)
    assert torch.equal(here, there)


def test_cells_that_nobody_asked_for_are_written_alike() -> None:
    plain, asked = some_logits(), some_logits()
    cells_of(plain).write(plain)
    cells = cells_of(asked)
    assert len(cells.index.unique()) == len(cells.index)
    values = cells.values
    cells.write(asked)
    assert torch.equal(plain, asked)
    assert torch.equal(values, plain.view(-1)[cells.index])
    assert torch.equal(plain[1], some_logits()[1])
    assert not torch.equal(plain[[0, 2]], some_logits()[[0, 2]])


def test_to_write_twice_changes_nothing_more() -> None:
    logits = some_logits()
    cells = cells_of(logits)
    cells.write(logits)
    once = logits.clone()
    cells.write(logits)
    assert torch.equal(logits, once)
    assert torch.equal(logits.view(-1)[cells.index], cells.values)


def test_cells_can_be_written_elsewhere() -> None:
    logits, other = some_logits(), some_logits()
    cells = cells_of(logits)
    cells.write(other)
    assert torch.equal(logits, some_logits())
    cells.write(logits)
    assert torch.equal(logits, other)
    assert torch.equal(logits.view(-1)[cells.index], cells.values)


def test_no_cells_change_nothing() -> None:
    logits = some_logits()
    FusedCells.none().write(logits)
    assert torch.equal(logits, some_logits())
    assert not len(FusedCells.none().index)
    assert not len(FusedCells.none().values)


class Rash:
    name = "rash"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def log_odds(self, signals: Any) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [LookupError("joe"), None, np.zeros(5), np.full(2, np.nan)])
def test_rows_of_a_failed_router_are_the_hosts(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logits = some_logits()
    aligned = align(logits, ROWS, TOP, MAPS)
    with caplog.at_level(logging.WARNING):
        weights = weigh(IsolatedRouter(Rash(answer), plugin="hasty"), aligned, np.zeros(2))
    assert weights.host.tolist() == [1.0, 1.0]
    assert weights.expert.tolist() == [0.0, 0.0]
    written = logits.clone()
    fused_cells(logits.clone(), ROWS, aligned, weights).write(written)
    assert torch.equal(written, logits)
    assert "joe" not in caplog.text
