"""A shortened demonstration, which leaves no process behind after Ctrl-C."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from integration_tests.demo.alone import elapsed, read_alone
from integration_tests.demo.federation import Federation
from integration_tests.demo.figures import draw_loss, save_figure
from integration_tests.demo.page import ALONE

MARKER = "FLOE_DEMO_TEST"

pytestmark = pytest.mark.timeout(1800)


@dataclass
class Started:
    """A demonstration in a separate process."""

    process: subprocess.Popen[str]
    marker: str

    def left_over(self) -> list[str]:
        """Return the command lines of processes that it started and that still run."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.environ().get(MARKER) == self.marker and each.status() != "zombie":
                    found.append(" ".join(each.cmdline())[:120])
        return found

    def wait_for(self, text: str) -> None:
        """Read its messages until one holds `text`."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return
        raise AssertionError("".join(seen[-30:]))


@contextlib.contextmanager
def demonstration(*arguments: str) -> Iterator[Started]:
    marker = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "integration_tests.demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARKER: marker},
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
    )
    try:
        yield Started(process, marker)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@dataclass
class Finished:
    """What a shortened demonstration left."""

    folder: Path
    results: dict[str, Any]
    left_over: Sequence[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("demo")
    short = ["--rounds", "1", "--steps", "1", "--max-tokens", "12", "--json"]
    short += ["--output", str(folder)]
    with demonstration(*short) as started:
        printed, said = started.process.communicate()
        assert started.process.returncode == 0, said[-3000:]
        return Finished(folder, json.loads(printed), started.left_over())


def test_the_run_clusters_the_devices_and_the_loss_falls(finished: Finished) -> None:
    clusters = finished.results["clusters"]
    assert len(clusters) >= 2
    assert sum(len(cluster["devices"]) for cluster in clusters) == 6
    for cluster in clusters:
        assert cluster["loss_after"] < cluster["loss_before"]


def test_each_device_has_trained_alone_for_the_same_time(finished: Finished) -> None:
    run = Federation.read(finished.folder / "run")
    assert finished.results["device_seconds"] == elapsed(run)
    assert elapsed(run)[0] == 0 < elapsed(run)[1]
    for cluster in finished.results["clusters"]:
        untrained, trained = cluster["alone"]
        # Before training a device alone has the run's model, devices and texts.
        assert untrained == pytest.approx(cluster["losses"][0], rel=1e-4)
        assert untrained == pytest.approx(cluster["loss_before"], rel=1e-4)
        assert 0 < trained < untrained
        assert trained != cluster["losses"][1]
    assert read_alone(run) == {each["name"]: each["alone"] for each in finished.results["clusters"]}


def test_page_and_figure_show_the_losses_of_the_results(finished: Finished, tmp_path: Path) -> None:
    page = (finished.folder / "index.html").read_text("utf-8")
    clusters = finished.results["clusters"]
    assert ALONE in page
    for cluster in clusters:
        before, after, alone = cluster["losses"][0], cluster["loss_after"], cluster["alone"][-1]
        cells = "".join(f"<td>{loss:.3f}</td>" for loss in (before, after, alone))
        assert f"{cells}</tr>" in page
    figure = draw_loss(clusters)
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    drawn = [np.asarray(line.get_ydata()).tolist() for line in dotted]
    # The last one stands in the legend for all.
    assert drawn == [*(cluster["alone"] for cluster in clusters), []]
    again = save_figure(figure, tmp_path / "again.png")
    assert base64.b64encode(again.read_bytes()).decode() in page


def test_clear_prompts_are_fused_and_private_ones_stay(finished: Finished) -> None:
    answers = finished.results["answers"]
    assert [answer["verdict"] for answer in answers] == ["clear"] * 3 + ["local"] * 2
    clear, private = answers[:3], answers[3:]
    assert any(answer["text"] != answer["host_text"] for answer in clear)
    for answer in clear:
        assert answer["slm_text"].strip()
        assert answer["fused_share"] > 0.5
        assert 0 < answer["mean_weight"] < 1
        assert answer["request_bytes"] > 0
        assert answer["reply_bytes"] > 0
    for answer in private:
        assert answer["text"].strip()
        assert answer["host_text"] is None
        assert answer["bytes_left"] == 0


def test_figures_and_page_are_there(finished: Finished) -> None:
    page = (finished.folder / "index.html").read_text("utf-8")
    for name in ("embeddings", "ranks", "loss", "weights"):
        assert (finished.folder / f"{name}.png").stat().st_size > 5_000
    assert page.count("data:image/png;base64,") == 4
    assert "LLM alone" in page
    assert "SLM alone" in page
    assert finished.results["gained"] in page


def test_nothing_keeps_running(finished: Finished) -> None:
    assert finished.left_over == []


@pytest.mark.parametrize(
    ("message", "skip_training"),
    [("[DEVICES]", False), ("waiting for llm", True)],
    ids=["while training", "while the servers start"],
)
def test_ctrl_c_ends_every_process(
    finished: Finished, tmp_path: Path, message: str, skip_training: bool
) -> None:
    trained = ("--run", str(finished.folder / "run")) if skip_training else ()
    with demonstration("--output", str(tmp_path), *trained) as started:
        started.wait_for(message)
        time.sleep(3)
        assert len(started.left_over()) > 1
        started.process.send_signal(signal.SIGINT)
        _, said = started.process.communicate(timeout=60)
        assert started.process.returncode == 130, said[-2000:]
        assert "Interrupted" in said
        assert started.left_over() == []
