"""llama.cpp's dialect: its server's own route ``/completion``, with tokens by id.

That route, and not ``/v1/completions``, because its reply can be limited to what is needed and says
per prompt which tokens it holds. Logprobs are those of the raw logits, over the whole vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from floe_plugins.vllm_replies import MALFORMED
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.dialects.dialect import (
    HINTS,
    Abilities,
    Expected,
    not_a_completion,
    not_one_each,
)
from vllm_logits_processor.expert.protocol import (
    Continuation,
    ExpertError,
    NoSuchModelError,
    TopRow,
    checked_continuations,
)

#: Prompts that differ only in so many of their last tokens belong to one text.
_NEAR = 16
#: A logit bias that no model's logits reach.
_CERTAIN = 1e6
#: File names of adapters that say nothing; the folder's name does.
_PLAIN = ("adapter", "adapter_model", "ggml-adapter-model", "lora")


def root_of(url: str) -> str:
    """Return the server's address, which its own routes follow."""
    return url.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The texts that a server keeps, and the most tokens of each, those to come among them."""

    count: int
    context: int


def slots_of(props: bytes) -> Slots | None:
    """Read the reply of ``/props``; None if it does not tell."""
    try:
        said = json.loads(props)
        context = said["default_generation_settings"]["n_ctx"]
        return Slots(count=int(said["total_slots"]), context=int(context))
    except MALFORMED:
        return None


def adapter_ids(listed: object) -> dict[str, int]:
    """Read the reply of ``/lora-adapters``: the id of each adapter by its names.

    An adapter has the name of its file, without the suffix, and that of its folder where no other
    adapter lies in it.

    Raises
    ------
    ExpertError
        If it is not a list of adapters.
    """
    try:
        found = [(int(each["id"]), PurePath(each["path"])) for each in _listed(listed)]
    except MALFORMED as error:
        raise ExpertError(
            f"The expert's list of adapters cannot be read ({type(error).__name__})."
        ) from None
    folders = [path.parent.name for _, path in found]
    names = {
        path.parent.name: number for number, path in found if folders.count(path.parent.name) == 1
    }
    # The file's own name counts for more.
    return names | {path.stem: number for number, path in found if path.stem not in _PLAIN}


def _listed(values: object) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError
    return values


class LlamaCppDialect:
    """Asks llama.cpp's server; see `Dialect`.

    Parameters
    ----------
    expected : Expected
        With its tokenizer, one forward pass gives each distribution, wherever the text ends.
    base : str or None
        The configured name of the model. The server has one model, and takes any name for it.
    adapters : mapping of str to int
        Ids of the server's adapters by name.
    """

    name = "llama.cpp"
    abilities = Abilities(scores=False)
    marked = False
    hints: Mapping[int, str] = {
        **HINTS,
        400: "the text is longer than one slot's context (its --ctx-size is divided among the "
        "slots of --parallel): see expert.context; or it was given a tokenizer that is not the "
        "model's",
        404: "expert.url is not the address of llama.cpp's server, with or without /v1",
        503: "it is still loading its model",
    }

    def __init__(
        self,
        expected: Expected,
        *,
        base: str | None = None,
        adapters: Mapping[str, int] | None = None,
    ) -> None:
        self._expected = expected
        self._base = base
        self._adapters = dict(adapters or {})
        self._whole = None if expected.tokenizer is None else _whole_token(expected.tokenizer)

    def endpoint(self, url: str) -> str:
        """See `Dialect`."""
        return f"{root_of(url)}/completion"

    def rounds(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Ask about the prompts of one text after each other, and of several texts at once.

        The server gives prompts that come at once a slot each, so those of one text would push
        other texts out of theirs. In turn each finds its beginning in the slot of its text.
        """
        if len(prompts) == 1:
            return ((0,),)
        order = sorted(range(len(prompts)), key=lambda place: list(prompts[place]))
        rounds: list[list[int]] = [[]]
        turn = 0
        for before, place in zip([None, *order], order, strict=False):
            near = before is not None and _near(prompts[before], prompts[place])
            turn = turn + 1 if near else 0
            if turn == len(rounds):
                rounds.append([])
            rounds[turn].append(place)
        return rounds

    def body(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int
    ) -> Mapping[str, Any]:
        """See `Dialect`."""
        values: dict[str, Any] = {
            "prompt": [list(prompt) for prompt in prompts],
            "n_predict": steps,
            "n_probs": self._expected.top_k,
            "temperature": 0.0,
            # Whatever the server was started with: its own next token is the likeliest one.
            "samplers": ["temperature"],
            "post_sampling_probs": False,
            "cache_prompt": True,
            "return_tokens": True,
            "response_fields": ["index", "tokens", "completion_probabilities"],
        }
        if scales := self._scales(model):
            values["lora"] = scales
        if steps == 1 and self._whole is not None:
            # A token that ends inside a character leaves the reply without its distribution. The
            # sampled token does not matter here, and the bias does not change the logprobs.
            values["logit_bias"] = [[self._whole, _CERTAIN]]
        return values

    def _scales(self, model: str) -> list[dict[str, Any]]:
        """Return the scale of every adapter: the named one's is 1, and none's for the base."""
        chosen = self._adapters.get(model)
        if chosen is None and self._base is not None and model != self._base:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise NoSuchModelError(f"The expert has no such adapter; its server has: {known}.")
        numbers = sorted(set(self._adapters.values()))
        return [{"id": each, "scale": float(each == chosen)} for each in numbers]

    def read(self, data: bytes, *, count: int, steps: int) -> Sequence[Continuation | None]:
        """See `Dialect`."""
        try:
            said = json.loads(data)
            answers = said if isinstance(said, list) else [said]
            if count == 1 and len(answers) == 1:
                by_index = {0: answers[0]}
            else:
                by_index = {answer["index"]: answer for answer in answers}
            if sorted(by_index) != list(range(count)) or len(answers) != count:
                raise not_one_each(count)
            tokens, rows = [], []
            for place in range(count):
                own, top = _steps_of(by_index[place], one=steps == 1)
                tokens.append(own)
                rows.append(top)
        except MALFORMED as error:
            raise not_a_completion(error) from None
        known = [place for place, own in enumerate(tokens) if own]
        if len(known) < count and steps == 1:
            raise ExpertError("The expert's reply has no distribution for a prompt.")
        found = checked_continuations(
            [tokens[place] for place in known],
            [rows[place] for place in known],
            steps=steps,
            vocabulary=self._expected.vocabulary,
            end_ids=self._expected.end_ids,
        )
        continuations: list[Continuation | None] = [None] * count
        for place, continuation in zip(known, found, strict=True):
            continuations[place] = continuation
        return continuations

    def score_body(self, prompt: Sequence[int], *, model: str) -> Mapping[str, Any]:
        """Raise: the server has no logprobs of prompts."""
        raise ExpertError("The expert's server, llama.cpp, scores no prompts.")

    def read_score(self, data: bytes, prompt: Sequence[int]) -> float:
        """Raise: the server has no logprobs of prompts."""
        raise ExpertError("The expert's server, llama.cpp, scores no prompts.")


