"""Exports adapters that a run has written already, for PEFT and vLLM or for llama.cpp."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from floe_plugins import files, models
from floe_plugins.errors import ConfigError
from flower_strategy.adapters.gguf_lora import GGUF_FILE, GgufError, gguf_base, save_gguf
from flower_strategy.adapters.peft_folder import CONFIG_FILE, load_adapter
from flower_strategy.run_folder import load_manifest, result_folder

Format = Literal["gguf", "peft"]


@dataclass(frozen=True)
class Exported:
    """An exported adapter.

    Attributes
    ----------
    name : str
        The cluster, or the name of the adapter's folder.
    path : Path
        The GGUF file, or the folder in PEFT's format.
    """

    name: str
    path: Path


def export_adapters(folder: Path | str, *, to: Format, out: Path | None = None) -> list[Exported]:
    """Write the adapters of a run, or one adapter, in a format.

    Parameters
    ----------
    folder : Path or str
        A run's output folder, or the folder of one adapter in PEFT's format.
    to : Format
        ``gguf`` for llama.cpp, ``peft`` for vLLM and PEFT.
    out : Path, optional
        A new or empty folder, which gets ``NAME.gguf`` or the folder ``NAME`` for each adapter. By
        default GGUF files are written beside PEFT's, which stay where they are.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds neither a run nor an adapter.
    flower_strategy.adapters.adapter.AdapterError
        An adapter cannot be read.
    flower_strategy.adapters.gguf_lora.GgufError
        The adapters cannot be written as GGUF.
    floe_plugins.errors.ConfigError
        `out` cannot be written.
    """
    adapters, base_model = _found(Path(folder))
    write = _gguf_writer(adapters, base_model) if to == "gguf" else _copier(adapters)
    with _explained(out or Path(folder)):
        if out is not None:
            places = {name: out / (f"{name}.gguf" if to == "gguf" else name) for name in adapters}
            out.parent.mkdir(parents=True, exist_ok=True)
            with files.new_folder(out) as part:
                for name, place in places.items():
                    write(name, part / place.name)
        elif to == "gguf":
            places = {name: path / GGUF_FILE for name, path in adapters.items()}
            for name, place in places.items():
                with files.new_file(place) as part:
                    write(name, part)
        else:
            places = adapters
    return [Exported(name, place) for name, place in places.items()]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}): name a new or empty folder "
            "with --out."
        ) from error


def _found(folder: Path) -> tuple[dict[str, Path], str]:
    """Return name -> folder of adapters, and the run's base model, empty without a run."""
    if (folder / CONFIG_FILE).is_file():
        return {folder.resolve().name: folder}, ""
    result = result_folder(folder)
    manifest = load_manifest(result)
    adapters = {each["name"]: result / each["adapter"] for each in manifest["clusters"]}
    return adapters, str(manifest.get("model") or "")


def _gguf_writer(adapters: Mapping[str, Path], base_model: str) -> Callable[[str, Path], None]:
    loaded = {name: load_adapter(path) for name, path in adapters.items()}
    named = base_model or next((each.base_model for each in loaded.values()), "")
    if not named:
        raise GgufError("There is no base model to write GGUF adapters for: the folder names none.")
    base = gguf_base(models.resolve(named))

    def write(name: str, path: Path) -> None:
        save_gguf(loaded[name].adapter, path, rank=loaded[name].rank, base=base)

    return write


def _copier(adapters: Mapping[str, Path]) -> Callable[[str, Path], None]:
    def write(name: str, path: Path) -> None:
        shutil.copytree(adapters[name], path, ignore=shutil.ignore_patterns(GGUF_FILE))

    return write
