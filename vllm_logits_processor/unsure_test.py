from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vllm_logits_processor.unsure import host_entropies


def test_entropies_of_the_named_rows_in_nats() -> None:
    logits = torch.zeros(3, 8)
    logits[1, 4:] = -torch.inf
    logits[2, 1:] = -torch.inf
    found = host_entropies(logits, np.array([2, 1]))
    assert found == pytest.approx([0.0, math.log(4)], abs=1e-6)
    assert host_entropies(logits, np.array([0])) == pytest.approx([math.log(8)])
