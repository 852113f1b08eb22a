"""The LoRA rank of a device: what a rank costs, and the policies that choose one."""

from flower_strategy.ranks.cost import (
    RankDecision,
    RankPolicy,
    StepCost,
    memory_needed,
    predicted_seconds,
    training_seconds,
    upload_seconds,
)

__all__ = [
    "RankDecision",
    "RankPolicy",
    "StepCost",
    "memory_needed",
    "predicted_seconds",
    "training_seconds",
    "upload_seconds",
]
