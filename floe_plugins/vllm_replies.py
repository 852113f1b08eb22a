"""vLLM's replies to completions with logprobs, and token ids as it spells them, ``token_id:N``."""

from __future__ import annotations

import json
from collections.abc import Iterable

_TOKEN_ID = "token_id:"

#: Errors raised while reading a reply that has another shape, is nested too deeply for the parser,
#: or holds numbers beyond the range of a float.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

#: Per prompt, the model's own token of each step, and the ids and logprobs of each step's row.
Rows = list[tuple[list[int], list[tuple[list[int], list[float]]]]]


class ReplyError(ValueError):
    """A reply is unusable; the message is a clause that says what is wrong with it."""


class SpelledError(ReplyError):
    """A reply gives tokens by their spelling."""

    def __init__(self) -> None:
        super().__init__("gives tokens by their spelling")


def read_rows(data: bytes, *, prompts: int) -> Rows:
    """Read the reply to a request for several prompts.

    Raises
    ------
    ReplyError
        If it is not one completion for each prompt, with logprobs by token id.
    """
    try:
        choices = json.loads(data)["choices"]
        by_index = {choice["index"]: choice["logprobs"] for choice in choices}
        if sorted(by_index) != list(range(prompts)) or len(choices) != prompts:
            raise ReplyError(f"has not one choice for each of {prompts} prompts")
        return [
            (
                _ids(said["tokens"]),
                [(_ids(row), [*map(float, row.values())]) for row in said["top_logprobs"]],
            )
            for said in (by_index[place] for place in range(prompts))
        ]
    except ReplyError:
        raise
    except MALFORMED as error:
        raise ReplyError(f"is not a completion with logprobs ({type(error).__name__})") from None


def _ids(tokens: Iterable[str]) -> list[int]:
    ids = read_token_ids(tokens)
    if ids is None:
        raise SpelledError
    return ids


def read_token_ids(tokens: Iterable[str]) -> list[int] | None:
    """Read tokens spelled ``token_id:N``, all at once: this is a decoding step's inner loop.

    Returns
    -------
    list of int or None
        None if a token is spelled differently.

    Raises
    ------
    ValueError
        N is no number.
    """
    words = list(tokens)
    before, *ids = "".join(words).split(_TOKEN_ID)
    return None if before or len(ids) != len(words) else [*map(int, ids)]
