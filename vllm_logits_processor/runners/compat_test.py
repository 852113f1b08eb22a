"""Messages at start: on vLLM's version, a processor that is off, and logprobs."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import vllm
from vllm.config import VllmConfig

from floe_plugins.errors import ConfigError
from vllm_logits_processor import FloeLogitsProcessor
from vllm_logits_processor.runners import compat


@pytest.mark.parametrize(("version", "lines"), [("0.99.1", 1), ("0.32.0+cpu", 0), ("0.30.2", 0)])
def test_an_untested_version_is_named_once(
    version: str, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    compat.warn_of_untested_version.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            compat.warn_of_untested_version()
    assert [version in line.getMessage() for line in caplog.records] == [True] * lines


def test_the_installed_version_has_what_is_relied_on() -> None:
    compat.check_rows()
    compat.check_slots()


@pytest.mark.parametrize(
    ("names", "check"),
    [("_BATCH_UPDATE", "check_rows"), ("_CONTEXT", "check_slots"), ("_REQUEST", "check_slots")],
)
def test_what_is_missing_is_named(names: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = getattr(compat, names)
    monkeypatch.setattr(compat, names, (*wanted, "gone", "lost"))
    with pytest.raises(ConfigError, match=r"has no gone, lost; accepted are releases"):
        getattr(compat, check)()


NAME = "vllm_logits_processor:FloeLogitsProcessor"


def started(
    *, named: Any = None, additional: Any = None, mode: str = "raw_logprobs"
) -> FloeLogitsProcessor:
    """Start a processor as a worker does, with the fields that it reads of the model's config."""
    config = VllmConfig(additional_config=additional or {})
    config.model_config = cast(Any, SimpleNamespace(logits_processors=named, logprobs_mode=mode))
    return FloeLogitsProcessor(config, torch.device("cpu"), False)


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return Floe's log lines: vLLM logs lines of its own when it builds a configuration."""
    return [line for line in caplog.records if line.name.startswith("vllm_logits_processor")]


@pytest.mark.parametrize("named", [[NAME], [FloeLogitsProcessor], ["a:B", NAME]])
@pytest.mark.parametrize(
    ("additional", "sentence"),
    [
        ({}, "without --additional-config"),
        ({"floe": None}, "is null"),
        ({"Floe": {}}, "did you mean 'floe'?"),
        ({"expert": {"model": "m"}}, "has 'expert' at its top level"),
    ],
)
def test_a_processor_that_is_named_and_off_says_so(
    named: Any, additional: Any, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    started(named=named, additional=additional)
    (line,) = ours(caplog)
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith("Floe is off, and the host answers alone: ")
    assert sentence in line.getMessage()


@pytest.mark.parametrize("named", [None, [], ["a:B"], [object]])
@pytest.mark.parametrize("additional", [{}, {"Floe": {}}, {"floe": None}])
def test_a_processor_that_came_by_itself_is_silent(
    named: Any, additional: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Through a package's entry point, every vLLM server of the environment has it."""
    with caplog.at_level(logging.INFO, logger="vllm_logits_processor"):
        started(named=named, additional=additional)
    assert ours(caplog) == []


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        ("raw_logprobs", 1),
        ("raw_logits", 1),
        ("processed_logprobs", 0),
        ("processed_logits", 0),
    ],
)
def test_whose_logprobs_clients_get_is_said(
    mode: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = VllmConfig()
    config.model_config = cast(Any, SimpleNamespace(logprobs_mode=mode))
    with caplog.at_level(logging.INFO, logger="vllm_logits_processor"):
        compat.say_of_logprobs(config)
    said = [line.getMessage() for line in ours(caplog)]
    assert ["--logprobs-mode processed_logprobs" in line for line in said] == [True] * lines


@pytest.mark.parametrize("value", [True, False, None])
def test_sampling_in_shards_is_refused(value: Any) -> None:
    # A real configuration with shards needs several ranks; only this field is read.
    parallel = SimpleNamespace(enable_batch_sharded_sampling=value)
    config = cast(VllmConfig, SimpleNamespace(parallel_config=parallel))
    if value:
        with pytest.raises(ConfigError, match="enable_batch_sharded_sampling is true"):
            compat.check_parallelism(config)
    else:
        compat.check_parallelism(config)
