"""Measures what training costs on this machine, and keeps the result on disk.

A measurement takes a few training steps and stays valid as long as the model, the settings and the
machine stay the same. The embedding and the free memory are not kept: they depend on the texts and
on the moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_plugins import files
from floe_plugins.system import cache_dir

if TYPE_CHECKING:
    from flower_strategy.device.base_model import BaseModel
    from flower_strategy.device.hardware import Device
    from flower_strategy.settings import TrainingSettings
from collections.abc import Mapping, Sequence

import torch

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.adapters.stacking import stacked
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.encoding import encoder_of
from flower_strategy.device.hardware import Device, Stopwatch, available_memory
from flower_strategy.device.loss import autocast, collate, response_loss
from flower_strategy.device.preparation import trainable
from flower_strategy.device.step_memory import AliveBytes, SavedBytes
from flower_strategy.settings import TrainingSettings

_FLOAT_BYTES = 4

#: Examples whose tokens are counted to find the longest one.
_READ = 8

COPIES_PER_FACTOR = 12
"""Copies that training holds of a factor: itself, its gradient, AdamW's two moments; the cluster's
and what was sent, which take part without being trained; and what the device keeps between rounds,
itself and the two moments, in the SuperNode's memory and in that of the ClientApp."""


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Measured cost of training on one device.

    Attributes
    ----------
    step_ranks : tuple[int, int]
        The two ranks that were timed.
    step_seconds : tuple[float, float]
        Seconds per step at these ranks, on the device's clock.
    fixed_bytes : int
        Base weights, and what a step keeps for its backward pass.
    bytes_per_rank : int
        Memory that one rank adds.
    upload_per_rank : int
        Bytes of one rank's factors, as sent.
    """

    step_ranks: tuple[int, int]
    step_seconds: tuple[float, float]
    fixed_bytes: int
    bytes_per_rank: int
    upload_per_rank: int


def training_memory(base: BaseModel) -> int:
    """Return the bytes available to training on the base model's device.

    The model is already loaded, and its weights are part of training's memory
    (`TrainingCost.fixed_bytes`), so they count as free. The result does not depend on whether the
    process had loaded the model before.
    """
    if base.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(base.device)
    else:
        free = available_memory()
    return free + base.weight_bytes


def measure_training(
    base: BaseModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    device: Device,
    *,
    ranks: tuple[int, int],
) -> TrainingCost:
    """Time one batch of a real training step at each of two ranks, after a warm-up step.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    examples : Sequence[Example]
        The device's examples; their texts are joined into one batch.
    settings : TrainingSettings
        Batch size and length: with the device's `longest` example as the length, the budget covers
        every example.
    device : Device
        The device whose clock is used.
    ranks : tuple[int, int]
        The two ranks.
    """
    text = "\n".join(example.text for example in examples)
    characters = 16 * settings.max_length
    text = (text * (characters // max(len(text), 1) + 1))[:characters]
    batch = [Example(text[: characters // 2], text[characters // 2 :])] * settings.batch_size
    shapes = layer_shapes(base, settings.target_modules)
    steps = [
        _step(
            base,
            initial_adapter(shapes, rank=rank, seed=0),
            batch,
            settings,
            device,
            counted=place == 0,
        )
        for place, rank in enumerate((ranks[0], *ranks))
    ]
    return TrainingCost(
        step_ranks=ranks,
        step_seconds=(steps[1].seconds, steps[2].seconds),
        fixed_bytes=base.weight_bytes + steps[0].kept_bytes,
        bytes_per_rank=memory_per_rank(shapes),
        upload_per_rank=int8.bytes_per_rank(shapes),
    )


def longest(base: BaseModel, examples: Sequence[Example], settings: TrainingSettings) -> int:
    """Return the tokens of the longest example, in whole sixteens, at most ``max-length``.

    A batch is as long as its longest text. Where all are far shorter than ``max-length``, a batch
    of that length would say nothing of a step's time. Of the texts, those with the most characters
    are read.
    """
    encoder = encoder_of(base.tokenizer, template=settings.template, max_length=settings.max_length)
    read = nlargest(_READ, examples, key=lambda example: len(example.text))
    tokens = max(len(encoder.encode(example).ids) for example in read)
    # Devices with texts of like lengths share a cost.
    return min(settings.max_length, 16 * math.ceil(tokens / 16))


def memory_per_rank(shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the bytes of memory that a unit of rank adds, for layers of these shapes."""
    return COPIES_PER_FACTOR * _FLOAT_BYTES * sum(out + inner for out, inner in shapes.values())


