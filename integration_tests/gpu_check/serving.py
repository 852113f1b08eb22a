"""vLLM with Floe on the device: the same answers on every path, and how many tokens a second.

The models are tiny and their weights random, unless another host is named: answers are compared,
and what is measured is what a step costs beside the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from integration_tests.gpu_check.sizes import Sizes
from integration_tests.harness.tiny_models import PROMPTS, TinyModels, canned_expert, make_models
from vllm_logits_processor.testing.fake_expert import FakeExpert

_TOKENS, _TIMEOUT_S = 24, 600
_PROCESSOR = "vllm_logits_processor:FloeLogitsProcessor"
_NGRAMS = {
    "method": "ngram",
    "num_speculative_tokens": 2,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 2,
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One engine, and what is asked of it."""

    fused: bool = True
    mode: str = "auto"
    engine: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    rows: int = len(PROMPTS)


_V1, _V2 = ({"VLLM_USE_V2_MODEL_RUNNER": runner} for runner in "01")
_EAGER = {"enforce_eager": True}

#: Of each pair the answers are to be the same.
ANSWERS = {
    "bare": Variant(fused=False, engine=_EAGER, environment=_V2),
    "host mode": Variant(mode="host", engine=_EAGER, environment=_V2),
    "V2": Variant(engine=_EAGER, environment=_V2),
    "V1": Variant(engine=_EAGER, environment=_V1),
    "graphs": Variant(environment=_V2),
    "drafts": Variant(engine={**_EAGER, "speculative_config": _NGRAMS}, environment=_V2),
}
SAME = (("bare", "host mode"), ("V2", "V1"), ("V2", "graphs"), ("V2", "drafts"))

#: How the engine and its worker share processes.
PATHS = {
    "uniproc": Variant(engine={"distributed_executor_backend": "uni"}, environment=_V2),
    "mp": Variant(engine={"distributed_executor_backend": "mp"}, environment=_V2),
    "no async scheduling": Variant(engine={"async_scheduling": False}, environment=_V2),
    "bare": Variant(fused=False, environment=_V2),
}


def check(device: torch.device, sizes: Sizes, *, host: str | None = None) -> dict[str, Any]:
    """Run every variant, each in a process of its own."""
    del device  # vLLM chooses it
    import vllm

    with TemporaryDirectory() as name:
        folder = Path(name)
        models = make_models(folder)
        with canned_expert(models) as expert:
            answers = {
                each: run(variant, models, expert, folder)["tokens"]
                for each, variant in ANSWERS.items()
            }
            cases = [
                {
                    "path": each,
                    "rows": rows,
                    "tokens_per_s": throughput(variant, rows, models, expert, folder, host),
                }
                for rows in sizes.rows
                for each, variant in PATHS.items()
            ]
    same = {f"{one} = {other}": answers[one] == answers[other] for one, other in SAME}
    different = answers["bare"] != answers["V2"]
    return {"vllm": vllm.__version__, "same": same, "fusion_shows": different, "cases": cases}


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    said = [f"{pair}: other answers" for pair, same in found["same"].items() if not same]
    return said if found["fusion_shows"] else [*said, "fused answers are the host's"]


def throughput(
    variant: Variant,
    rows: int,
    models: TinyModels,
    expert: FakeExpert,
    folder: Path,
    host: str | None,
) -> float:
    """Return generated tokens per second."""
    wide = Variant(
        fused=variant.fused, engine=variant.engine, environment=variant.environment, rows=rows
    )
    found = run(wide, models, expert, folder, host=host)
    return float(sum(map(len, found["tokens"])) / found["seconds"])


def run(
    variant: Variant,
    models: TinyModels,
    expert: FakeExpert,
    folder: Path,
    *,
    host: str | None = None,
) -> dict[str, Any]:
    """Run one engine; return its greedy answers and the seconds that they took."""
    engine = {
        "model": host or models.host,
        "max_model_len": 128,
        "max_num_seqs": max(variant.rows, 4),
        "gpu_memory_utilization": 0.3,
        "logits_processors": [_PROCESSOR],
        **variant.engine,
    }
    if variant.fused:
        engine["additional_config"] = {"floe": models.floe(expert)}
    request = {
        "engine": engine,
        "prompts": [PROMPTS[at % len(PROMPTS)] for at in range(variant.rows)],
        "mode": variant.mode,
        "tokens": _TOKENS,
    }
    file, log = folder / "request.json", folder / "log"
    file.write_text(json.dumps(request))
    command = [sys.executable, "-m", "integration_tests.gpu_check.serving_run", str(file)]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        done = subprocess.run(
            command,
            env={**environment, **variant.environment},
            stdout=output,
            stderr=output,
            timeout=_TIMEOUT_S,
        )
    if done.returncode:
        raise RuntimeError(f"vLLM ended with {done.returncode}: {log.read_text()[-1500:]}")
    said: dict[str, Any] = json.loads(file.with_suffix(".answer").read_text())
    return said
