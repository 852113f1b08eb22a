"""How unsure the host is of the next token, before anyone is asked."""

from __future__ import annotations

import torch

from vllm_logits_processor.arrays import FloatArray, IntArray


def host_entropies(logits: torch.Tensor, rows: IntArray) -> FloatArray:
    """Return the entropy of the host's next-token distribution in some rows.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32
        Masked tokens at -inf.
    rows : int64 array, shape (rows,)

    Returns
    -------
    float64 array, shape (rows,)
        Nats.
    """
    logprobs = torch.log_softmax(logits[torch.from_numpy(rows).to(logits.device)], dim=-1)
    # 0 ln 0 is 0, not NaN: masked tokens have no part in it.
    terms = logprobs.exp() * logprobs.clamp(min=torch.finfo(torch.float32).min)
    return -terms.sum(dim=-1).double().cpu().numpy()
