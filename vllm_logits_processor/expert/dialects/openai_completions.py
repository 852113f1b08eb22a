"""The dialect of any completions server: prompts as text, and top logprobs by spelling.

Spellings become ids by the bytes of the configured tokenizer's tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from floe_plugins.vllm_replies import MALFORMED
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.dialects.dialect import (
    HINTS,
    Abilities,
    Expected,
    not_a_completion,
    not_one_each,
    unlisted,
)
from vllm_logits_processor.expert.protocol import (
    Continuation,
    ExpertError,
    TopRow,
    checked_continuations,
)

#: Stands where a token's bytes are no text by themselves.
_NO_TEXT = "\N{REPLACEMENT CHARACTER}"
#: How OpenAI's own server spells such a token.
_ESCAPED = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
#: Most bytes of one token.
_MOST_BYTES = 256

#: A spelling: bytes, or None for one that says nothing.
_Spelled = bytes | None


class OpenAiDialect:
    """Asks ``/v1/completions`` with the fields that all such servers know; see `Dialect`.

    Raises
    ------
    ExpertError
        If `expected` has no tokenizer.
    """

    name = "openai-completions"
    abilities = Abilities(takes_ids=False, names_ids=False, scores=False)
    marked = True
    hints: Mapping[int, str] = {
        **HINTS,
        400: "it may allow fewer logprobs than expert.top_k (some allow 5), or have a shorter "
        "context",
        422: "it does not know a field of the request: it must be a completions server that "
        "returns logprobs",
    }

    def __init__(self, expected: Expected) -> None:
        if expected.tokenizer is None:
            raise ExpertError(
                "The expert's tokens are known by their spelling, for which expert.tokenizer must "
                "be readable."
            )
        self._expected = expected
        self._spellings = Spellings(expected.tokenizer)

    def endpoint(self, url: str) -> str:
        """See `Dialect`."""
        return f"{url}/completions"

    def rounds(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Ask at once about all prompts that are text."""
        places = [place for place, ids in enumerate(prompts) if self._spellings.text(ids)]
        return (places,) if places else ()

    def body(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int
    ) -> Mapping[str, Any]:
        """See `Dialect`."""
        texts = [self._spellings.text(ids) or "" for ids in prompts]
        return body_of(texts, model=model, steps=steps, top_k=self._expected.top_k)

    def read(self, data: bytes, *, count: int, steps: int) -> Sequence[Continuation | None]:
        """See `Dialect`."""
        continuations: list[Continuation | None] = []
        for own, rows in spelled_steps(data, count=count):
            ids, tops = self._identified(own, rows)
            if not ids:
                continuations.append(unlisted())
                continue
            continuations += checked_continuations(
                [ids],
                [tops],
                steps=steps,
                vocabulary=self._expected.vocabulary,
                end_ids=self._expected.end_ids,
            )
        return continuations

    def _identified(
        self, own: Sequence[_Spelled], rows: Sequence[Sequence[tuple[_Spelled, float]]]
    ) -> tuple[list[int], list[TopRow]]:
        """Return own tokens and rows as ids, up to the first token that has none.

        The last own token is then the likeliest known one: nothing is said of what follows it.

        Raises
        ------
        ExpertError
            If the first row has texts, and none is a token's.
        """
        ids: list[int] = []
        tops: list[TopRow] = []
        for token, row in zip(own, rows, strict=True):
            top = self._spellings.row(row)
            if not top[0]:
                if not tops and any(data is not None for data, _ in row):
                    raise ExpertError(
                        "The expert's reply names none of the configured tokenizer's tokens: is "
                        "expert.tokenizer that of its model?"
                    )
                break
            tops.append(top)
            known = None if token is None else self._spellings.id_of(token)
            ids.append(max(zip(top[1], top[0], strict=True))[1] if known is None else known)
            if known is None:
                break
        return ids, tops

    def score_body(self, prompt: Sequence[int], *, model: str) -> Mapping[str, Any]:
        """Raise: there is no field for it that all servers know."""
        raise no_scores()

    def read_score(self, data: bytes, prompt: Sequence[int]) -> float:
        """Raise: there is no field for it that all servers know."""
        raise no_scores()


