"""What sections of configurations share: checks of single values, and the API key of a server."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from floe_plugins.errors import ConfigError, FloeError


def accept(what: str, value: object, accepted: str, *, good: bool) -> None:
    """Raise the one sentence about a value unless `good`.

    Parameters
    ----------
    what : str
        What is configured, as the beginning of the sentence.
    value : object
        What it was given.
    accepted : str
        What it would take, as the end of the sentence.
    good : bool

    Raises
    ------
    ConfigError
    """
    if not good:
        raise ConfigError(f"{what} is {value!r}; accepted is {accepted}.")


def refuse_unknown(keys: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise the one sentence about the first key that is not `known`, if there is one.

    Parameters
    ----------
    keys, known : iterable of str
    where : str
        What holds the keys, as the beginning of the sentence.

    Raises
    ------
    ConfigError
    """
    accepted = list(known)
    for key in keys:
        if key not in accepted:
            raise ConfigError(f"{where} has the key {key!r}; accepted are {', '.join(accepted)}.")


def check_credentials(values: Mapping[str, Any], *, section: str) -> None:
    """Check ``api_key_env``, ``api_key_file`` and ``ca_file``; None stands for what is not given.

    Parameters
    ----------
    values : mapping of str to object
        These keys and their values.
    section : str
        Stands in front of a key in the sentence.

    Raises
    ------
    ConfigError
        If the variable is not set, a file is not there, or there are two keys.
    """
    variable = values["api_key_env"]
    if variable is not None:
        accept(
            f"{section}api_key_env",
            variable,
            "the name of an environment variable that is set, without api_key_file beside it",
            good=is_set_variable(variable) and values["api_key_file"] is None,
        )
    for key in ("api_key_file", "ca_file"):
        value = values[key]
        if value is not None:
            good = isinstance(value, str) and Path(value).is_file()
            accept(
                f"{section}{key}", value, f"the path of a file that is there{_at(value)}", good=good
            )


def _at(path: object) -> str:
    """Say where a relative path was looked for: users take it to count from another folder."""
    if not isinstance(path, str) or not path or Path(path).is_absolute():
        return ""
    return f" (looked for as {Path(path).absolute()})"


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell a number that a finite float holds from the rest; JSON's true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def is_integer(value: object, *, least: int, most: float = math.inf) -> TypeGuard[int]:
    """Tell whether `value` is an integer in a range, both ends included."""
    return type(value) is int and least <= value <= most


def is_url(value: object) -> bool:
    """Tell an http:// or https:// URL, with a host and, if it has one, a port that there can be."""
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number up to 65,535, or brackets that do not match
        return False


def is_set_variable(value: object) -> bool:
    """Tell the name of an environment variable that is set."""
    return isinstance(value, str) and value in os.environ


class ApiKeyError(FloeError):
    """The file of an API key cannot be read."""


@dataclass
class ApiKey:
    """A key that is given, or read from a file whenever the file changes.

    Parameters
    ----------
    value : str, optional
    file : Path, optional
        Its content, without surrounding white space, is the key.
    """

    value: str | None = field(default=None, repr=False)
    file: Path | None = None
    _seen: tuple[int, int, int] | None = field(default=None, init=False, repr=False)

    @classmethod
    def named(cls, *, variable: str | None, file: str | None) -> ApiKey:
        """Return the key in an environment variable, that of a file, or none.

        Raises
        ------
        KeyError
            If the variable is not set.
        """
        return cls(
            value=os.environ[variable] if variable else None, file=Path(file) if file else None
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the header of a request; none without a key.

        Raises
        ------
        ApiKeyError
            If the file cannot be read, or is no text.
        """
        if self.file is not None:
            self._refresh(self.file)
        return [(b"Authorization", f"Bearer {self.value}".encode())] if self.value else []

    def _refresh(self, file: Path) -> None:
        try:
            status = file.stat()
            # A rotated file may be as long and as old as the one before it, not the same file.
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self.value = file.read_text(encoding="ascii").strip()
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            raise ApiKeyError(
                f"The file of the API key cannot be read ({type(error).__name__})."
            ) from None
