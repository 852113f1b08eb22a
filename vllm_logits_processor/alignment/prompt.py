"""Rewrites prompts from the host's chat template to the expert's.

The module learns the host's template by rendering a few conversations with stand-ins for their
contents. The text around a content holds special tokens, which are matched by id: a user cannot
forge one by spelling it. The expert gets a prompt as plain text if the host's template would not
have written it, or if one of the two models has no template.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from vllm_logits_processor.alignment.chat_template import ChatTemplate, ConversationError, stand_in
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

logger = logging.getLogger(__name__)

#: Marks a special token among the bytes of a prompt; no UTF-8 text holds this byte.
_MARK = b"\xff"


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The expert's prompt.

    Attributes
    ----------
    front : list of int
        Expert tokens.
    text : bytes
        Text after them that the answer continues: the beginning of the answer if the prompt holds
        one, or the whole prompt if it is plain text.
    """

    front: list[int]
    text: bytes


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A conversation, and the beginning of the answer if the prompt holds one already."""

    messages: tuple[tuple[str, str], ...]
    begun: bytes = b""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The text of the host's template around contents, as bytes with marked special tokens."""

    #: Before the first user's message, and before a system message.
    user: bytes
    system: bytes | None
    #: Between a system message and the user's, a user's and the answer, an answer and the user's.
    system_user: bytes
    user_answer: bytes
    answer_user: bytes
    #: After the last user's message, where the answer begins.
    ask: bytes


