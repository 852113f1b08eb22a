"""vLLM's dialect: prompts as token ids, and tokens spelled ``token_id:N``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from floe_plugins.vllm_replies import (
    MALFORMED,
    ReplyError,
    SpelledError,
    read_rows,
    read_token_ids,
)
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.dialects.dialect import (
    HINTS,
    Abilities,
    Expected,
    as_json,
    in_one,
    not_a_completion,
)
from vllm_logits_processor.expert.protocol import (
    MOST_LOGPROB,
    Continuation,
    ExpertError,
    checked,
    checked_continuations,
    split_continuations,
)


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class _Choice(msgspec.Struct):
    index: int
    logprobs: _Logprobs


class _Completions(msgspec.Struct):
    """What is read of a reply; msgspec skips the rest without making objects of it."""

    choices: list[_Choice]


_DECODER = msgspec.json.Decoder(_Completions)


class VllmDialect:
    """Asks ``/v1/completions`` with vLLM's own fields; see `Dialect`."""

    name = "vllm"
    abilities = Abilities()
    marked = True
    hints: Mapping[int, str] = {
        **HINTS,
        400: "it may allow fewer logprobs than expert.top_k (vLLM: --max-logprobs), have a shorter "
        "context, or have been given a tokenizer that is not the model's",
        422: "it does not know a field of the request: it must be a completions server that takes "
        "token ids and returns logprobs, such as vLLM; see expert.api for others",
    }

    def __init__(self, expected: Expected) -> None:
        self._expected = expected

    def endpoint(self, url: str) -> str:
        """See `Dialect`."""
        return f"{url}/completions"

    def rounds(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Ask about all prompts at once."""
        return in_one(prompts)

    def body(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int
    ) -> Mapping[str, Any]:
        """See `Dialect`."""
        return {
            "model": model,
            "prompt": as_json(prompts),
            "max_tokens": steps,
            "logprobs": self._expected.top_k,
            # Distinct tokens may have one spelling; ids cannot collide.
            "return_tokens_as_token_ids": True,
            "temperature": 0.0,
        }

    def read(self, data: bytes, *, count: int, steps: int) -> Sequence[Continuation | None]:
        """See `Dialect`."""
        return read_continuations(
            data,
            count=count,
            steps=steps,
            vocabulary=self._expected.vocabulary,
            end_ids=self._expected.end_ids,
        )

    def score_body(self, prompt: Sequence[int], *, model: str) -> Mapping[str, Any]:
        """See `Dialect`."""
        return {
            "model": model,
            "prompt": as_json([prompt]),
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "temperature": 0.0,
        }

    def read_score(self, data: bytes, prompt: Sequence[int]) -> float:
        """See `Dialect`."""
        return read_score(data, prompt)


def read_continuations(
    data: bytes,
    *,
    count: int,
    steps: int,
    vocabulary: int,
    end_ids: TokenArray,
) -> tuple[Continuation, ...]:
    """Read the continuation of each of `count` prompts, in their order.

    Parameters
    ----------
    data : bytes
        Body of the reply.
    steps, vocabulary, end_ids
        See `checked_continuations`.

    Raises
    ------
    ExpertError
        If the reply is not a completion of each prompt with logprobs by token id, or
        `checked_continuations` refuses it.
    """
    usual = _read_usual(data, count=count, steps=steps, vocabulary=vocabulary)
    if usual is not None:
        own, lengths, every = usual
        every = checked(every, vocabulary=vocabulary, end_ids=end_ids)
        return split_continuations(own, lengths, every)
    try:
        said = read_rows(data, prompts=count)
    except SpelledError as error:
        raise ExpertError(
            f"The expert's reply {error}, which expert.api 'vllm' does not read; for such servers "
            "it is 'openai-completions'."
        ) from None
    except ReplyError as error:
        raise ExpertError(f"The expert's reply {error}.") from None
    tokens, rows = [own for own, _ in said], [top for _, top in said]
    return checked_continuations(tokens, rows, steps=steps, vocabulary=vocabulary, end_ids=end_ids)


def _read_usual(
    data: bytes, *, count: int, steps: int, vocabulary: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[int], ExpertTopK] | None:
    """Read a reply as it nearly always is, into arrays at once: this is a step's inner loop.

    Returns
    -------
    tuple of (int64 array, list of int, ExpertTopK) or None
        The expert's own tokens, how many of them each prompt has, and all rows. None for a reply
        with rows of several widths, and for one that may be wrong: the other way says why.
    """
    try:
        choices = sorted(_DECODER.decode(data).choices, key=lambda choice: choice.index)
        said = [choice.logprobs for choice in choices]
        rows = [row for each in said for row in each.top_logprobs]
        ids = read_token_ids(chain(*(each.tokens for each in said), *rows))
    except (msgspec.MsgspecError, *MALFORMED):
        return None
    lengths = [len(each.tokens) for each in said]
    widths = {len(row) for row in rows}
    if (
        not ids
        or len(widths) != 1
        or 0 in widths
        or [choice.index for choice in choices] != list(range(count))
        or [len(each.top_logprobs) for each in said] != lengths
        or not 1 <= min(lengths) <= max(lengths) <= steps
        or min(ids) < 0
        or max(ids) >= vocabulary
    ):
        return None
    tokens = np.array(ids, dtype=np.int64)
    shape, own = (len(rows), widths.pop()), sum(lengths)
    logprobs = np.fromiter(chain.from_iterable(row.values() for row in rows), dtype=np.float64)
    top = ExpertTopK(token_ids=tokens[own:].reshape(shape), logprobs=logprobs.reshape(shape))
    return tokens[:own], lengths, top


def read_score(data: bytes, prompt: Sequence[int]) -> float:
    """Read the sum of ln p of the tokens of `prompt`, from the second on (vLLM's format), nats.

    Parameters
    ----------
    data : bytes
        Body of the reply.
    prompt : sequence of int
        The tokens that were sent, at least two.

    Raises
    ------
    ExpertError
        If the reply does not have one logprob, at most zero, for each of these tokens.
    """
    try:
        (choice,) = json.loads(data)["choices"]
        (first, *rest) = choice["prompt_logprobs"]
        if first is not None or len(rest) != len(prompt) - 1:
            raise ExpertError("The expert's reply has not one logprob for each prompt token.")
        logprobs = [
            float(row[str(token)]["logprob"]) for row, token in zip(rest, prompt[1:], strict=True)
        ]
    except MALFORMED as error:
        raise not_a_completion(error) from None
    total = sum(logprobs)
    if not (math.isfinite(total) and max(logprobs) <= MOST_LOGPROB):
        raise ExpertError("The expert's reply has logprobs that are NaN or above zero.")
    return total
