"""Training examples and a node's share of them."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    prompt: str
    response: str

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return self.prompt + self.response


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
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    label: str = ""
