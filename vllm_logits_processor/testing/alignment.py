"""Alignment of single tokens, and a whole step of it."""

from __future__ import annotations

import numpy as np
import torch

from vllm_logits_processor.alignment.align import Aligned
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.arrays import Float64Array, IntArray
from vllm_logits_processor.fusion import Weights, fused_cells


def group_of(maps: AlignmentMaps, expert_token: int) -> set[int]:
    """Return the host tokens that may begin the text of `expert_token`: its group by f, and g."""
    begin, end = maps.offsets[expert_token], maps.offsets[expert_token + 1]
    tokens = {int(token) for token in maps.members[begin:end]}
    extra = int(maps.extra[expert_token])
    return tokens if extra == NOTHING else tokens | {extra}


def factors_of(aligned: Aligned, columns: int) -> Float64Array:
    """Return the factor m of every token, shape (rows, columns)."""
    groups = aligned.groups
    tails = groups.without_singles(aligned.factors)[0][:, -1:]
    factors = np.repeat(tails, columns, axis=1)
    rows = np.repeat(np.arange(len(groups.sizes)), groups.sizes.sum(axis=1))
    factors[rows, groups.tokens(aligned.maps)] = groups.spread(aligned.factors)
    return factors


def fuse(logits: torch.Tensor, rows: IntArray, aligned: Aligned, weights: Weights) -> None:
    """Turn the host's logits of some rows into fused ones, in place."""
    fused_cells(logits, rows, aligned, weights).write(logits)
