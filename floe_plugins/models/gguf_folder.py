"""Converts a GGUF file into a folder, and shows how far it is."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from floe_plugins.errors import ModelError

Advance = Callable[[str, int], None]
"""Called with the stage's name and the number of bytes done since the last call."""


@contextmanager
def stages(size: int, *, name: str, progress: bool) -> Iterator[Advance]:
    """Show a progress bar of `size` bytes, which is full at the end of the block."""
    with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:

        def advance(stage: str, done: int) -> None:
            bar.set_postfix_str(stage, refresh=not done)
            bar.update(done)

        yield advance
        bar.set_postfix_str("done")
        bar.update(bar.total - bar.n)


def convert(gguf_path: Path, folder: Path, *, name: str, advance: Advance) -> None:
    """Write the model of a GGUF file into an empty folder.

    Parameters
    ----------
    gguf_path, folder, advance : Path, Path, Advance
        As for :func:`floe_plugins.models.gguf.write_checkpoint`.
    name : str
        The model, as it was asked for.

    Raises
    ------
    ModelError
        The package ``gguf`` is missing, or as for `write_checkpoint`.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{name} needs the package gguf, which is not installed: run `pip install gguf`."
        )
    # It imports torch and transformers.
    from floe_plugins.models.gguf import write_checkpoint

    write_checkpoint(gguf_path, folder, advance=advance)
