"""Cosines of task embeddings, and the clusters in them: with what the devices add for privacy, too.

Nodes hold texts of several tasks, some of them a mixture; each is embedded by the real client code
(`flower_strategy.device.embedding`) with the real base model. Then `flower_strategy.clusters`
splits them, and the split is held against the tasks that are known here.

Figure 5 of "Floe: Federated Specialization for Real-Time LLM-SLM Inference" (arXiv 2602.14302).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score

from floe_plugins.errors import FloeError
from flower_strategy.clusters import cluster_devices
from flower_strategy.device.base_model import BaseModel, load_base_model
from flower_strategy.device.embedding import TaskEmbedding, task_embedding
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.task_embeddings.texts import read_tasks

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"
NOISES = (0.0, 0.002, 0.005, 0.01, 0.05)
_MOST = 6


class Remembering:
    """A model that computes a text's hidden states once: every level of noise needs the same.

    Parameters
    ----------
    model : Any
        The causal language model.
    """

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self._known: dict[tuple[int, ...], Any] = {}

    def get_decoder(self) -> Remembering:
        """Return what is called with the tokens."""
        return self

    def __call__(self, *, input_ids: torch.Tensor) -> Any:
        """Return the decoder's output for one row of tokens."""
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
        """How the figure calls it."""
        return f"{self.task} {1 - self.mixed:.0%}" if self.mixed else self.task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = _options(arguments)
    torch.set_num_threads(1)
    try:
        values = measure(options)
    except FloeError as error:
        return cli.failed(error)
    levels = values["levels"]
    numbers = list(levels[0]["silhouettes"])
    cli.show(
        options,
        values,
        header=[
            *("noise", "cosine within", "across", "error", "clusters", "Rand index"),
            *(f"silhouette at {number}" for number in numbers),
        ],
        rows=[
            [
                f"{level['noise']:g}",
                f"{level['within']['least']:.2f} to {level['within']['most']:.2f}",
                f"{level['across']['least']:.2f} to {level['across']['most']:.2f}",
                level["error"],
                level["clusters"],
                level["adjusted_rand"],
                *(level["silhouettes"][number] for number in numbers),
            ]
            for level in levels
        ],
        remarks=remarks(values),
    )
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Embed all nodes at every level of noise and return the figures."""
    tasks = read_tasks(options.data, count=options.nodes * options.texts, seed=options.seed)
    nodes = deal(
        tasks,
        nodes=options.nodes,
        texts=options.texts,
        mixed=options.mixed,
        share=options.share,
        seed=options.seed,
    )
    loaded = load_base_model(options.model)
    base = replace(loaded, model=Remembering(loaded.model))
    work = [(noise, at) for noise in options.noise for at in range(len(nodes))]
    embedded: dict[float, list[TaskEmbedding]] = {noise: [] for noise in options.noise}
    for noise, at in cli.progress(work, "task_embeddings"):
        embedded[noise].append(_embed(base, nodes[at], noise, at, options))
    return {
        "model": options.model,
        "seed": options.seed,
        "texts": options.texts,
        "tasks": list(tasks),
        "nodes": [{"name": node.name, "task": node.task, "mixed": node.mixed} for node in nodes],
        "levels": [{"noise": noise, **judge(nodes, embedded[noise])} for noise in options.noise],
    }


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

    Parameters
    ----------
    tasks : Mapping[str, Sequence[str]]
        Task -> texts, ``nodes * texts`` of each at least.
    nodes, texts : int
        Their number, and the texts of each.
    mixed : int
        How many of them, the last ones, hold other tasks' texts too.
    share : float
        Share of these texts.
    seed : int
        Of the order of a node's texts.
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
        order = random.permutation(texts)
        made.append(
            Node(
                task=main,
                mixed=foreign / texts,
                texts=tuple(found[int(index)] for index in order),
            )
        )
    return made


def _embed(
    base: BaseModel, node: Node, noise: float, at: int, options: argparse.Namespace
) -> TaskEmbedding:
    how = EmbeddingSettings(
        texts=options.texts,
        max_length=options.max_length,
        noise=noise,
    )
    # On a device the seed is secret; here it makes the figures come out again.
    return task_embedding(base, node.texts, how, seed=1000 * options.seed + at)


def judge(nodes: Sequence[Node], embedded: Sequence[TaskEmbedding]) -> dict[str, Any]:
    """Return cosines, silhouettes and the clusters that a run would make.

    Parameters
    ----------
    nodes : Sequence[Node]
        The nodes.
    embedded : Sequence[TaskEmbedding]
        Their embeddings.
    """
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
        labels = AgglomerativeClustering(
            n_clusters=number, metric="precomputed", linkage="average"
        ).fit_predict(distances)
        scores[str(number)] = float(silhouette_score(distances, labels, metric="precomputed"))
    return scores


def _range(values: Sequence[float]) -> dict[str, float]:
    return {
        "least": min(values, default=float("nan")),
        "mean": float(np.mean(values)) if values else float("nan"),
        "most": max(values, default=float("nan")),
    }


def remarks(values: Mapping[str, Any]) -> list[str]:
    """Return what the figures say, as sentences."""
    nodes, tasks = values["nodes"], values["tasks"]
    counts = Counter(node["task"] for node in nodes)
    mixed = [node for node in nodes if node["mixed"]]
    found = [
        f"{len(nodes)} nodes of {values['texts']} texts: "
        + ", ".join(f"{task} {counts[task]}" for task in tasks)
        + f"; {len(mixed)} of them mixed"
        + (f" ({1 - mixed[0]['mixed']:.0%} of the main task)." if mixed else ".")
    ]
    for level in values["levels"]:
        number, score = max(level["silhouettes"].items(), key=lambda item: item[1])
        wrong = _wrong(level["labels"], [node["task"] for node in nodes])
        apart = level["within"]["least"] > level["across"]["most"]
        found.append(
            f"Noise {level['noise']:g}: the silhouette is highest at {number} clusters "
            f"({score:.2f}), there are {len(tasks)} tasks; a run with its defaults makes "
            f"{level['clusters']}, adjusted Rand index {level['adjusted_rand']:.2f}, "
            f"{wrong} of {len(nodes)} nodes with a cluster of another task. Two nodes of one task "
            + (
                "are always closer than two of different tasks."
                if apart
                else "are not always closer than two of different tasks."
            )
        )
    return found


def _wrong(labels: Sequence[int], tasks: Sequence[str]) -> int:
    """Return the nodes that are not of the task that most of their cluster's nodes have."""
    right = 0
    for label in set(labels):
        members = [task for task, own in zip(tasks, labels, strict=True) if own == label]
        right += Counter(members).most_common(1)[0][1]
    return len(tasks) - right


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "Cosines between the task embeddings of nodes, and how well clusters match the tasks, with "
        "and without noise on the device."
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="base model (%(default)s)")
    add(
        "--data",
        help="JSONL files separated by commas, every file one task beside the standard library's "
        "code (GSM8K and PubMedQA where they are found, else the embedded tasks alone)",
    )
    add("--nodes", type=int, default=15, help="(%(default)s)")
    add("--texts", type=int, default=8, help="texts of a node (%(default)s)")
    add("--mixed", type=int, default=3, help="nodes with texts of other tasks (%(default)s)")
    add("--share", type=float, default=0.2, help="share of these texts (%(default)s)")
    add("--max-length", type=int, default=64, help="tokens of a text (%(default)s)")
    add(
        "--noise",
        type=float,
        nargs="+",
        default=NOISES,
        help="standard deviations of the noise (" + " ".join(map(str, NOISES)) + ")",
    )
    add("--seed", type=int, default=0, help="of texts and noise (%(default)s)")
    options = parser.parse_args(arguments)
    if options.nodes < 4 or options.texts < 2 or not 0 <= options.mixed <= options.nodes:
        parser.error("--nodes is at least 4, --texts at least 2, --mixed from 0 to --nodes")
    if min(options.noise) < 0 or not 0 < options.share < 1:
        parser.error("--noise is at least 0, --share between 0 and 1")
    return options


if __name__ == "__main__":
    sys.exit(cli.command(main))
