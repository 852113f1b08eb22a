"""Flower's real deployment engine: TLS, node keys, one node dies, another joins late."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from flower_strategy import load_history, load_manifest
from flower_strategy.testing.models import tiny_model
from integration_tests.harness.deployment import (
    NODES,
    PAGE,
    Deployment,
    deployment,
    online,
    replacements,
    wait_for,
    write_data,
)
from integration_tests.harness.markdown import named_blocks, shell_blocks
from integration_tests.harness.slow_link import slow_link

__all__ = ["tiny_model"]

TASKS = {"phone": "code", "board": "records", "laptop": "code", "desktop": "records"}
BLOCKS = {"certificates", "keys", "superlink", "register", "list", "run", "resume"}

# The message of a rejected SuperNode, up to Flower 1.32 and in 1.41.
REFUSED = "No SuperNode found with the given public key|Failed to activate SuperNode"

SLOW_UPLINK = 2000.0  # bytes a second

pytestmark = pytest.mark.timeout(900)


def make_key(here: Deployment, name: str) -> None:
    key = str(here.folder / "keys" / name)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", key], check=True
    )


def registered(printed: str) -> list[int]:
    return [int(node) for node in re.findall(r"SuperNode (\d+) registered", printed)]


def start_nodes(here: Deployment, names: Sequence[str] = NODES) -> None:
    for seed, name in enumerate(names):
        write_data(here.folder, name, TASKS[name], seed)
        here.start(f"node-{name}")
    wait_for(
        lambda: online(here) == len(names),
        seconds=120,
        why=lambda: here.logs(*(f"node-{name}" for name in names)),
    )


def start_node(here: Deployment, name: str, node_config: str, *, port: int = 0) -> None:
    """Start a node of the page with another ``--node-config``, and by another port if given."""
    script = (here.folder / "start-node.sh").read_text()
    if port:
        assert here.ports["9092"] in script
        script = script.replace(here.ports["9092"], str(port))
    code, changed = re.subn('--node-config "[^"]*"', f'--node-config "{node_config}"', script)
    assert changed == 1
    (here.folder / f"start-{name}.sh").write_text(code)
    _, _, *arguments = here.block(f"node-{name}").split()
    here.start(f"node-{name}", code=f"bash start-{name}.sh {' '.join(arguments)}")


def check_that_an_unknown_key_is_refused(here: Deployment) -> None:
    make_key(here, "intruder")
    process = here.start(
        "node-intruder", code=here.own("bash start-node.sh intruder phone 1 1 9098")
    )
    here.wait_for("node-intruder", REFUSED, seconds=120, ended=True)
    assert process.wait(timeout=30) != 0
    assert online(here) == len(NODES)


def kill_in_mid_round(here: Deployment, name: str) -> None:
    """Kill a node whose ClientApp has just begun to work on a training message."""
    begun = "(?s)Receiving: train message.*Start `flwr-clientapp` process"
    here.wait_for(f"node-{name}", begun, seconds=120)
    here.kill(f"node-{name}")


def start_late_node(here: Deployment, name: str, *, task: str) -> int:
    make_key(here, name)
    write_data(here.folder, name, task, seed=len(NODES))
    register = here.block("register").splitlines()[1].replace("$name", name)
    (node,) = registered(here.shell(register))
    here.start(f"node-{name}", code=here.own(f"bash start-node.sh {name} phone 0.25 3 9099"))
    return node


def check_that_partitions_make_no_simulation(output: Path, nodes: Mapping[str, int]) -> None:
    """Check that a real node with a ``partition-id`` is measured, or refused for lack of data."""
    devices = {device["node"]: device for device in load_manifest(output)["devices"]}
    assert set(devices) == {str(nodes["phone"]), str(nodes["board"])}
    board = devices[str(nodes["board"])]
    assert (board["device"], board["label"]) == ("device", "")
    first = load_history(output)["rounds"][0]
    (refusal,) = (entry for entry in first["refused"] if entry["node"] == str(nodes["laptop"]))
    assert refusal["stage"] == "profile"
    assert refusal["reason"].startswith(
        "This SuperNode names no data of its own: set --node-config"
    )


def test_every_command_of_the_page_is_tested() -> None:
    tested = BLOCKS | {f"node-{name}" for name in NODES}
    assert tested == set(named_blocks(PAGE))
    assert shell_blocks(PAGE) == len(tested)
    page = PAGE.read_text("utf-8")
    assert len(replacements()) == 4
    assert all(page.count(old) >= 2 for old in replacements())


def test_a_run_outlives_a_dead_node_and_takes_in_a_late_one(
    tiny_model: str, tmp_path: Path
) -> None:
    with deployment(tmp_path) as here:
        here.run("certificates")
        here.run("keys")
        here.start_superlink()
        nodes = dict(zip(NODES, registered(here.run("register")), strict=True))
        start_nodes(here)
        check_that_an_unknown_key_is_refused(here)
        config = {"model": f"'{tiny_model}'", "rounds": "2", "round-timeout": "300"}
        config["separation"] = "0.0"  # a random model separates tasks by less than its errors
        here.start("run", config)
        here.wait_for("run", "configure_train: 4 devices", seconds=400)
        kill_in_mid_round(here, "laptop")
        nodes["tablet"] = start_late_node(here, "tablet", task=TASKS["laptop"])
        here.wait_for("run", "Wrote [0-9]+ adapters", seconds=400)

        output = tmp_path / "floe-runs" / "first"
        manifest, history = load_manifest(output), load_history(output)
        members = {frozenset(cluster["members"]) for cluster in manifest["clusters"]}
        name = {str(node): name for name, node in nodes.items()}
        assert {frozenset(name[node] for node in some) for some in members} == {
            frozenset({"phone", "laptop", "tablet"}),
            frozenset({"board", "desktop"}),
        }
        for cluster in manifest["clusters"]:
            assert (output / cluster["adapter"] / "adapter_model.safetensors").is_file()
            assert cluster["loss_after"] < cluster["loss_before"]
        _, first, second = history["rounds"]
        reasons = [
            entry["reason"]
            for entry in first["refused"]
            if (entry["node"], entry["stage"]) == (str(nodes["laptop"]), "train")
        ]
        refused = {entry["node"] for entry in first["refused"]}
        assert refused <= {str(node) for node in nodes.values()}
        # Floe's own sentence, or Flower's where that has missed the node's heartbeat by then.
        assert len(reasons) == 1
        assert re.search("no reply within|unavailable", reasons[0], re.IGNORECASE)
        assert all(outcome["moved"] for outcome in first["clusters"].values())
        # Whether its reply is among those of the quorum depends on how busy the machine is.
        assert second["devices"][str(nodes["tablet"])]["rank"] in manifest["candidate_ranks"]


def check_that_the_slow_link_was_measured(output: Path, *, slow: int, other: int) -> None:
    """Check the seconds of transport of two nodes' last round."""
    devices = load_history(output)["rounds"][-1]["devices"]
    link, fast = devices[str(slow)], devices[str(other)]
    # What Flower's polling takes is in both, and varies by a few seconds.
    needed = link["bytes_up"] / SLOW_UPLINK
    assert needed > 8
    assert link["transfer_seconds"] > needed
    assert link["transfer_seconds"] > fast["transfer_seconds"] + needed / 2


