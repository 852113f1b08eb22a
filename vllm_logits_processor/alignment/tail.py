"""The cap of the tail: no unlisted token is likelier than the least likely listed one.

The tail's tokens share the expert's missing mass in the host's shape. A token of which the host is
sure would get nearly all of it; but had the expert meant that token, it would have listed it. Such
a token gets the least listed probability, like a listed token that nothing else belongs to, and the
others share what is left, again in the host's shape, until none is above.

A row with remainders or with spellings has no cap: what is listed there is a mixture, or names no
tokens of the expert. Nor has one in which the unlisted tokens of the expert's vocabulary, each with
the least listed probability, would not make up the missing mass: its list is not of the likeliest;
nor one that misses less than `LEAST_MISSING`, where the search would cost more than it can change.
"""

from __future__ import annotations

import numpy as np
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.arrays import Float64Array, IntArray

#: Missing mass of the expert below which there is no cap.
LEAST_MISSING = 0.02

#: Tail tokens of a row that are looked at on a device at first, and by how much more later.
_LOOKED_AT, _MORE = 128, 8


def tail_caps(top: ExpertTopK, maps: AlignmentMaps) -> Float64Array:
    """Return the most that one tail token may get, as a share of the tail's mass; shape (rows,).

    It is +inf where there is no cap.
    """
    listed = (top.token_ids != NOTHING) & np.isfinite(top.logprobs)
    least = np.exp(np.where(listed, top.logprobs, np.inf).min(axis=1, initial=np.inf))
    for rest in top.remainders:
        least[rest.row] = np.inf
    missing = 1.0 - np.exp(top.logprobs).sum(axis=1)
    none = (
        ~np.isfinite(least) | (missing < LEAST_MISSING) | (least * len(maps.first_host) < missing)
    )
    least[none], missing[none] = np.inf, 1.0
    return np.asarray(least / missing)


def held_down(
    tail: torch.Tensor, moments: torch.Tensor, caps: Float64Array
) -> tuple[IntArray, IntArray, Float64Array, Float64Array]:
    """Find the tail tokens that the caps hold down, on any device.

    The compiled pass over rows on a CPU does the same, see
    :mod:`vllm_logits_processor.alignment.cpu_pass`.

    Parameters
    ----------
    tail, moments : torch.Tensor, shape (rows, vocabulary)
        The host's masses y, up to a factor a row, and x y; 0 for known tokens.
    caps : float64 array, shape (rows,)
        See `tail_caps`.

    Returns
    -------
    rows, tokens : int64 arrays, shape (held,)
        Sorted.
    of_held : float64 array, shape (2, held)
        Their y and x y.
    rests : float64 array, shape (2, rows)
        The sums of y and x y over the other tail tokens.
    """
    count, columns = tail.shape
    # A cap of the whole tail holds nothing down either.
    level = np.minimum(caps, 1.0)[:, None]
    looked_at = min(_LOOKED_AT, columns) if (caps < 1.0).any() else 1
    while True:
        most = tail.topk(looked_at, dim=-1)
        sums = [
            torch.cat([part, (each.scatter(1, most.indices, 0.0)).sum(dim=-1, keepdim=True)], dim=1)
            for each, part in ((tail, most.values), (moments, moments.gather(1, most.indices)))
        ]
        found = torch.stack(sums).cpu().numpy().astype(np.float64)
        # Of each token and all smaller ones; summed upwards, so that small rests stay exact.
        rests = np.flip(np.flip(found, axis=2).cumsum(axis=2), axis=2)
        y = found[0, :, :-1]
        share = 1.0 - level * np.arange(looked_at)
        above = (y * share > level * rests[0, :, :-1]) & (y > 0)
        numbers = np.where(above.all(axis=1), looked_at, above.argmin(axis=1))
        if looked_at == columns or (numbers < looked_at).all():
            break
        looked_at = min(_MORE * looked_at, columns)
    held = np.arange(looked_at) < numbers[:, None]
    rows = np.nonzero(held)[0]
    tokens = most.indices.cpu().numpy()[held]
    order = np.lexsort((tokens, rows))
    rests_of_rows = rests[:, np.arange(count), numbers]
    return rows[order], tokens[order], found[:, :, :-1][:, held][:, order], rests_of_rows
