"""Kinds of configuration keys: what each means, what it accepts, how it is parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from floe_plugins.config import is_integer, is_number

ConfigValue = str | int | float | bool

EXPORT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM accepts as ``--max-lora-rank``."""


@dataclass(frozen=True)
class Key:
    """What a key means and accepts.

    Attributes
    ----------
    help : str
        One sentence for the user.
    accepts : str
        The accepted values in words, as the error message ends.
    parse : Callable[[ConfigValue], Any]
        Converts a value, or raises ValueError.
    """

    help: str
    accepts: str
    parse: Callable[[ConfigValue], Any]


def keyed(default: Any, spec: Key) -> Any:
    """Return a dataclass field with a default and what the key means."""
    return field(default=default, metadata={"key": spec})


def integer(meaning: str, *, low: int, high: int) -> Key:
    """Return a key that takes whole numbers of a range."""

    def parse(value: ConfigValue) -> int:
        if not is_integer(value, least=low, most=high):
            raise ValueError
        return value

    return Key(meaning, f"a whole number from {low} to {high}", parse)


def number(meaning: str, *, low: float, high: float, above: bool = False) -> Key:
    """Return a key that takes numbers of a range; with `above` its lower end is left out."""

    def parse(value: ConfigValue) -> float:
        if not is_number(value):
            raise ValueError
        if not low <= value <= high or (above and value == low):
            raise ValueError
        return float(value)

    lower = f"above {low:g}" if above else f"from {low:g}"
    return Key(meaning, f"a number {lower} to {high:g}", parse)


def flag(meaning: str) -> Key:
    """Return a key that takes true or false."""

    def parse(value: ConfigValue) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Key(meaning, "true or false", parse)


def text(meaning: str, *, empty: bool = False) -> Key:
    """Return a key that takes a text."""

    def parse(value: ConfigValue) -> str:
        if not isinstance(value, str) or not (value.strip() or empty):
            raise ValueError
        return value

    return Key(meaning, "a text" if empty else "a text that is not empty", parse)


def choice(meaning: str, *options: str) -> Key:
    """Return a key that takes one of some words."""

    def parse(value: ConfigValue) -> str:
        if value not in options:
            raise ValueError
        return str(value)

    return Key(meaning, "one of " + ", ".join(options), parse)


def name(meaning: str, *built_in: str) -> Key:
    """Return a key that takes one of some words, or a name that a plugin registers.

    Who looks the name up refuses one that nobody registers.
    """

    def parse(value: ConfigValue) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return value

    return Key(meaning, f"one of {', '.join(built_in)}, or a plugin's", parse)


def split_list(value: str) -> tuple[str, ...]:
    """Split a comma-separated list, without blanks and empty items."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def names(meaning: str, accepts: str) -> Key:
    """Return a key that takes a list separated by commas."""

    def parse(value: ConfigValue) -> tuple[str, ...]:
        if not isinstance(value, str) or not split_list(value):
            raise ValueError
        return split_list(value)

    return Key(meaning, accepts, parse)


def ranks(meaning: str) -> Key:
    """Return a key that takes a list of LoRA ranks."""

    def parse(value: ConfigValue) -> tuple[int, ...]:
        if isinstance(value, (bool, float)):
            raise ValueError
        ranks = tuple(sorted({int(item) for item in split_list(str(value))}))
        if not ranks or ranks[0] < 1 or ranks[-1] > max(EXPORT_RANKS):
            raise ValueError
        return ranks

    return Key(meaning, f"whole numbers from 1 to {max(EXPORT_RANKS)}, separated by commas", parse)


def export_rank(meaning: str) -> Key:
    """Return a key that takes a rank that vLLM accepts."""

    def parse(value: ConfigValue) -> int:
        if isinstance(value, bool) or value not in EXPORT_RANKS:
            raise ValueError
        return int(value)

    return Key(meaning, "one of " + ", ".join(map(str, EXPORT_RANKS)), parse)