@dataclass(frozen=True)
class _Step:
    seconds: float
    kept_bytes: int


def _step(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
    device: Device,
    *,
    counted: bool,
) -> _Step:
    """Run one step; return its seconds and, if counted, what it keeps for the backward pass."""
    # In a round the cluster's adapter and what was sent take part, each at the device's rank.
    fixed = stacked([(1.0, adapter), (-1.0, adapter)])
    with trainable(base, adapter, settings, seed=(0,), fixed=fixed) as training:
        model = training.model
        optimizer = torch.optim.AdamW(training.weights.values(), lr=0.0)
        own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        counter: AliveBytes | SavedBytes | None = None
        if counted:
            counter = (AliveBytes if settings.gradient_checkpointing else SavedBytes)(own)
        watch = Stopwatch(device, threads=torch.get_num_threads())
        with counter or contextlib.nullcontext():
            batch = collate(examples, base, settings)
            with autocast(base, settings):
                loss = response_loss(model.get_base_model(), batch)
            (loss / max(batch.num_targets, 1)).backward()
        optimizer.step()
        if base.device.type == "cuda":
            torch.cuda.synchronize()
        return _Step(watch.seconds(), counter.most if counter else 0)


logger = logging.getLogger("flwr")

FORMAT_VERSION = 2
"""Increased whenever the meaning of a file, or the measurement, changes."""

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf"}


@dataclass(frozen=True, kw_only=True)
class CostKey:
    """Everything that a training cost depends on.

    Attributes
    ----------
    model : str
        Resolved folder or hub id of the base model.
    model_stamp : str
        Hash of its configuration, and of its weight files' names, sizes and modification times or
        its commit on the hub.
    dtype, quantization : str
        Type of the base model's weights.
    bf16, gradient_checkpointing : bool
        How a step computes.
    batch_size, max_length : int
        Size of a step's batch.
    target_modules : tuple[str, ...]
        The modules that carry factors, as in the run configuration.
    probe_ranks : tuple[int, int]
        The ranks that are timed.
    clock : str
        ``processor`` for a virtual clock, else ``wall``.
    machine : str
        The machine; see `machine_name`.
    """

    model: str
    model_stamp: str
    dtype: str
    quantization: str
    bf16: bool
    gradient_checkpointing: bool
    batch_size: int
    max_length: int
    target_modules: tuple[str, ...]
    probe_ranks: tuple[int, int]
    clock: str
    machine: str

    @staticmethod
    def of(
        base: BaseModel,
        settings: TrainingSettings,
        device: Device,
        *,
        probe_ranks: tuple[int, int],
    ) -> CostKey:
        """Return the key of a model and settings on this machine."""
        return CostKey(
            model=base.path,
            model_stamp=model_stamp(base),
            dtype=settings.dtype,
            quantization=settings.quantization,
            bf16=settings.bf16,
            gradient_checkpointing=settings.gradient_checkpointing,
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            target_modules=settings.target_modules,
            probe_ranks=probe_ranks,
            clock="processor" if device.virtual else "wall",
            machine=machine_name(),
        )

    @property
    def digest(self) -> str:
        """The name of the key's file."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]


def model_stamp(base: BaseModel) -> str:
    """Return a hash that changes when the model behind a name does.

    Weight files are identified by name, size and modification time: hashing gigabytes would take
    longer than the measurement.
    """
    facts: list[Any] = [base.model.config.to_json_string()]
    folder = Path(base.path)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in _WEIGHT_SUFFIXES:
                facts.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    else:
        facts.append(getattr(base.model.config, "_commit_hash", None))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def machine_name() -> str:
    """Return what a step's time depends on: processor, cores, threads, torch, accelerator."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, accelerator {accelerator}"
    )


