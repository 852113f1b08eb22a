"""Other ways to bring two vocabularies together, with equal weights, on the same top K.

All of them are given the expert's words without boundary handling, which none of them has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from integration_tests.benchmarks.fusion_quality.positions import Chunk
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
#: What a peer gives the text's tokens of a chunk, nats; shape (rows,).
Peer = Callable[[Chunk], FloatArray]


def peers(host: ByteVocabulary, expert: ByteVocabulary, maps: AlignmentMaps) -> dict[str, Peer]:
    """Return the peers of a pair by name.

    ``exact-string`` (TLI): expert and host tokens of the same spelling are the same, the first of
    several; the mass of all others is dropped and the rest scaled to one. ``first-token``: an
    expert token's mass goes to the first host token of its spelling. Both are mixed half and half
    with the host's distribution.

    ``top-k-union`` (UniTE, GaC): both models are scaled to one on the union of their top K, an
    expert token standing for the first host token of its spelling, and averaged there. As neither
    says anything about tokens outside of the union, the union keeps the mass that the host gives
    it, and the rest stays as it is: without this, a text with one such token would cost infinitely
    many bits.
    """
    exact = exact_string_map(host, expert)
    return {
        "exact-string": lambda chunk: _half_and_half(chunk, exact),
        "first-token": lambda chunk: _half_and_half(chunk, maps.first_host),
        "top-k-union": lambda chunk: _union(chunk, maps.first_host),
    }


def exact_string_map(host: ByteVocabulary, expert: ByteVocabulary) -> npt.NDArray[np.int32]:
    """Return the lowest host token of each expert token's spelling; `NOTHING` where none is."""
    spelled: dict[bytes, int] = {}
    for token, data in enumerate(host.token_bytes):
        if data:
            spelled.setdefault(data, token)
    found = [spelled.get(data, NOTHING) if data else NOTHING for data in expert.token_bytes]
    return np.array(found, dtype=np.int32)


def _half_and_half(chunk: Chunk, to_host: npt.NDArray[np.int32]) -> FloatArray:
    rows, tokens, mass = _on_host(chunk.plain, to_host)
    total = np.bincount(rows, mass, minlength=len(chunk.targets))
    hit = np.bincount(rows, mass * (tokens == chunk.targets[rows]), minlength=len(chunk.targets))
    host = np.exp(chunk.host_logprobs)
    share = np.divide(hit, total, out=host.copy(), where=total > 0)
    # A token of tiny probability may be 0 in float64 on both sides.
    return np.asarray(np.log(np.maximum((host + share) / 2, 1e-300)), dtype=np.float64)


def _union(chunk: Chunk, to_host: npt.NDArray[np.int32]) -> FloatArray:
    logprobs = chunk.host_logprobs.copy()
    rows, tokens, mass = _on_host(chunk.plain, to_host)
    best = chunk.logits.topk(chunk.plain.token_ids.shape[1]).indices.numpy()
    for row, target in enumerate(chunk.targets):
        mine = rows == row
        union = np.union1d(best[row], tokens[mine])
        if target not in union or not mine.any():
            continue
        logits = chunk.logits[row, torch.from_numpy(union)].numpy().astype(np.float64)
        host = np.exp(logits - chunk.log_partition[row])
        expert = mass[mine & (tokens == target)].sum() / mass[mine].sum()
        mean = (host[union == target][0] / host.sum() + expert) / 2
        logprobs[row] = np.log(max(host.sum() * mean, 1e-300))
    return logprobs


def _on_host(
    top: ExpertTopK, to_host: npt.NDArray[np.int32]
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the expert's top K as (row, host token, mass), what maps to nothing left out."""
    known = top.token_ids != NOTHING
    tokens = np.where(known, to_host[np.where(known, top.token_ids, 0)], NOTHING)
    rows, places = np.nonzero(tokens != NOTHING)
    return rows, tokens[rows, places].astype(np.int64), np.exp(top.logprobs[rows, places])
