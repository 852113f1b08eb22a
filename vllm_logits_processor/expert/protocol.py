"""The interface of every expert, and the checks of its replies."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from floe_plugins.errors import FloeError
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.arrays import IntArray, TokenArray

#: Tolerance for a row whose probabilities sum to more than one.
_SUM_SLACK = 1e-2

#: The same for a logprob above zero, which sums of rounded numbers can reach.
MOST_LOGPROB = 1e-3

#: Token ids of one distribution, and their logprobs.
TopRow = tuple[Sequence[int], Sequence[float]]


class ExpertError(FloeError):
    """A reply is missing or unusable; the stream keeps the host's logits."""


class NoSuchModelError(ExpertError):
    """The expert does not have the requested model."""


class ExpertOpenError(ExpertError):
    """The breakers of all servers are open: no server was called."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One prompt's part of a reply.

    Attributes
    ----------
    tokens : int64 array, shape (steps,)
        The expert's own greedy tokens after the prompt; fewer than requested if the expert ended
        its text; none where it says nothing, in a row without tokens.
    top : ExpertTopK
        One row per step: row i is the distribution after the prompt and ``tokens[:i]``.
    """

    tokens: IntArray
    top: ExpertTopK


@dataclass(frozen=True, kw_only=True)
class ExpertReply:
    """A reply to one batched call.

    Attributes
    ----------
    continuations : tuple of Continuation
        One per prompt of the call, in their order.
    sent_bytes, received_bytes : int
        Sizes of the bodies of request and reply; 0 if nothing left the process.
    """

    continuations: tuple[Continuation, ...]
    sent_bytes: int
    received_bytes: int


def check_tokens(
    own: Sequence[int] | IntArray, *, distributions: int, steps: int, vocabulary: int
) -> None:
    """Check an expert's own tokens after one prompt.

    Raises
    ------
    ExpertError
        If there are none, more than requested, or not one per distribution; or if one is out of
        range.
    """
    if not 1 <= len(own) <= steps or distributions != len(own):
        raise ExpertError(
            f"The expert's reply has {len(own)} tokens and {distributions} distributions for a "
            f"prompt; asked for was 1 to {steps}, with as many of each."
        )
    if min(own) < 0 or max(own) >= vocabulary:
        raise _outside(vocabulary)


def checked_continuations(
    tokens: Sequence[Sequence[int]],
    rows: Sequence[Sequence[TopRow]],
    *,
    steps: int,
    vocabulary: int,
    end_ids: TokenArray,
) -> tuple[Continuation, ...]:
    """Check an expert's continuations of each prompt and convert them to arrays.

    Parameters
    ----------
    tokens : sequence of int sequences
        Per prompt, the expert's own tokens.
    rows : sequence of sequences of rows
        Per prompt and step, the row; see `checked_top_k`.
    steps : int
        Number of requested steps.
    vocabulary, end_ids
        As for `checked_top_k`.

    Raises
    ------
    ExpertError
        If a continuation is empty, longer than requested, or not of one row per token; if a token
        is out of range; or if `checked_top_k` refuses a row.
    """
    for own, top in zip(tokens, rows, strict=True):
        check_tokens(own, distributions=len(top), steps=steps, vocabulary=vocabulary)
    every = checked_top_k(
        [row for top in rows for row in top], vocabulary=vocabulary, end_ids=end_ids
    )
    lengths = [len(own) for own in tokens]
    whole = np.array([token for own in tokens for token in own], dtype=np.int64)
    return split_continuations(whole, lengths, every)


def split_continuations(
    tokens: IntArray, lengths: Sequence[int], every: ExpertTopK
) -> tuple[Continuation, ...]:
    """Split checked tokens and their rows into one continuation per prompt.

    Parameters
    ----------
    tokens : int64 array, shape (sum of `lengths`,)
        The expert's own tokens, prompt by prompt; `every` has a row for each.
    lengths : sequence of int
        Tokens per prompt.
    """
    continuations = []
    begin = 0
    for length in lengths:
        part = slice(begin, begin + length)
        begin = part.stop
        top = ExpertTopK(token_ids=every.token_ids[part], logprobs=every.logprobs[part])
        continuations.append(Continuation(tokens=tokens[part], top=top))
    return tuple(continuations)


