"""Seconds of a whole round with Floe over those of a round with Flower's FedAvg.

Both are ``flwr run`` in the local simulation, with the same ClientApp, data, number of nodes, rank,
local steps and evaluation, in turn. A round lasts from the end of one evaluation to the end of the
next, so it has configuring, both exchanges, aggregating and what stands between. The first round of
every run is dropped: nodes load the model in it. What is printed are medians over all other rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from flower_strategy.config_keys import EXPORT_RANKS
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.round_overhead.servers import RESULT_VARIABLE
from integration_tests.harness.flower_runs import run_flower_app

SERVERS = ("floe", "fedavg")
DEFAULT_MODEL = "embedded:smollm2-135m-instruct"
_ROOT = Path(__file__).resolve().parents[3]


class BenchmarkError(FloeError):
    """A run did not complete."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Whole rounds with Floe over whole rounds with Flower's FedAvg.")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="base model, a name or a folder")
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds per run")
    parser.add_argument("--clients", type=int, default=4, help="nodes")
    parser.add_argument(
        "--rank", type=int, default=8, choices=EXPORT_RANKS, help="LoRA rank of every node"
    )
    parser.add_argument("--local-steps", type=int, default=3, help="optimizer steps per round")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, in turn")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.rank, options.local_steps, options.repeats) < 1:
        parser.error("--rounds, --rank, --local-steps and --repeats are at least 1")
    if options.clients < 2:
        parser.error(f"--clients is at least 2, since FedAvg asks for that, not {options.clients}")
    try:
        values = measure(options)
    except FloeError as error:
        return cli.failed(error)
    cli.show(
        options,
        values,
        header=["", "floe", "fedavg", "ratio"],
        rows=[
            ["round, s", values["round_s"], values["fedavg_round_s"], values["ratio"]],
            [
                "server's own, s",
                values["server_s"],
                values["fedavg_server_s"],
                values["server_s"] / values["fedavg_server_s"],
            ],
        ],
        remarks=[
            f"A round with Floe takes {values['ratio']:.3f} times one with FedAvg; the "
            f"server's own part is {values['server_s']:.2f} s of {values['round_s']:.1f} s.",
            f"{options.clients} nodes of rank {options.rank}, {options.local_steps} local steps; "
            f"medians of {options.repeats} x {options.rounds} rounds each.",
        ],
    )
    return 0


def measure(options: Any) -> dict[str, Any]:
    """Run both in turn and return the figures."""
    model = resolve(options.model)
    rounds: dict[str, list[dict[str, float]]] = {server: [] for server in SERVERS}
    order = [server for _ in range(options.repeats) for server in SERVERS]
    with tempfile.TemporaryDirectory() as folder:
        for number, server in enumerate(cli.progress(order, "runs")):
            home = Path(folder) / f"{number}-{server}"
            rounds[server] += _run(server, home, model, options)
    medians = {
        (server, key): statistics.median(one[key] for one in found)
        for server, found in rounds.items()
        for key in ("seconds", "server_s")
    }
    return {
        "ratio": medians["floe", "seconds"] / medians["fedavg", "seconds"],
        "server_s": medians["floe", "server_s"],
        "fedavg_server_s": medians["fedavg", "server_s"],
        "round_s": medians["floe", "seconds"],
        "fedavg_round_s": medians["fedavg", "seconds"],
        "rounds": options.rounds,
        "repeats": options.repeats,
        "clients": options.clients,
        "rank": options.rank,
        "local_steps": options.local_steps,
        "model": options.model,
        "all_rounds": rounds,
    }


def _run(server: str, home: Path, model: str, options: Any) -> list[dict[str, float]]:
    app = _write_app(home / "app", server)
    result_file = home / "rounds.json"
    run = run_flower_app(
        app,
        {
            "model": model,
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
        raise BenchmarkError(f"The run with {server} ended as {run.status!r}:\n{last}")
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


if __name__ == "__main__":
    sys.exit(cli.command(main))
