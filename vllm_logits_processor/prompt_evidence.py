"""Evidence before the first token: how well each model predicts the prompt."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from vllm_logits_processor.expert.calls import what_failed
from vllm_logits_processor.expert.protocol import Expert
from vllm_logits_processor.expert.reply import ExpertError

logger = logging.getLogger(__name__)

#: A prompt of fewer host tokens says too little about either model.
_FEWEST_TOKENS = 8


@dataclass
class PromptScores:
    """Scores of one prompt on their way.

    Parameters
    ----------
    host, expert : Future of float
        Sum of ln p over the tokens of the prompt, the first one left out, nats.
    tokens : int
        Host tokens that were scored.
    """

    host: Future[float]
    expert: Future[float]
    tokens: int

    def evidence(self) -> float | None:
        """Return ln p_host - ln p_expert per host token; None while it is not known.

        NaN where a model did not answer: the stream then begins without evidence.
        """
        if not (self.host.done() and self.expert.done()):
            return None
        try:
            return (self.host.result() - self.expert.result()) / self.tokens
        except (ExpertError, CancelledError) as error:
            logger.warning("%s The prompt gives no evidence.", what_failed(error))
            return math.nan


class PromptScorer:
    """Has the prompt scored by both models, once, while the answer is already being decoded.

    The host is asked through its own server, as any client would: its worker sees the logits of the
    last position alone. Nobody waits for the scores: the host's come between two of its own steps.

    Parameters
    ----------
    host : Expert
        The host's own server.
    host_model : str
        The host's name there.
    expert : Expert
    """

    def __init__(self, *, host: Expert, host_model: str, expert: Expert) -> None:
        self._host = host
        self._host_model = host_model
        self._expert = expert

    def start(
        self, host_ids: Sequence[int], expert_ids: Sequence[int], *, model: str
    ) -> PromptScores | None:
        """Begin to score a prompt, given as tokens of both models; None for one that is too short.

        Parameters
        ----------
        host_ids, expert_ids : sequence of int
        model : str
            The expert's model.
        """
        if len(host_ids) < _FEWEST_TOKENS or len(expert_ids) < 2:
            return None
        return PromptScores(
            host=self._host.score(host_ids, model=self._host_model),
            expert=self._expert.score(expert_ids, model=model),
            tokens=len(host_ids) - 1,
        )

    def close(self) -> None:
        """Close the connection to the host's server."""
        self._host.close()
