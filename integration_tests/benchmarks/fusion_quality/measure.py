"""One file of text under both models, all routers, the lazy mode and the peers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from floe_plugins.routers import BUILT_IN_ROUTERS, Router
from integration_tests.benchmarks.fusion_quality.peers import peers
from integration_tests.benchmarks.fusion_quality.positions import Chunk, score
from integration_tests.benchmarks.fusion_quality.replay import Replay
from integration_tests.benchmarks.fusion_quality.scoring import Scorer
from vllm_logits_processor.alignment.maps import load_maps
from vllm_logits_processor.config import FloeConfig

#: Entropies of the host, nats, above which the lazy mode asks.
UNSURE_NATS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
#: The router of the lazy mode: the default.
_LAZY_ROUTER = "evidence"


@dataclass
class _Totals:
    """Sums over the documents of a file; nats but for `bytes`, `tokens` and `inside`."""

    bytes: int = 0
    tokens: int = 0
    inside: int = 0
    host: float = 0.0
    expert: float = 0.0
    hindsight: float = 0.0
    peers: dict[str, float] = field(default_factory=dict)

    def take(self, chunk: Chunk) -> None:
        self.tokens += len(chunk.targets)
        self.inside += int(chunk.inside.sum())
        self.host -= float(chunk.host_logprobs.sum())
        with np.errstate(divide="ignore"):
            aligned = chunk.host_logprobs + np.log(chunk.target_factors)
        self.hindsight -= float(np.maximum(chunk.host_logprobs, aligned).sum())


class Comparison:
    """A pair of models, ready to be compared on texts.

    Parameters
    ----------
    host, expert : Scorer
    top_k : int
        What the expert tells of each distribution.
    routers : sequence of Router
    """

    def __init__(
        self,
        host: Scorer,
        expert: Scorer,
        *,
        top_k: int,
        routers: Sequence[Router] = BUILT_IN_ROUTERS,
    ) -> None:
        self._host = host
        self._expert = expert
        self._top_k = top_k
        self._routers = routers
        self._covers = 0 if host.vocabulary.equals(expert.vocabulary) else FloeConfig.covers
        self._maps = load_maps(host.vocabulary, expert.vocabulary)
        self._peers = peers(host.vocabulary, expert.vocabulary, self._maps)

    def on(self, documents: Sequence[bytes]) -> dict[str, Any]:
        """Return the figures of a file, as the benchmark's JSON has them.

        Parameters
        ----------
        documents : sequence of bytes
            UTF-8; a progress bar around it moves on when a document is done.
        """
        totals = _Totals(peers=dict.fromkeys(self._peers, 0.0))
        eager = [Replay(router) for router in self._routers]
        lazy = [
            Replay(router, unsure_nats=nats)
            for router in self._routers
            if router.name == _LAZY_ROUTER
            for nats in UNSURE_NATS
        ]
        for document in documents:
            scored = score(
                document, self._host, self._expert, top_k=self._top_k, covers=self._covers
            )
            totals.bytes += len(document)
            totals.expert -= float(scored.expert_logprobs.sum())
            for replay in (*eager, *lazy):
                replay.begin_document()
            for chunk in scored.chunks(self._maps):
                totals.take(chunk)
                for replay in (*eager, *lazy):
                    replay.take(chunk)
                for name, peer in self._peers.items():
                    totals.peers[name] -= float(peer(chunk).sum())
        return _figures(totals, eager, lazy)


def _figures(totals: _Totals, eager: Sequence[Replay], lazy: Sequence[Replay]) -> dict[str, Any]:
    per_byte = 1 / (math.log(2) * totals.bytes)
    host, expert, hindsight = (
        nats * per_byte for nats in (totals.host, totals.expert, totals.hindsight)
    )
    fused = {replay.router.name: replay.nats * per_byte for replay in eager}
    return {
        "bytes": totals.bytes,
        "tokens": totals.tokens,
        "host": host,
        "expert": expert,
        "hindsight": hindsight,
        "fused": fused,
        "gap_closed": {
            name: gap_closed(bits, host=host, expert=expert, hindsight=hindsight)
            for name, bits in fused.items()
        },
        "boundary_share": totals.inside / totals.tokens,
        "peers": {name: nats * per_byte for name, nats in totals.peers.items()},
        "lazy": [
            {
                "unsure_nats": replay.unsure_nats,
                "asked_share": replay.asked / totals.tokens,
                "fused": replay.nats * per_byte,
            }
            for replay in lazy
        ],
    }


def gap_closed(bits: float, *, host: float, expert: float, hindsight: float) -> float | None:
    """Return the share of the way from the better single model to the hindsight.

    Negative where fusion is worse than the better model; None where the hindsight is no better
    than that model, so that there is no way to go.
    """
    better = min(host, expert)
    return (better - bits) / (better - hindsight) if hindsight < better else None
