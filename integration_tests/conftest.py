"""Shared fixtures: tiny models, a server with them, a browser."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from integration_tests.harness import prepared
from integration_tests.harness.hosted import Hosted, with_adapter
from integration_tests.harness.tiny_models import TinyModels, canned_expert, make_models
from integration_tests.harness.vllm_servers import ServerSpec, running
from vllm_logits_processor.testing.fake_expert import FakeExpert

ROOT = Path(__file__).resolve().parents[1]

#: A small cache, so that requests are preempted, and small steps, so that prompts come in chunks.
NARROW = ("--max-model-len", "256", "--num-gpu-blocks-override", "13")
CHUNKED = ("--max-num-batched-tokens", "48")

CHROME_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
#: Files that take longest: a worker that begins one of them last would end long after the other.
LONGEST = (
    "demo/demo_test.py",
    "flower/deployment_test.py",
    "flower/federated_test.py",
    "docs/readme_test.py",
    "benchmarks/answers/measure_test.py",
    "flower/flowertune_test.py",
    "serving/slots_test.py",
)

# What is tested is what servers answer; the tests of README, plugins and demonstration start
# theirs by the commands that users give.
prepared.prepare(bind="PYTEST_XDIST_WORKER" not in os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others keep their order."""
    own = Path(__file__).parent
    rank = {own / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Write the models of `integration_tests.harness.tiny_models`."""
    return make_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def canned(tiny: TinyModels) -> Iterator[FakeExpert]:
    """Run the expert whose answers are a fixed function of the request."""
    with canned_expert(tiny) as expert:
        yield expert


@pytest.fixture(scope="session")
def rows(
    tiny: TinyModels, canned: FakeExpert, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosted]:
    """Run the tiny host on the V1 runner, short of everything, with all that Floe must bear."""
    folder = tmp_path_factory.mktemp("rows")
    trace = folder / "trace.jsonl"
    spec = ServerSpec(
        model=tiny.host,
        name="tiny",
        core=0,
        floe=tiny.floe(canned, trace_file=str(trace)),
        arguments=[
            *(*NARROW, *CHUNKED, *with_adapter(tiny)),
            "--enable-prompt-embeds",
            *("--logprobs-mode", "processed_logprobs"),
        ],
        variables={"VLLM_USE_V2_MODEL_RUNNER": "0"},
    )
    with running(spec, logs=folder) as (server,):
        yield Hosted(server, trace)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start headless Chromium; its console and its requests are logged."""
    found = runpy.run_path(str(ROOT / ".ci" / "setup_env.py"))["browser"]()
    assert found, "There is no Chromium with chromedriver; `make setup` says what is missing."
    options = ChromeOptions()
    options.binary_location = found[0]
    for option in CHROME_OPTIONS:
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=found[1]))
    try:
        yield driver
    finally:
        driver.quit()
