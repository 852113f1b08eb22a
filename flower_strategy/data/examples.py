"""Training examples and a node's share of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """One prompt and the response to learn.

    Attributes
    ----------
    prompt : str
        What the model is given; may be empty.
    response : str
        What it shall continue with; the loss is measured on this part alone. It begins with the
        white space that separates the two.
    row : bytes (default: b"")
        Hash of the row that it was made of, where there was one. It stays the same under every
        template, which the server chooses.
    """

    prompt: str
    response: str
    row: bytes = field(default=b"", repr=False, compare=False)

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return self.prompt + self.response

    @property
    def origin(self) -> bytes:
        """What tells it from other examples, whatever the server made of its row."""
        return self.row or self.text.encode("utf-8", "surrogatepass")


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
    source : tuple[Example, ...] (default: ())
        All that the device holds, where the server's settings choose which of it take part, such
        as ``seed`` and ``max-examples``. With noise on the task embedding a device that still
        holds the texts of its last answer repeats that answer, see
        `flower_strategy.device.embedding_noise`. Empty where `train` and `held_out` are all.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    label: str = ""
    source: tuple[Example, ...] = field(default=(), repr=False, compare=False)

    @property
    def everything(self) -> tuple[Example, ...]:
        """All examples that the device holds."""
        return self.source or (*self.train, *self.held_out)
