"""What training costs on this machine, kept on its disk.

A measurement takes a few training steps; what it found holds for as long as the model, the
settings and the machine stay the same. The embedding and the free memory are not kept: one
depends on the texts, the other on the moment.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_plugins import files
from floe_plugins.system import cache_dir
from flower_strategy.measuring import TrainingCost

if TYPE_CHECKING:
    from flower_strategy.base_model import BaseModel
    from flower_strategy.devices import Device
    from flower_strategy.training import TrainingSettings

logger = logging.getLogger("flwr")

FORMAT_VERSION = 1
"""Raised whenever a file means something else, or a cost is measured in another way."""

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf"}


@dataclass(frozen=True, kw_only=True)
class CostKey:
    """Everything that a training cost depends on.

    Attributes
    ----------
    model : str
        Resolved folder or hub id of the base model.
    model_stamp : str
        Hash of its configuration, and of its weight files' names, sizes and times, or of its
        commit on the hub.
    dtype : str
        Type of the base model's weights.
    batch_size, max_length : int
        Size of a step's batch.
    probe_ranks : tuple[int, int]
        The ranks that are timed.
    clock : str
        ``processor`` where a virtual clock is read, else ``wall``.
    machine : str
        The machine, see `machine_name`.
    """

    model: str
    model_stamp: str
    dtype: str
    batch_size: int
    max_length: int
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
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            probe_ranks=probe_ranks,
            clock="processor" if device.virtual else "wall",
            machine=machine_name(),
        )

    @property
    def digest(self) -> str:
        """Name of the key's file."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]


def model_stamp(base: BaseModel) -> str:
    """Return a hash that changes when the model behind a name does.

    Weights are told apart by name, size and time of change: hashing gigabytes would take longer
    than the measurement.
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

    Of several processes that ask at once, one measures and the others wait for it: they would
    otherwise disturb each other's measurement. A file that cannot be read as a cost of this
    version is measured anew and replaced. Where the folder cannot be written, every call measures.

    Parameters
    ----------
    key : CostKey
        What the cost depends on.
    measure : Callable[[], TrainingCost]
        Measures.
    refresh : str (default: "")
        Name of the query that wants a new measurement; empty takes any that is known. One that was
        made for the same query is new enough: all nodes that one machine stands for share it,
        whether they ask at once or one after the other. A name rather than a time, since the
        server's clock is not this machine's.
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
    """Read a file's text; return the cost, and the query that it was measured for.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is not a cost of this version under this key.
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
