"""Dealing the examples of several tasks out to nodes."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    cuts = _cuts(
        tasks,
        num_partitions=num_partitions,
        mix=mix,
        classes=classes,
        max_examples=max_examples,
    )
    _check_share(cuts, partition_id, max_examples=max_examples)
    share: list[Example] = []
    for index, (pool, cut) in enumerate(zip(tasks.values(), cuts, strict=True)):
        order = _order(pool, index, seed=seed)
        share += [pool[int(row)] for row in order[cut.of(partition_id)]]
    mixed = np.random.default_rng([seed, len(names), partition_id]).permutation(len(share))
    main = main_task(partition_id, tasks=len(names), classes=classes)
    return [share[int(row)] for row in mixed], names[main]


def check_shares(
    tasks: Mapping[str, Sequence[Example]],
    *,
    num_partitions: int,
    mix: float,
    classes: int,
    seed: int,
    max_examples: int = 0,
) -> None:
    """Check that `hold_out` can split every share of `partition`, without making the shares.

    Parameters
    ----------
    tasks, num_partitions, mix, classes, seed, max_examples
        As for `partition`.

    Raises
    ------
    ConfigError
        A node's share holds fewer than two different examples.
    """
    cuts = _cuts(
        tasks,
        num_partitions=num_partitions,
        mix=mix,
        classes=classes,
        max_examples=max_examples,
    )
    poorest = int(np.argmin(np.sum([cut.counts for cut in cuts], axis=0)))
    _check_share(cuts, poorest, max_examples=max_examples)
    orders = [_order(pool, index, seed=seed) for index, pool in enumerate(tasks.values())]
    for node in range(num_partitions):
        share = (
            pool[int(row)]
            for pool, cut, order in zip(tasks.values(), cuts, orders, strict=True)
            for row in order[cut.of(node)]
        )
        check_different(share, node=node_name(node, num_partitions))


def node_name(node: int, nodes: int) -> str:
    """Return what error messages call a node that holds a share, at the start of a sentence."""
    return f"Node {node} of {nodes}"


def check_different(examples: Iterable[Example], *, node: str = "The node") -> None:
    """Check that a node's examples can be split in two; looks at no more than it needs.

    Parameters
    ----------
    examples : Iterable[Example]
        The node's examples.
    node : str (default: "The node")
        What the error message calls it.

    Raises
    ------
    ConfigError
        There are fewer than two different examples.
    """
    first: Example | None = None
    count = 0
    for example in examples:
        count += 1
        first = first or example
        if example.content != first.content:
            return
    held = "one example" if count else "no examples"
    often = f", {count} times" if count > 1 else ""
    raise ConfigError(
        f"{node} has {held}{often}; at least 2 that differ are needed, one to train on and one to "
        "hold out."
    )


@dataclass(frozen=True, eq=False)
class _Cut:
    """How one task's shuffled examples are cut: an entry per node, each an int64 array.

    Attributes
    ----------
    starts : NDArray[np.int64]
        First example of each node's piece.
    shares : NDArray[np.int64]
        Length of each piece.
    counts : NDArray[np.int64]
        How many of the piece a node takes, with ``max-examples``.
    """

    starts: NDArray[np.int64]
    shares: NDArray[np.int64]
    counts: NDArray[np.int64]

    def of(self, node: int) -> slice:
        """Return the part of the task's shuffled examples that a node takes."""
        return slice(self.starts[node], self.starts[node] + self.counts[node])


def _cuts(
    tasks: Mapping[str, Sequence[Example]],
    *,
    num_partitions: int,
    mix: float,
    classes: int,
    max_examples: int,
) -> list[_Cut]:
    """Return how each task is cut."""
    return [
        _cut(
            len(pool),
            _wants(index, len(tasks), num_partitions=num_partitions, mix=mix, classes=classes),
            max_examples=max_examples,
        )
        for index, pool in enumerate(tasks.values())
    ]


def _order(pool: Sequence[Example], task: int, *, seed: int) -> NDArray[np.int64]:
    """Return a task's rows as they are shuffled for all nodes."""
    return np.random.default_rng([seed, task]).permutation(len(pool))


def _wants(
    task: int, tasks: int, *, num_partitions: int, mix: float, classes: int
) -> NDArray[np.float64]:
    """Return which share of its examples each node wants from a task."""
    return np.array(
        [
            mix / tasks + (1 - mix) * (main_task(node, tasks=tasks, classes=classes) == task)
            for node in range(num_partitions)
        ]
    )


