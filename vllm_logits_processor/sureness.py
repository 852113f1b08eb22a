"""Where the host is sure of its next token, an expert that costs money need not be asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.arrays import Float64Array, IntArray
from vllm_logits_processor.config import FloeConfig


def host_entropies(logits: torch.Tensor, rows: IntArray) -> Float64Array:
    """Return the entropies of the host's next-token distributions in some rows.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32
        Masked tokens are at -inf.
    rows : int64 array, shape (rows,)

    Returns
    -------
    float64 array, shape (rows,)
        Nats.
    """
    logprobs = torch.log_softmax(_taken(logits, rows), dim=-1)
    # 0 ln 0 is 0, not NaN: masked tokens add nothing.
    terms = logprobs.exp() * logprobs.clamp(min=torch.finfo(torch.float32).min)
    return -terms.sum(dim=-1).double().cpu().numpy()


def host_margins(logits: torch.Tensor, rows: IntArray) -> Float64Array:
    """Return by how much the likeliest token's probability exceeds that of the second.

    Parameters
    ----------
    logits, rows
        See `host_entropies`.

    Returns
    -------
    float64 array, shape (rows,)
        In [0, 1]; 1 where only one token may follow.
    """
    taken = _taken(logits, rows)
    best = taken.topk(2, dim=-1).values
    shares = (best - taken.logsumexp(dim=-1, keepdim=True)).exp().double()
    return (shares[:, 0] - shares[:, 1]).cpu().numpy()


def host_is_unsure(
    logits: torch.Tensor, rows: IntArray, config: FloeConfig
) -> npt.NDArray[np.bool_]:
    """Return in which of some rows the expert is to be asked, by the configuration's measure.

    Parameters
    ----------
    logits, rows
        See `host_entropies`.
    """
    if config.ask == "margin":
        return np.asarray(host_margins(logits, rows) <= config.unsure_margin)
    return np.asarray(host_entropies(logits, rows) >= config.unsure_nats)


def _taken(logits: torch.Tensor, rows: IntArray) -> torch.Tensor:
    return logits[torch.from_numpy(rows).to(logits.device)]
