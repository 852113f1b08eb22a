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
    groups, members = aligned.groups, np.asarray(aligned.maps.members)
    table, singles = groups.without_singles(aligned.factors)
    factors = np.repeat(table[:, -1:], columns, axis=1)
    for row, place in np.ndindex(groups.sizes[:, :-1].shape):
        begin = groups.begins[row, place]
        factors[row, members[begin : begin + groups.sizes[row, place]]] = table[row, place]
    factors[groups.single_row, groups.single_token] = singles
    return factors


def fuse(logits: torch.Tensor, rows: IntArray, aligned: Aligned, weights: Weights) -> None:
    """Turn the host's logits of some rows into fused ones, in place."""
    fused_cells(logits, rows, aligned, weights).write(logits)
