"""Factors that are looked up at once, against the table of every token's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.testing.alignment import factors_of
from vllm_logits_processor.testing.engines import EXPERT, HOST, PAIR


@pytest.mark.parametrize("seed", range(4))
def test_all_rows_at_once_have_the_factors_of_each(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = np.stack([random.choice(len(EXPERT), size=9, replace=False) for _ in range(5)])
    ids[1, 4:] = NOTHING
    logprobs = np.where(ids == NOTHING, -np.inf, np.log(random.dirichlet(np.ones(10), 5)[:, :9]))
    ids[0, 8] = NOTHING
    rest = Remainder(row=0, place=8, tokens=np.arange(3, 9))
    top = ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=(rest,))
    # More columns than the tokenizer has tokens.
    logits = torch.from_numpy(random.normal(size=(5, len(HOST) + 3))).float()
    aligned = align(logits, np.arange(5), top, PAIR.maps)
    factors, dense = StepFactors(aligned), factors_of(aligned, len(HOST) + 3)
    for token in range(len(HOST) + 3):
        factors.look_up(range(5), [token] * 5)
        for row in range(5):
            assert factors.of(row, token) == dense[row, token]
    assert StepFactors(aligned).of(2, 7) == dense[2, 7]
    for row in range(5):
        alone = factors.only(row)
        assert alone.nbytes < factors.nbytes
        for token in range(len(HOST) + 3):
            assert alone.of(0, token) == factors.of(row, token)
