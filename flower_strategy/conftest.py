"""Fixtures of the unit tests: a tiny model, separate folders, the log."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flower_strategy.config import ConfigValue
from flower_strategy.device.base_model import BaseModel, load_base_model
from flower_strategy.settings import TrainingSettings
from flower_strategy.testing.models import tiny_chat_model, tiny_model

__all__ = ["tiny_chat_model", "tiny_model"]


@pytest.fixture(scope="session", autouse=True)
def own_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep devices' measurements and answers out of the user's folders; models are still found."""
    folder = tmp_path_factory.mktemp("floe-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flower_strategy.device.training_cost.cache_dir", lambda: folder)
        patch.setattr("flower_strategy.device.embedding_noise.state_dir", lambda: folder)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def run_of_this_process() -> None:
    """Give this process a run id, without which Flower 1.41 creates no messages."""
    if importlib.util.find_spec("flwr.supercore.task_identity"):
        identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
        identity.run_id = identity.task_id = identity.node_id = 1


@pytest.fixture(scope="session")
def tiny_base(tiny_model: str) -> BaseModel:
    """Return the tiny Llama, loaded."""
    return load_base_model(tiny_model)


@pytest.fixture
def settings(tiny_model: str) -> TrainingSettings:
    """Return training settings for the tiny Llama."""
    return TrainingSettings(
        model=tiny_model, local_steps=3, batch_size=2, learning_rate=0.02, max_length=48
    )


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """Capture Flower's logger, which Floe writes to; by default it does not propagate."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, logger="flwr")
    return caplog


@pytest.fixture
def run_config(tiny_model: str, tmp_path: Path) -> dict[str, ConfigValue]:
    """Return a run of the tiny Llama on devices of three classes."""
    # The devices' bandwidths differ a lot and their speeds little: the tiny model's steps take
    # milliseconds, so the upload decides, and the ranks do not depend on the machine.
    return {
        "model": tiny_model,
        "output": str(tmp_path / "run"),
        "rounds": 2,
        "local-steps": 3,
        "batch-size": 4,
        "learning-rate": 0.02,
        "max-length": 64,
        "max-examples": 40,
        # Four steps in each of two rounds, where they fill the deadline.
        "max-epochs": 1.0,
        "eval-examples": 6,
        "ranks": "2,4,8",
        "export-rank": 8,
        "devices": "slow:4:1:0.00001,middle:4:1:0.000022,fast:4:1:0.001",
        "silhouette": 0.3,
        # A random model separates tasks by less than its standard errors.
        "separation": 0.0,
        "round-timeout": 0.5,
    }
