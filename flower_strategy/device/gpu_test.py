from pathlib import Path

import pytest
import torch

from flower_strategy.device.gpu import idle_gpu, warn_of_idle_gpu


@pytest.fixture
def with_gpu(tmp_path: Path) -> Path:
    """Return a root whose driver shows one GPU, and no more."""
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def test_a_machine_without_a_gpu_has_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert idle_gpu(simulated=True, root=tmp_path) == ""


def test_a_simulated_device_names_what_flower_has_to_be_told(
    with_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    said = idle_gpu(simulated=True, root=with_gpu)
    assert said.startswith("Training runs on the CPU although this machine has a GPU")
    assert "client-resources-num-gpus=0.25" in said


def test_a_real_device_says_why_torch_does_not_use_it(
    with_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is empty" in idle_gpu(simulated=False, root=with_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "torch cannot use it" in idle_gpu(simulated=False, root=with_gpu)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in idle_gpu(simulated=False, root=with_gpu)


def test_it_is_logged_once_and_only_where_the_cpu_trains(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flower_strategy.device.gpu.idle_gpu", lambda **_: "It is idle.")
    warn_of_idle_gpu.cache_clear()
    for device_type in ("cuda", "cpu", "cpu"):
        warn_of_idle_gpu(device_type, simulated=True)
    warn_of_idle_gpu.cache_clear()
    assert [record.message for record in log.records] == ["It is idle."]
