"""The table, and what the figures say."""

from collections import Counter
from collections.abc import Sequence

from integration_tests.benchmarks.cli import Namespace, Result, Values


def result(values: Values, _: Namespace) -> Result:
    """Return one row per level of noise."""
    levels = values["levels"]
    numbers = list(levels[0]["silhouettes"])
    return Result(
        header=[
            *("noise", "cosine within", "across", "error", "clusters", "Rand index"),
            *(f"silhouette at {number}" for number in numbers),
        ],
        rows=[
            [
                f"{level['noise']:g}",
                *(
                    f"{level[key]['least']:.2f} to {level[key]['most']:.2f}"
                    for key in ("within", "across")
                ),
                *(level[key] for key in ("error", "clusters", "adjusted_rand")),
                *(level["silhouettes"][number] for number in numbers),
            ]
            for level in levels
        ],
        remarks=remarks(values),
    )


def remarks(values: Values) -> list[str]:
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
            f"are {'' if apart else 'not '}always closer than two of different tasks."
        )
    return found


def _wrong(labels: Sequence[int], tasks: Sequence[str]) -> int:
    """Return the nodes that are not of the task that most of their cluster's nodes have."""
    clusters: dict[int, Counter[str]] = {}
    for task, label in zip(tasks, labels, strict=True):
        clusters.setdefault(label, Counter())[task] += 1
    return len(tasks) - sum(max(members.values()) for members in clusters.values())