class Conversation:
    """Rewrites prompts from the host's chat template to the expert's."""

    def __init__(self, host: ByteVocabulary, expert: ByteVocabulary) -> None:
        self._host, self._expert = host, expert
        self._form = lru_cache(maxsize=1)(self._form_on)
        self._front = lru_cache(maxsize=64)(self._front_on)
        self._reason = self._why_plain()
        if self._reason:
            logger.info("The expert reads prompts as plain text: %s", self._reason)

    def opening(self, prompt_ids: Sequence[int]) -> Opening:
        """Return the expert's prompt.

        Parameters
        ----------
        prompt_ids : sequence of int
            Host tokens of the prompt.
        """
        if not self._reason:
            try:
                spoken = self.spoken(prompt_ids)
                return Opening(front=self._written(spoken), text=spoken.begun)
            except ConversationError as error:
                logger.debug("The expert reads this prompt as plain text: %s", error)
        return Opening(front=list(self._expert.bos_ids), text=self._host.decode(prompt_ids))

    def spoken(self, prompt_ids: Sequence[int]) -> Spoken:
        """Return the conversation that a prompt holds.

        Parameters
        ----------
        prompt_ids : sequence of int
            Host tokens of the prompt.

        Raises
        ------
        ConversationError
            The host has no template, or it would not have written this prompt.
        """
        if self._host.template is None:
            raise ConversationError(f"{self._host.name!r} has no chat template.")
        form = self._form(date.today())
        data = self._marked(prompt_ids)
        bos = self._marked(self._host.bos_ids)
        if bos and data.startswith(bos * 2):
            # Added by the template and again by the tokenizer.
            data = data[len(bos) :]
        starts = [(form.user, "user")] + ([(form.system, "system")] if form.system else [])
        # A system message that the template itself writes is not part of the conversation.
        for start, role in sorted(starts, key=lambda pair: -len(pair[0])):
            if data.startswith(start):
                spoken = _parsed(data[len(start) :], role, form)
                if spoken is not None:
                    return spoken
        raise ConversationError(f"The template of {self._host.name!r} writes no such prompt.")

    def _why_plain(self) -> str | None:
        for vocabulary in (self._host, self._expert):
            if vocabulary.template is None:
                return f"{vocabulary.name!r} has no chat template."
        try:
            self._form(date.today())
            self._front(("user",), date.today())
        except ConversationError as error:
            return str(error)
        return None

    def _form_on(self, day: date) -> _Form:
        """Find the form of the host's template, which may write the `day`."""
        template = self._host.template
        assert template is not None
        user, between, again = self._around(template, ["user", "assistant", "user"])[:3]
        ask = self._around(template, ["user", "assistant", "user"], answer=True)[3]
        try:
            system, system_user, _ = self._around(template, ["system", "user"])
        except ConversationError:
            system, system_user = None, b""
        form = _Form(
            user=user,
            system=system,
            system_user=system_user,
            user_answer=between,
            answer_user=again,
            ask=ask,
        )
        borders = [between, again, ask] + ([system_user] if system is not None else [])
        if not all(_MARK in border for border in borders):
            raise ConversationError(
                f"The chat template of {self._host.name!r} has turns without special tokens, which "
                "a user's text could forge."
            )
        return form

    def _around(
        self, template: ChatTemplate, roles: Sequence[str], *, answer: bool = False
    ) -> list[bytes]:
        """Return the text before, between and after the contents of such a conversation."""
        text = template.rendered(roles, answer=answer)
        data = self._marked(template.backend.encode(text, add_special_tokens=False).ids)
        around = []
        for place in range(len(roles)):
            before, found, data = data.partition(stand_in(place).encode())
            if not found:
                raise ConversationError(f"{self._host.name!r} does not spell its own template.")
            around.append(before)
        return [*around, data]

    def _marked(self, token_ids: Sequence[int]) -> bytes:
        """Return the text of tokens, with special tokens as a mark and their id."""
        parts = []
        for token in token_ids:
            data = self._host.token_bytes[token] if token < len(self._host) else None
            if data is not None and _MARK in data:
                raise ConversationError("The prompt holds bytes that are no text.")
            parts.append(_MARK + token.to_bytes(4, "big") if data is None else data)
        return b"".join(parts)

    def _written(self, spoken: Spoken) -> list[int]:
        """Return a conversation as the expert's template writes it, up to the answer."""
        roles = tuple(role for role, _ in spoken.messages)
        contents = [content for _, content in spoken.messages]
        text, folded = self._front(roles, date.today())
        if folded:
            contents[:2] = ["\n\n".join(contents[:2])]
        template = self._expert.template
        assert template is not None
        # Some tokenizers put a space before any text, also after a special token.
        space = self._expert.decode(template.ids_behind_special("a"))[:-1]
        ids: list[int] = []
        for part in template.filled(text, contents):
            ids += [part] if isinstance(part, int) else self._expert.encode(space + part.encode())
        bos = list(self._expert.bos_ids)
        return ids if ids[: len(bos)] == bos else bos + ids

    def _front_on(self, roles: tuple[str, ...], day: date) -> tuple[str, bool]:
        """Return the expert's prompt with stand-ins, and whether the system message is folded.

        Without a system role, the message is prepended to the first user's.
        """
        template = self._expert.template
        assert template is not None
        try:
            return template.rendered(roles, answer=True), False
        except ConversationError:
            if roles[0] != "system":
                raise
        return template.rendered(roles[1:], answer=True), True


def _parsed(data: bytes, role: str, form: _Form) -> Spoken | None:
    """Parse a prompt from the first message on; None if the form does not write it."""
    messages: list[tuple[str, str]] = []
    while True:
        borders = {
            "system": [(form.system_user, "user")],
            "user": [(form.ask, "answer"), (form.user_answer, "assistant")],
            "assistant": [(form.answer_user, "user")],
        }[role]
        for border, following in borders:
            # A content holds no special token: it ends where the next one's border begins.
            end = data.find(_MARK) - border.index(_MARK)
            rest = data[end + len(border) :]
            if end >= 0 and data[end:].startswith(border) and (following != "answer" or not rest):
                break
        else:
            if role == "assistant" and _MARK not in data:
                # The prompt ends inside the answer, which is continued.
                return Spoken(messages=tuple(messages), begun=data)
            return None
        try:
            messages.append((role, data[:end].decode("utf-8")))
        except UnicodeDecodeError:
            return None
        if following == "answer":
            return Spoken(messages=tuple(messages))
        data, role = rest, following
