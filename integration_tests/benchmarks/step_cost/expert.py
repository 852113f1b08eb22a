"""An expert in this process that answers at once: a table of the pairs of tokens of a text."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise

import numpy as np

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.expert.protocol import Continuation, ExpertReply

#: The share of the likeliest tokens of the text, whatever is before them.
_ANYWHERE = 0.1


class TableExpert:
    """Says after each prompt what followed its last token in a text.

    Parameters
    ----------
    tokens : sequence of int
        The text.

    Attributes
    ----------
    asked : list of list of prompts
        Of each call since it was last emptied.
    """

    def __init__(self, tokens: Sequence[int], *, k: int) -> None:
        self._everywhere = Counter(tokens)
        self._k = k
        followers: dict[int, Counter[int]] = defaultdict(Counter)
        for before, token in pairwise(tokens):
            followers[before][token] += 1
        self._said = {token: self._continuation(found) for token, found in followers.items()}
        self._else = self._continuation(Counter())
        self.asked: list[Sequence[Sequence[int]]] = []

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """See `Expert`; one step whatever is asked for."""
        del model, steps
        self.asked.append(prompts)
        future: Future[ExpertReply] = Future()
        said = tuple(self._said.get(prompt[-1], self._else) for prompt in prompts)
        future.set_result(ExpertReply(continuations=said, sent_bytes=0, received_bytes=0))
        return future

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Raise: no stream of the benchmark has its prompt scored."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""

    def reply(self, prompts: Sequence[Sequence[int]]) -> bytes:
        """Return the body with which vLLM answers a request for these prompts."""
        choices = []
        for place, prompt in enumerate(prompts):
            said = self._said.get(prompt[-1], self._else).top
            ids, logprobs = said.token_ids[0].tolist(), said.logprobs[0].tolist()
            row = {f"token_id:{token}": value for token, value in zip(ids, logprobs, strict=True)}
            logs = {
                "text_offset": [0],
                "token_logprobs": logprobs[:1],
                "tokens": [f"token_id:{ids[0]}"],
                "top_logprobs": [row],
            }
            choices.append(
                {
                    "index": place,
                    "text": " word",
                    "logprobs": logs,
                    "finish_reason": "length",
                    "stop_reason": None,
                    "token_ids": None,
                    "prompt_logprobs": None,
                    "prompt_token_ids": None,
                }
            )
        whole = {"id": "cmpl-0", "object": "text_completion", "model": "slm", "choices": choices}
        return json.dumps(whole, separators=(",", ":")).encode()

    def _continuation(self, followers: Counter[int]) -> Continuation:
        masses: dict[int, float] = defaultdict(float)
        for found, share in ((followers, 1 - _ANYWHERE), (self._everywhere, _ANYWHERE)):
            for token, count in found.most_common(self._k):
                masses[token] += share * count / found.total()
        best = sorted(masses, key=lambda token: -masses[token])[: self._k]
        ids = np.array([best], dtype=np.int64)
        logprobs = np.log([[masses[token] for token in best]])
        top = ExpertTopK(token_ids=ids, logprobs=logprobs)
        return Continuation(tokens=ids[0, :1], top=top)
