"""A node's training text: files of its own, or its share of what ``data`` names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError, first_line
from flower_strategy.config import RunConfig
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.data.files import find_files, is_file_name, read_rows
from flower_strategy.data.forms import Row, Template, custom_template, to_examples
from flower_strategy.data.partition import (
    check_different,
    check_shares,
    chosen,
    hold_out,
    node_name,
    partition,
)
from flower_strategy.simulation import NodeConfig, partition_of

__all__ = [
    "Example",
    "LocalData",
    "check_shared_data",
    "first_examples",
    "load_local_data",
    "read_examples",
]

_EMBEDDED_POOL = 512
_HUB_SEED = 0
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")


def load_local_data(config: RunConfig, node_config: NodeConfig, *, simulated: bool) -> LocalData:
    """Return the text that one node trains and is measured on.

    A node that has ``data-path`` in its ``--node-config`` holds the files of that path, shuffled
    together and cut to ``max-examples``. A simulated node without one holds its share, by
    ``partition-id`` and ``num-partitions``, of what the run configuration's ``data`` names. A real
    node holds such a share only of what its own ``--node-config data`` names: no run can make it
    read files that its operator has not named.

    Parameters
    ----------
    config : RunConfig
        The run configuration.
    node_config : NodeConfig
        What the node's ``--node-config`` says.
    simulated : bool
        Whether the node is simulated, see `flower_strategy.simulation.is_simulated`.

    Raises
    ------
    ConfigError
        The data does not exist, is not understood, or is too little, or a real node has named none.
    """
    if "data-path" in node_config:
        if "data" in node_config:
            raise ConfigError(
                f"--node-config has data-path={node_config['data-path']!r} and "
                f"data={node_config['data']!r}: give data-path for files that this node alone "
                "holds, or data for its share of common ones."
            )
        files = find_files(str(node_config["data-path"]), key="--node-config data-path")
        examples = FileExamples(tuple(files.values()), _template(config))
        return replace(_drawn(examples, config), source=examples)
    if simulated:
        source = Source(config.data, key="Run configuration data")
    elif "data" in node_config:
        source = Source(str(node_config["data"]), key="--node-config data")
    else:
        raise ConfigError(
            "This SuperNode names no data of its own: set --node-config "
            "\"data-path='FILE.jsonl'\" for files that it holds, or data='embedded' (or JSONL "
            "files, or a hub data set's id) with partition-id and num-partitions for its share of "
            "data that several nodes can read."
        )
    partition_id, num_partitions = partition_of(node_config)
    return source.share(
        config,
        partition_id=partition_id,
        num_partitions=num_partitions,
        # The server's seed deals the shares out: a real node's answers go by all that it can read.
        keep_all=not simulated,
    )


def check_shared_data(config: RunConfig, *, num_partitions: int) -> None:
    """Check the data that a simulation deals out, before any node is asked for anything.

    Parameters
    ----------
    config : RunConfig
        The run configuration.
    num_partitions : int
        Number of simulated nodes.

    Raises
    ------
    ConfigError
        The data does not exist, is not understood, or does not suffice for every node.
    """
    Source(config.data, key="Run configuration data").check(config, num_partitions=num_partitions)


def first_examples(config: RunConfig, *, most: int) -> dict[str, list[Example]]:
    """Return task -> its first examples, of the data that a simulation deals out.

    Parameters
    ----------
    config : RunConfig
        The run configuration.
    most : int
        Most examples of a task.

    Raises
    ------
    ConfigError
        The data does not exist or is not understood.
    """
    return Source(config.data, key="Run configuration data").first(config, most=most)


@dataclass(frozen=True)
class Source:
    """Data that is dealt out to nodes.

    Attributes
    ----------
    data : str
        ``embedded``, JSONL files and folders separated by commas, or a hub data set's id.
    key : str
        What error messages call it.
    """

    data: str
    key: str

    def share(
        self, config: RunConfig, *, partition_id: int, num_partitions: int, keep_all: bool = False
    ) -> LocalData:
        """Return one node's share, with `keep_all` beside all that it is a share of.

        Raises
        ------
        ConfigError
            The data does not exist, is not understood, or is too little.
        """
        node = node_name(partition_id, num_partitions)
        if self._on_hub:
            examples = load_hub_examples(
                self.data,
                partition_id=partition_id,
                num_partitions=num_partitions,
                template=_template(config),
                key=self.key,
            )
            drawn = _drawn(examples, config, label=self.data, node=node)
            return replace(drawn, source=tuple(examples)) if keep_all else drawn
        tasks = self._tasks(config)
        examples, label = partition(
            tasks,
            partition_id=partition_id,
            num_partitions=num_partitions,
            mix=config.mix,
            classes=len(config.devices),
            seed=config.seed,
            max_examples=config.max_examples,
        )
        own = _split(examples, config, label=label, node=node)
        every = (example for task in tasks.values() for example in task) if keep_all else ()
        return replace(own, source=tuple(every))

    def check(self, config: RunConfig, *, num_partitions: int) -> None:
        """Check that every node would get a share that it can train and be measured on.

        A hub data set is fetched, as the nodes of the same machine would do next.

        Raises
        ------
        ConfigError
            As `share` for one of the nodes.
        """
        if self._on_hub:
            shares = _hub_shares(
                self.data,
                range(num_partitions),
                num_partitions=num_partitions,
                template=_template(config),
                key=self.key,
            )
            for partition_id, examples in enumerate(shares):
                drawn = chosen(examples, most=config.max_examples, seed=config.seed)
                check_different(drawn, node=node_name(partition_id, num_partitions))
            return
        check_shares(
            self._tasks(config),
            num_partitions=num_partitions,
            mix=config.mix,
            classes=len(config.devices),
            seed=config.seed,
            max_examples=config.max_examples,
        )

    def first(self, config: RunConfig, *, most: int) -> dict[str, list[Example]]:
        """Return task -> its first examples.

        Raises
        ------
        ConfigError
            The data does not exist or is not understood.
        """
        if self._on_hub:
            (rows,) = _hub_pieces(
                self.data,
                lambda whole: [whole.select(range(min(most, len(whole))))],
                key=self.key,
                what="'train'",
            )
            found = to_examples(rows, source=self.data, template=_template(config))
            return {self.data: list(found)}
        if self.data == "embedded":
            return {name: task[:most] for name, task in self._tasks(config).items()}
        template = _template(config)
        return {
            name: list(itertools.islice(FileExamples((path,), template), most))
            for name, path in find_files(self.data, key=self.key).items()
        }

    @property
    def _on_hub(self) -> bool:
        return (
            _HUB_ID.fullmatch(self.data) is not None
            and not is_file_name(self.data)
            and not Path(self.data).exists()
        )

    def _tasks(self, config: RunConfig) -> dict[str, list[Example]]:
        if self.data == "embedded":
            return {
                task: make_examples(task, count=_EMBEDDED_POOL, seed=config.seed)
                for task in config.tasks
            }
        template = _template(config)
        files = find_files(self.data, key=self.key)
        return {name: read_examples(path, template=template) for name, path in files.items()}


@dataclass(frozen=True)
class FileExamples:
    """The examples of files, read anew at every look.

    Attributes
    ----------
    paths : tuple[Path, ...]
        The files.
    template : Template, optional
        How a row becomes an example; without one the fields are recognised.
    """

    paths: tuple[Path, ...]
    template: Template | None = None

    def __iter__(self) -> Iterator[Example]:
        for path in self.paths:
            yield from to_examples(read_rows(path), source=str(path), template=self.template)


def read_examples(path: Path, *, template: Template | None = None) -> list[Example]:
    """Read one file of data; see `flower_strategy.data.files.read_rows`.

    Parameters
    ----------
    path : Path
        The file.
    template : Template, optional
        How a row becomes an example; without one the fields are recognised.

    Raises
    ------
    ConfigError
        The file cannot be read, its fields are not recognised, or a row lacks one or holds
        something else than text in it; the message gives file and line.
    """
    return list(FileExamples((path,), template))


def _template(config: RunConfig) -> Template | None:
    return custom_template(config.prompt_template, config.response_template)


def _drawn(
    examples: Iterable[Example], config: RunConfig, *, label: str = "", node: str = "The node"
) -> LocalData:
    """Return as many examples as the configuration wants, some of them held out."""
    drawn = chosen(examples, most=config.max_examples, seed=config.seed)
    return _split(drawn, config, label=label, node=node)


def _split(examples: Sequence[Example], config: RunConfig, *, label: str, node: str) -> LocalData:
    # Without evaluation nobody would look at them.
    held_out, validation = config.held_out, config.validation if config.fraction_evaluate else 0.0
    return hold_out(examples, fraction=held_out, validation=validation, label=label, node=node)


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
        The hub does not provide the data set, it has too few rows, or the rows have no known
        fields.
    """
    (examples,) = _hub_shares(
        name, [partition_id], num_partitions=num_partitions, template=template, key=key
    )
    return examples


