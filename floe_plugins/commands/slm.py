"""`floe-llm slm`: serves the small model on a device with llama.cpp."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

_SCHEME = "embedded:"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    group = commands.add_parser("slm", help="serve a small model on this device").add_subparsers(
        required=True, metavar="ACTION"
    )
    serving = group.add_parser(
        "serve",
        help="serve a GGUF model, and a run's adapters, with llama.cpp",
        description="Serve a model with llama.cpp's server until Ctrl-C or SIGTERM. Adapters are "
        "loaded, and applied to requests that name them: "
        '"lora": [{"id": 0, "scale": 1.0}].',
    )
    serving.add_argument(
        "model", metavar="MODEL", help="a GGUF file, a folder with one, or embedded:NAME"
    )
    serving.add_argument(
        "--adapters",
        metavar="RUN",
        help="a run's output folder, or a folder of GGUF adapters",
    )
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serving.add_argument(
        "--port", type=_port, default=8081, help="port; 0 for any free one (%(default)s)"
    )
    serving.add_argument(
        "--context",
        type=_positive,
        default=4096,
        metavar="N",
        help="tokens that a text may have (%(default)s)",
    )
    serving.add_argument(
        "--slots",
        type=_positive,
        default=4,
        metavar="N",
        help="texts that are kept in memory at the same time (%(default)s)",
    )
    serving.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads that compute (as many as there are processors)",
    )
    serving.add_argument(
        "--metrics", action="store_true", help="count requests and tokens at /metrics"
    )
    serving.add_argument(
        "--json", action="store_true", help="say where it is ready as one line of JSON"
    )
    serving.set_defaults(run=_serve, extras=("llama-cpp", "embedded"))


def _port(text: str) -> int:
    # llama.cpp takes what is left of 65536 for a larger one, and calls it by the larger one's name.
    return _whole(text, least=0, most=65535)


def _positive(text: str) -> int:
    return _whole(text, least=1, most=2**31 - 1)


def _whole(text: str, *, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not accepted; a whole number from {least} to {most} is."
        )
    return number


def _serve(arguments: argparse.Namespace) -> NoReturn:
    # Each is loaded by this command alone.
    import xllamacpp  # noqa: F401 - absent, it is named before a model is looked for

    from floe_plugins.llama_server import LlamaSettings, cores, find_adapters, start
    from floe_plugins.models.gguf_file import resolve_gguf

    ended = threading.Event()
    before = {
        each: signal.signal(each, lambda *_: ended.set())
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        folder = Path(arguments.adapters) if arguments.adapters is not None else None
        model = resolve_gguf(arguments.model, progress=not arguments.json)
        settings = LlamaSettings(
            model=model,
            name=_name(arguments.model, model),
            adapters=() if folder is None else find_adapters(folder),
            host=arguments.host,
            port=arguments.port,
            context=arguments.context,
            slots=arguments.slots,
            threads=arguments.threads or cores(),
            metrics=arguments.metrics,
        )
        server = start(settings)
        url = str(server.listening_address)
        ready: dict[str, Any] = {
            "url": url,
            "model": settings.name,
            "adapters": [
                {"id": each.id, "name": each.name, "path": str(each.path)}
                for each in settings.adapters
            ],
            "context": settings.context,
            "slots": settings.slots,
            "config": {
                "expert": {
                    "url": f"{url}/v1",
                    "model": settings.name,
                    "tokenizer": _tokenizer(arguments.model, folder),
                }
            },
        }
        print(json.dumps(ready) if arguments.json else _text(ready), flush=True)
        # Another thread may be given the signal, which does not wake this one.
        while not ended.wait(0.5):
            pass
        # On a busy machine it was seen to wait without end for threads of llama.cpp's at its end.
        # The process's end closes what it has open, and leaves nothing behind.
        sys.stdout.flush()
        os._exit(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(given: str, model: Path) -> str:
    return given.removeprefix(_SCHEME) if given.startswith(_SCHEME) else model.stem


def _tokenizer(given: str, folder: Path | None) -> str:
    """Return what has the model's tokenizer: the embedded model, or the run's base model."""
    if given.startswith(_SCHEME):
        return given
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8")) if folder else {}
        return str(manifest["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return "FOLDER_OF_ITS_TOKENIZER"


def _text(ready: dict[str, Any]) -> str:
    adapters = ", ".join(f"{each['id']} {each['name']}" for each in ready["adapters"])
    config = json.dumps(ready["config"])
    return (
        f"{ready['model']} is ready at {ready['url']} ({ready['slots']} texts of "
        f'{ready["context"]} tokens); adapters: {adapters or "none"}; with "trusted": true it '
        f"also gets what the gate holds back; in Floe's configuration: {config}"
    )
