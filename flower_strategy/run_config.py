"""The run configuration: every key of ``flwr run --run-config``, checked before anything starts.

Flower hands an app a flat dictionary of str, int, float and bool. `RunConfig.from_dict` turns it
into a frozen dataclass; a wrong value is answered with the key, the value and what is accepted,
an unknown key with its nearest neighbour. ``KEYS`` holds the documentation of every key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from floe_plugins.errors import ConfigError

ConfigValue = str | int | float | bool

EXPORT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM accepts as ``--max-lora-rank``."""


@dataclass(frozen=True)
class Key:
    """What a key means and accepts.

    Attributes
    ----------
    help : str
        One sentence for the user.
    accepts : str
        The accepted values in words, as the error message ends.
    parse : Callable[[ConfigValue], Any]
        Converts a value, or raises ValueError.
    """

    help: str
    accepts: str
    parse: Callable[[ConfigValue], Any]


def _key(default: Any, spec: Key) -> Any:
    return field(default=default, metadata={"key": spec})


def _integer(text: str, *, low: int, high: int) -> Key:
    def parse(value: ConfigValue) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Key(text, f"a whole number from {low} to {high}", parse)


def _number(text: str, *, low: float, high: float, above: bool = False) -> Key:
    def parse(value: ConfigValue) -> float:
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            raise ValueError
        if not low <= value <= high or (above and value == low):
            raise ValueError
        return float(value)

    lower = f"above {low:g}" if above else f"from {low:g}"
    return Key(text, f"a number {lower} to {high:g}", parse)


def _flag(text: str) -> Key:
    def parse(value: ConfigValue) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Key(text, "true or false", parse)


def _text(text: str, *, empty: bool = False) -> Key:
    def parse(value: ConfigValue) -> str:
        if not isinstance(value, str) or not (value.strip() or empty):
            raise ValueError
        return value

    return Key(text, "a text" if empty else "a text that is not empty", parse)


def _choice(text: str, *options: str) -> Key:
    def parse(value: ConfigValue) -> str:
        if value not in options:
            raise ValueError
        return str(value)

    return Key(text, "one of " + ", ".join(options), parse)