def checked_top_k(
    rows: Sequence[TopRow],
    *,
    vocabulary: int,
    end_ids: TokenArray,
) -> ExpertTopK:
    """Check the token ids and logprobs of each row and convert them to arrays.

    Parameters
    ----------
    rows : sequence of rows
        Each has distinct token ids and the natural logarithms of their probabilities.
    vocabulary : int
        Number of the expert's tokens; ids are below it.
    end_ids : int32 array
        End tokens of the expert; their mass is joined on the first of them.

    Raises
    ------
    ExpertError
        If a row is empty, an id is out of range or repeated, a logprob is NaN or above zero, or a
        row's probabilities sum to more than one.
    """
    width = max((len(tokens) for tokens, _ in rows), default=0)
    ids = np.full((len(rows), width), NOTHING, dtype=np.int64)
    logprobs = np.full((len(rows), width), -np.inf)
    for place, (tokens, said) in enumerate(rows):
        if not tokens:
            raise ExpertError(f"The expert's reply has no logprobs in row {place}.")
        # Checked before conversion: in an array they could overflow, or look like padding.
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise _outside(vocabulary)
        ids[place, : len(tokens)] = tokens
        logprobs[place, : len(tokens)] = said
    return checked(
        ExpertTopK(token_ids=ids, logprobs=logprobs), vocabulary=vocabulary, end_ids=end_ids
    )


def checked(top: ExpertTopK, *, vocabulary: int, end_ids: TokenArray) -> ExpertTopK:
    """Check distributions that are already arrays, and join their end tokens.

    Parameters
    ----------
    top : ExpertTopK
        With any integer and float types; returned with those of `ExpertTopK`.
    vocabulary, end_ids
        As for `checked_top_k`, as are the errors, except that rows may be empty.

    Raises
    ------
    ExpertError
        Also if the arrays are not integers and floats of one shape (rows, K).
    """
    top = _as_declared(top)
    known = top.token_ids != NOTHING
    if ((top.token_ids < 0) & known).any() or (top.token_ids >= vocabulary).any():
        raise _outside(vocabulary)
    in_order = np.sort(top.token_ids, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] != NOTHING)).any():
        raise ExpertError("The expert's reply names a token twice in one row.")
    # vLLM clamps the logprob of an impossible token to a large negative number; NaN fails "<=".
    if not (top.logprobs <= MOST_LOGPROB).all():
        raise ExpertError("The expert's reply has logprobs that are NaN or above zero.")
    if (np.exp(top.logprobs).sum(axis=1) > 1 + _SUM_SLACK).any():
        raise ExpertError("The expert's reply has probabilities that sum to more than one.")
    return _join_ends(top, end_ids)


def _as_declared(top: ExpertTopK) -> ExpertTopK:
    """Return the distributions in the types that the compiled passes expect."""
    ids, logprobs = np.asarray(top.token_ids), np.asarray(top.logprobs)
    if ids.ndim != 2 or ids.shape != logprobs.shape:
        raise ExpertError(
            f"The expert's reply has token ids and logprobs of shapes {ids.shape} and "
            f"{logprobs.shape}; accepted is one shape (rows, K)."
        )
    if ids.dtype.kind != "i" or logprobs.dtype.kind != "f":
        raise ExpertError(
            f"The expert's reply has token ids and logprobs of types {ids.dtype} and "
            f"{logprobs.dtype}; accepted are integers and floats."
        )
    return ExpertTopK(
        token_ids=ids.astype(np.int64, copy=False), logprobs=logprobs.astype(np.float64, copy=False)
    )


def _outside(vocabulary: int) -> ExpertError:
    return ExpertError(f"The expert's reply has token ids outside 0..{vocabulary - 1}.")


def _join_ends(top: ExpertTopK, end_ids: TokenArray) -> ExpertTopK:
    """Put the mass of all end tokens of a row on ``end_ids[0]``."""
    # With few end tokens and few ids, comparing all is faster than np.isin.
    is_end = (top.token_ids[:, :, None] == end_ids).any(axis=2)
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


class Expert(Protocol):
    """A model that predicts the next tokens of many texts in one call."""

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Begin a call and return at once; the future holds the reply or `ExpertError`.

        Parameters
        ----------
        prompts : sequence of int sequences
            Texts as expert tokens, none empty.
        model : str
            Which of the expert's models answers; a LoRA adapter has its own name.
        steps : int
            How many of its own next tokens the expert returns, with the distribution at each.
        """
        ...

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; the future holds the sum of ln p, in nats, or `ExpertError`.

        Parameters
        ----------
        prompt : sequence of int
            At least two expert tokens; those from the second on are scored.
        """
        ...

    def close(self) -> None:
        """End threads and connections; calls in flight are dropped."""
        ...
