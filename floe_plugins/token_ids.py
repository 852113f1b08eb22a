"""Token ids as vLLM spells them in a reply, ``token_id:N``."""

from __future__ import annotations

from collections.abc import Iterable

_TOKEN_ID = "token_id:"


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
