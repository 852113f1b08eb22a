"""How long devices of the default classes wait for each other, with the real strategy and client.

Seconds are those of a clock that counts steps and bytes: a tiny model's own would be noise. Its
adapters are small, so that links are slowed by as much.
"""

import pytest
from flwr.app import Message, MetricRecord

from flower_strategy.config import ConfigValue
from flower_strategy.device.hardware import DEVICE_CLASSES, DOWNLINK, Device
from flower_strategy.device_time import TimeSpent, summed, time_spent
from flower_strategy.messages import (
    CONFIG_KEY,
    METRICS_KEY,
    RANK_KEY,
    TRAINING_SECONDS_KEY,
    message_bytes,
)
from flower_strategy.profile import PROFILE_KEY
from flower_strategy.server.records import RoundRecord
from flower_strategy.testing.grids import LocalGrid, start_run

_UPLOAD_PER_RANK = 305_280  # bytes of SmolLM2-135M's adapters
_PER_RANK = 0.008  # seconds that a rank adds to a step, at slowdown 1


class SteppingClock:
    """Puts the seconds of a device's steps and bytes into its replies."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._upload_per_rank = 0

    def step(self, device: Device, rank: int) -> float:
        return (self._step_seconds + _PER_RANK * rank) * device.slowdown

    def __call__(self, node: int, message: Message, reply: Message) -> Message:
        device = list(DEVICE_CLASSES.values())[node % len(DEVICE_CLASSES)]
        metrics = reply.content.metric_records
        if PROFILE_KEY in metrics:
            profile = metrics[PROFILE_KEY]
            self._upload_per_rank = int(float(str(profile["upload-per-rank"])))
            profile["step-seconds"] = [self.step(device, rank) for rank in (4, 32)]
            profile["bandwidth"] = device.bandwidth * self._upload_per_rank / _UPLOAD_PER_RANK
        elif message.metadata.message_type == "train":
            self._count(device, message, reply, metrics[METRICS_KEY])
        return reply

    def _count(
        self, device: Device, message: Message, reply: Message, metrics: MetricRecord
    ) -> None:
        rank = int(str(message.content.config_records[CONFIG_KEY][RANK_KEY]))
        bandwidth = device.bandwidth * self._upload_per_rank / _UPLOAD_PER_RANK
        training = int(str(metrics["steps"])) * self.step(device, rank)
        transfer = (message_bytes(reply) + message_bytes(message) / DOWNLINK) / bandwidth
        metrics[TRAINING_SECONDS_KEY] = training
        metrics["seconds"] = training + transfer


def spent(record: RoundRecord) -> dict[int, TimeSpent]:
    return time_spent(
        (node, device.observed_seconds, device.transfer_seconds)
        for node, device in record.devices.items()
    )


@pytest.mark.parametrize("step_seconds", [2.2, 8.0])
def test_no_class_of_the_default_simulation_waits_for_a_tenth_of_a_round(
    run_config: dict[str, ConfigValue], step_seconds: float
) -> None:
    config: dict[str, ConfigValue] = {
        **run_config,
        "rounds": 3,
        "local-steps": 3,
        # Every device has enough examples for its rounds.
        "max-epochs": 0.0,
        "ranks": "4,8,16,32",
        "export-rank": 16,
        "devices": ",".join(DEVICE_CLASSES),
        "eval-examples": 1,
        "max-length": 24,
    }
    grid = LocalGrid(config, 6, tamper=SteppingClock(step_seconds), first=102)
    strategy, _ = start_run(config, grid)
    rounds = [spent(record) for record in strategy.state.history[1:]]
    assert [len(devices) for devices in rounds] == [6] * 3
    idle = {node: time.shares()[2] for node, time in summed(rounds).items()}
    assert max(idle.values()) < 0.1, idle
