"""What an expert answers, checked before anything is computed with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from floe_plugins.errors import FloeError
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING

#: Probabilities may sum to this much more than one before a reply is refused as nonsense.
_SUM_SLACK = 1e-2


class ExpertError(FloeError):
    """A reply that is missing or cannot be used; the stream keeps the host's logits."""


@dataclass(frozen=True, kw_only=True)
class ExpertReply:
    """A reply to one batched call.

    Attributes
    ----------
    top : ExpertTopK
        One row per prompt of the call, in their order.
    sent_bytes, received_bytes : int
        Sizes of the bodies of request and reply.
    """

    top: ExpertTopK
    sent_bytes: int
    received_bytes: int


def checked_top_k(
    rows: Sequence[Sequence[tuple[int, float]]],
    *,
    vocabulary: int,
    end_ids: npt.NDArray[np.int32],
) -> ExpertTopK:
    """Check the (token id, logprob) pairs of each row and bring them into arrays.

    Parameters
    ----------
    rows : sequence of rows
        Each a sequence of distinct (token id, natural logarithm of its probability).
    vocabulary : int
        Number of the expert's tokens; ids are below it.
    end_ids : int32 array
        End tokens of the expert, one event: their mass is put on the first of them.

    Raises
    ------
    ExpertError
        If a row is empty, an id is out of range or stands twice, a logprob is NaN or above zero, or
        a row's probabilities sum to more than one.
    """
    width = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), width), NOTHING, dtype=np.int64)
    logprobs = np.full((len(rows), width), -np.inf)
    for place, row in enumerate(rows):
        if not row:
            raise ExpertError(f"The expert's reply has no logprobs for prompt {place}.")
        tokens = [token for token, _ in row]
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise ExpertError(f"The expert's reply has token ids outside 0..{vocabulary - 1}.")
        if len(set(tokens)) != len(tokens):
            raise ExpertError("The expert's reply names a token twice in one row.")
        ids[place, : len(row)] = tokens
        logprobs[place, : len(row)] = [logprob for _, logprob in row]
    # vLLM clamps the logprob of an impossible token to a large negative number; NaN fails "<=".
    if not (logprobs <= 1e-3).all():
        raise ExpertError("The expert's reply has logprobs that are NaN or above zero.")
    probabilities = np.exp(logprobs)
    if (probabilities.sum(axis=1) > 1 + _SUM_SLACK).any():
        raise ExpertError("The expert's reply has probabilities that sum to more than one.")
    return _join_ends(ExpertTopK(token_ids=ids, logprobs=logprobs), end_ids)


def _join_ends(top: ExpertTopK, end_ids: npt.NDArray[np.int32]) -> ExpertTopK:
    """Put the mass of all end tokens of a row on ``end_ids[0]``."""
    is_end = np.isin(top.token_ids, end_ids)
    rows = np.flatnonzero(is_end.any(axis=1))
    if not len(rows):
        return top
    ids, logprobs = top.token_ids.copy(), top.logprobs.copy()
    for row in rows:
        places = np.flatnonzero(is_end[row])
        mass = np.exp(logprobs[row, places]).sum()
        ids[row, places], logprobs[row, places] = NOTHING, -np.inf
        ids[row, places[0]] = end_ids[0]
        logprobs[row, places[0]] = np.log(mass) if mass > 0 else -np.inf
    return ExpertTopK(token_ids=ids, logprobs=logprobs)
