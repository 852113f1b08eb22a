"""Dealing the examples of several tasks out to nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example, LocalData


def main_task(partition_id: int, *, tasks: int, classes: int) -> int:
    """Return the index of a node's main task.

    Tasks and device classes are both dealt out in turn. The shift after every common multiple
    keeps a task from always meeting the same class, so that clusters hold devices of several
    strengths.
    """
    return (partition_id + partition_id // math.lcm(tasks, classes)) % tasks


def partition(
    tasks: Mapping[str, Sequence[Example]],
    *,
    partition_id: int,
    num_partitions: int,
    mix: float,
    classes: int,
    seed: int,
    max_examples: int = 0,
) -> tuple[list[Example], str]:
    """Return one node's examples and its main task's name.

    A node wants ``1 - mix`` of its examples from its main task and `mix` from all tasks alike.
    Every task's examples are shuffled and cut into consecutive shares in proportion to what the
    nodes want, so no example is on two nodes.

    Parameters
    ----------
    tasks : Mapping[str, Sequence[Example]]
        Task -> all its examples.
    partition_id, num_partitions : int
        The node, from 0, and how many there are.
    mix : float
        Share drawn from all tasks alike, in [0, 1].
    classes : int
        Number of device classes that are given out in turn, see `main_task`.
    seed : int
        Seed of the shuffling, the same on all nodes.
    max_examples : int (default: 0)
        About the most that a node holds; 0 keeps all of its share.

    Raises
    ------
    ConfigError
        The node's share holds fewer than two examples.
    """
    names = list(tasks)
    main = main_task(partition_id, tasks=len(names), classes=classes)
    share: list[Example] = []
    for index, name in enumerate(names):
        wants = np.array(
            [
                mix / len(names)
                + (1 - mix) * (main_task(node, tasks=len(names), classes=classes) == index)
                for node in range(num_partitions)
            ]
        )
        pool = tasks[name]
        order = np.random.default_rng([seed, index]).permutation(len(pool))
        ends = np.rint(np.cumsum(wants) / max(wants.sum(), 1e-12) * len(pool)).astype(int)
        start = ends[partition_id - 1] if partition_id else 0
        count = int(ends[partition_id] - start)
        if max_examples:
            count = min(count, round(max_examples * float(wants[partition_id])))
        share += [pool[int(row)] for row in order[start : start + count]]
    if len(share) < 2:
        raise ConfigError(
            f"Node {partition_id} of {num_partitions} gets {len(share)} examples of the run "
            f"configuration's data; every node needs at least 2: give more data or fewer nodes."
        )
    mixed = np.random.default_rng([seed, len(names), partition_id]).permutation(len(share))
    return [share[int(row)] for row in mixed], names[main]


def hold_out(examples: Sequence[Example], *, fraction: float, label: str = "") -> LocalData:
    """Split a node's examples; both parts get at least one.

    Parameters
    ----------
    examples : Sequence[Example]
        The node's examples; the first are held out.
    fraction : float
        Share that is held out, in (0, 1).
    label : str (default: "")
        Name of the node's main task, for reports of simulated runs.

    Raises
    ------
    ConfigError
        There are fewer than two examples.
    """
    if len(examples) < 2:
        raise ConfigError(
            f"A node has {len(examples)} examples; at least 2 are needed, one to train on and one "
            "to hold out."
        )
    count = min(len(examples) - 1, max(1, round(fraction * len(examples))))
    return LocalData(tuple(examples[count:]), tuple(examples[:count]), label)
