"""Changes the host's logits by the expert's distribution, with the weights of the router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from floe_plugins.routers import Router, RouterSignals, exponent_of
from vllm_logits_processor.alignment.align import Aligned
from vllm_logits_processor.arrays import Float64Array, IntArray
from vllm_logits_processor.cells import FusedCells, Gains
from vllm_logits_processor.leading_groups import leading_groups

#: An expert of less weight, such as that of the router `host`, changes no greedy choice.
_NEGLIGIBLE = 1e-9

#: With all weight on an expert whose tail is empty, ln(tail) is -inf: the logarithm of about the
#: smallest normal float32 replaces it, and the tail stays out of reach.
_LEAST_TAIL = -87.0


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The router's weights of the two models; shape (rows,), each pair sums to one.

    `exponent` is that of the mean; see :func:`floe_plugins.routers.exponent_of`.
    """

    host: Float64Array
    expert: Float64Array
    exponent: float = 1.0


def weigh(
    router: Router,
    aligned: Aligned,
    evidence: Float64Array,
    *,
    prompt_evidence: Float64Array | None = None,
) -> Weights:
    """Ask the router for the weights of some rows.

    Parameters
    ----------
    router : Router
        Called once for all rows.
    aligned : Aligned
        The expert's distributions for the rows.
    evidence, prompt_evidence : float64 arrays, shape (rows,)
        See :class:`floe_plugins.routers.RouterSignals`; that of the prompt is 0 if not given.

    Returns
    -------
    Weights
        All weight is the host's in rows where the router returns NaN or nothing is feasible.

    Raises
    ------
    ValueError
        The router does not return one number per row.
    """
    odds = np.asarray(
        router.log_odds(
            RouterSignals(
                host_entropy=aligned.host_entropy,
                expert_entropy=aligned.expert_entropy,
                disagreement=aligned.disagreement,
                evidence=evidence,
                prompt_evidence=(
                    np.zeros_like(evidence) if prompt_evidence is None else prompt_evidence
                ),
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
    return Weights(host=1.0 - expert, expert=expert, exponent=exponent_of(router))


def fused_cells(
    logits: torch.Tensor,
    rows: IntArray,
    aligned: Aligned,
    weights: Weights,
    *,
    greedy: npt.NDArray[np.bool_] | None = None,
) -> FusedCells:
    """Return the cells that turn the host's logits of some rows into fused ones.

    With `a` the exponent of the mean and ``q = p m``, the sum ``w_host p**a + w_expert q**a`` is
    ``p**a (w_host + w_expert m**a)``. So
    ``fused(v) = host(v) + ln(w_host + w_expert m(v)**a) / a``, less the same for the tail: a
    constant of the row, which does not change its softmax. Only members of known groups are
    written, every other logit keeps its bits, and a token at -inf stays there.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32
        The logits that `aligned` was made from. Not changed until the cells are written.
    rows : int64 array, shape (rows,)
        The rows of `logits` that `aligned` and `weights` are for.
    greedy : bool array, shape (rows,), optional
        The rows whose likeliest token will be taken: of these, the one of the likeliest group is
        made the likeliest, see :mod:`vllm_logits_processor.leading_groups`. Rows in which the
        expert has next to no weight stay the host's.
    """
    from vllm_logits_processor.alignment.part_sums import mix, take_from

    power, groups = weights.exponent, aligned.groups
    columns = groups.sizes.shape[1]
    mixed = aligned.factors**power
    mix(mixed, weights.host, weights.expert, groups.single_row, columns)
    leaders = None
    if (
        greedy is not None
        and (led := greedy & aligned.feasible & (weights.expert > _NEGLIGIBLE)).any()
    ):
        leaders = leading_groups(aligned, mixed ** (1 / power), led)
    # torch vectorises the logarithm of doubles, NumPy only with AVX-512.
    logs, gains = torch.from_numpy(mixed).log_().numpy(), np.empty(len(mixed), np.float32)
    take_from(logs, power, _LEAST_TAIL, groups.single_row, columns, gains)
    return FusedCells(
        Gains(
            rows=rows,
            token_ids=aligned.top.token_ids,
            begins=groups.begins,
            sizes=groups.sizes,
            gains=gains,
            single_row=groups.single_row,
            single_token=groups.single_token,
            leaders=leaders,
        ),
        aligned.maps,
        logits=logits,
    )
