"""The keys of the run configuration by subject: type, default, range and help of each.

A class of keys is the base of the settings that a program gives a strategy; those of the training
loop are in `flower_strategy.loop_keys`. Together they are `flower_strategy.config.RunConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from floe_plugins.config import Settings, Wording, Words
from flower_strategy.device.hardware import parse_device
from flower_strategy.not_aggregated import refuse_not_aggregated

ExportRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
EXPORT_RANKS: tuple[int, ...] = get_args(ExportRank)
"""The ranks that vLLM accepts as ``--max-lora-rank``."""

ALL_LINEAR = "all-linear"
"""PEFT's name for all linear layers but the output layer."""

_TASKS = ("code", "arithmetic", "records")
_MODULE_NAME = re.compile(r"[A-Za-z_][\w.]*")


def split_list(value: str) -> tuple[str, ...]:
    """Split a comma-separated list, without blanks and empty items."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def _listed(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    return split_list(value) if isinstance(value, str) else value


def _ranks(value: object) -> object:
    if isinstance(value, str) or type(value) is int:
        items = split_list(str(value))
        value = tuple(int(item) for item in items if item.isdecimal())
        if len(value) < len(items):
            raise ValueError
    return tuple(sorted(set(value))) if isinstance(value, tuple | list) else value


def _no_flag(value: object) -> object:
    if isinstance(value, bool):  # which equals 1
        raise ValueError
    return value


def _each(check: Callable[[str], object]) -> AfterValidator:
    def checked(values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            check(value)
        return values

    return AfterValidator(checked)


def _is_task(name: str) -> None:
    if name not in _TASKS:
        raise ValueError


def _targets(names: tuple[str, ...]) -> tuple[str, ...]:
    # PEFT takes it in any case.
    if len(names) == 1 and names[0].lower() == ALL_LINEAR:
        return (ALL_LINEAR,)
    if not all(_MODULE_NAME.fullmatch(name) for name in names):
        raise ValueError
    return names


_Text = Annotated[str, Field(pattern=r"\S"), Words(accepted="a text that is not empty")]
_Share = Annotated[float, Field(ge=0, le=1)]
_Part = Annotated[float, Field(gt=0, le=1)]
_Split = BeforeValidator(_listed, json_schema_input_type=Annotated[str, Field(pattern=r"[^\s,]")])
_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Tasks = Annotated[
    _Names,
    _Split,
    _each(_is_task),
    Words(accepted=f"names among {', '.join(_TASKS)}, separated by commas"),
]
_TargetModules = Annotated[
    _Names,
    _Split,
    AfterValidator(_targets),
    Words(accepted=f"{ALL_LINEAR}, or names of modules, separated by commas"),
]
_Devices = Annotated[
    _Names,
    _Split,
    _each(parse_device),
    Words(
        accepted="names among phone, jetson, laptop, or NAME:GIB:SLOWDOWN:MBPS (memory, times "
        "slower than this machine, upload in MB/s), separated by commas"
    ),
]
_Rank = Annotated[int, Field(ge=1, le=max(EXPORT_RANKS))]
_WrittenRanks = _Rank | Annotated[str, Field(pattern=r"^[\s\d,]*\d[\s\d,]*$")]
_Ranks = Annotated[
    tuple[_Rank, ...],
    Field(min_length=1),
    BeforeValidator(_ranks, json_schema_input_type=_WrittenRanks),
    Words(accepted=f"whole numbers from 1 to {max(EXPORT_RANKS)}, separated by commas"),
]
_Policy = Annotated[
    _Text, Words(accepted="one of deadline, memory, fixed, uniform-min, or a plugin's")
]


Model = Annotated[
    _Text,
    Field(description="The frozen base model: a folder, a hub id, or an embedded model's name."),
]
EvalExamples = Annotated[
    int,
    Field(
        ge=0,
        le=1_000_000,
        description="Most held-out examples used per evaluation; 0 uses all.",
    ),
]


class Keys(Settings):
    """Keys that a program gives as attributes, with ``_`` for ``-``."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))
    wording: ClassVar[Wording] = Wording(
        wrong="{name}={value} is not accepted: it must be {accepted}.",
        unknown="Unknown setting {key!r}; {hint}",
        missing="The setting {key!r} is missing.",
        integer="a whole number",
        up_to=" to",
        one_of="one of ",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_not_aggregated(cls, values: Any) -> Any:
        refuse_not_aggregated(values)
        return values

    @classmethod
    def refuse_unknown(cls, keys: Iterable[str]) -> None:
        """Raise `ConfigError` about the first key that is not one of the settings'."""
        listed = list(keys)
        refuse_not_aggregated(listed)
        super().refuse_unknown(listed)

    @classmethod
    def from_config(cls, config: Keys) -> Self:
        """Take the settings out of a run configuration."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})

    @classmethod
    def written(cls, value: Any) -> Any:
        """Return a value as Flower writes it: a list is one text."""
        return ",".join(map(str, value)) if isinstance(value, tuple) else value


class TrainingKeys(Keys):
    """What a device is asked to train."""

    model: Model = "embedded:smollm2-135m-instruct"
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Type of the base model's weights on the devices; on CPUs without bfloat16 "
        "instructions float32 is some 20 times faster.",
    )
    max_length: int = Field(
        default=256,
        ge=8,
        le=131_072,
        description="Most tokens of an example, prompt and response together, and no more than "
        "the model takes; a longer prompt loses its beginning.",
    )
    alpha: float = Field(
        default=0.0,
        ge=0,
        le=4096,
        description="LoRA's alpha: what an adapter adds is scaled by alpha / rank. 0 means "
        "alpha = rank on every device, so a scaling of 1.",
    )
    rslora: bool = Field(
        default=False,
        description="Scale by alpha / sqrt(rank), as rank-stabilised LoRA does, instead of "
        "alpha / rank.",
    )
    target_modules: _TargetModules = Field(
        default=(ALL_LINEAR,),
        description="Modules of the base model that get LoRA factors: all linear layers but "
        "the output layer, or those whose names end so, such as q_proj,v_proj "
        "(PEFT's matching).",
    )
    template: Literal["auto", "none"] = Field(
        default="auto",
        description="How examples become texts: `auto` renders them by the chat template of a "
        "model that has one, as a server does; `none` takes prompt and response as plain text.",
    )
    eval_examples: EvalExamples = 8
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of the dealing out of data, of the initial adapter and of the order "
        "of batches.",
    )
    clock: Literal["virtual", "real"] = Field(
        default="virtual",
        description="How a simulated device is made slow: 'virtual' multiplies the processor "
        "seconds that it reports, 'real' makes it wait as long.",
    )


class DataKeys(Keys):
    """What devices train on, and what they are."""

    data: _Text = Field(
        default="embedded",
        description="Training text of simulated devices: 'embedded' (tasks made at run time), "
        "files or folders (JSONL, CSV, parquet and more) separated by commas "
        "(relative paths as those of output), or a hub data set's id (OWNER/NAME, "
        "or OWNER/NAME:CONFIGURATION). Every file is one task.",
    )
    prompt_template: str = Field(
        default="",
        description="How the fields of a row make the prompt, such as '{question}\\nAnswer:'; "
        "empty goes by the fields' names.",
    )
    response_template: str = Field(
        default="",
        description="How the fields of a row make the response, such as ' {answer}'; given "
        "with prompt-template.",
    )
    tasks: _Tasks = Field(
        default=_TASKS, description="With data='embedded', the tasks whose examples are dealt out."
    )
    mix: _Share = Field(
        default=0.1,
        description="Share of a node's examples that is drawn from all tasks alike: 0 gives each "
        "node one task, 1 gives all nodes the same mixture.",
    )
    max_examples: int = Field(
        default=128,
        ge=0,
        le=10_000_000,
        description="Most examples that a node holds, at least 2; 0 keeps all.",
    )
    held_out: float = Field(
        default=0.2,
        ge=0.01,
        le=0.9,
        description="Share of a node's examples kept out of training, to measure the loss on.",
    )
    validation: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of a node's other examples that is kept out of training too, at least "
        "one of four, for patience and for the model that a device keeps; 0 keeps none, and "
        "neither does fraction-evaluate 0.",
    )
    devices: _Devices = Field(
        default=("phone", "jetson", "laptop"),
        description="Classes of the simulated devices, given to the nodes in turn. A real "
        "SuperNode is measured, and its --node-config says what cannot be.",
    )
    embedding_texts: int = Field(
        default=8,
        ge=1,
        le=100_000,
        description="How many of its own texts a device averages into its task embedding, by "
        "which devices are clustered.",
    )
    embedding_noise: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Standard deviation of the Gaussian noise that the device adds to every "
        "number of its averaged embedding, a mean of vectors of length 1; a device "
        "that has answered with more noise before keeps to that.",
    )


class ParticipationKeys(Keys):
    """Which devices take part in a round, and how long they are waited for."""

    min_nodes: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Nodes that must be connected before the run begins; it waits for them "
        "round-timeout seconds at most.",
    )
    fraction_train: _Part = Field(
        default=1.0,
        description="Share of each cluster's devices that train in a round; at least one does.",
    )
    fraction_evaluate: _Share = Field(
        default=1.0,
        description="Share of each cluster's devices that measure the held-out loss in a "
        "round; at least one does, and none with 0.",
    )
    patience: int = Field(
        default=2,
        ge=0,
        le=100_000,
        description="Rounds without a lower loss on its devices' validation examples after which "
        "a cluster stops training; 0 never stops it. Its best adapter is exported either way.",
    )
    quorum: _Part = Field(
        default=1.0,
        description="Share of a round's devices whose replies are waited for; once they are "
        "there, the others have quorum-grace seconds left.",
    )
    quorum_grace: float = Field(
        default=5.0,
        ge=0,
        le=10_000_000,
        description="Seconds for late replies once the quorum is there.",
    )
    rank_correction: bool = Field(
        default=True,
        description="Correct the seconds that are predicted for a device by those that its "
        "rounds took, and choose its next rank by them.",
    )
    keep_uploads: int = Field(
        default=10,
        ge=0,
        le=100_000,
        description="Rounds that a device may miss, away or without a good reply, until what it "
        "last sent no longer counts in its cluster's mean; rounds that it is not drawn for are "
        "none.",
    )
    readmit_every: int = Field(
        default=3,
        ge=0,
        le=100_000,
        description="Rounds after which a device that was left out, since no rank fits it, is "
        "measured again; 0 never asks again.",
    )


class ReplyKeys(Keys):
    """What a reply must satisfy."""

    min_replies: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Valid replies that a cluster's adapter needs to change in a round; with "
        "fewer it stays as it is. A smaller cluster needs all its members.",
    )
    norm_limit: float = Field(
        default=10.0,
        ge=0,
        le=1_000_000_000,
        description="Longest update that counts in full, as a multiple of the length that the "
        "round's steps make at their learning rates; a longer one is shortened to "
        "it. Of five or more, one ten times longer still, also by the run's highest "
        "rate, is refused. 0 takes every length.",
    )


class ServerKeys(Keys):
    """Rounds, ranks, clusters, what is written."""

    rounds: int = Field(default=3, ge=1, le=100_000, description="Rounds of training.")
    ranks: _Ranks = Field(
        default=(4, 8, 16, 32), description="The LoRA ranks that a device can be given."
    )
    export_rank: Annotated[ExportRank, BeforeValidator(_no_flag)] = Field(
        default=16, description="Rank of the exported adapters, one that vLLM accepts."
    )
    round_deadline: float = Field(
        default=0.0,
        ge=0,
        le=10_000_000,
        description="Seconds that a device may take for a round, training and upload; its rank "
        "is chosen to fit them. 0 takes what the slowest device needs at the "
        "smallest rank, or up to a quarter more, where devices then wait less.",
    )
    round_timeout: float = Field(
        default=3600.0,
        gt=0,
        le=10_000_000,
        description="Seconds that the server waits for a round's replies.",
    )
    silhouette: _Share = Field(
        default=0.5,
        description="How clearly devices must fall into groups to be split into clusters: the "
        "silhouette of the groups, near 1 where they are far apart; 1 never splits.",
    )
    separation: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="How far apart two clusters must be, in standard errors of a device's "
        "embedding; 0 asks for no distance.",
    )
    output: _Text = Field(
        default="floe-runs/latest",
        description="Folder for adapters, manifest and history. A relative path counts from "
        "where the SuperLink was started: in a simulation, where the first flwr run was typed.",
    )
    rank_policy: _Policy = Field(
        default="deadline",
        description="How a device gets its rank: 'deadline' takes the one that learns most "
        "within the round's deadline and the memory, 'memory' the largest that fits the memory, "
        "'fixed' what fixed-ranks says, 'uniform-min' gives all what the weakest affords.",
    )
    fixed_ranks: str = Field(
        default="",
        description="Ranks of the policy 'fixed': one number for all, or CLASS:RANK for each "
        "device class, separated by commas.",
    )
    cluster_by: Literal["embedding", "adapter"] = Field(
        default="embedding",
        description="What devices are clustered by: 'embedding' of their texts, or the B "
        "matrices of the 'adapter' that they train in the first round (as FedLEASE).",
    )
    recluster_every: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Rounds after which devices embed their texts anew and are clustered again; "
        "0 never.",
    )
    min_cluster_size: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Fewest devices of a cluster; smaller ones join the nearest.",
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=0,
        le=100_000,
        description="Checkpoints kept in the output folder; 0 writes none, and the run cannot be "
        "resumed.",
    )
    save_every: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Rounds after which the adapters so far are exported; 0 exports them at the "
        "end alone.",
    )
    resume: str = Field(
        default="",
        description="Folder of a run, or of one checkpoint, to continue from; empty begins anew.",
    )