def _near(first: Sequence[int], second: Sequence[int]) -> bool:
    """Return whether two prompts are one text up to its last tokens."""
    same = min(len(first), len(second)) - _NEAR
    return same > 0 and first[:same] == second[:same]


def _steps_of(answer: Mapping[str, Any], *, one: bool) -> tuple[list[int], list[TopRow]]:
    """Return the model's own tokens after a prompt, and the row of each.

    The server leaves out the rows of tokens that end inside a character: what follows the first
    such token is dropped.
    """
    said: Sequence[Mapping[str, Any]] = answer.get("completion_probabilities") or ()
    rows = [_row(each["top_logprobs"]) for each in said]
    if one:
        # The sampled token was forced; the likeliest one is the model's own.
        return [_likeliest(row) for row in rows], rows
    sampled: Iterable[int] = answer["tokens"]
    own = []
    for each, token in zip(said, sampled, strict=False):
        if each["id"] != token:
            break
        own.append(int(token))
    return own, rows[: len(own)]


def _row(top: Sequence[Mapping[str, Any]]) -> TopRow:
    return [int(each["id"]) for each in top], [float(each["logprob"]) for each in top]


def _likeliest(row: TopRow) -> int:
    tokens, logprobs = row
    return max(zip(logprobs, tokens, strict=True))[1] if tokens else 0


def _whole_token(tokenizer: ByteVocabulary) -> int | None:
    """Return a token that spells whole characters."""
    for data in (b" a", b"a", b","):
        ids = tokenizer.encode(data)
        if len(ids) == 1 and tokenizer.token_bytes[ids[0]]:
            return ids[0]
    return None
