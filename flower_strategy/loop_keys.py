"""The keys of the run configuration that say how a device goes through its training steps."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flower_strategy.config_keys import Keys


class LoopKeys(Keys):
    """How a device goes through its training steps."""

    bf16: bool = Field(
        default=False,
        description="Compute in bfloat16 where torch's autocast does so; weights, gradients and "
        "the optimizer keep their type.",
    )
    quantization: Literal["none", "4bit", "8bit"] = Field(
        default="none",
        description="Load the base model with its linear layers quantised by bitsandbytes: `4bit` "
        "(NF4, as QLoRA) or `8bit`. Devices need a CUDA GPU and the extra `quantization`.",
    )
    local_steps: int = Field(
        default=3,
        ge=1,
        le=1_000_000,
        description="Optimizer steps per device and round that ranks are chosen for; not used "
        "where epochs is above 0.",
    )
    fill_deadline: bool = Field(
        default=True,
        description="Let a device take as many steps as fit the round's deadline, where the rank "
        "policy has one and epochs is 0; false keeps to local-steps.",
    )
    max_epochs: float = Field(
        default=2.0,
        ge=0,
        le=100_000,
        description="Most passes over a device's own examples in the whole run, spread over its "
        "rounds, where steps fill the deadline; 0 sets no limit.",
    )
    epochs: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Passes over a device's own examples per round, which then decide how many "
        "steps it takes; 0 leaves that to local-steps.",
    )
    batch_size: int = Field(
        default=4, ge=1, le=4096, description="Examples of one forward and backward pass."
    )
    gradient_accumulation_steps: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="Batches of one optimizer step: their gradients add up to that of one "
        "batch as large as all of them, in the memory of one.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations anew in the backward pass instead of keeping them: less "
        "memory, longer steps, the same gradients.",
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        description="AdamW's learning rate on the devices, the highest of the run.",
    )
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="How the learning rate goes over all rounds of the run: `constant`, or "
        "`cosine` down to learning-rate-min at the end of the last round.",
    )
    learning_rate_min: float = Field(
        default=0.0, ge=0, le=1, description="Learning rate at which lr-schedule 'cosine' ends."
    )
    warmup_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the run's steps in which the learning rate rises from 0 to "
        "learning-rate.",
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        le=1_000_000,
        description="Longest gradient, over all factors together; a longer one is shortened to "
        "this norm, and 0 shortens none.",
    )
    lora_dropout: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Probability that training leaves out an input of the LoRA factors.",
    )

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.learning_rate_min > self.learning_rate:
            most = f"at most learning-rate, {self.learning_rate:g}"
            raise self.wrong("learning_rate_min", self.learning_rate_min, most)
        if self.learning_rate_min and self.lr_schedule == "constant":
            raise self.wrong(
                "learning_rate_min", self.learning_rate_min, "0 where lr-schedule is 'constant'"
            )
        return self
