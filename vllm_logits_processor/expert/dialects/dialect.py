"""The interface of every dialect: how to ask a completions server, and how to read its reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.open_text import json_of
from vllm_logits_processor.alignment.prefix import TokenIds
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.protocol import Continuation, ExpertError


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a server can do; known before the first text is sent.

    Attributes
    ----------
    takes_ids : bool
        Whether a prompt is given as token ids; otherwise as text.
    names_ids : bool
        Whether a reply names tokens by id; otherwise by their spelling.
    several_prompts : bool
        Whether one request may hold several prompts.
    lookahead : bool
        Whether a request may ask for several of the expert's own tokens.
    scores : bool
        Whether a prompt can be scored.
    has_tokenizer : bool
        Whether the tokenizer is known; otherwise a reply's tokens are their spellings alone.
    """

    takes_ids: bool = True
    names_ids: bool = True
    several_prompts: bool = True
    lookahead: bool = True
    scores: bool = True
    has_tokenizer: bool = True

    def lacks(self) -> str:
        """Return what cannot be done, as a clause; empty if all can."""
        unidentified = "tokens that the tokenizer cannot tell by their spelling are unknown"
        lacking = (
            (
                self.has_tokenizer,
                "its tokenizer is not known, so a text that ends inside one of its tokens is "
                "continued as it stands, conversations are plain text, and the host alone knows "
                "where an answer ends",
            ),
            (self.takes_ids, "a text that ends inside a character is the host's alone there"),
            (self.names_ids or not self.has_tokenizer, unidentified),
            (self.several_prompts, "each text takes a request of its own"),
            (self.lookahead, "it gives one token a call, so expert.lookahead has no effect"),
            (self.scores, "it scores no prompts, so host_url brings no evidence"),
        )
        return "; ".join(what for able, what in lacking if not able)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a dialect asks for, and by what a reply is checked.

    Attributes
    ----------
    top_k : int
        Logprobs per token.
    vocabulary : int
        Number of the expert's tokens.
    end_ids : int32 array
        The expert's end tokens, joined into one event.
    tokenizer : ByteVocabulary or None
        The configured tokenizer, where it can be read.
    """

    top_k: int
    vocabulary: int
    end_ids: TokenArray
    tokenizer: ByteVocabulary | None = None


class Dialect(Protocol):
    """One way to ask a completions server.

    Attributes
    ----------
    name : str
        As in `expert.api`.
    abilities : Abilities
    marked : bool
        Whether requests carry the mark for servers that run Floe themselves.
    hints : mapping of int to str
        The usual cause of an HTTP status.
    """

    name: str
    abilities: Abilities
    marked: bool
    hints: Mapping[int, str]

    def endpoint(self, url: str) -> str:
        """Return the URL for completions, given the base URL without a slash at its end."""
        ...

    def rounds(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Return the requests of a call, each as places of `prompts`; they are sent in turn.

        A prompt that the dialect cannot express is in none of them.
        """
        ...

    def body(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int
    ) -> Mapping[str, Any]:
        """Return the request for the next `steps` tokens after each prompt.

        Raises
        ------
        NoSuchModelError
            If the server is known not to have the model.
        """
        ...

    def read(self, data: bytes, *, count: int, steps: int) -> Sequence[Continuation | None]:
        """Read the continuation of each of `count` prompts, in their order.

        None stands for one that must be asked for again, with one step.

        Raises
        ------
        ExpertError
            If the reply is not what `body` asks for.
        """
        ...

    def score_body(self, prompt: Sequence[int], *, model: str) -> Mapping[str, Any]:
        """Return the request for the logprobs of a prompt; only where `abilities` has scores."""
        ...

    def read_score(self, data: bytes, prompt: Sequence[int]) -> float:
        """Read the sum of ln p of the tokens of `prompt`, from the second on, nats."""
        ...


#: The usual causes of HTTP statuses that are the same for all servers. The server's own message is
#: never shown: it may quote the text.
HINTS: Mapping[int, str] = {
    401: "it wants another API key: see expert.api_key_env and expert.api_key_file",
    403: "it wants another API key: see expert.api_key_env and expert.api_key_file",
    404: "it has no such model or adapter, or expert.url does not end before /completions",
    413: "it takes only smaller requests",
    429: "it limits how often it may be asked",
}


def as_json(prompts: Sequence[Sequence[int]]) -> msgspec.Raw:
    """Return prompts as they stand in a request."""
    texts = [
        (prompt.json if isinstance(prompt, TokenIds) else json_of(prompt))[:-1]
        for prompt in prompts
    ]
    return msgspec.Raw(b"[[%b]]" % b"],[".join(texts) if texts else b"[]")


def in_one(prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """Return the `rounds` of a dialect that asks about all prompts at once."""
    return (range(len(prompts)),)


def unlisted() -> Continuation:
    """Return a continuation in which the expert says nothing: it leaves the host's row as it is."""
    return Continuation(
        tokens=np.empty(0, dtype=np.int64),
        top=ExpertTopK(token_ids=np.full((1, 1), NOTHING), logprobs=np.full((1, 1), -np.inf)),
    )


def not_a_completion(error: Exception) -> ExpertError:
    """Return the error for a reply of another shape."""
    return ExpertError(
        f"The expert's reply is not a completion with logprobs ({type(error).__name__})."
    )


def not_one_each(count: int) -> ExpertError:
    """Return the error for a reply that lacks prompts, or has too many."""
    return ExpertError(f"The expert's reply has not one choice for each of {count} prompts.")
