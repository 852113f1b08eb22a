"""A plugin's router that fails leaves the rows with the host."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from floe_plugins.isolated_plugins import IsolatedRouter
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.fusion import fused_cells, weigh
from vllm_logits_processor.fusion_test import MAPS, ROWS, TOP, some_logits


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
