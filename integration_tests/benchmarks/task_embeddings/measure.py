"""Embeds the texts of nodes, and clusters the embeddings."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score

from floe_plugins.errors import ConfigError
from flower_strategy.clusters import cluster_devices
from flower_strategy.data import read_examples
from flower_strategy.data.embedded import TASKS, make_examples
from flower_strategy.data.files import find_files
from flower_strategy.device.base_model import load_base_model
from flower_strategy.device.embedding import TaskEmbedding, task_embedding
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import task_files

_MOST = 6  # clusters that a silhouette is told for
_SHORTEST = 200  # characters of a function that is worth a text


class Remembering:
    """A model that computes a text's hidden states once: every level of noise needs the same."""

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self._known: dict[tuple[int, ...], Any] = {}

    def get_decoder(self) -> Remembering:
        return self

    def __call__(self, *, input_ids: torch.Tensor) -> Any:
        key = tuple(input_ids[0].tolist())
        if key not in self._known:
            self._known[key] = self._decoder(input_ids=input_ids)
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A device: its main task, the share of its texts that is of others, and the texts."""

    task: str
    mixed: float
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.task} {1 - self.mixed:.0%}" if self.mixed else self.task


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Embed all nodes at every level of noise and return the figures."""
    torch.set_num_threads(1)
    tasks = read_tasks(options.data, count=options.nodes * options.texts, seed=options.seed)
    keys = ("nodes", "texts", "mixed", "share", "seed")
    nodes = deal(tasks, **{key: getattr(options, key) for key in keys})
    loaded = load_base_model(options.model)
    base = replace(loaded, model=Remembering(loaded.model))
    work = [(noise, at) for noise in options.noise for at in range(len(nodes))]
    embedded: dict[float, list[TaskEmbedding]] = {noise: [] for noise in options.noise}
    for noise, at in cli.progress(work, "task_embeddings"):
        how = EmbeddingSettings(texts=options.texts, max_length=options.max_length, noise=noise)
        # On a device the seed is secret; here it makes the figures come out again.
        seed = 1000 * options.seed + at
        embedded[noise].append(task_embedding(base, nodes[at].texts, how, seed=seed))
    return {
        **{key: getattr(options, key) for key in ("model", "seed", "texts")},
        "tasks": list(tasks),
        "nodes": [{"name": node.name, "task": node.task, "mixed": node.mixed} for node in nodes],
        "levels": [{"noise": noise, **judge(nodes, embedded[noise])} for noise in options.noise],
    }


def read_tasks(data: str | None, *, count: int, seed: int) -> dict[str, list[str]]:
    """Return task -> `count` texts, drawn by the seed.

    Files, or GSM8K and PubMedQA where they are, are tasks, and so is the code of Python's standard
    library. Where there is no file at all, the embedded tasks are taken.
    """
    files = {file.stem.removesuffix("_train"): file for file in task_files()}
    if data is not None:
        files = find_files(data)
    elif not files:
        made = {task: make_examples(task, count=count, seed=seed) for task in TASKS}
        return {task: [each.text for each in examples] for task, examples in made.items()}
    tasks = {name: [each.text for each in read_examples(file)] for name, file in files.items()}
    tasks["stdlib code"] = list(_functions())
    drawn = {}
    for name, texts in tasks.items():
        if len(texts) < count:
            raise ConfigError(f"Task {name!r} has {len(texts)} texts; {count} are needed.")
        order = np.random.default_rng(seed).permutation(len(texts))[:count]
        drawn[name] = [texts[int(row)] for row in order]
    return drawn


def _functions() -> Iterator[str]:
    """Yield functions of the standard library's modules, in the order of the files."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = file.read_text("utf-8")
        functions = (one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef))
        texts = (ast.get_source_segment(source, one) or "" for one in functions)
        yield from (text for text in texts if len(text) >= _SHORTEST)


def deal(
    tasks: Mapping[str, Sequence[str]],
    *,
    nodes: int,
    texts: int,
    mixed: int,
    share: float,
    seed: int,
) -> list[Node]:
    """Return nodes whose main tasks come in turn; no text is on two of them.

    The last ones, `mixed` of them, hold other tasks' texts too, by the given share. There are
    ``nodes * texts`` texts of each task at least.
    """
    names = list(tasks)
    left = {name: list(found) for name, found in tasks.items()}
    random = np.random.default_rng(seed)
    made = []
    for at in range(nodes):
        main = names[at % len(names)]
        foreign = max(1, round(share * texts)) if at >= nodes - mixed else 0
        others = [name for name in names if name != main]
        drawn = [main] * (texts - foreign)
        drawn += [others[(at + index) % len(others)] for index in range(foreign)]
        found = [left[name].pop() for name in drawn]
        ordered = tuple(found[int(index)] for index in random.permutation(texts))
        made.append(Node(task=main, mixed=foreign / texts, texts=ordered))
    return made


def judge(nodes: Sequence[Node], embedded: Sequence[TaskEmbedding]) -> dict[str, Any]:
    """Return cosines, silhouettes and the clusters that a run would make of the embeddings."""
    vectors = np.stack([each.vector for each in embedded]).astype(np.float64)
    cosines = vectors @ vectors.T
    pairs: dict[bool, list[float]] = {True: [], False: []}
    for one, other in combinations(range(len(nodes)), 2):
        pairs[nodes[one].task == nodes[other].task].append(float(cosines[one, other]))
    found = cluster_devices(
        {at: each.vector for at, each in enumerate(embedded)},
        ClusteringSettings(),
        errors={at: each.error for at, each in enumerate(embedded)},
    )
    number = {member: at for at, cluster in enumerate(found) for member in cluster.members}
    labels = [number[at] for at in range(len(nodes))]
    return {
        "cosines": [[round(float(value), 4) for value in row] for row in cosines],
        "within": _range(pairs[True]),
        "across": _range(pairs[False]),
        "error": float(np.median([each.error for each in embedded])),
        "silhouettes": _silhouettes(cosines),
        "labels": labels,
        "clusters": len(found),
        "adjusted_rand": float(adjusted_rand_score([node.task for node in nodes], labels)),
    }


def _silhouettes(cosines: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return number of clusters -> silhouette, by the linkage and the distance of a run."""
    distances = np.clip(1.0 - cosines, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    scores = {}
    for number in range(2, min(_MOST, len(cosines) - 1) + 1):
        clusters = AgglomerativeClustering(number, metric="precomputed", linkage="average")
        labels = clusters.fit_predict(distances)
        scores[str(number)] = float(silhouette_score(distances, labels, metric="precomputed"))
    return scores


def _range(values: Sequence[float]) -> dict[str, float]:
    some = values or [float("nan")]
    return {"least": min(some), "mean": float(np.mean(some)), "most": max(some)}
