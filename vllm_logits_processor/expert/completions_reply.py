"""Reads what an OpenAI-compatible completions endpoint answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.reply import (
    MOST_LOGPROB,
    Continuation,
    ExpertError,
    checked_continuations,
)

_TOKEN_ID = "token_id:"

#: What reading raises where a reply is of another shape, is nested too deep for the parser, or has
#: numbers that no float holds.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


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
        Body of the reply, as it came.
    count : int
        Prompts of the call.
    steps, vocabulary, end_ids
        See `checked_continuations`.

    Raises
    ------
    ExpertError
        If the reply is not a completion of each prompt with logprobs by token id, or for what
        `checked_continuations` refuses.
    """
    try:
        choices: list[dict[str, Any]] = json.loads(data)["choices"]
        by_index = {choice["index"]: choice["logprobs"] for choice in choices}
        if sorted(by_index) != list(range(count)) or len(choices) != count:
            raise ExpertError(f"The expert's reply has not one choice for each of {count} prompts.")
        said = [by_index[place] for place in range(count)]
        tokens = [read_token_ids(each["tokens"]) for each in said]
        rows = [
            [(read_token_ids(row), [*map(float, row.values())]) for row in each["top_logprobs"]]
            for each in said
        ]
    except _MALFORMED as error:
        raise _not_a_completion(error) from None
    return checked_continuations(tokens, rows, steps=steps, vocabulary=vocabulary, end_ids=end_ids)


def read_score(data: bytes, prompt: Sequence[int]) -> float:
    """Read the sum of ln p of the tokens of `prompt`, from the second on (vLLM's format), nats.

    Parameters
    ----------
    data : bytes
        Body of the reply, as it came.
    prompt : sequence of int
        The tokens that were sent, at least two.

    Raises
    ------
    ExpertError
        If the reply has not one logprob, at most zero, for each of these tokens.
    """
    try:
        (choice,) = json.loads(data)["choices"]
        (first, *rest) = choice["prompt_logprobs"]
        if first is not None or len(rest) != len(prompt) - 1:
            raise ExpertError("The expert's reply has not one logprob for each prompt token.")
        logprobs = [
            float(row[str(token)]["logprob"]) for row, token in zip(rest, prompt[1:], strict=True)
        ]
    except _MALFORMED as error:
        raise _not_a_completion(error) from None
    total = sum(logprobs)
    if not (math.isfinite(total) and max(logprobs) <= MOST_LOGPROB):
        raise ExpertError("The expert's reply has logprobs that are NaN or above zero.")
    return total


def read_token_ids(tokens: Iterable[str]) -> list[int]:
    """Read tokens that are spelled ``token_id:N``, all at once: this is the client's inner loop.

    Raises
    ------
    ExpertError
        If a token is spelled in another way.
    """
    words = list(tokens)
    before, *ids = "".join(words).split(_TOKEN_ID)
    if before or len(ids) != len(words):
        raise ExpertError(
            "The expert's reply gives tokens by their spelling; needed is a server that knows "
            "return_tokens_as_token_ids, such as vLLM."
        )
    return [*map(int, ids)]


def _not_a_completion(error: Exception) -> ExpertError:
    return ExpertError(
        f"The expert's reply is not a completion with logprobs ({type(error).__name__})."
    )
