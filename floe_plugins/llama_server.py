"""llama.cpp's own server, in this process: the small model on a device.

The package ``xllamacpp`` holds it. Its threads answer while the `Server` lives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError

_ADAPTER = "adapter_model.gguf"
#: In a run's result, and in a folder of `floe-llm adapter export` or of one adapter.
_PLACES = (f"*/{_ADAPTER}", "*.gguf")

_MANIFEST = "manifest.json"
# A line of llama.cpp's log: time, level, and the function that says it.
_LINE = re.compile(r"^\S+ E (?:\w+ +)?(?:\w+: )?(?P<said>\S.*)$", re.M)

#: In the second in which a log may still be written.
_READS = 50


class LlamaServerError(FloeError):
    """llama.cpp's server cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class GgufAdapter:
    """A LoRA adapter that requests may name by its id.

    Attributes
    ----------
    id : int
        What a request says: ``"lora": [{"id": 0, "scale": 1.0}]``.
    name : str
        The cluster.
    path : Path
        The GGUF file.
    """

    id: int
    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class LlamaSettings:
    """How to start the server.

    Attributes
    ----------
    model : Path
        A GGUF file.
    name : str
        The model's id in ``/v1/models``.
    adapters : tuple[GgufAdapter, ...]
        Loaded, but applied to no request that does not name them.
    host, port : str, int
        Where it listens; port 0 is any free one.
    context : int
        Tokens that a text may have, in each slot.
    slots : int
        Texts that are kept in memory at the same time, so that a step of each evaluates its newest
        token alone.
    threads : int
        Threads that compute.
    metrics : bool
        Whether ``/metrics`` has its counters, as Prometheus reads them; none holds a text.
    """

    model: Path
    name: str
    adapters: tuple[GgufAdapter, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8081
    context: int = 4096
    slots: int = 4
    threads: int = 1
    metrics: bool = False


def find_adapters(folder: Path) -> tuple[GgufAdapter, ...]:
    """Return the GGUF adapters of a run, or those of a folder of such files, sorted by name.

    Parameters
    ----------
    folder : Path
        A run's output folder, what ``floe-llm adapter export`` has made of it, or one adapter's
        folder.

    Raises
    ------
    LlamaServerError
        There are none.
    """
    # The manifest of an output folder links to the current result, which later ones leave alone.
    manifest = folder / _MANIFEST
    result = manifest.resolve().parent if manifest.is_file() else folder
    for pattern in _PLACES:
        found = {
            path.parent.name if path.name == _ADAPTER else path.stem: path
            for path in result.glob(pattern)
        }
        if found:
            names = sorted(found, key=_in_numbers)
            return tuple(GgufAdapter(place, name, found[name]) for place, name in enumerate(names))
    if not folder.is_dir():
        raise LlamaServerError(f"There is no folder {folder}; name the output folder of a run.")
    raise LlamaServerError(
        f"{folder} holds no GGUF adapters: write them with "
        f"`floe-llm adapter export {folder} --to gguf`."
    )


def _in_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key by which ``cluster-2`` comes before ``cluster-10``."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def start(settings: LlamaSettings) -> Any:
    """Start the server.

    Returns
    -------
    xllamacpp.Server
        It listens at its ``listening_address`` until it is deleted.

    Raises
    ------
    LlamaServerError
        The port is taken, or llama.cpp does not load the model or an adapter; one sentence.
    ModuleNotFoundError
        ``xllamacpp`` is absent.
    """
    import xllamacpp

    _check_address(settings.host, settings.port)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(settings.model)
    parameters.model_alias = {settings.name}
    parameters.hostnames = [settings.host]
    parameters.port = settings.port
    # llama.cpp divides the context among its slots.
    parameters.n_parallel = settings.slots
    parameters.n_ctx = settings.slots * settings.context
    parameters.cpuparams.n_threads = settings.threads
    parameters.cache_prompt = True
    # Texts that have left their slot are evaluated anew; otherwise up to 8 GiB keep them.
    parameters.cache_ram_mib = 0
    parameters.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(each.path), 0.0) for each in settings.adapters
    ]
    parameters.lora_init_without_apply = True
    # The server is for programs: no page may ask it from a browser, and none shows others' texts.
    parameters.ui = False
    parameters.cors_origins = ""
    parameters.endpoint_slots = False
    parameters.endpoint_metrics = settings.metrics
    # Errors alone; more would hold parts of texts.
    parameters.verbosity = 1
    with _standard_error_kept() as kept:
        try:
            return xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise LlamaServerError(_reason(settings, kept.reason(), error)) from error


def cores() -> int:
    """Return how many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on; llama.cpp does not say what is wrong."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LlamaServerError(
                f"Port {port} of {host} is taken: choose another --port, or 0 for any free one."
            ) from error
        raise LlamaServerError(
            f"Nothing can listen on {host}:{port} ({error.strerror}): choose another --host or "
            "--port."
        ) from error


class _Kept:
    """What has been written to standard error."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def reason(self) -> str:
        """Return the text as soon as it has an error, or after a second."""
        # A thread of llama.cpp's writes its log, and may come to that after the error.
        for _ in range(_READS):
            self._file.seek(0)
            text = str(self._file.read().decode("utf-8", "replace"))
            if _LINE.search(text):
                break
            time.sleep(1 / _READS)
        return text


@contextlib.contextmanager
def _standard_error_kept() -> Iterator[_Kept]:
    """Keep what C code writes to standard error in a file, for the sentence about an error."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield _Kept(file)
        finally:
            os.dup2(before, 2)
            os.close(before)


def _reason(settings: LlamaSettings, log: str, error: RuntimeError) -> str:
    """Return the sentence about a server that did not start, with llama.cpp's own reason."""
    found = _LINE.search(log)
    said = (found["said"].strip() if found is not None else str(error)).rstrip(".")
    files: Sequence[Path] = [settings.model, *(each.path for each in settings.adapters)]
    named = next((path for path in reversed(files) if str(path) in log), settings.model)
    if named == settings.model:
        return f"llama.cpp does not load {named}: {said}."
    return (
        f"llama.cpp does not load the adapter {named} on {settings.model}: {said}; name the model "
        "that it was trained on."
    )
