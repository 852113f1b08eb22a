"""Reads the texts, and combines both models on them in every way."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from floe_plugins.errors import ConfigError, FloeError
from floe_plugins.routers import BUILT_IN_ROUTERS
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.forms import to_examples
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import shown, task_files
from integration_tests.benchmarks.fusion_quality.positions import Chunk, score
from integration_tests.benchmarks.fusion_quality.replay import Replay, Unsure, peers
from integration_tests.benchmarks.fusion_quality.result import WITHOUT_TOKENIZER
from integration_tests.benchmarks.fusion_quality.scoring import Scorer
from vllm_logits_processor.alignment.maps import load_maps
from vllm_logits_processor.config import FloeConfig

#: Where the lazy mode calls the expert.
UNSURE = (
    *(Unsure("nats", nats) for nats in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)),
    *(Unsure("margin", margin) for margin in (0.95, 0.8, 0.5, 0.3, 0.1)),
)
#: The router of the lazy mode, and of the expert whose tokenizer is not known.
_DEFAULT_ROUTER = "evidence"
#: In front of the name of an embedded task, in the place of a file.
EMBEDDED = "embedded:"

#: As many as any limit has used so far; a limit of bytes ends a text much earlier.
_EXAMPLES = 64


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Compare on every text, with ``--reversed`` in the other direction, too."""
    texts = {
        name: read_text(name, seed=options.seed, limit_bytes=options.limit_bytes)
        for name in options.text or default_texts()
    }
    expert = Scorer(options.expert)
    found = []
    # One host after the other, so that two models at most are in memory.
    for name in (options.host, *(options.further_hosts or [])):
        host = expert if name == options.expert else Scorer(name)
        pairs = [(host, expert), *([(expert, host)] if options.reversed else [])]
        compared = [_compared(*pair, texts, top_k=options.top_k) for pair in pairs]
        found.append(compared[0] | ({"reversed": compared[1]} if options.reversed else {}))
    values: dict[str, Any] = {**found[0], "top_k": options.top_k, "seed": options.seed}
    return values | ({"further": found[1:]} if found[1:] else {})


def _compared(
    host: Scorer, expert: Scorer, texts: Mapping[str, Sequence[bytes]], *, top_k: int
) -> dict[str, Any]:
    if top_k > len(expert.vocabulary):
        size = len(expert.vocabulary)
        raise ConfigError(f"--top-k is {top_k}; the expert has {size} tokens.")
    on = Comparison(host, expert, top_k=top_k).on
    told = {name: on(cli.progress(each, Path(name).name)) for name, each in texts.items()}
    return {"host": shown(host.name), "expert": shown(expert.name), "texts": told}


@dataclass
class _Totals:
    """Sums over the documents of a file; nats but for `bytes`, `tokens` and `inside`."""

    peers: dict[str, float]
    bytes: int = 0
    tokens: int = 0
    inside: int = 0
    host: float = 0.0
    expert: float = 0.0
    hindsight: float = 0.0

    def take(self, chunk: Chunk) -> None:
        self.tokens += len(chunk.targets)
        self.inside += int(chunk.inside.sum())
        self.host -= float(chunk.host_logprobs.sum())
        with np.errstate(divide="ignore"):
            aligned = chunk.host_logprobs + np.log(chunk.target_factors)
        self.hindsight -= float(np.maximum(chunk.host_logprobs, aligned).sum())


class Comparison:
    """A pair of models, ready to be compared on texts."""

    def __init__(self, host: Scorer, expert: Scorer, *, top_k: int) -> None:
        covers = 0 if host.vocabulary.equals(expert.vocabulary) else FloeConfig.defaults()["covers"]
        self._score = partial(score, host=host, expert=expert, top_k=top_k, covers=covers)
        self._maps = load_maps(host.vocabulary, expert.vocabulary)
        self._peers = peers(host.vocabulary, expert.vocabulary, self._maps)

    def on(self, documents: Sequence[bytes]) -> dict[str, Any]:
        """Return the figures of a file of UTF-8 documents, as the benchmark's JSON has them."""
        totals = _Totals(dict.fromkeys(self._peers, 0.0))
        routers = {router.name: router for router in BUILT_IN_ROUTERS}
        eager = [Replay(router) for router in routers.values()]
        spelled = Replay(routers[_DEFAULT_ROUTER])
        lazy = [Replay(routers[_DEFAULT_ROUTER], unsure=each) for each in UNSURE]
        for document in documents:
            scored = self._score(document)
            totals.bytes += len(document)
            totals.expert -= float(scored.expert_logprobs.sum())
            for replay in (*eager, *lazy, spelled):
                replay.begin_document()
            for chunk in scored.chunks(self._maps):
                totals.take(chunk)
                for replay in (*eager, *lazy):
                    replay.take(chunk)
                spelled.take(chunk.without_tokenizer())
                for name, peer in self._peers.items():
                    totals.peers[name] -= float(peer(chunk).sum())
        return _figures(totals, eager, lazy, spelled)