def test_a_killed_server_app_is_continued_by_another_run(tiny_model: str, tmp_path: Path) -> None:
    with (
        deployment(tmp_path) as here,
        slow_link(int(here.ports["9092"]), bytes_per_second=SLOW_UPLINK) as port,
    ):
        here.run("certificates")
        here.run("keys")
        here.start_superlink()
        nodes = dict(zip(NODES, registered(here.run("register")), strict=True))
        start_nodes(here, ("phone",))
        # Both as tutorials start them; one also names the data that it takes its share of.
        there = "data='embedded' partition-id=1 num-partitions=4"
        start_node(here, "board", there, port=port)
        start_node(here, "laptop", "partition-id=0 num-partitions=2")
        wait_for(
            lambda: online(here) == 3,
            seconds=120,
            why=lambda: here.logs("node-phone", "node-board", "node-laptop"),
        )
        output = tmp_path / "floe-runs" / "first"
        config = {"model": f"'{tiny_model}'", "rounds": "2"}
        config["fraction-evaluate"] = "0.0"  # every message starts a process that imports torch
        here.start("run", {**config, "min-nodes": "3"})
        saved = output / "checkpoints" / "round-0001"
        wait_for(saved.is_dir, seconds=400, why=lambda: here.logs("run"))
        server_app = here.app_process("superlink", "flwr-serverapp")
        assert server_app is not None
        server_app.kill()
        assert not (output / "manifest.json").exists()

        here.start("resume", config)
        here.wait_for("resume", "Wrote [0-9]+ adapters", seconds=400)
        said = here.log("resume").read_text()
        assert f"Resumed after round 1, from {saved}" in said
        assert "[DEVICES]" not in said
        assert "[ROUND 2/2]" in said
        history = load_history(output)
        assert [entry["round"] for entry in history["rounds"]] == [0, 1, 2]
        last = history["rounds"][-1]
        assert all(outcome["moved"] for outcome in last["clusters"].values())
        check_that_partitions_make_no_simulation(output, nodes)
        check_that_the_slow_link_was_measured(output, slow=nodes["board"], other=nodes["phone"])