@lru_cache(maxsize=1)
def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{platform.machine()} {value.strip()}"
    return f"{platform.machine()} {platform.processor()}".strip()


def cached_cost(
    key: CostKey,
    measure: Callable[[], TrainingCost],
    *,
    refresh: str = "",
    folder: Path | None = None,
) -> TrainingCost:
    """Return the cost under a key, measured once per machine.

    If several processes ask at the same time, one measures and the others wait for it, because
    parallel measurements would disturb each other. A file that holds no cost of this version is
    replaced by a new measurement. If the folder cannot be written, every call measures.

    Parameters
    ----------
    key : CostKey
        What the cost depends on.
    measure : Callable[[], TrainingCost]
        Measures the cost.
    refresh : str (default: "")
        Name of the query that requests a new measurement; empty accepts any known one. All nodes
        that one machine simulates share the measurement made for a query, whether they ask at the
        same time or one after another. A name instead of a time, because the server's clock differs
        from this machine's.
    folder : Path, optional
        Where to keep costs; ``profiles`` in Floe's cache folder if not given.
    """
    path = (folder or cache_dir() / "profiles") / f"{key.digest}.json"
    lock = path.with_name(f"{path.name}.lock")
    with files.locked(lock, without_locks="go_on") as missing:
        if missing is not None:
            logger.warning("No lock for the cached profile %s: %s", path, missing)
        cost = _read(path, key, refresh)
        if cost is None:
            cost = measure()
            _write(path, key, cost, refresh)
    return cost


def _read(path: Path, key: CostKey, refresh: str) -> TrainingCost | None:
    try:
        cost, made_for = _parse(path.read_text(encoding="utf-8"), key)
        return cost if refresh in ("", made_for) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "The cached profile %s is not usable (%s: %s); measuring anew.",
            path,
            type(error).__name__,
            error,
        )
        return None


def _parse(text: str, key: CostKey) -> tuple[TrainingCost, str]:
    """Parse a file's text; return the cost, and the query that it was measured for.

    Raises
    ------
    ValueError, KeyError, TypeError
        It holds no cost of this version for this key.
    """
    found = json.loads(text)
    if found["version"] != FORMAT_VERSION:
        raise ValueError(f"its version is {found['version']!r}, not {FORMAT_VERSION}")
    if found["key"] != json.loads(json.dumps(asdict(key))):
        raise ValueError("it was measured for something else")
    cost = found["cost"]
    first, second = (int(rank) for rank in cost["step_ranks"])
    low, high = (float(seconds) for seconds in cost["step_seconds"])
    sizes = {name: int(cost[name]) for name in ("fixed_bytes", "bytes_per_rank", "upload_per_rank")}
    if not (0 < low < math.inf and 0 < high < math.inf and min(sizes.values()) >= 0):
        raise ValueError(f"its numbers are out of range: {cost}")
    found_cost = TrainingCost(step_ranks=(first, second), step_seconds=(low, high), **sizes)
    return found_cost, str(found.get("refresh", ""))


def _write(path: Path, key: CostKey, cost: TrainingCost, refresh: str) -> None:
    found = {
        "version": FORMAT_VERSION,
        "key": asdict(key),
        "cost": asdict(cost),
        "refresh": refresh,
    }
    try:
        files.write_file(path, json.dumps(found, indent=2) + "\n", mode=0o600)
    except OSError as error:
        logger.warning("The measured profile could not be kept in %s: %s", path, error)
