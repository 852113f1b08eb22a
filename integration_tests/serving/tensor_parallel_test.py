"""Tensor parallelism in an offline engine: two ranks, one calling the expert, sample alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from integration_tests.harness.hosted import Hosted
from integration_tests.harness.offline_ranks import FOLDER, SAID
from integration_tests.harness.prepared import fork
from integration_tests.harness.processes import end
from integration_tests.harness.tiny_models import PROMPTS, TinyModels
from integration_tests.harness.vllm_servers import ServerSpec
from vllm_logits_processor.testing.fake_expert import FakeExpert


def run_ranks(
    folder: Path, tiny: TinyModels, canned: FakeExpert, variables: Mapping[str, str]
) -> dict[str, Any]:
    """Run the engine on two ranks; return its answers."""
    engine = {
        "model": tiny.host,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 128,
        "max_num_seqs": 4,
        "block_size": 32,
        "tensor_parallel_size": 2,
        "additional_config": {"floe": tiny.floe(canned)},
    }
    request = folder / "request.json"
    request.write_text(json.dumps({"engine": engine, "prompts": PROMPTS}))
    environment = ServerSpec(model=tiny.host, name="tiny", core=0).environment
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", FOLDER: str(folder)}
    process = fork(
        "integration_tests.harness.offline_ranks",
        [str(request)],
        log=folder / "log",
        env={**environment, **binding, **variables},
    )
    try:
        assert process.wait(timeout=400) == 0, (folder / "log").read_text()[-3000:]
    finally:
        end(process)
    said: dict[str, Any] = json.loads((folder / SAID).read_text())
    return said


@pytest.mark.timeout(500)
def test_ranks_sample_alike_whichever_is_late(
    tmp_path: Path, tiny: TinyModels, canned: FakeExpert, rows: Hosted
) -> None:
    asked = len(canned.requests)
    said = run_ranks(tmp_path, tiny, canned, {"VLLM_USE_V2_MODEL_RUNNER": "0"})
    assert len(canned.requests) > asked
    first, second = ((tmp_path / f"rank{rank}").read_text().splitlines() for rank in (0, 1))
    assert len(first) >= 48
    assert first == second
    assert said["greedy"] == rows.server.tokens(PROMPTS)
    assert said["seeded"] != said["greedy"]
    # A step in which the first rank runs out of memory is the host's on both, and no more than it.
    assert [len(tokens) for tokens in said["failing"]] == [24] * len(PROMPTS)
    assert said["failing"] != said["greedy"]
    log = (tmp_path / "log").read_text()
    assert "A fault costs one step" in log
    assert "fuses no more" not in log
