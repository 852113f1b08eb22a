"""Examples from a hub data set, through flwr-datasets."""

from __future__ import annotations

from floe_plugins.errors import ConfigError, first_line
from floe_plugins.extras import install_command
from flower_strategy.data.examples import Example
from flower_strategy.data.jsonl import Template, to_examples


def load_hub_examples(
    name: str,
    *,
    partition_id: int,
    num_partitions: int,
    template: Template | None = None,
    key: str = "Run configuration data",
) -> list[Example]:
    """Return one node's share of the data set's ``train`` split.

    Parameters
    ----------
    name : str
        The data set's id on the hub, and its configuration behind a colon if it has several:
        ``openai/gsm8k:main``.
    partition_id : int
        The node.
    num_partitions : int
        Number of nodes; the split is dealt out evenly.
    template : Template, optional
        How a row becomes an example; without one the fields are recognised.
    key : str, optional
        What error messages call `name`.

    Raises
    ------
    ConfigError
        flwr-datasets is not installed, the hub does not provide the data set, or the rows have no
        known fields.
    """
    try:
        from flwr_datasets import FederatedDataset
        from flwr_datasets.partitioner import IidPartitioner
    except ImportError as error:
        raise ConfigError(
            f"{key}={name!r} is no file or folder here, so it is a hub data set, and loading one "
            f"needs flwr-datasets: {install_command('hub')}."
        ) from error
    identifier, _, subset = name.partition(":")
    try:
        dataset = FederatedDataset(
            dataset=identifier,
            subset=subset or None,
            partitioners={"train": IidPartitioner(num_partitions=num_partitions)},
        )
        rows = list(enumerate(dataset.load_partition(partition_id, "train"), 1))
    # An unknown id or configuration, no connection, no such split: `datasets`, its hub client and
    # their HTTP library each raise classes of their own.
    except Exception as error:
        raise ConfigError(
            f"{key}={name!r} is no file or folder here, and the hub does not provide its split "
            f"'train' in {num_partitions} parts: {first_line(error)}"
        ) from error
    if not rows:
        raise ConfigError(f"Hub data set {name!r} gives node {partition_id} no examples.")
    return to_examples(rows, source=name, template=template)