def _figures(
    totals: _Totals, eager: Sequence[Replay], lazy: Sequence[Replay], spelled: Replay
) -> dict[str, Any]:
    per_byte = 1 / (math.log(2) * totals.bytes)
    alone = {key: getattr(totals, key) * per_byte for key in ("host", "expert", "hindsight")}
    fused = {replay.router.name: replay.nats * per_byte for replay in eager}
    return {
        "bytes": totals.bytes,
        "tokens": totals.tokens,
        **alone,
        "fused": fused,
        WITHOUT_TOKENIZER: spelled.nats * per_byte,
        "gap_closed": {name: gap_closed(bits, **alone) for name, bits in fused.items()},
        "boundary_share": totals.inside / totals.tokens,
        "peers": {name: nats * per_byte for name, nats in totals.peers.items()},
        "lazy": [
            {
                replay.unsure.key: replay.unsure.threshold,
                "asked_share": replay.asked / totals.tokens,
                "fused": replay.nats * per_byte,
            }
            for replay in lazy
            if replay.unsure is not None
        ],
    }


def gap_closed(bits: float, *, host: float, expert: float, hindsight: float) -> float | None:
    """Return the share of the way from the better single model to the hindsight.

    Negative where fusion is worse than the better model; None where the hindsight is no better
    than that model, so that there is no way to go.
    """
    better = min(host, expert)
    return (better - bits) / (better - hindsight) if hindsight < better else None


class TextError(FloeError):
    """A file without text to score."""


def default_texts() -> list[str]:
    """Return GSM8K and PubMedQA where they are, and code; only embedded tasks elsewhere."""
    files = [str(file) for file in task_files()]
    return [*(files or [f"{EMBEDDED}arithmetic", f"{EMBEDDED}records"]), f"{EMBEDDED}code"]


def read_text(name: str, *, seed: int, limit_bytes: int | None = None) -> list[bytes]:
    """Read the documents of a file, or of ``embedded:TASK``.

    With a limit it stops after so many bytes, at the end of a character.
    """
    if not name.startswith(EMBEDDED):
        return read_documents(Path(name), limit_bytes=limit_bytes)
    examples = make_examples(name.removeprefix(EMBEDDED), count=_EXAMPLES, seed=seed)
    return _cut([each.text for each in examples], limit_bytes)


def read_documents(path: Path, *, limit_bytes: int | None = None) -> list[bytes]:
    """Read the documents of a file.

    A ``.jsonl`` file is one document per line: its key ``text``, or prompt and response as the
    federated half reads them (question and answer, with or without a context); any other file is
    one document.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    texts = _texts_of(path, content) if path.suffix == ".jsonl" else [content]
    documents = _cut(texts, limit_bytes)
    if not documents:
        raise TextError(f"{str(path)!r} holds no text.")
    return documents


def _cut(texts: list[str], limit_bytes: int | None) -> list[bytes]:
    documents = []
    left = limit_bytes
    for data in map(str.encode, texts):
        whole = left is None or len(data) <= left
        kept = data if whole else data[:left].decode("utf-8", errors="ignore").encode()
        if kept:
            documents.append(kept)
        if not whole:
            break
        left = None if left is None else left - len(data)
    return documents


def _texts_of(path: Path, lines: str) -> list[str]:
    texts = []
    # Not splitlines(): JSON strings may hold U+2028 as it is.
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise TextError(f"Line {number} of {str(path)!r} is no JSON object.")
        if "text" not in row:
            (example,) = to_examples([(number, row)], source=str(path), template=None)
            row = {"text": example.text}
        if not isinstance(row["text"], str):
            raise TextError(
                f"'text' in line {number} of {str(path)!r} is no string: {row['text']!r}."
            )
        texts.append(row["text"])
    return texts
