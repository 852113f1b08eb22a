"""The plugin template, built and installed as its users do, and at work inside a running server."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.commands import doctor as doctor_command
from floe_plugins.commands.doctor_lines import Status
from integration_tests.harness.processes import free_port, tail
from integration_tests.harness.tiny_models import PROMPTS, TinyModels
from integration_tests.harness.vllm_servers import Server, ServerSpec, running
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.testing.fake_expert import FakeExpert

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "docs" / "plugin-template"

#: A plugin that is not installed: loaded by its dotted path, in the engine's process too.
RASH = """
from floe_plugins import hookimpl

class Rash:
    name, labels = "rash", ("RASH",)

    def detect(self, text):
        if "mongoose" in text.lower():
            raise LookupError(text)
        return []

@hookimpl
def floe_register_detectors():
    return [Rash()]
"""

PRIVATE = "The cat sat on BDG-204817; the mat was flat"
UNSCANNED = "The mongoose sat on the mat; the mat was flat"

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the template's wheel, and the sources that it was built from."""

    python: Path
    sources: Path

    def run(self, *arguments: str, **variables: str) -> str:
        """Run the environment's Python; return what it prints."""
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.sources,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@dataclass(frozen=True, kw_only=True)
class SpecIn(ServerSpec):
    """A server that runs in another environment."""

    python: Path
    forks: bool = False

    def command(self, port: int) -> list[str]:
        """Return the command line, with that environment's Python."""
        return [str(self.python), *super().command(port)[1:]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build a wheel of the template, without a network, and install it into a new environment."""
    folder = tmp_path_factory.mktemp("template")
    sources, wheels, environment = folder / "sources", folder / "wheels", folder / "environment"
    shutil.copytree(TEMPLATE, sources)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    build = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), str(sources)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    # Floe and what it needs are those of the environment that runs the tests.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "test_environment.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in sorted(paths))
    )
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    return Installed(python, sources)


@dataclass(frozen=True)
class Badged:
    """A server with the template's router and detector, and what it asks and writes."""

    server: Server
    expert: FakeExpert
    trace: Path
    metrics_port: int

    def first_tokens(self, prompts: list[str], label: str) -> list[dict[str, Any]]:
        """Have one token of each written, and return their lines in the trace.

        The host's weights are random: what it writes after that may be no UTF-8, and so private.
        """
        self.server.complete(prompts, max_tokens=1, vllm_xargs={"floe_label": label})
        lines = [json.loads(line) for line in self.trace.read_text().splitlines()]
        return [line for line in lines if line["label"] == label]


@pytest.fixture(scope="module")
def badged(
    installed: Installed,
    tiny: TinyModels,
    canned: FakeExpert,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Badged]:
    folder = tmp_path_factory.mktemp("badged")
    (folder / "rash_plugin.py").write_text(RASH)
    trace, metrics_port = folder / "trace.jsonl", free_port()
    floe = tiny.floe(
        canned,
        router="doubt",
        plugins=["rash_plugin"],
        detectors=["badge", "rash", "email"],
        trace_file=str(trace),
        metrics_port=metrics_port,
    )
    floe["expert"]["trusted"] = False
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    spec = SpecIn(
        model=tiny.host,
        name="tiny",
        core=0,
        python=installed.python,
        floe=floe,
        arguments=["--max-model-len", "256"],
        variables={"PYTHONPATH": path, "VLLM_USE_V2_MODEL_RUNNER": "0"},
    )
    with running(spec, logs=folder) as (server,):
        yield Badged(server, canned, trace, metrics_port)


def test_the_templates_own_tests_pass(installed: Installed) -> None:
    assert " passed" in installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_the_command_lists_it_with_its_distribution(installed: Installed) -> None:
    command = ("-c", "import sys; from floe_plugins.cli import main; sys.exit(main())", "plugins")
    found = {each["name"]: each for each in json.loads(installed.run(*command, "--json"))}
    badges = found["badges"]
    assert (badges["distribution"], badges["version"]) == ("floe-badges", "0.1.0")
    assert badges["hooks"] == ["floe_register_detectors", "floe_register_routers"]
    assert badges["registers"] == {
        "floe_register_detectors": ["badge"],
        "floe_register_routers": ["doubt"],
    }
    table = installed.run(*command)
    assert "badges  0.1.0    floe-badges   routers" in table
    none = json.loads(installed.run(*command, "--json", FLOE_LLM_PLUGINS="none"))
    assert [each["name"] for each in none] == ["floe"]


def test_the_server_says_that_it_uses_the_plugins_router_and_detector(badged: Badged) -> None:
    log = badged.server.log.read_text(errors="replace")
    assert "router doubt, gate badge, email, rash" in log, tail(badged.server.log)


def test_the_plugins_router_weighs_and_its_detector_keeps_badges_at_home(badged: Badged) -> None:
    public = badged.first_tokens(PROMPTS, "public")
    assert {line["outcome"] for line in public} == {"fused"}
    # Equal weights where the models agree, one to nine where they could not differ more.
    assert all(0.1 <= line["expert_weight"] <= 0.5 for line in public)
    assert len({line["expert_weight"] for line in public}) > 1
    asked = len(badged.expert.requests)
    private = badged.first_tokens([PRIVATE], "private")
    assert {line["outcome"] for line in private} == {"private"}
    assert len(badged.expert.requests) == asked


def test_a_detector_that_raises_makes_the_text_private_and_its_words_go_nowhere(
    badged: Badged,
) -> None:
    asked = len(badged.expert.requests)
    lines = badged.first_tokens([UNSCANNED], "unscanned")
    assert {line["outcome"] for line in lines} == {"private"}
    assert len(badged.expert.requests) == asked
    log = badged.server.log.read_text(errors="replace")
    assert "Detector rash of plugin rash_plugin failed: LookupError" in log
    assert "mongoose" not in log.lower()


@pytest.fixture
def configuration(badged: Badged, tiny: TinyModels) -> dict[str, Any]:
    """Return one that has the real server as its expert."""
    expert = {"url": badged.server.url, "model": "tiny", "tokenizer": tiny.host}
    return {"expert": expert, "deadline_ms": 20_000, "metrics_port": badged.metrics_port}


def test_the_doctor_finds_a_real_server_well(
    configuration: dict[str, Any],
    tiny: TinyModels,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration["expert"]["trusted"] = True
    file = tmp_path / "floe.json"
    file.write_text(json.dumps(configuration))
    parser = argparse.ArgumentParser()
    doctor_command.add_to(parser.add_subparsers())
    parsed = parser.parse_args(["doctor", "--config", str(file), "--host", tiny.host, "--json"])
    assert parsed.run(parsed) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    # The expert is a server with Floe itself; whose expert it asks, only host_url would tell.
    assert {line["check"]: line["status"] for line in lines if line["status"] != "green"} == {
        "expert loop": "unknown"
    }, lines
    found = {line["check"]: line["found"] for line in lines}
    assert "vLLM has all that Floe relies on there" in found["runner"]
    assert found["expert K"] == "20 logprobs a token, as configured"
    assert found["expert blocks"] == "32 tokens a block, prefix caching on"
    assert "has Floe installed, which answers its calls unfused" in found["expert loop"]
    assert "ms a token" in found["expert latency"]
    assert found["metrics port"].endswith("a Floe server answers there")


def test_the_doctor_finds_out_how_many_logprobs_a_real_server_gives(
    configuration: dict[str, Any],
) -> None:
    configuration["expert"]["top_k"] = 50
    lines = {line.check: line for line in serving_lines(configuration, host=None)}
    assert lines["expert K"].status is Status.RED
    assert lines["expert K"].found == "top_k is 50, the server gives at most 20"
    assert "--max-logprobs 50" in lines["expert K"].advice
    assert lines["gate"].status is Status.GREEN