def split_list(value: str) -> tuple[str, ...]:
    """Split a comma-separated list, without blanks and empty items."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def _names(text: str, accepts: str) -> Key:
    def parse(value: ConfigValue) -> tuple[str, ...]:
        if not isinstance(value, str) or not split_list(value):
            raise ValueError
        return split_list(value)

    return Key(text, accepts, parse)


def _ranks(text: str) -> Key:
    def parse(value: ConfigValue) -> tuple[int, ...]:
        if isinstance(value, (bool, float)):
            raise ValueError
        ranks = tuple(sorted({int(item) for item in split_list(str(value))}))
        if not ranks or ranks[0] < 1 or ranks[-1] > max(EXPORT_RANKS):
            raise ValueError
        return ranks

    return Key(text, f"whole numbers from 1 to {max(EXPORT_RANKS)}, separated by commas", parse)


def _export_rank(text: str) -> Key:
    def parse(value: ConfigValue) -> int:
        if isinstance(value, bool) or value not in EXPORT_RANKS:
            raise ValueError
        return int(value)

    return Key(text, "one of " + ", ".join(map(str, EXPORT_RANKS)), parse)


_DEVICES_HELP = (
    "Classes of the simulated devices, given to the nodes in turn. A real SuperNode's "
    "--node-config comes first."
)
_DEVICES_ACCEPTS = (
    "names among phone, jetson, laptop, or NAME:GIB:SLOWDOWN:MBPS "
    "(memory, times slower than this machine, upload in MB/s), separated by commas"
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One federated run.

    The attributes are the configuration's keys with ``_`` for ``-``; `describe` prints each with
    its meaning, default and accepted values.
    """

    model: str = _key(
        "embedded:smollm2-135m-instruct",
        _text("The frozen base model: a folder, a hub id, or an embedded model's name."),
    )
    dtype: str = _key(
        "float32",
        _choice(
            "Type of the base model's weights on the devices; on CPUs without bfloat16 "
            "instructions float32 is some 20 times faster.",
            "float32",
            "bfloat16",
        ),
    )
    data: str = _key(
        "embedded",
        _text(
            "Training text: 'embedded' (tasks made at run time), JSONL files or folders "
            "separated by commas (relative to where flwr run was typed), or a hub data set's "
            "id. Every file is one task."
        ),
    )
    prompt_template: str = _key(
        "",
        _text(
            "Template of the prompt over a row's fields, such as '{question}\\nAnswer:'; "
            "empty recognises common fields.",
            empty=True,
        ),
    )
    response_template: str = _key(
        "",
        _text(
            "Template of the response over a row's fields; given with prompt-template.", empty=True
        ),
    )
    tasks: tuple[str, ...] = _key(
        ("code", "arithmetic", "records"),
        _names(
            "The embedded tasks that are dealt out.",
            "names among code, arithmetic, records, separated by commas",
        ),
    )
    mix: float = _key(
        0.1,
        _number(
            "Share of a node's examples that is drawn from all tasks alike: 0 gives each node "
            "one task, 1 gives all nodes the same mixture.",
            low=0,
            high=1,
        ),
    )
    max_examples: int = _key(
        128, _integer("Most examples that a node holds; 0 keeps all.", low=0, high=10_000_000)
    )
    held_out: float = _key(
        0.2,
        _number(
            "Share of a node's examples kept out of training, to measure the loss on.",
            low=0.01,
            high=0.9,
        ),
    )
    eval_examples: int = _key(
        8,
        _integer("Most held-out examples used per evaluation; 0 uses all.", low=0, high=1_000_000),
    )
    rounds: int = _key(3, _integer("Rounds of training.", low=1, high=100_000))
    local_steps: int = _key(
        3, _integer("Optimizer steps per device and round.", low=1, high=1_000_000)
    )
    batch_size: int = _key(4, _integer("Examples per step.", low=1, high=4096))
    learning_rate: float = _key(
        2e-3, _number("AdamW's learning rate on the devices.", low=0, high=1, above=True)
    )
    max_length: int = _key(
        64,
        _integer(
            "Most tokens of an example; longer prompts lose their beginning.", low=8, high=131_072
        ),
    )
    ranks: tuple[int, ...] = _key(
        (4, 8, 16, 32), _ranks("The LoRA ranks that a device can be given.")
    )
    alpha: float = _key(
        0.0, _number("LoRA's alpha; 0 means alpha = rank on every device.", low=0, high=4096)
    )
    rslora: bool = _key(False, _flag("Scale by alpha / sqrt(rank) rather than alpha / rank."))
    export_rank: int = _key(
        16, _export_rank("Rank of the exported adapters, one that vLLM accepts.")
    )
    devices: tuple[str, ...] = _key(
        ("phone", "jetson", "laptop"), _names(_DEVICES_HELP, _DEVICES_ACCEPTS)
    )
    round_deadline: float = _key(
        0.0,
        _number(
            "Seconds that a device may take for a round, training and upload, by which its rank "
            "is chosen; 0 takes what the slowest device needs at the smallest rank.",
            low=0,
            high=1e7,
        ),
    )
    round_timeout: float = _key(
        3600.0,
        _number(
            "Seconds that the server waits for a round's replies.", low=0, high=1e7, above=True
        ),
    )
    min_nodes: int = _key(
        1,
        _integer("Nodes to wait for before the run begins.", low=1, high=1_000_000),
    )
    min_replies: int = _key(
        1,
        _integer(
            "Good replies that a cluster needs to move; with fewer it keeps its adapter. A "
            "smaller cluster needs all its members.",
            low=1,
            high=1_000_000,
        ),
    )
    silhouette: float = _key(
        0.5,
        _number(
            "Silhouette from which devices are split into clusters; 1 never splits.", low=0, high=1
        ),
    )
    embedding_texts: int = _key(
        8, _integer("Local texts that the task embedding averages over.", low=1, high=100_000)
    )
    embedding_clip: float = _key(
        0.0,
        _number(
            "Largest length of each text's embedding before averaging; 0 does not clip.",
            low=0,
            high=1e6,
        ),
    )
    embedding_noise: float = _key(
        0.0,
        _number(
            "Standard deviation of the Gaussian noise that the device adds to its averaged "
            "embedding, in units of embedding-clip (or of 1).",
            low=0,
            high=100,
        ),
    )
    output: str = _key(
        "floe-runs/latest",
        _text("Folder for adapters, manifest and history (relative to where flwr run was typed)."),
    )
    seed: int = _key(
        0, _integer("Seed of data, initial adapter and batches.", low=0, high=2**31 - 1)
    )

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in _TASKS:
                raise ConfigError(_complaint("tasks", name, KEYS["tasks"]))
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
    def describe(cls) -> str:
        """Return one paragraph per key: meaning, default, accepted values."""
        defaults = cls.defaults()
        return "\n".join(
            f"{name} = {defaults[name]!r}\n    {key.help}\n    Accepts {key.accepts}."
            for name, key in KEYS.items()
        )


def _written(value: Any) -> ConfigValue:
    written: ConfigValue = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return written


def _complaint(name: str, value: object, key: Key) -> str:
    return f"Run configuration {name}={value!r} is not accepted: it must be {key.accepts}."


def _name(attribute: str) -> str:
    return attribute.replace("_", "-")


_TASKS = ("code", "arithmetic", "records")
KEYS: dict[str, Key] = {_name(item.name): item.metadata["key"] for item in fields(RunConfig)}
"""Key as typed -> what it means and accepts."""
