"""Texts as token ids, the same for training, for the task embedding and for a server's prompt.

A server reads a prompt of ``/v1/completions`` as the tokenizer does, special tokens included, and
one of ``/v1/chat/completions`` as the chat template renders it, without any. What stands before a
response here has the same ids, so that an adapter is trained on what it is served.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from floe_plugins.errors import ConfigError, first_line
from flower_strategy.data.examples import Example
from flower_strategy.profile import Form

logger = logging.getLogger("flwr")

_CHARACTERS_PER_TOKEN = 16
"""A text is cut to so many characters per token that is kept, before it is tokenized."""

_CACHED_TOKENS = 4_194_304
"""The most tokens whose ids are kept: some 150 MB."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Encoded:
    """An example's token ids.

    Attributes
    ----------
    ids : tuple[int, ...]
        The ids.
    learned : tuple[bool, ...]
        Whether each is learned, as long as `ids`.
    ends : bool (default: True)
        Whether the last response is there to its end. A model that never sees one does not learn
        to end its answers.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    ends: bool = True


@dataclass(frozen=True)
class _Piece:
    text: str
    learned: bool


class Encoder:
    """Encodes examples in the form in which their model is served; keeps what it has encoded.

    Parameters
    ----------
    tokenizer : Any
        The base model's tokenizer, of transformers.
    template : str (default: "auto")
        ``auto`` renders by the tokenizer's chat template where it has one; ``none`` takes prompt
        and response as plain text.
    max_length : int
        Most tokens of an example.
    """

    def __init__(self, tokenizer: Any, *, template: str = "auto", max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        chat = template == "auto" and bool(getattr(tokenizer, "chat_template", None))
        self.form: Form = "chat" if chat else "plain"
        self._warned = False
        self.encode = lru_cache(maxsize=max(256, _CACHED_TOKENS // max_length))(self._encode)

    def prompt(self, text: str) -> list[int]:
        """Return the ids of what a user asks, as the server reads them."""
        if self.form == "plain":
            return self._kept(self._ids(text, special=True), ())[0]
        text = self._rendered([{"role": "user", "content": text}], prompt=True)
        return self._kept(self._ids(text), ())[0]

    def _encode(self, example: Example) -> Encoded:
        """Return an example's ids, `max_length` at most, and which of them are learned.

        Where it is too long, the last response keeps at least half of the tokens, and what comes
        before loses its beginning, save for the special tokens in front.

        Raises
        ------
        ConfigError
            The example is a conversation, and the model has no chat template or `template` is
            ``none``; or the template refuses it.
        """
        messages = example.messages if self.form == "chat" or not example.has_text else []
        if not messages:
            return self._plain(example)
        if self.form == "plain":
            raise ConfigError(
                "The data are conversations, which a chat template renders, and the base model's "
                "tokenizer has none or template='none' is set: take an instruct model, or give the "
                "data's fields with prompt-template and response-template."
            )
        return self._conversation(messages, json.loads(example.tools) if example.tools else None)

    def _plain(self, example: Example) -> Encoded:
        before = self._ids(example.prompt, special=True)
        text = example.response[: _CHARACTERS_PER_TOKEN * self._max_length]
        after = self._continuing(example.prompt, text)
        # What was cut does not end there.
        if text == example.response and self._tokenizer.eos_token_id is not None:
            after = [*after, self._tokenizer.eos_token_id]
        front, kept = self._kept(before, after)
        ends = text == example.response and len(kept) == len(after)
        return Encoded((*front, *kept), (False,) * len(front) + (True,) * len(kept), ends)

    def _conversation(self, messages: list[dict[str, Any]], tools: Any) -> Encoded:
        *earlier, last = self._pieces(messages, tools)
        ids: list[int] = []
        learned: list[bool] = []
        text = ""
        for piece in earlier:
            new = self._continuing(text, piece.text) if text else self._ids(piece.text)
            text += piece.text
            ids += new
            learned += [piece.learned] * len(new)
        spoken = last.text[: _CHARACTERS_PER_TOKEN * self._max_length]
        after = self._continuing(text, spoken)
        ended = self._ends_a_turn(after) or spoken != last.text
        if not ended and self._tokenizer.eos_token_id is not None:
            after = [*after, self._tokenizer.eos_token_id]
        front, kept = self._kept(ids, after)
        # All but the special tokens in front are the last ones.
        special = self._special(front)
        marks = [False] * special + learned[len(learned) - len(front) + special :]
        ends = spoken == last.text and len(kept) == len(after)
        return Encoded((*front, *kept), (*marks, *(True for _ in kept)), ends)

    def _pieces(self, messages: list[dict[str, Any]], tools: Any) -> list[_Piece]:
        """Cut the rendered conversation where the assistant begins and ends to speak."""
        whole = self._rendered(messages, tools=tools)
        spans = self._marked(messages, tools)
        if spans:
            # What the template writes behind its last mark is not learned, and so not needed.
            whole = whole[: spans[-1][1]]
        else:
            spans = self._spans_by_prefix(messages, tools, whole)
        if not spans or spans[-1][1] < len(whole.rstrip()):
            # The template shows earlier turns otherwise than the last one, which alone is learned.
            self._warn_of_turns(messages)
            before = self._rendered(messages[:-1], tools=tools, prompt=True)
            content = str(messages[-1].get("content") or "")
            tail = whole[whole.rfind(content) :] if content else whole[len(before) :]
            return [_Piece(before, False), _Piece(self._end_of(tail), True)]
        pieces: list[_Piece] = []
        done = 0
        for start, end in spans:
            spoken = self._end_of(whole[start:end])
            pieces += [_Piece(whole[done:start], False), _Piece(spoken, True)]
            done = start + len(spoken)
        return [piece for piece in pieces if piece.text]

    def _marked(self, messages: list[dict[str, Any]], tools: Any) -> list[tuple[int, int]]:
        """Return where the template's own generation marks stand; empty where it has none."""
        template = self._tokenizer.get_chat_template(tools=tools)
        if not _GENERATION.search(template):
            return []
        with self._refusals(messages):
            _, spans = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        return [(start, end) for start, end in spans[0] if start < end]

    def _spans_by_prefix(
        self, messages: list[dict[str, Any]], tools: Any, whole: str
    ) -> list[tuple[int, int]]:
        """Return where the assistant speaks: between a prompt's end and that of its turn."""
        spans: list[tuple[int, int]] = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            try:
                before = self._rendered(messages[:place], tools=tools, prompt=True) if place else ""
                until = self._rendered(messages[: place + 1], tools=tools)
            except ConfigError:
                # A template may refuse the beginning of a conversation that it takes as a whole.
                continue
            if whole.startswith(before) and whole.startswith(until.rstrip()):
                spans.append((len(before), len(until)))
        return spans

    def _warn_of_turns(self, messages: list[dict[str, Any]]) -> None:
        spoken = sum(message["role"] == "assistant" for message in messages)
        if spoken > 1 and not self._warned:
            self._warned = True
            logger.warning(
                "The chat template shows earlier turns of the assistant otherwise than the last "
                "one: of a conversation with %d turns the last one alone is learned.",
                spoken,
            )

    def _end_of(self, spoken: str) -> str:
        """Leave off the white space that a template puts behind the end of a turn."""
        bare = spoken.rstrip()
        ended = any(bare.endswith(token) for token in self._tokenizer.all_special_tokens)
        return bare if ended else spoken

    def _ends_a_turn(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in self._tokenizer.all_special_ids

    def _rendered(
        self, messages: list[dict[str, Any]], *, tools: Any = None, prompt: bool = False
    ) -> str:
        with self._refusals(messages):
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=prompt, tokenize=False
                )
            )

    @contextmanager
    def _refusals(self, messages: list[dict[str, Any]]) -> Iterator[None]:
        try:
            yield
        # Templates raise jinja2's errors, and Python's for what they read and do not find.
        except Exception as error:
            raise ConfigError(
                f"The base model's chat template refuses a conversation: {first_line(error)}; "
                "its roles are " + ", ".join(str(message["role"]) for message in messages[:6]) + "."
            ) from error

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        """Tokenize a text, of a long one the end: no more than that is kept."""
        limit = _CHARACTERS_PER_TOKEN * self._max_length
        bos = self._tokenizer.bos_token
        if special:
            front, back = self._around
        else:
            front = [self._tokenizer.bos_token_id] if bos and text.startswith(bos) else []
            back = []
        while len(text) > limit:
            ids = self._tokenizer(text[-limit:], add_special_tokens=False)["input_ids"]
            # A few tokens at the cut are not those of the whole text.
            if len(ids) >= self._max_length + 8:
                return [*front, *ids[8:], *back]
            limit *= 2
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts in front of a text, and behind it."""
        whole = self._tokenizer("a", return_special_tokens_mask=True)
        ids, special = list(whole["input_ids"]), list(whole["special_tokens_mask"])
        front = len(list(itertools.takewhile(bool, special)))
        back = len(list(itertools.takewhile(bool, reversed(special[front:]))))
        return ids[:front], ids[len(ids) - back :]

    def _continuing(self, before: str, text: str) -> list[int]:
        """Return the ids of a text that goes on after another one."""
        # What comes before decides whether a word begins; it reaches no further than this. Where
        # the text's first characters join the last token before it, the server has cut there:
        # then a line's end keeps tokenizers from putting a space in front.
        for context in (before[-64:], "\n"):
            head = self._tokenizer(context, add_special_tokens=False)["input_ids"]
            both = self._tokenizer(context + text, add_special_tokens=False)["input_ids"]
            if both[: len(head)] == head:
                return list(both[len(head) :])
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _kept(self, before: list[int], after: Sequence[int]) -> tuple[list[int], list[int]]:
        """Cut both parts to `max_length` ids together."""
        room = self._max_length
        kept = list(after[: max(room // 2, room - len(before))])
        special = self._special(before)
        front = before[:special][: max(0, room - len(kept))]
        rest = before[special:]
        left = room - len(kept) - len(front)
        return [*front, *rest[max(0, len(rest) - left) :]], kept

    def _special(self, ids: Sequence[int]) -> int:
        """Return how many special tokens stand in front."""
        special = set(self._tokenizer.all_special_ids)
        return next((place for place, each in enumerate(ids) if each not in special), len(ids))


@lru_cache(maxsize=2)
def encoder_of(tokenizer: Any, *, template: str, max_length: int) -> Encoder:
    """Return the process's encoder for a tokenizer and these settings."""
    return Encoder(tokenizer, template=template, max_length=max_length)
