"""The API key of a server, which may change while Floe runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from floe_plugins.errors import FloeError


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
