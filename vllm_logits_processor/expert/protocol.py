"""What every expert can do, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from vllm_logits_processor.expert.reply import ExpertReply


class Expert(Protocol):
    """A model that can be asked for the next tokens of many texts at once."""

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Begin a call and return at once; the future holds the reply or `ExpertError`.

        Parameters
        ----------
        prompts : sequence of int sequences
            Texts as expert tokens, none of them empty.
        model : str
            Which of the expert's models answers (a LoRA adapter has a name of its own).
        steps : int
            How many of its own next tokens the expert is to give, with the distribution at each.
        """
        ...

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; the future holds the sum of ln p, in nats, or `ExpertError`.

        Parameters
        ----------
        prompt : sequence of int
            At least two expert tokens; those from the second on are scored.
        model : str
        """
        ...

    def close(self) -> None:
        """End threads and connections; calls in flight are dropped."""
        ...
