"""The run configuration: every key of ``flwr run --run-config``, checked before anything starts.

Flower hands an app a flat dictionary of str, int, float and bool. `RunConfig.from_dict` turns it
into a frozen dataclass; a wrong value is answered with the key, the value and what is accepted,
an unknown key with its nearest neighbour. ``KEYS`` holds the documentation of every key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from floe_plugins.errors import ConfigError
from flower_strategy import config_keys as keys
from flower_strategy.config_keys import ConfigValue, Key
from flower_strategy.device.hardware import parse_device

__all__ = ["KEYS", "ConfigValue", "RunConfig", "check_values"]

_DEVICES_HELP = (
    "Classes of the simulated devices, given to the nodes in turn. A real SuperNode is measured, "
    "and its --node-config says what cannot be."
)
_DEVICES_ACCEPTS = (
    "names among phone, jetson, laptop, or NAME:GIB:SLOWDOWN:MBPS "
    "(memory, times slower than this machine, upload in MB/s), separated by commas"
)


@dataclass(frozen=True, kw_only=True)
class DeviceKeys:
    """Base model, data, local training, task embedding, device classes."""

    model: str = keys.keyed(
        "embedded:smollm2-135m-instruct",
        keys.text("The frozen base model: a folder, a hub id, or an embedded model's name."),
    )
    dtype: str = keys.keyed(
        "float32",
        keys.choice(
            "Type of the base model's weights on the devices; on CPUs without bfloat16 "
            "instructions float32 is some 20 times faster.",
            "float32",
            "bfloat16",
        ),
    )
    data: str = keys.keyed(
        "embedded",
        keys.text(
            "Training text of simulated devices: 'embedded' (tasks made at run time), JSONL files "
            "or folders separated by commas (relative paths as those of output), or a hub data "
            "set's id (OWNER/NAME, or OWNER/NAME:CONFIGURATION). Every file is one task."
        ),
    )
    prompt_template: str = keys.keyed(
        "",
        keys.text(
            "Template of the prompt over a row's fields, such as '{question}\\nAnswer:'; "
            "empty recognises common fields.",
            empty=True,
        ),
    )
    response_template: str = keys.keyed(
        "",
        keys.text(
            "Template of the response over a row's fields; given with prompt-template.", empty=True
        ),
    )
    tasks: tuple[str, ...] = keys.keyed(
        ("code", "arithmetic", "records"),
        keys.names(
            "The embedded tasks that are dealt out.",
            "names among code, arithmetic, records, separated by commas",
        ),
    )
    mix: float = keys.keyed(
        0.1,
        keys.number(
            "Share of a node's examples that is drawn from all tasks alike: 0 gives each node "
            "one task, 1 gives all nodes the same mixture.",
            low=0,
            high=1,
        ),
    )
    max_examples: int = keys.keyed(
        128,
        keys.integer(
            "Most examples that a node holds, at least 2; 0 keeps all.", low=0, high=10_000_000
        ),
    )
    held_out: float = keys.keyed(
        0.2,
        keys.number(
            "Share of a node's examples kept out of training, to measure the loss on.",
            low=0.01,
            high=0.9,
        ),
    )
    eval_examples: int = keys.keyed(
        8,
        keys.integer(
            "Most held-out examples used per evaluation; 0 uses all.", low=0, high=1_000_000
        ),
    )
    local_steps: int = keys.keyed(
        3, keys.integer("Optimizer steps per device and round.", low=1, high=1_000_000)
    )
    batch_size: int = keys.keyed(4, keys.integer("Examples per step.", low=1, high=4096))
    learning_rate: float = keys.keyed(
        2e-3, keys.number("AdamW's learning rate on the devices.", low=0, high=1, above=True)
    )
    max_length: int = keys.keyed(
        64,
        keys.integer(
            "Most tokens of an example, no more than the model has positions; longer prompts lose "
            "their beginning.",
            low=8,
            high=131_072,
        ),
    )
    alpha: float = keys.keyed(
        0.0, keys.number("LoRA's alpha; 0 means alpha = rank on every device.", low=0, high=4096)
    )
    rslora: bool = keys.keyed(
        False, keys.flag("Scale by alpha / sqrt(rank) rather than alpha / rank.")
    )
    devices: tuple[str, ...] = keys.keyed(
        ("phone", "jetson", "laptop"), keys.names(_DEVICES_HELP, _DEVICES_ACCEPTS)
    )
    embedding_texts: int = keys.keyed(
        8, keys.integer("Local texts that the task embedding averages over.", low=1, high=100_000)
    )
    embedding_noise: float = keys.keyed(
        0.0,
        keys.number(
            "Standard deviation of the Gaussian noise that the device adds to every number of its "
            "averaged embedding, a mean of vectors of length 1; a device answers with more where "
            "it has done so before.",
            low=0,
            high=100,
        ),
    )
    seed: int = keys.keyed(
        0, keys.integer("Seed of data, initial adapter and batches.", low=0, high=2**31 - 1)
    )
    proximal: float = keys.keyed(
        0.0,
        keys.number(
            "FedProx's mu: local training is pulled back towards the adapter that came, by mu/2 "
            "times the squared distance of the factors; 0 does not pull.",
            low=0,
            high=1e6,
        ),
    )
    clock: str = keys.keyed(
        "virtual",
        keys.choice(
            "How a simulated device is slow: 'virtual' multiplies the processor seconds that it "
            "reports, 'real' makes it wait.",
            "virtual",
            "real",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Rounds, ranks, clusters, aggregation, replies, what is written."""

    rounds: int = keys.keyed(3, keys.integer("Rounds of training.", low=1, high=100_000))
    ranks: tuple[int, ...] = keys.keyed(
        (4, 8, 16, 32), keys.ranks("The LoRA ranks that a device can be given.")
    )
    export_rank: int = keys.keyed(
        16, keys.export_rank("Rank of the exported adapters, one that vLLM accepts.")
    )
    round_deadline: float = keys.keyed(
        0.0,
        keys.number(
            "Seconds that a device may take for a round, training and upload, by which its rank "
            "is chosen; 0 takes what the slowest device needs at the smallest rank.",
            low=0,
            high=1e7,
        ),
    )
    round_timeout: float = keys.keyed(
        3600.0,
        keys.number(
            "Seconds that the server waits for a round's replies.", low=0, high=1e7, above=True
        ),
    )
    min_nodes: int = keys.keyed(
        1,
        keys.integer(
            "Nodes to wait for before the run begins, round-timeout seconds at most.",
            low=1,
            high=1_000_000,
        ),
    )
    min_replies: int = keys.keyed(
        1,
        keys.integer(
            "Good replies that a cluster needs to move; with fewer it keeps its adapter. A "
            "smaller cluster needs all its members.",
            low=1,
            high=1_000_000,
        ),
    )
    silhouette: float = keys.keyed(
        0.5,
        keys.number(
            "Silhouette from which devices are split into clusters; 1 never splits.", low=0, high=1
        ),
    )
    separation: float = keys.keyed(
        3.0,
        keys.number(
            "Standard errors of a device's embedding that two clusters must be apart; 0 asks for "
            "no distance.",
            low=0,
            high=1000,
        ),
    )
    output: str = keys.keyed(
        "floe-runs/latest",
        keys.text(
            "Folder for adapters, manifest and history. A relative path counts from where the "
            "SuperLink was started: in a simulation, where the first flwr run was typed."
        ),
    )
    rank_policy: str = keys.keyed(
        "deadline",
        keys.name(
            "How a device gets its rank: 'deadline' takes the largest that fits the round's "
            "deadline and the memory, 'memory' the largest that fits the memory, 'fixed' what "
            "fixed-ranks says, 'uniform-min' gives all what the weakest affords.",
            "deadline",
            "memory",
            "fixed",
            "uniform-min",
        ),
    )
    fixed_ranks: str = keys.keyed(
        "",
        keys.text(
            "Ranks of the policy 'fixed': one number for all, or CLASS:RANK for each device "
            "class, separated by commas.",
            empty=True,
        ),
    )
    rank_correction: bool = keys.keyed(
        True, keys.flag("Correct each device's predicted seconds by what its rounds took.")
    )
    readmit_every: int = keys.keyed(
        3,
        keys.integer(
            "Rounds after which a device that was left out is measured again; 0 never asks again.",
            low=0,
            high=100_000,
        ),
    )
    fraction_train: float = keys.keyed(
        1.0,
        keys.number(
            "Share of each cluster's devices that trains in a round, at least one.",
            low=0,
            high=1,
            above=True,
        ),
    )
    fraction_evaluate: float = keys.keyed(
        1.0,
        keys.number(
            "Share of each cluster's devices that evaluates in a round, at least one; 0 does not "
            "evaluate.",
            low=0,
            high=1,
        ),
    )
    quorum: float = keys.keyed(
        1.0,
        keys.number(
            "Share of a round's devices whose replies are waited for; then the others have "
            "quorum-grace seconds left.",
            low=0,
            high=1,
            above=True,
        ),
    )
    quorum_grace: float = keys.keyed(
        5.0, keys.number("Seconds for late replies once the quorum is there.", low=0, high=1e7)
    )
    norm_limit: float = keys.keyed(
        10.0,
        keys.number(
            "An update counts for at most this many times the length that local-steps at "
            "learning-rate make; of five or more, one ten times longer still is refused. 0 takes "
            "every length.",
            low=0,
            high=1e9,
        ),
    )
    cluster_by: Literal["embedding", "adapter"] = keys.keyed(
        "embedding",
        keys.choice(
            "What devices are clustered by: 'embedding' of their texts, or the B matrices of the "
            "'adapter' that they train in the first round (as FedLEASE).",
            "embedding",
            "adapter",
        ),
    )
    recluster_every: int = keys.keyed(
        0,
        keys.integer(
            "Rounds after which devices embed their texts anew and are clustered again; 0 never.",
            low=0,
            high=100_000,
        ),
    )
    min_cluster_size: int = keys.keyed(
        1,
        keys.integer(
            "Fewest devices of a cluster; smaller ones join the nearest.", low=1, high=1_000_000
        ),
    )
    weighting: Literal["exact", "rank-partitioned"] = keys.keyed(
        "exact",
        keys.choice(
            "How adapters of different ranks are averaged: 'exact' is the mean of the updates; "
            "'rank-partitioned' averages each rank term over the devices that have it.",
            "exact",
            "rank-partitioned",
        ),
    )
    global_share: float = keys.keyed(
        0.0,
        keys.number("Share of the mean over all clusters in each cluster's.", low=0, high=1),
    )
    momentum: float = keys.keyed(
        0.0,
        keys.number("Server momentum on the clusters' updates; 0 has none.", low=0, high=0.999),
    )
    keep_checkpoints: int = keys.keyed(
        2,
        keys.integer(
            "Checkpoints kept in the output folder; 0 writes none, and the run cannot be resumed.",
            low=0,
            high=100_000,
        ),
    )
    resume: str = keys.keyed(
        "",
        keys.text(
            "Folder of a run, or of one checkpoint, to continue from; empty begins anew.",
            empty=True,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(ServerKeys, DeviceKeys):
    """One federated run.

    The attributes are the configuration's keys with ``_`` for ``-``; `markdown` has each with its
    default, meaning and accepted values.
    """

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in _TASKS:
                raise ConfigError(_complaint("tasks", name, KEYS["tasks"]))
        for device in self.devices:
            parse_device(device)
        if self.max_examples == 1:
            raise ConfigError(
                "Run configuration max-examples=1 is not accepted: a node needs 2 examples at "
                "least, one to train on and one to hold out; 0 keeps all."
            )
        if bool(self.prompt_template) != bool(self.response_template):
            raise ConfigError(
                "prompt-template and response-template belong together: give both or neither."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, ConfigValue]) -> RunConfig:
        """Check Flower's run configuration.

        Raises
        ------
        ConfigError
            A key is unknown, or a value is not accepted.
        """
        known = {}
        for name, value in values.items():
            if name not in KEYS:
                nearest = difflib.get_close_matches(name, KEYS, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(KEYS)}."
                raise ConfigError(f"Unknown run configuration key {name!r}; {hint}")
            try:
                known[name.replace("-", "_")] = KEYS[name].parse(value)
            except ValueError:
                raise ConfigError(_complaint(name, value, KEYS[name])) from None
        return cls(**known)

    @classmethod
    def defaults(cls) -> dict[str, ConfigValue]:
        """Return the defaults as Flower writes them in ``[tool.flwr.app.config]``."""
        return {_name(item.name): _written(item.default) for item in fields(cls)}

    @classmethod
    def markdown(cls) -> str:
        """Return the reference page of all keys."""
        defaults = cls.defaults()
        rows = [
            f"| `{name}` | `{_toml(defaults[name])}` | {key.help} | {key.accepts} |"
            for name, key in KEYS.items()
        ]
        return "\n".join([_PAGE_HEAD, *rows, ""])


def check_values(values: Mapping[str, Any]) -> None:
    """Check what a program sets by what the keys of the run configuration accept.

    Parameters
    ----------
    values : Mapping[str, Any]
        Attribute of `RunConfig` -> value.

    Raises
    ------
    ConfigError
        A value is not accepted.
    """
    for attribute, value in values.items():
        key = KEYS[_name(attribute)]
        try:
            key.parse(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{attribute}={value!r} is not accepted: it must be {key.accepts}."
            ) from None


def _written(value: Any) -> ConfigValue:
    written: ConfigValue = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return written


def _toml(value: ConfigValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _complaint(name: str, value: object, key: Key) -> str:
    return f"Run configuration {name}={value!r} is not accepted: it must be {key.accepts}."


def _name(attribute: str) -> str:
    return attribute.replace("_", "-")


_TASKS = ("code", "arithmetic", "records")
KEYS: dict[str, Key] = {_name(item.name): item.metadata["key"] for item in fields(RunConfig)}
"""Key as typed -> what it means and accepts."""

_PAGE_HEAD = """# Run configuration

Every key of `flwr run . --run-config "KEY=VALUE KEY=VALUE"`. Texts go in quotes: `model='...'`. A
wrong value or an unknown key ends the run before anything starts, with a sentence that says what is
accepted.

This page is written by `python -m flower_strategy.config`.

| key | default | meaning | accepts |
| --- | --- | --- | --- |"""

if __name__ == "__main__":
    print(RunConfig.markdown(), end="")