def _hub_shares(
    name: str,
    partition_ids: Sequence[int],
    *,
    num_partitions: int,
    template: Template | None,
    key: str,
) -> Iterator[list[Example]]:
    """Yield the shares of some nodes, one after the other; errors as `load_hub_examples`."""

    def shares(whole: Any) -> Iterator[Iterable[Row]]:
        # Data sets are often sorted, and a share is a piece.
        mixed = whole.shuffle(seed=_HUB_SEED)
        for index in partition_ids:
            yield mixed.shard(num_shards=num_partitions, index=index, contiguous=True)

    what = f"'train' in {num_partitions} parts"
    found = _hub_pieces(name, shares, key=key, what=what)
    for index, rows in zip(partition_ids, found, strict=True):
        if not rows:
            raise ConfigError(f"Hub data set {name!r} gives node {index} no examples.")
        yield list(to_examples(rows, source=name, template=template))


def _hub_pieces(
    name: str, pieces: Callable[[Any], Iterable[Iterable[Row]]], *, key: str, what: str
) -> Iterator[list[tuple[int, Row]]]:
    """Yield pieces of a hub data set's ``train`` split, the rows of each numbered from 1."""
    import datasets

    identifier, _, subset = name.partition(":")
    try:
        whole = datasets.load_dataset(identifier, subset or None, split="train")
        for piece in pieces(whole):
            yield list(enumerate(piece, 1))
    # An unknown id or configuration, no connection, no such split: `datasets`, its hub client and
    # their HTTP library each raise classes of their own.
    except Exception as error:
        raise ConfigError(
            f"{key}={name!r} is no file or folder here, and the hub does not provide its split "
            f"{what}: {first_line(error)}"
        ) from error
