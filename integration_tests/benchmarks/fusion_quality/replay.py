"""A router over the positions of a document, as the engine would run it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from floe_plugins.routers import Router
from integration_tests.benchmarks.fusion_quality.positions import Chunk
from vllm_logits_processor.evidence import Evidence
from vllm_logits_processor.fusion import Weights, fused_cells, weigh

FloatArray = npt.NDArray[np.float64]


class Replay:
    """Fuses with one router, keeping its evidence from position to position.

    Parameters
    ----------
    router : Router
    unsure_nats : float, optional
        Ask the expert only where the host's entropy is above this; everywhere if not given.
    """

    def __init__(self, router: Router, *, unsure_nats: float | None = None) -> None:
        self.router = router
        self.unsure_nats = unsure_nats
        self.nats = 0.0
        self.asked = 0
        #: Of the present document, position by position.
        self.expert_weights: list[float] = []
        self._evidence = Evidence()

    def begin_document(self) -> None:
        """Forget the evidence: every document is a request of its own."""
        self.expert_weights = []
        self._evidence = Evidence()

    def take(self, chunk: Chunk) -> None:
        """Add up what the fused model gives the text's tokens, in `nats`."""
        aligned = chunk.aligned
        factors = chunk.target_factors
        asked = np.ones(len(factors), dtype=bool)
        if self.unsure_nats is not None:
            asked = aligned.host_entropy > self.unsure_nats
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
