"""Finds the GGUF file of a model, for llama.cpp."""

from __future__ import annotations

from pathlib import Path

from floe_plugins.errors import ModelError
from floe_plugins.models.embedded import MODELS, EmbeddedSource

_MAGIC = b"GGUF"
_SCHEME = f"{EmbeddedSource.name}:"


def resolve_gguf(name: str, *, progress: bool = True) -> Path:
    """Return the GGUF file of a model.

    Parameters
    ----------
    name : str
        ``embedded:NAME``, a file, or a folder with one file ``*.gguf``.
    progress : bool, optional
        Whether a progress bar may be shown on standard error.

    Raises
    ------
    ModelError
        There is no such file, or it is not GGUF; one sentence that says what to do.
    """
    if name.startswith(_SCHEME):
        return EmbeddedSource().gguf(name.removeprefix(_SCHEME), progress=progress)
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise ModelError(
                f"The folder {name!r} holds {len(found)} files *.gguf: name one, or an embedded "
                f"model ({_embedded()}). llama.cpp's convert_hf_to_gguf.py makes one of a "
                "checkpoint."
            )
        path = found[0]
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise ModelError(
            f"There is no file {name!r} ({path.absolute()}); accepted are a GGUF file, a folder "
            f"with one, and {_embedded()}."
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if magic != _MAGIC:
        raise ModelError(f"{path} is no GGUF file: it begins with {magic!r}.")
    return path.resolve()


def _embedded() -> str:
    return ", ".join(f"{_SCHEME}{each}" for each in MODELS)
