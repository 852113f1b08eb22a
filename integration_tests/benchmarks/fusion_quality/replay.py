"""Routers over the positions of a document, as the engine runs them, and the peers.

The peers bring two vocabularies together with equal weights, on the same top K. All of them are
given the expert's words without boundary handling, which none of them has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from floe_plugins.routers import Router
from integration_tests.benchmarks.fusion_quality.positions import Chunk, FloatArray, IntArray
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.evidence import Evidence
from vllm_logits_processor.fusion import Weights, fused_cells, weigh

#: What a peer gives the text's tokens of a chunk, nats; shape (rows,).
Peer = Callable[[Chunk], FloatArray]


@dataclass(frozen=True)
class Unsure:
    """When the expert is asked: above so much entropy, or up to such a margin.

    Attributes
    ----------
    measure : str
        ``nats``, the host's entropy, or ``margin``, see `Chunk.host_margins`.
    """

    measure: Literal["nats", "margin"]
    threshold: float

    @property
    def key(self) -> str:
        """The key of the configuration that has the threshold."""
        return f"unsure_{self.measure}"

    def at(self, chunk: Chunk) -> npt.NDArray[np.bool_]:
        """Return at which positions of a chunk the host is unsure."""
        if self.measure == "nats":
            return np.asarray(chunk.aligned.host_entropy > self.threshold)
        return np.asarray(chunk.host_margins <= self.threshold)


class Replay:
    """Fuses with one router, keeping its evidence from position to position.

    With `unsure` the expert is asked only where the host is unsure, see `Unsure`.
    """

    def __init__(self, router: Router, *, unsure: Unsure | None = None) -> None:
        self.router, self.unsure = router, unsure
        self.nats, self.asked = 0.0, 0
        self.begin_document()

    def begin_document(self) -> None:
        """Forget the evidence: every document is a separate request."""
        #: Of the present document, position by position.
        self.expert_weights: list[float] = []
        self._evidence = Evidence()

    def take(self, chunk: Chunk) -> None:
        """Add up what the fused model gives the text's tokens, in `nats`."""
        aligned = chunk.aligned
        factors = chunk.target_factors
        asked = np.ones(len(factors), dtype=bool)
        if self.unsure is not None:
            asked = self.unsure.at(chunk)
        evidence = np.empty(len(factors))
        for row, factor in enumerate(factors):
            evidence[row] = self._evidence.value
            if asked[row] and aligned.feasible[row]:
                self._evidence.observe(float(factor))
            self._evidence.follow(chunk.pieces[row])
        weights = weigh(self.router, aligned, evidence)
        fused = fused_logprobs(chunk, weights)
        self.nats -= float(np.where(asked, fused, chunk.host_logprobs).sum())
        self.asked += int(asked.sum())
        self.expert_weights += np.where(asked, weights.expert, 0.0).tolist()


def fused_logprobs(chunk: Chunk, weights: Weights) -> FloatArray:
    """Return what the fused logits give the text's tokens, nats; shape (rows,).

    The cells that fusion writes are taken as they are. What they do to a row's normalization
    follows from them and from the mass that stays: no second pass over the rows.
    """
    logits, rows = chunk.logits, np.arange(len(chunk.targets))
    cells = fused_cells(logits, rows, chunk.aligned, weights)
    row, token = np.divmod(cells.index.numpy(), logits.shape[1])
    before = logits.view(-1)[cells.index].numpy() - chunk.log_partition[row]
    after = cells.values.numpy() - chunk.log_partition[row]
    stays = np.maximum(1.0 - np.bincount(row, np.exp(before), minlength=len(rows)), 0.0)
    mass = stays + np.bincount(row, np.exp(after), minlength=len(rows))
    logprobs = chunk.host_logprobs.copy()
    changed = token == chunk.targets[row]
    logprobs[row[changed]] = after[changed]
    return np.asarray(logprobs - np.log(mass), dtype=np.float64)


def peers(host: ByteVocabulary, expert: ByteVocabulary, maps: AlignmentMaps) -> dict[str, Peer]:
    """Return the peers of a pair by name.

    ``exact-string`` (TLI): tokens of the same spelling are the same, the first of several; the mass
    of all others is dropped and the rest scaled to one. ``first-token``: an expert token's mass
    goes to the first host token of its spelling. Both are mixed half and half with the host's.

    ``top-k-union`` (UniTE, GaC): both models are scaled to one on the union of their top K, and
    averaged there. The union keeps the mass that the host gives it, and the rest stays as it is:
    without this, a text with one token outside would cost infinitely many bits.
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
