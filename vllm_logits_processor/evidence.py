"""Measures which model has predicted the text better so far: running averages, per stream.

Which model is better depends on the place in the text: a word begins after a space, which is
harder; inside a word a larger vocabulary helps; one model may spell numbers digit by digit and the
other not. Besides the average over all tokens there is therefore one for each of a few contexts,
distinguished by the byte before the token. A context with few observations is shrunk towards the
overall average.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from vllm_logits_processor.expert.calls import what_failed
from vllm_logits_processor.expert.protocol import Expert, ExpertError

#: Most evidence of one token, nats: an expert that ruled the token out must be able to recover.
_MOST = 10.0

#: Tokens of a context that the overall average weighs as much as.
_SHRINKAGE = 20.0

#: Contexts by the byte before: inside a word, after a space, after a digit, after others.
_CONTEXTS = 4


def context_after(byte: int) -> int:
    """Return the context of a token after `byte`."""
    # Bytes above ASCII mostly belong to letters.
    if 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 128:
        return 0
    if byte in b" \n\r\t":
        return 1
    return 2 if 48 <= byte <= 57 else 3


@dataclass
class Evidence:
    """Running averages of ``ln p_host - ln q`` over the tokens of the text.

    Since ``q(v) = p_host(v) m(v)``, a token's evidence is ``-ln m``, and the host's row need not be
    kept. The token that is being weighed is never part of the averages.

    All fields are plain numbers or tuples of them: ``dataclasses.replace`` makes an independent
    copy.

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
        Context of the next token; None while no text is known.
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

    @property
    def value(self) -> float:
        """The evidence for the next token, nats per token; positive if the host has been better."""
        if self.context is None:
            return self.overall
        total = self.sums[self.context] + _SHRINKAGE * self.overall
        return total / (self.counts[self.context] + _SHRINKAGE)

    def begin(self, prompt: float) -> None:
        """Add the evidence of the prompt; NaN stands for unknown and changes nothing.

        It may arrive after tokens have been observed: the average is then the same as if it had
        started with the prompt.
        """
        if not math.isnan(prompt):
            self.prompt = _bounded(prompt)
            self.overall += self.prompt * self.decay**self.observed

    def observe(self, factor: float) -> None:
        """Add one sampled token, given its factor m (at least 0); call `follow` after it."""
        observed = _MOST if factor <= 0 else _bounded(-math.log(factor))
        self.overall = self.decay * self.overall + (1 - self.decay) * observed
        self.observed += 1
        if self.context is not None:
            self.sums = self._added(self.sums, observed)
            self.counts = self._added(self.counts, 1.0)

    def follow(self, data: bytes) -> None:
        """Follow the text, which has grown by `data`: the prompt, or a token, observed or not."""
        if data:
            self.context = context_after(data[-1])

    def _added(self, values: tuple[float, ...], new: float) -> tuple[float, ...]:
        """Return decayed totals with `new` added to that of the current context."""
        changed = list(values)
        assert self.context is not None
        changed[self.context] = self.decay * changed[self.context] + new
        return tuple(changed)


def _bounded(nats: float) -> float:
    return min(_MOST, max(-_MOST, nats))


logger = logging.getLogger(__name__)

#: Fewest host tokens of a prompt that is scored.
_FEWEST_TOKENS = 8


@dataclass
class PromptScores:
    """The pending scores of one prompt.

    Parameters
    ----------
    host, expert : Future of float
        Sum of ln p over the tokens of the prompt, except the first, nats.
    tokens : int
        Number of scored host tokens.
    """

    host: Future[float]
    expert: Future[float]
    tokens: int

    def evidence(self) -> float | None:
        """Return ln p_host - ln p_expert per host token; None while it is pending.

        NaN if a model did not answer: the stream then starts without evidence.
        """
        if not (self.host.done() and self.expert.done()):
            return None
        try:
            return (self.host.result() - self.expert.result()) / self.tokens
        except (ExpertError, CancelledError) as error:
            logger.warning("%s The prompt gives no evidence.", what_failed(error))
            return math.nan


class PromptScorer:
    """Lets both models score the prompt, once, while the answer is being decoded.

    The host is asked through its own server, like a client, because its worker sees only the logits
    of the last position. The scores are not awaited: the host computes them between two steps.

    Parameters
    ----------
    host : Expert
        The host's own server.
    host_model : str
        The host's name on that server.
    expert : Expert
    """

    def __init__(self, *, host: Expert, host_model: str, expert: Expert) -> None:
        self._host = host
        self._host_model = host_model
        self._expert = expert

    def start(
        self, host_ids: Sequence[int], expert_ids: Sequence[int], *, model: str
    ) -> PromptScores | None:
        """Start scoring a prompt, given as tokens of both models; None if it is too short.

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
