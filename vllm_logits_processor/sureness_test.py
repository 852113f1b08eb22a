from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vllm_logits_processor.sureness import host_entropies, host_margins


def test_entropies_of_the_named_rows_in_nats() -> None:
    logits = torch.zeros(3, 8)
    logits[1, 4:] = -torch.inf
    logits[2, 1:] = -torch.inf
    found = host_entropies(logits, np.array([2, 1]))
    assert found == pytest.approx([0.0, math.log(4)], abs=1e-6)
    assert host_entropies(logits, np.array([0])) == pytest.approx([math.log(8)])


def test_margins_of_the_two_likeliest_tokens() -> None:
    logits = torch.full((4, 6), -torch.inf)
    logits[0, :3] = torch.log(torch.tensor([0.2, 0.7, 0.1])) + 30
    logits[1, 2] = 4.0
    logits[2, 1:5] = -50.0
    logits[3] = torch.tensor([1.0, 9.0, 0.0, 9.0, 2.0, 1.0])
    found = host_margins(logits, np.array([0, 2, 1, 3]))
    assert found == pytest.approx([0.5, 0.0, 1.0, 0.0], abs=1e-6)
