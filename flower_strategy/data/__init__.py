"""A node's training text, by the run configuration's ``data``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.data.hub import load_hub_examples
from flower_strategy.data.jsonl import custom_template, find_files, read_examples
from flower_strategy.data.partition import hold_out, partition
from flower_strategy.run_config import RunConfig

__all__ = ["Example", "LocalData", "load_local_data"]

_EMBEDDED_POOL = 512
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")


def load_local_data(
    config: RunConfig, node_config: Mapping[str, str | int | float | bool]
) -> LocalData:
    """Return the text that one node trains and is measured on.

    A real SuperNode that has ``data-path`` in its ``--node-config`` holds the files of that path,
    shuffled together and cut to ``max-examples``. Every other node holds its share, by
    ``partition-id`` and ``num-partitions``, of what the run configuration's ``data`` names.

    Raises
    ------
    ConfigError
        The data does not exist, is not understood, or is too little.
    """
    template = custom_template(config.prompt_template, config.response_template)
    if "data-path" in node_config:
        files = find_files(str(node_config["data-path"]))
        examples = [
            example for path in files.values() for example in read_examples(path, template=template)
        ]
        return hold_out(_drawn(examples, config), fraction=config.held_out)

    partition_id = int(node_config.get("partition-id", 0))
    num_partitions = int(node_config.get("num-partitions", 1))
    if not 0 <= partition_id < num_partitions:
        raise ConfigError(
            f"The node's partition-id is {partition_id} and its num-partitions {num_partitions}; "
            "accepted are ids from 0 to one less than there are partitions."
        )
    if _is_hub_id(config.data):
        examples = load_hub_examples(
            config.data,
            partition_id=partition_id,
            num_partitions=num_partitions,
            template=template,
        )
        return hold_out(_drawn(examples, config), fraction=config.held_out, label=config.data)

    tasks: dict[str, list[Example]] = {}
    if config.data == "embedded":
        for task in config.tasks:
            tasks[task] = make_examples(task, count=_EMBEDDED_POOL, seed=config.seed)
    else:
        for name, path in find_files(config.data).items():
            tasks[name] = read_examples(path, template=template)
    share, label = partition(
        tasks,
        partition_id=partition_id,
        num_partitions=num_partitions,
        mix=config.mix,
        classes=len(config.devices),
        seed=config.seed,
        max_examples=config.max_examples,
    )
    return hold_out(share, fraction=config.held_out, label=label)


def _drawn(examples: Sequence[Example], config: RunConfig) -> list[Example]:
    """Shuffle examples and keep as many as the configuration wants.

    Files are often sorted, and several are read one after the other: the first rows would be of
    another kind than the rest.
    """
    order = np.random.default_rng(config.seed).permutation(len(examples))
    return [examples[int(row)] for row in order[: config.max_examples or None]]


def _is_hub_id(data: str) -> bool:
    return (
        _HUB_ID.fullmatch(data) is not None
        and not data.endswith((".jsonl", ".json"))
        and not Path(data).exists()
    )
