"""What a method has reached when its budget is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flower_strategy.adapters.adapter import AdapterState
from integration_tests.benchmarks.federated_quality.clock import Clock


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One method at one level and seed.

    Attributes
    ----------
    served : Mapping[int, AdapterState]
        Node -> the adapter that it would use: the one that the next round would send it.
    rounds : int
        Rounds that ended within the budget.
    seconds : float
        Virtual seconds used.
    steps : int
        Optimizer steps of all devices.
    bytes_down, bytes_up : int
        Sent over all rounds and devices.
    details : dict
        What else is worth knowing of this method, as JSON values.
    """

    served: Mapping[int, AdapterState]
    rounds: int
    seconds: float
    steps: int
    bytes_down: int
    bytes_up: int
    details: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        clock: Clock,
        *,
        served: Mapping[int, AdapterState],
        steps: int,
        details: dict[str, Any] | None = None,
    ) -> Outcome:
        """Return the outcome of a method whose clock has run out."""
        return Outcome(
            served=served,
            rounds=clock.rounds,
            seconds=clock.seconds,
            steps=steps,
            bytes_down=clock.bytes_down,
            bytes_up=clock.bytes_up,
            details=details or {},
        )
