"""Running averages, per stream, of how much better one model has predicted the text so far.

Which model is better depends on the place in the text: after a space a word begins, which is the
harder part; inside a word a larger vocabulary helps; one model spells numbers digit by digit and
the other does not. So there is an average over all tokens and one for each of a few contexts, which
the byte before the token determines. The average of a context with few tokens is shrunk towards
that over all tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from vllm_logits_processor.expert.calls import what_failed
from vllm_logits_processor.expert.protocol import Expert, ExpertError

#: Bound on the evidence of one token, nats: an expert that rules a token out is wrong once, not for
#: ever.
_MOST = 10.0

#: The average over all tokens counts for as much as this many tokens of a context.
_SHRINKAGE = 20.0

#: Contexts by the preceding byte: a letter (inside a word), a space, a digit, any other.
_CONTEXTS = 4


def context_after(byte: int) -> int:
    """Return the context of a token after `byte`."""
    # Most bytes above ASCII belong to letters.
    if 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 128:
        return 0
    if byte in b" \n\r\t":
        return 1
    return 2 if 48 <= byte <= 57 else 3


@dataclass(slots=True)
class Evidence:
    """Running averages of ``ln p_host - ln q`` over the tokens of the text.

    Since ``q(v) = p_host(v) m(v)``, a token's evidence is ``-ln m``, and nothing of the host's row
    needs to be kept. The token being weighed is never among the averaged ones.

    All fields are plain numbers or tuples of them.

    Attributes
    ----------
    decay : float
        Weight of the past at each token.
    overall : float
        The average over all tokens, nats per token.
    prompt : float
        ``ln p_host - ln p_expert`` per host token of the prompt, nats; 0 if unknown.
    observed : int
        Tokens observed so far.
    context : int or None
        Context of the token that is weighed next; None before any text.
    sums, counts : tuples of float
        Decayed sum of the evidence, and number of tokens, of each context.
    """

    decay: float = 0.98
    overall: float = 0.0
    prompt: float = 0.0
    observed: int = 0
    context: int | None = None
    sums: tuple[float, ...] = (0.0,) * _CONTEXTS
    counts: tuple[float, ...] = (0.0,) * _CONTEXTS

    def copy(self) -> Evidence:
        """Return an independent copy."""
        return Evidence(
            self.decay,
            self.overall,
            self.prompt,
            self.observed,
            self.context,
            self.sums,
            self.counts,
        )

    @property
    def value(self) -> float:
        """The evidence for the token that is weighed next, nats per token.

        Positive if the host was better.
        """
        if self.context is None:
            return self.overall
        total = self.sums[self.context] + _SHRINKAGE * self.overall
        return total / (self.counts[self.context] + _SHRINKAGE)

    def begin(self, prompt: float) -> None:
        """Add the evidence of the prompt; NaN (unknown) changes nothing.

        It may arrive after observed tokens; the average is the same as if it had come first.
        """
        if not math.isnan(prompt):
            self.prompt = _bounded(prompt)
            self.overall += self.prompt * self.decay**self.observed

    def observe(self, factor: float) -> None:
        """Add one sampled token, given its factor m (at least 0); call `follow` after it."""
        observed = _MOST if factor <= 0 else _bounded(-math.log(factor))
        self.overall = self.decay * self.overall + (1 - self.decay) * observed
        self.observed += 1
        at = self.context
        if at is not None:
            sums, counts, decay = self.sums, self.counts, self.decay
            self.sums = (*sums[:at], decay * sums[at] + observed, *sums[at + 1 :])
            self.counts = (*counts[:at], decay * counts[at] + 1.0, *counts[at + 1 :])

    def follow(self, data: bytes) -> None:
        """Note that the text has grown by `data`: the prompt, or a token, observed or not."""
        if data:
            self.context = context_after(data[-1])


def _bounded(nats: float) -> float:
    return min(_MOST, max(-_MOST, nats))


logger = logging.getLogger(__name__)

#: A prompt of fewer host tokens says too little about either model.
_FEWEST_TOKENS = 8


@dataclass
class PromptScores:
    """Scores of one prompt, as futures.

    Parameters
    ----------
    host, expert : Future of float
        Sum of ln p over the tokens of the prompt except the first, nats.
    tokens : int
        Host tokens that were scored.
    """

    host: Future[float]
    expert: Future[float]
    tokens: int

    def evidence(self) -> float | None:
        """Return ln p_host - ln p_expert per host token; None while it is not known.

        NaN if a model did not answer; the stream then begins without evidence.
        """
        if not (self.host.done() and self.expert.done()):
            return None
        try:
            return (self.host.result() - self.expert.result()) / self.tokens
        except (ExpertError, CancelledError) as error:
            logger.warning("%s The prompt gives no evidence.", what_failed(error))
            return math.nan


class PromptScorer:
    """Has both models score the prompt once, while the answer is already being decoded.

    The scorer calls the host through its own server, like any client, because its worker sees only
    the logits of the last position. No step waits for the scores: the host computes its own between
    two steps.

    Parameters
    ----------
    host : Expert
        The host's own server.
    host_model : str
        The host's name there.
    """

    def __init__(self, *, host: Expert, host_model: str, expert: Expert) -> None:
        self._host = host
        self._host_model = host_model
        self._expert = expert

    def start(
        self, host_ids: Sequence[int], expert_ids: Sequence[int], *, model: str
    ) -> PromptScores | None:
        """Start to score a prompt with the host and the expert's `model`, given as tokens of both.

        None if it is too short, or if the expert is known to score none.
        """
        if not getattr(self._expert, "scores", True):
            return None
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
