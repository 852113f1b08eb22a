"""The in-process expert on the device against the same one on a CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from integration_tests.gpu_check.sizes import Sizes, milliseconds
from vllm_logits_processor.expert.local import InProcessExpert
from vllm_logits_processor.expert.local_model import load_model
from vllm_logits_processor.expert.protocol import ExpertReply

SMOLLM2 = "embedded:smollm2-135m-instruct"
#: Largest difference of a logprob, nats.
MOST_ERROR = 2e-2


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Compare the logprobs of some texts, which grow, on both."""
    with TemporaryDirectory() as folder:
        name, path = a_model(Path(folder))
        experts = [expert_of(path, each) for each in ("cpu", str(device))]
    try:
        random = np.random.default_rng(0)
        texts = [random.integers(3, 60, size).tolist() for size in (5, 40, 90)]
        worst = 0.0
        for _ in range(3):
            here, there = (answered(expert, texts) for expert in experts)
            pairs = zip(here.continuations, there.continuations, strict=True)
            for text, (one, other) in zip(texts, pairs, strict=True):
                difference = one.top.logprobs - other.top.logprobs
                worst = max(worst, float(np.abs(difference).max()))
                text.append(int(one.tokens[0]))
        took = [
            milliseconds(
                partial(answered, expert, texts), torch.device("cpu"), repeats=sizes.repeats
            )
            for expert in experts
        ]
    finally:
        for expert in experts:
            expert.close()
    return {"model": name, "error": worst, "cpu_ms": took[0], "device_ms": took[1]}


def answered(expert: InProcessExpert, texts: list[list[int]]) -> ExpertReply:
    """Return what the expert says of some texts."""
    return expert.start(texts, model="slm").result()


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    error = found["error"]
    return [f"logprobs differ by {error:.1e} nats"] if not error <= MOST_ERROR else []


def a_model(folder: Path) -> tuple[str, str]:
    """Return name and folder of SmolLM2, or of a small model with random weights."""
    try:
        return SMOLLM2, resolve(SMOLLM2, progress=False)
    except FloeError:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=64,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=256,
            initializer_range=0.3,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return "random weights", str(folder)


def expert_of(path: str, device: str) -> InProcessExpert:
    """Load it in float32."""
    model = load_model(path, dtype="float32", device=device)
    return InProcessExpert(
        model,
        name="slm",
        top_k=20,
        vocabulary=model.config.vocab_size,
        end_ids=np.empty(0, dtype=np.int32),
        capacity=4096,
    )
