"""Chat templates: the text around the messages of a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import TemplateError
from tokenizers import Tokenizer

from floe_plugins.errors import FloeError

#: Errors that a template raises for messages that it refuses.
_REFUSALS = (TemplateError, TypeError, ValueError, KeyError)


class ConversationError(FloeError):
    """A template refuses a conversation, or a text is not one of its prompts."""


_STAND_IN = re.compile(r"floeqzx(\d+)xzqeolf")


def stand_in(place: int) -> str:
    """Return the stand-in for the content of message `place` while a template is rendered."""
    return f"floeqzx{place}xzqeolf"


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatTemplate:
    """The chat template of one tokenizer.

    Attributes
    ----------
    source : str
        The Jinja template.
    named : mapping of str to str
        The special tokens that templates call by name, such as ``bos_token``.
    backend : tokenizers.Tokenizer
        The original tokenizer, which recognises special tokens in a text.
    """

    source: str
    named: Mapping[str, str]
    backend: Tokenizer

    def rendered(self, roles: Sequence[str], *, answer: bool) -> str:
        """Return the prompt for messages of these roles, a stand-in for the content of each.

        Parameters
        ----------
        answer : bool
            True to end with the beginning of the assistant's answer.

        Raises
        ------
        ConversationError
            The template refuses these roles, or leaves a message out or repeats it.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [{"role": role, "content": stand_in(place)} for place, role in enumerate(roles)]
        try:
            (text,), _ = render_jinja_template(
                conversations=[messages],
                chat_template=self.source,
                add_generation_prompt=answer,
                **self.named,
            )
        except _REFUSALS as error:
            raise ConversationError(
                f"The chat template refuses {', '.join(roles)} ({error})."
            ) from None
        found = [text.find(stand_in(place)) for place in range(len(roles))]
        once = all(text.count(stand_in(place)) == 1 for place in range(len(roles)))
        if not once or found != sorted(found):
            raise ConversationError(f"The chat template does not keep all of {', '.join(roles)}.")
        return str(text)

    def filled(self, text: str, contents: Sequence[str]) -> list[int | str]:
        """Return a rendered prompt with its contents, as special tokens and the texts between.

        A content is text, even if it spells a special token.
        """
        parts: list[int | str] = []
        strip = False
        for piece in re.split(self._any_special, text):
            if piece in self._special:
                token, strips_left, strips_right = self._special[piece]
                if strips_left and parts and isinstance(last := parts[-1], str):
                    parts[-1] = last.rstrip()
                parts.append(token)
                strip = strips_right
            elif piece:
                plain = _STAND_IN.sub(lambda found: contents[int(found[1])], piece)
                parts.append(plain.lstrip() if strip else plain)
                strip = False
        return [part for part in parts if part != ""]

    def ids_behind_special(self, text: str) -> list[int]:
        """Return the tokens of `text` after a special token."""
        front = next(iter(self._special), "")
        ids: list[int] = self.backend.encode(front + text, add_special_tokens=False).ids
        return ids[1:] if front else ids

    @cached_property
    def _special(self) -> dict[str, tuple[int, bool, bool]]:
        """Id of each special token by its spelling, and whether it takes the spaces around it."""
        added = json.loads(self.backend.to_str())["added_tokens"]
        return {
            token["content"]: (token["id"], token["lstrip"], token["rstrip"])
            for token in added
            if token["special"]
        }

    @cached_property
    def _any_special(self) -> str:
        """Pattern of one special token, the longest that fits; one that never fits for none."""
        spellings = sorted(self._special, key=len, reverse=True)
        return "(" + "|".join(map(re.escape, spellings)) + ")" if spellings else "(?!)"
