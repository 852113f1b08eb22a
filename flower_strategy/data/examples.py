"""Training examples and a node's share of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Example:
    """What the model is given, and what it learns to answer.

    A prompt with its response has both forms: plain text, and the conversation that a chat template
    renders. A row of messages has the conversation alone, a document its text alone.

    Attributes
    ----------
    prompt : str (default: "")
        What the model is given, as plain text; may be empty.
    response : str (default: "")
        What it shall continue with; the loss is measured on this part alone. It begins with the
        white space that separates the two.
    conversation : str (default: "")
        JSON list of messages in the form of chat templates, the last one the assistant's. The loss
        is measured on the assistant's turns. Empty where the turns are prompt and response.
    tools : str (default: "")
        JSON list of the tools that the conversation may call, for chat templates that render them.
    row : bytes (default: b"")
        Hash of the row that it was made of, where there was one. It stays the same under every
        template, which the server chooses.
    """

    prompt: str = ""
    response: str = ""
    conversation: str = ""
    tools: str = ""
    row: bytes = field(default=b"", repr=False, compare=False)

    @staticmethod
    def of_turns(prompt: str, response: str, *, user: str) -> Example:
        """Return the example of a prompt that puts something around what the user says."""
        turns = [("user", user.strip()), ("assistant", response.strip())]
        messages = [{"role": role, "content": content} for role, content in turns]
        return Example(prompt, response, as_json(messages))

    @property
    def has_text(self) -> bool:
        """Whether the example has the form of plain text."""
        return bool(self.response)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, a fresh list at every look; empty for a document."""
        if self.conversation:
            return list(json.loads(self.conversation))
        turns = [("user", self.prompt.strip()), ("assistant", self.response.strip())]
        if not all(content for _, content in turns):
            return []
        return [{"role": role, "content": content} for role, content in turns]

    @property
    def text(self) -> str:
        """Prompt and response as one text; the turns' contents where there is no plain text."""
        if self.has_text:
            return self.prompt + self.response
        return "\n".join(str(message.get("content") or "") for message in self.messages)

    @property
    def origin(self) -> bytes:
        """What tells it from other examples, whatever the server made of its row."""
        return self.row or self.content

    @cached_property
    def content(self) -> bytes:
        """Hash of what it says, 16 bytes: equal for rows of equal content in any file."""
        said = "\0".join((self.prompt, self.response, self.conversation, self.tools))
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:16]


def as_json(value: Sequence[Mapping[str, Any]]) -> str:
    """Return JSON with the keys in the order that they came in, which chat templates may print."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class LocalData:
    """What one node holds.

    Attributes
    ----------
    train : tuple[Example, ...]
        Examples to train on.
    held_out : tuple[Example, ...]
        Examples to measure the loss on, never trained on.
    label : str (default: "")
        Name of the node's main task, for reports of simulated runs.
    source : Iterable[Example] (default: ())
        All that the device holds, where the server's settings choose which of it take part, such
        as ``seed`` and ``max-examples``. With noise on the task embedding a device that still
        holds the texts of its last answer repeats that answer, see
        `flower_strategy.device.embedding_noise`. Empty where the other parts are all.
    validation : tuple[Example, ...] (default: ())
        Others that are not trained on: by the loss on them the server stops a cluster, and a device
        chooses the model that it keeps.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    label: str = ""
    source: Iterable[Example] = field(default=(), repr=False, compare=False)
    validation: tuple[Example, ...] = ()

    @property
    def everything(self) -> Iterable[Example]:
        """All examples that the device holds; files are read again at every look."""
        return self.source or (*self.train, *self.validation, *self.held_out)
