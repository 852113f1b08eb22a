"""Runs both in turn, each as a separate Flower App."""

import json
import statistics
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from flower_strategy.data.embedded import make_examples
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.round_overhead.servers import RESULT_VARIABLE
from integration_tests.harness.flower_runs import run_flower_app

SERVERS = ("floe", "fedavg")
_TEXTS, _JOINED = 1440, 4
_ROOT = Path(__file__).resolve().parents[3]


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Run both in turn and return the figures."""
    model = resolve(options.model)
    rounds: dict[str, list[dict[str, float]]] = {server: [] for server in SERVERS}
    order = [server for _ in range(options.repeats) for server in SERVERS]
    with tempfile.TemporaryDirectory() as folder:
        data = _write_data(Path(folder) / "alike.jsonl")
        for number, server in enumerate(cli.progress(order, "runs")):
            home = Path(folder) / f"{number}-{server}"
            rounds[server] += _run(server, home, model, data, options)
    (whole, own), (fedavg, fedavg_own) = (
        [_median(rounds[server], key) for key in ("seconds", "server_s")] for server in SERVERS
    )
    # In a run's last round devices choose the model that they keep.
    (last, earlier), (fedavg_last, fedavg_earlier) = (
        [_median(each, "seconds") for each in _parted(rounds[server], options.rounds)]
        for server in SERVERS
    )
    keys = ("rounds", "repeats", "clients", "rank", "local_steps", "model")
    return {
        "ratio": whole / fedavg,
        "server_s": own,
        "fedavg_server_s": fedavg_own,
        "round_s": whole,
        "fedavg_round_s": fedavg,
        "earlier_round_s": earlier,
        "fedavg_earlier_round_s": fedavg_earlier,
        "last_round_s": last,
        "fedavg_last_round_s": fedavg_last,
        **{key: getattr(options, key) for key in keys},
        "all_rounds": rounds,
    }


def _median(rounds: list[dict[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def _parted(
    rounds: list[dict[str, float]], each: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Return the last rounds of the runs, and all others."""
    last = rounds[each - 1 :: each]
    return last, [one for place, one in enumerate(rounds, 1) if place % each]


def _write_data(file: Path) -> Path:
    """Write documents that are all longer than ``max-length``.

    Devices go through their data in another order with Floe than with FedAvg. A batch is as long as
    its longest text, so with texts of different lengths they would not have the same work.
    """
    texts = [example.text for example in make_examples("arithmetic", count=_TEXTS, seed=0)]
    with file.open("w", encoding="utf-8") as lines:
        for start in range(0, _TEXTS, _JOINED):
            document = "\n".join(texts[start : start + _JOINED])
            lines.write(json.dumps({"text": document}) + "\n")
    return file


def _run(
    server: str, home: Path, model: str, data: Path, options: cli.Namespace
) -> list[dict[str, float]]:
    app = _write_app(home / "app", server)
    result_file = home / "rounds.json"
    run = run_flower_app(
        app,
        {
            "model": model,
            "data": str(data),
            "rounds": options.rounds + 1,
            "local-steps": options.local_steps,
            "rank-policy": "fixed",
            "fixed-ranks": str(options.rank),
            "ranks": str(options.rank),
            "export-rank": options.rank,
            # One cluster and one class of devices: every node does the same work.
            "silhouette": 1.0,
            "devices": "laptop",
            "output": str(home / "run"),
        },
        options.clients,
        home / "flwr",
        env={RESULT_VARIABLE: str(result_file), "PYTHONPATH": str(_ROOT)},
        staged=False,
    )
    if not run.ok or not result_file.is_file():
        last = "\n".join(run.lines[-30:])
        raise FloeError(f"The run with {server} ended as {run.status!r}:\n{last}")
    rounds: list[dict[str, float]] = json.loads(result_file.read_text("utf-8"))
    return rounds[-options.rounds :]


def _write_app(folder: Path, server: str) -> Path:
    """Write a Flower App with one of the two servers and Floe's ClientApp."""
    package = folder / "round_overhead_app"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", "utf-8")
    # Flower looks for an assignment to `app` in the text, so an import alone is not found.
    (package / "server.py").write_text(
        "from integration_tests.benchmarks.round_overhead import servers\n\n"
        f"app = servers.{server}\n",
        "utf-8",
    )
    (package / "client.py").write_text(
        "from flower_strategy import client_app\n\napp = client_app.app\n", "utf-8"
    )
    own = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in own["config"].items())
    (folder / "pyproject.toml").write_text(
        f"""[project]
name = "round-overhead"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "floe"

[tool.flwr.app.components]
serverapp = "round_overhead_app.server:app"
clientapp = "round_overhead_app.client:app"

[tool.flwr.app.config]
{keys}
""",
        "utf-8",
    )
    return folder
