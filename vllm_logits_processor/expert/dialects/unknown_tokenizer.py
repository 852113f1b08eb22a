"""The dialect of any completions server, for a model whose tokenizer is not known.

A prompt's "tokens" are its bytes, and the spellings of a reply stay what they are: alignment works
on their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vllm_logits_processor.alignment.unknown import by_spelling, is_text, top_of
from vllm_logits_processor.expert.dialects.dialect import Abilities, Expected, unlisted
from vllm_logits_processor.expert.dialects.openai_completions import (
    OpenAiDialect,
    body_of,
    no_scores,
    spelled_steps,
)
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, checked


class UnknownTokenizerDialect:
    """Asks as `OpenAiDialect` does, one token a call; see `Dialect`."""

    name = OpenAiDialect.name
    abilities = Abilities(
        takes_ids=False, names_ids=False, lookahead=False, scores=False, has_tokenizer=False
    )
    marked = True
    hints: Mapping[int, str] = OpenAiDialect.hints

    def __init__(self, expected: Expected) -> None:
        self._expected = expected

    def endpoint(self, url: str) -> str:
        """See `Dialect`."""
        return f"{url}/completions"

    def rounds(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Ask at once about all prompts that are text."""
        places = [place for place, ids in enumerate(prompts) if ids and is_text(bytes(ids))]
        return (places,) if places else ()

    def body(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int
    ) -> Mapping[str, Any]:
        """See `Dialect`; it is always one step."""
        del steps
        texts = [bytes(ids).decode() for ids in prompts]
        return body_of(texts, model=model, steps=1, top_k=self._expected.top_k)

    def read(self, data: bytes, *, count: int, steps: int) -> Sequence[Continuation | None]:
        """See `Dialect`."""
        del steps
        return [self._continuation(rows) for _, rows in spelled_steps(data, count=count)]

    def _continuation(self, rows: Sequence[Sequence[tuple[bytes | None, float]]]) -> Continuation:
        if not rows or not rows[0]:
            raise ExpertError("The expert's reply has no logprobs of a prompt.")
        said = top_of(by_spelling(rows[0]))
        if not said.spelled:
            return unlisted()
        top = checked(said, vocabulary=self._expected.vocabulary, end_ids=self._expected.end_ids)
        # What the expert wrote itself has no ids: nothing is looked up behind it.
        return Continuation(
            tokens=np.empty(0, dtype=np.int64), top=replace(top, spelled=said.spelled)
        )

    def score_body(self, prompt: Sequence[int], *, model: str) -> Mapping[str, Any]:
        """Raise: there is no field for it that all servers know."""
        raise no_scores()

    def read_score(self, data: bytes, prompt: Sequence[int]) -> float:
        """Raise: there is no field for it that all servers know."""
        raise no_scores()