def _cut(size: int, wants: NDArray[np.float64], *, max_examples: int) -> _Cut:
    """Cut a task's examples among the nodes, in proportion to what they want."""
    ends = np.rint(np.cumsum(wants) / max(wants.sum(), 1e-12) * size).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    shares = ends - starts
    counts = shares
    if max_examples:
        counts = np.minimum(shares, np.rint(max_examples * wants).astype(np.int64))
    return _Cut(starts, shares, counts)


def _check_share(cuts: Sequence[_Cut], node: int, *, max_examples: int) -> None:
    count = sum(int(cut.counts[node]) for cut in cuts)
    of = sum(int(cut.shares[node]) for cut in cuts)
    if count >= 2:
        return
    nodes = len(cuts[0].starts)
    if of >= 2:
        raise ConfigError(
            f"max-examples={max_examples} leaves node {node} of {nodes} with {count} of its {of} "
            "examples; every node needs at least 2: raise it, or set it to 0 for all."
        )
    raise ConfigError(
        f"Node {node} of {nodes} gets {count} examples of the run configuration's data; every node "
        "needs at least 2, one to train on and one to hold out: give more data or fewer nodes."
    )


def chosen(examples: Iterable[Example], *, most: int, seed: int) -> list[Example]:
    """Return examples in an order drawn by what they say, no more than a node wants.

    Files are often sorted, and several are read one after the other: the first rows would be of
    another kind than the rest. An example's place in the order depends on `seed` and on itself, so
    it keeps it where rows are added. Only what is returned is kept in memory.

    Parameters
    ----------
    examples : Iterable[Example]
        The node's examples.
    most : int
        Most that are returned; 0 returns all.
    seed : int
        Seed of the order.
    """

    def place(example: Example) -> tuple[bytes, bytes]:
        return _drawn(example, "order", seed), example.content

    return heapq.nsmallest(most, examples, key=place) if most else sorted(examples, key=place)


_FEWEST_TO_VALIDATE = 4


def hold_out(
    examples: Sequence[Example],
    *,
    fraction: float,
    validation: float = 0.0,
    label: str = "",
    node: str = "The node",
) -> LocalData:
    """Split a node's examples; training and held-out examples are at least one each.

    A hash of what an example says decides for it, so that it stays where it is as examples are
    added, and equal ones are on one side.

    Parameters
    ----------
    examples : Sequence[Example]
        The node's examples.
    fraction : float
        Share that is held out, in (0, 1); of few examples about as many.
    validation : float (default: 0.0)
        Share of the others that is kept for validation, in [0, 1), at least one; none of fewer than
        four different ones.
    label : str (default: "")
        Name of the node's main task, for reports of simulated runs.
    node : str (default: "The node")
        What the error message calls the node.

    Raises
    ------
    ConfigError
        There are fewer than two different examples.
    """
    check_different(examples, node=node)
    drawn = {example.content: _drawn(example, "held out") for example in examples}
    held = _share(drawn, fraction)
    rest = [example for example in examples if example.content not in held]
    drawn = {example.content: _drawn(example, "validation") for example in rest}
    kept = set()
    if validation and len(drawn) >= _FEWEST_TO_VALIDATE:
        kept = _share(drawn, validation)
    return LocalData(
        tuple(example for example in rest if example.content not in kept),
        tuple(example for example in examples if example.content in held),
        label,
        validation=tuple(example for example in rest if example.content in kept),
    )


def _share(drawn: Mapping[bytes, bytes], fraction: float) -> set[bytes]:
    """Return about a share of what numbers were drawn for, at least one and not all."""
    limit = int(fraction * 2**64).to_bytes(9, "big")[1:]
    found = {content for content, number in drawn.items() if number < limit}
    if not found:
        return {min(drawn, key=drawn.__getitem__)}
    if len(found) == len(drawn):
        found.remove(max(drawn, key=drawn.__getitem__))
    return found


def _drawn(example: Example, purpose: str, seed: int = 0) -> bytes:
    """Return 8 bytes drawn by an example's content."""
    said = f"{purpose} {seed} ".encode() + example.content
    return hashlib.sha256(said).digest()[:8]