class Spellings:
    """The tokens of a tokenizer by their spelling.

    Of several tokens with one spelling it is the one that the tokenizer itself produces.
    """

    def __init__(self, tokenizer: ByteVocabulary) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[bytes, int] = {}
        shared: set[bytes] = set()
        special: list[int] = []
        for token, data in enumerate(tokenizer.token_bytes):
            if not data:
                special.append(token)
            elif self._ids.setdefault(data, token) != token:
                shared.add(data)
        for data in shared:
            produced = tokenizer.encode(data)
            if len(produced) == 1:
                self._ids[data] = produced[0]
        self._names = {token: tokenizer.encoder.id_to_token(token) or "" for token in special}
        for token, name in self._names.items():
            if name:
                self._ids.setdefault(name.encode(), token)

    def id_of(self, data: bytes) -> int | None:
        """Return the token that is spelled so; special ones are spelled by their name."""
        return self._ids.get(data)

    def row(self, row: Sequence[tuple[_Spelled, float]]) -> TopRow:
        """Return the known tokens of a row; what is said twice of one token is joined."""
        masses: dict[int, float] = {}
        # NaN is refused where the row is checked.
        with np.errstate(invalid="ignore"):
            for data, logprob in row:
                token = None if data is None else self._ids.get(data)
                if token is not None:
                    before = masses.get(token)
                    joined = logprob if before is None else float(np.logaddexp(before, logprob))
                    masses[token] = joined
        return [*masses], [*masses.values()]

    def text(self, ids: Sequence[int]) -> str | None:
        """Return a prompt as text, or None if it ends inside a character or is empty.

        The server itself puts the beginning-of-text tokens in front.
        """
        begin = len(self._tokenizer.bos_ids)
        if tuple(ids[:begin]) != self._tokenizer.bos_ids:
            begin = 0
        spelled = self._tokenizer.token_bytes
        data = b"".join(
            spelled[token] or self._names.get(token, "").encode() for token in ids[begin:]
        )
        try:
            return data.decode() or None
        except UnicodeDecodeError:
            return None


def body_of(texts: Sequence[str], *, model: str, steps: int, top_k: int) -> Mapping[str, Any]:
    """Return the request for the next tokens after each text, in fields that all servers know."""
    return {
        "model": model,
        # Not all such servers take a list.
        "prompt": texts[0] if len(texts) == 1 else texts,
        "max_tokens": steps,
        "logprobs": top_k,
        "temperature": 0.0,
    }


def no_scores() -> ExpertError:
    """Return the error for a prompt that was to be scored."""
    return ExpertError("The expert's server scores no prompts.")


def spelled_steps(
    data: bytes, *, count: int
) -> list[tuple[list[_Spelled], list[list[tuple[_Spelled, float]]]]]:
    """Read a reply to `count` prompts: of each, its own tokens and its rows, all by spelling.

    A spelling is None where a token's bytes are no text by themselves, and are not given.

    Raises
    ------
    ExpertError
        If the reply is not a completion of each prompt with logprobs.
    """
    try:
        choices: list[dict[str, Any]] = json.loads(data)["choices"]
        by_index = {choice["index"]: choice["logprobs"] for choice in choices}
        if sorted(by_index) != list(range(count)) or len(choices) != count:
            raise not_one_each(count)
        return [_steps_of(by_index[place]) for place in range(count)]
    except MALFORMED as error:
        raise not_a_completion(error) from None


def _steps_of(
    said: Mapping[str, Any],
) -> tuple[list[_Spelled], list[list[tuple[_Spelled, float]]]]:
    """Return the spellings of a prompt's own tokens and of their rows, in either format."""
    if "content" in said:
        entries: Sequence[Mapping[str, Any]] = said["content"]
        return (
            [_entry(each) for each in entries],
            [
                [(_entry(top), float(top["logprob"])) for top in each["top_logprobs"]]
                for each in entries
            ],
        )
    rows = [
        [(_text(token), float(logprob)) for token, logprob in row.items()]
        for row in said["top_logprobs"]
    ]
    own = [_text(token) for token in said["tokens"]]
    if len(own) != len(rows):
        raise ExpertError(
            f"The expert's reply has {len(own)} tokens and {len(rows)} distributions for a prompt."
        )
    return own, rows


def _entry(entry: Mapping[str, Any]) -> _Spelled:
    given: object = entry.get("bytes")
    if given is None:
        return _text(entry["token"])
    # bytes() of a number would be so many zeros.
    if not isinstance(given, list) or len(given) > _MOST_BYTES:
        raise TypeError
    if any(type(each) is not int for each in given):
        raise TypeError
    return bytes(given) or None


def _text(token: str) -> _Spelled:
    escaped = _ESCAPED.fullmatch(token)
    if escaped:
        return bytes.fromhex(escaped[1].replace("\\x", ""))
    return None if _NO_TEXT in token else token.encode() or None
