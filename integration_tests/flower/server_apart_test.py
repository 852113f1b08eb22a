"""Flower's process isolation: the ServerApp runs apart from the SuperLink, as docs say."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flower_strategy import load_manifest
from flower_strategy.testing.models import tiny_model
from integration_tests.harness.deployment import ROOT, deployment, online, wait_for, write_data
from integration_tests.harness.markdown import blocks_of

__all__ = ["tiny_model"]

PAGE = ROOT / "docs" / "explanation" / "scale.md"

pytestmark = pytest.mark.timeout(600)


def test_the_server_app_runs_on_a_machine_of_its_own(tiny_model: str, tmp_path: Path) -> None:
    # Named as in "scale.md", whose blocks these are.
    secret, superlink, superexec = (
        block.code.strip() for block in blocks_of(PAGE) if block.kind == "shown-by"
    )
    with deployment(tmp_path) as here:
        if here.own("--fleet-api-address 0.0.0.0:9092 --control-api-address 0.0.0.0:9093") == (
            "--host 0.0.0.0 --port 9093"
        ):
            pytest.skip("The page is of Flower 1.32; this release has other options.")
        here.run("certificates")
        here.run("keys")
        here.shell(secret)
        process = here.start("superlink", code=here.own(superlink))

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(here.ports["9093"]))) == 0

        wait_for(listens, seconds=120, why=lambda: here.logs("superlink"), alive=process)
        here.start("superexec", code=here.own(superexec))
        here.run("register")
        write_data(tmp_path, "phone", "code", 0)
        here.start("node-phone")
        wait_for(lambda: online(here) == 1, seconds=120, why=lambda: here.logs("node-phone"))
        config = {"model": f"'{tiny_model}'", "rounds": "1", "min-nodes": "1"}
        here.start("run", config)
        here.wait_for("run", "Wrote [0-9]+ adapters", seconds=300)
        # The app is a process of the SuperExec, not of the SuperLink.
        assert "flwr-serverapp" not in here.logs("superlink")
        assert len(load_manifest(tmp_path / "floe-runs" / "first")["clusters"]) == 1
