"""Resolves a model name for `from_pretrained`, and reads the licence of a checkpoint."""

import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from floe_plugins.errors import ModelError
from floe_plugins.manager import plugin_manager
from floe_plugins.models import checkpoint_folder
from floe_plugins.models.gguf_file import resolve_gguf
from floe_plugins.models.gguf_folder import convert, stages

# Ids of the Hugging Face hub: "name" or "owner/name" of these characters.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


#: Each of these contains a whole tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def resolve(
    name: str, *, progress: bool = True, plugins: Iterable[str] = (), tokenizer: bool = False
) -> str:
    """Resolve a model name.

    Parameters
    ----------
    name : str
        Tried in this order: ``scheme:reference`` of a registered model source, such as
        ``embedded:smollm2-135m-instruct``; the path of an existing folder; the id of a model on
        the hub, such as ``owner/name``.
    progress : bool, optional
        Whether a source may show a progress bar on standard error.
    plugins : iterable of str, optional
        Dotted paths of plugins whose sources count as well; see `plugin_manager`.
    tokenizer : bool, optional
        Whether only a tokenizer is needed: a folder then needs no model.

    Returns
    -------
    str
        A local folder, or a hub id as it was given; `from_pretrained` and vLLM take both.

    Raises
    ------
    ModelError
        The name is none of these, or its source cannot provide it; one sentence.
    """
    scheme, colon, reference = name.partition(":")
    if colon:
        sources = plugin_manager(plugins).model_sources
        if scheme in sources:
            return str(sources[scheme].value.resolve(reference, progress=progress))
    folder = Path(name).expanduser()
    if folder.is_dir():
        wanted = ("config.json", *TOKENIZER_FILES) if tokenizer else ("config.json",)
        if not any((folder / file).is_file() for file in wanted):
            if tokenizer:
                raise ModelError(
                    f"The folder {name!r} ({folder.absolute()}) has no tokenizer in it: none of "
                    f"{', '.join(TOKENIZER_FILES)}."
                )
            raise ModelError(f"The folder {name!r} holds no config.json, so it is no checkpoint.")
        return str(folder.resolve())
    if folder.is_file():
        raise ModelError(
            f"{name!r} is a file; accepted is a folder, and `floe-llm model export FILE.gguf DIR` "
            "makes one of a GGUF file."
        )
    if _HUB_ID.fullmatch(name) and ".." not in name and "--" not in name:
        return name
    if name.startswith(("/", ".", "~")):
        raise ModelError(f"There is no folder {name!r} ({folder.absolute()}).")
    if colon:
        raise ModelError(
            f"There is no model source {scheme!r} and no folder {name!r}; sources are "
            f"{', '.join(sorted(sources))}."
        )
    raise ModelError(
        f"{name!r} is not a model: accepted are SOURCE:NAME (such as "
        "embedded:smollm2-135m-instruct), an existing folder, or a hub id OWNER/NAME."
    )


def export(name: str, directory: str | Path, *, progress: bool = True) -> Path:
    """Copy a model into a folder of your own.

    Parameters
    ----------
    name : str
        A GGUF file, whose model is converted; or as for `resolve`. A model on the hub is
        downloaded.
    directory : str or Path
        A folder that does not exist yet, or is empty. It appears when it is complete.
    progress : bool, optional
        Whether to show progress on standard error.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    ModelError
        The folder has content, the model cannot be provided, or writing fails; one sentence. No
        part is left then.
    """
    target = Path(directory).expanduser().absolute()
    if target.is_dir() and any(target.iterdir()):
        raise ModelError(f"The folder {directory} has content; name an empty or a new one.")
    if target.exists() and not target.is_dir():
        raise ModelError(f"{directory} is a file; name an empty or a new folder.")
    fill = _filler(name, progress=progress)
    with checkpoint_folder.explained(target.parent, otherwise="name a folder elsewhere"):
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint_folder.write(target, fill, facts={"model": name})
    return target


def _filler(name: str, *, progress: bool) -> Callable[[Path], None]:
    """Return what writes a model into an empty folder."""
    if name.endswith(".gguf") or Path(name).expanduser().is_file():
        return partial(_convert, resolve_gguf(name), progress=progress)
    resolved = Path(resolve(name, progress=progress))
    if resolved.is_dir():
        return partial(_copy, resolved)
    return partial(_download, name)


def _convert(gguf_path: Path, folder: Path, *, progress: bool) -> None:
    size = gguf_path.stat().st_size
    with stages(size, name=gguf_path.stem, progress=progress) as advance:
        convert(gguf_path, folder, name=gguf_path.name, advance=advance)


def _copy(checkpoint: Path, folder: Path) -> None:
    if (checkpoint / checkpoint_folder.MANIFEST).is_file():
        damage = checkpoint_folder.fault(checkpoint, thorough=True)
        if damage is not None:
            raise ModelError(
                f"The checkpoint {checkpoint} is damaged ({damage}): remove that folder, and it "
                "is made again."
            )
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    (folder / checkpoint_folder.MANIFEST).unlink(missing_ok=True)


def _download(name: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        snapshot_download(name, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"The hub does not provide {name!r} ({type(error).__name__}): check the name and the "
            "connection."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


_FRONT_MATTER = re.compile(r"\A---\n.*?^license:\s*(?P<licence>\S[^\n]*)$.*?^---$", re.S | re.M)


def licence(path: str) -> str | None:
    """Return the licence of a checkpoint, or None if it is unknown.

    Parameters
    ----------
    path : str
        What `resolve` returned. The licence of a folder is the model card's field ``license``, else
        the title of the file LICENSE. That of a hub id is unknown without the hub.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    card = folder / "README.md"
    if card.is_file():
        found = _FRONT_MATTER.match(card.read_text("utf-8", errors="replace"))
        if found is not None:
            return found["licence"].strip().strip("\"'")
    for text in sorted(folder.glob("LICENSE*")):
        lines = [line.strip() for line in text.read_text("utf-8", errors="replace").splitlines()]
        title = [line for line in lines if line][:2]
        if title:
            return ", ".join(title)[:120]
    return None
