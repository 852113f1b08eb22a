"""Add the expert's word to the host's logits, by the weights of the router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from floe_plugins.routers import Router, RouterSignals
from vllm_logits_processor.alignment.reweigh import Aligned

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the router gave the two models; shape (rows,), each pair sums to one."""

    host: FloatArray
    expert: FloatArray


def weigh(router: Router, aligned: Aligned, evidence: FloatArray) -> Weights:
    """Ask the router for the weights of some rows.

    Parameters
    ----------
    router : Router
        Asked once for all rows.
    aligned : Aligned
        The expert's word on the rows.
    evidence : float64 array, shape (rows,)
        See :class:`floe_plugins.routers.RouterSignals`.

    Returns
    -------
    Weights
        A row where the router answers NaN, or the expert has no feasible word, is the host's.

    Raises
    ------
    ValueError
        If the router's answer does not have one number per row.
    """
    odds = np.asarray(
        router.log_odds(
            RouterSignals(
                host_entropy=aligned.host_entropy,
                expert_entropy=aligned.expert_entropy,
                disagreement=aligned.disagreement,
                evidence=evidence,
            )
        ),
        dtype=np.float64,
    )
    if odds.shape != evidence.shape:
        raise ValueError(
            f"Router {router.name!r} answered with shape {odds.shape}; "
            f"accepted is {evidence.shape}."
        )
    usable = aligned.feasible & ~np.isnan(odds)
    # exp of at most 0 in both branches: no overflow, and the pair sums to one.
    small = np.exp(-np.abs(np.where(usable, odds, -np.inf)))
    expert = np.where(usable & (odds > 0), 1.0, small) / (1.0 + small)
    return Weights(host=1.0 - expert, expert=expert)


def fuse(logits: torch.Tensor, rows: IntArray, aligned: Aligned, weights: Weights) -> None:
    """Turn the host's logits of some rows into fused ones, in place.

    ``fused(v) = host(v) + ln(w_host + w_expert m(v))``, less the same for the tail: a constant of
    the row, which no softmax sees. So only members of known groups are written, every other logit
    keeps its bits, and a token at -inf stays there.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32
        Changed in place in `rows` alone.
    rows : int64 array, shape (rows,)
        The rows that `aligned` and `weights` speak of.
    """
    tail = weights.host + weights.expert * aligned.tail_factor
    # With all weight on an expert whose tail is empty, ln(tail) is -inf: the smallest number that
    # float32 still tells from the rest stands for it, and the tail is out of reach all the same.
    reference = np.log(np.maximum(tail, np.exp(-87.0)))
    row = aligned.rows
    with np.errstate(divide="ignore"):
        shift = np.log(weights.host[row] + weights.expert[row] * aligned.factor) - reference[row]
    fused = torch.from_numpy((aligned.logits + shift).astype(np.float32))
    flat = torch.from_numpy(rows[row] * logits.shape[1] + aligned.tokens)
    logits.view(-1)[flat.to(logits.device)] = fused.to(logits.device)
