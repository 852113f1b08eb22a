"""What is said where vLLM is another than the one Floe was tested with."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import vllm
from vllm.config import VllmConfig

from floe_plugins.errors import ConfigError
from vllm_logits_processor import processor_checks


@pytest.mark.parametrize(("version", "lines"), [("0.99.1", 1), ("0.32.0+cpu", 0), ("0.30.2", 0)])
def test_an_untested_version_is_named_once(
    version: str, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    processor_checks.warn_of_untested_version.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            processor_checks.warn_of_untested_version()
    assert [version in line.getMessage() for line in caplog.records] == [True] * lines


def test_the_installed_version_has_what_is_relied_on() -> None:
    processor_checks.check_rows()
    processor_checks.check_slots()


@pytest.mark.parametrize(
    ("names", "check"),
    [("_BATCH_UPDATE", "check_rows"), ("_CONTEXT", "check_slots"), ("_REQUEST", "check_slots")],
)
def test_what_is_missing_is_named(names: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = getattr(processor_checks, names)
    monkeypatch.setattr(processor_checks, names, (*wanted, "gone", "lost"))
    with pytest.raises(ConfigError, match=r"has no gone, lost; accepted are releases"):
        getattr(processor_checks, check)()


@pytest.mark.parametrize("value", [True, False, None])
def test_sampling_in_shards_is_refused(value: Any) -> None:
    # A real configuration with shards wants several ranks; only this field is read.
    parallel = SimpleNamespace(enable_batch_sharded_sampling=value)
    config = cast(VllmConfig, SimpleNamespace(parallel_config=parallel))
    if value:
        with pytest.raises(ConfigError, match="enable_batch_sharded_sampling is true"):
            processor_checks.check_parallelism(config)
    else:
        processor_checks.check_parallelism(config)
