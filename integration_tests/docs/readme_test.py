"""The README's commands, run unchanged except for ports and folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flower_strategy.testing.models import tiny_model
from integration_tests.harness.flower_runs import end_processes, flower_environment
from integration_tests.harness.markdown import named_blocks, shell_blocks
from integration_tests.harness.processes import end, free_port, spawn, tail

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = named_blocks(README)
PORTS = {"8001": str(free_port()), "8002": str(free_port())}
ENV = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "HF_HUB_OFFLINE": "1",
}

__all__ = ["tiny_model"]

pytestmark = pytest.mark.timeout(900)


def command(name: str) -> str:
    """Return a block with the test's ports in place of the README's."""
    code = BLOCKS[name]
    for documented, own in PORTS.items():
        code = code.replace(documented, own)
    return code


def run(name: str, folder: Path, *, code: int = 0, **env: str) -> str:
    """Run a block in a shell and return what it printed."""
    result = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", command(name)],
        cwd=folder,
        env={**os.environ, **ENV, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout


@contextmanager
def servers(names: Sequence[str], folder: Path) -> Iterator[None]:
    """Run the serving blocks side by side, and wait until all answer."""
    processes = {}
    try:
        for name in names:
            block = ["bash", "-c", f"exec env {command(name).strip()}"]
            processes[name] = spawn(block, log=folder / f"{name}.log", env=ENV, cwd=folder)
        deadline = time.monotonic() + 300
        for (name, process), port in zip(processes.items(), PORTS.values(), strict=True):
            while not answers(port):
                assert process.poll() is None, tail(folder / f"{name}.log")
                assert time.monotonic() < deadline, tail(folder / f"{name}.log")
                time.sleep(1)
        yield
    finally:
        for process in processes.values():
            end(process)


def answers(port: str) -> bool:
    """Tell whether a server answers at this port."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_every_shell_command_is_tested() -> None:
    tested = {"train", "report", "export", "expert", "host", "ask", "align", "check"}
    assert tested < set(BLOCKS)
    assert shell_blocks(README) == len(tested)


def test_it_is_read_in_two_minutes() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120


def test_training(tiny_model: str, tmp_path: Path) -> None:
    env, marker = flower_environment(tmp_path / "flower", None)
    # A made-up model instead of SmolLM2, for time: federated_test and demo_test train the real one.
    block = command("train").replace(
        "output='floe-run'", f"output='{tmp_path}/floe-run' model='{tiny_model}'"
    )
    assert tiny_model in block
    try:
        result = subprocess.run(
            ["bash", "-euc", block],
            cwd=README.parent,
            env={**os.environ, **ENV, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        end_processes(marker)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "[ROUND 3/3]" in result.stdout
    folder = tmp_path / "floe-run"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert len(manifest["devices"]) == 6
    assert (folder / manifest["clusters"][0]["adapter"] / "adapter_config.json").is_file()
    assert (folder / "checkpoints" / "round-0003").is_dir()
    printed = run("report", tmp_path)
    assert any(cluster["name"] in printed for cluster in manifest["clusters"])
    assert 'data-figure="loss"' in (folder / "report.html").read_text("utf-8")


def test_serving(tmp_path: Path) -> None:
    run("export", tmp_path)
    with servers(("expert", "host"), tmp_path):
        reply = json.loads(run("ask", tmp_path))
    assert len(reply["choices"][0]["text"]) > 5
    assert reply["usage"]["completion_tokens"] > 1
    assert "models/llm" in run("align", tmp_path)


def test_a_detector_plugin(tmp_path: Path) -> None:
    source = BLOCKS["plugin"]
    name = source.splitlines()[0].removeprefix("# ")
    (tmp_path / name).write_text(source)
    # The check's exit code says that the text is private.
    printed = run("check", tmp_path, code=1)
    assert "badge-numbers" in printed
    assert "local" in printed
    assert "BADGE" in printed
