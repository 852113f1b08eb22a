"""What is the same for every method: model, data, devices, local training, budget, evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flower_strategy.config import RunConfig
from flower_strategy.data.jsonl import find_files
from integration_tests.benchmarks.data import task_files


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The terms of a comparison.

    Attributes
    ----------
    model : str
        The frozen base model.
    data : str
        ``embedded``, or JSONL files and folders separated by commas; every file is one task.
    clients : int
        Devices.
    devices : tuple[str, ...]
        Their classes, given out in turn; see `flower_strategy.device.hardware`.
    ranks : tuple[int, ...]
        Candidates of Floe's rank policy. Every other method but FedAvg trains at the ranks that
        the policy gives; FedAvg at the smallest of them.
    budget : float
        Virtual seconds that a method may use.
    local_steps, batch_size, learning_rate, max_length
        Local training of one round.
    eval_examples : int
        Held-out examples per device.
    step_seconds : tuple[float, float]
        Seconds of a step on a device with slowdown 1: at rank 0, and what one rank adds.
    downlink : float
        How many times faster than its uplink a device downloads.
    """

    model: str = "embedded:smollm2-135m-instruct"
    data: str = "embedded"
    clients: int = 6
    devices: tuple[str, ...] = ("phone", "jetson", "laptop")
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    budget: float = 86.0
    local_steps: int = 3
    batch_size: int = 2
    learning_rate: float = 2e-3
    max_length: int = 32
    eval_examples: int = 6
    step_seconds: tuple[float, float] = (2.2, 0.008)
    downlink: float = 8.0

    def run_config(self, level: float, seed: int) -> RunConfig:
        """Return the run configuration of one level and seed.

        Raises
        ------
        ConfigError
            A value is not accepted.
        """
        return RunConfig.from_dict(
            {
                "model": self.model,
                "data": self.data,
                "devices": ",".join(self.devices),
                "ranks": ",".join(map(str, self.ranks)),
                "mix": level,
                "seed": seed,
                "local-steps": self.local_steps,
                "batch-size": self.batch_size,
                "learning-rate": self.learning_rate,
                "max-length": self.max_length,
                "eval-examples": self.eval_examples,
                # Devices are measured once, by the same rule for all methods, when the budget is
                # spent; nothing needs to survive the process.
                "fraction-evaluate": 0.0,
                "keep-checkpoints": 0,
            }
        )

    def described(self) -> dict[str, Any]:
        """Return the terms as JSON values; data files by name and content, not by place."""
        values: dict[str, Any] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        if self.data != "embedded":
            values["data"] = {
                name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                for name, path in find_files(self.data).items()
            }
        if Path(self.model).exists():
            values["model"] = Path(self.model).name
        return values


def default_data() -> str:
    """Return GSM8K and PubMedQA where they are found, else the embedded tasks."""
    return ",".join(map(str, task_files())) or "embedded"
