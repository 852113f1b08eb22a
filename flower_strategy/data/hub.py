"""Examples from a hub data set, through flwr-datasets."""

from __future__ import annotations

from floe_plugins.errors import ConfigError
from floe_plugins.extras import install_command
from flower_strategy.data.examples import Example
from flower_strategy.data.jsonl import Template, to_examples


def load_hub_examples(
    name: str, *, partition_id: int, num_partitions: int, template: Template | None = None
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

    Raises
    ------
    ConfigError
        flwr-datasets is not installed, or the rows have no known fields.
    """
    try:
        from flwr_datasets import FederatedDataset
        from flwr_datasets.partitioner import IidPartitioner
    except ImportError as error:
        raise ConfigError(
            f"Run configuration data={name!r} is a hub data set, and loading one needs "
            f"flwr-datasets: {install_command('hub')}."
        ) from error
    identifier, _, subset = name.partition(":")
    dataset = FederatedDataset(
        dataset=identifier,
        subset=subset or None,
        partitioners={"train": IidPartitioner(num_partitions=num_partitions)},
    )
    rows = list(enumerate(dataset.load_partition(partition_id, "train"), 1))
    if not rows:
        raise ConfigError(f"Hub data set {name!r} gives node {partition_id} no examples.")
    return to_examples(rows, source=name, template=template)
