"""Run the demonstration from end to end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from integration_tests.demo.alone import elapsed, finish, read_alone, training_alone
from integration_tests.demo.answering import Answer, Device, check_forms
from integration_tests.demo.federation import DemoError, Federation, federate, readable
from integration_tests.demo.page import (
    CLUSTER_COLUMNS,
    COLUMNS,
    WIDE,
    cluster_rows,
    gained,
    row,
    write_page,
)
from integration_tests.demo.progress import Progress
from integration_tests.demo.prompts import PROMPTS
from integration_tests.demo.serving import CLOUD_MODEL, pair_of_servers
from integration_tests.harness import prepared
from integration_tests.harness.processes import interrupt_on_signals

#: Held-out examples of a device, and validation ones: a batch of each. Measuring on twice as many
#: would take a third of the run.
EVALUATED = 4

_SLOW_TO_IMPORT = "flower_strategy.device.base_model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit code."""
    options = _options(arguments)
    interrupt_on_signals()
    progress = Progress()
    try:
        _run(options, progress)
    except KeyboardInterrupt:
        progress.step("Interrupted; every process that was started has been ended.")
        return 130
    except (FloeError, DemoError, OSError, RuntimeError) as error:
        progress.step(f"The demonstration stopped. {error}")
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m integration_tests.demo",
        description="Train a small model across six simulated devices, then let it answer together "
        "with a large one, private prompts staying home.",
    )
    parser.add_argument("--output", type=Path, default=Path("floe-demo"), help="a folder to write")
    parser.add_argument("--rounds", type=int, default=2, help="federated rounds")
    parser.add_argument(
        "--steps", type=int, default=2, help="of the slowest device in a round; others fill it"
    )
    parser.add_argument("--run", type=Path, help="the folder of a finished run, to skip training")
    parser.add_argument("--max-tokens", type=int, default=48, help="most tokens per answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, progress: Progress) -> None:
    folder: Path = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    progress.step("Models: out of the installed packages, once.")
    for name in ("embedded:smollm2-135m-instruct", CLOUD_MODEL):
        progress.note(f"{name} is at {resolve(name)}")

    # Flower leaves a core idle while it starts. What is imported here chooses adapters by a model;
    # for the cloud's server, imports are most of its start.
    prepared.prepare(bind=True)
    prepared.begin_importing()
    threading.Thread(target=import_module, args=(_SLOW_TO_IMPORT,), daemon=True).start()

    if options.run is None:
        progress.step("Federated run: six devices of three classes, three tasks, no text moves.")
        federation = federate(
            folder,
            # Rounds are as long as the slowest device needs for so many steps.
            config={
                "rounds": options.rounds,
                "local-steps": options.steps,
                "eval-examples": EVALUATED,
                # All of a record and of a sum; of the code its beginning, for the sake of time.
                "max-length": 96,
            },
            on_line=lambda line: progress.note(text) if (text := readable(line)) else None,
        )
    else:
        federation = Federation.read(options.run.resolve())
    clusters = _clusters(federation)
    if len(clusters) < 2:
        raise DemoError("The run found one cluster; the embedded tasks should give at least two.")
    for name, devices, before, after, _ in cluster_rows(clusters):
        progress.note(f"{name}: {devices}; held-out loss {before} before, {after} after")

    log = folder / "alone.log"
    with training_alone(federation, log=log) if options.run is None else nullcontext() as lone:
        answers = _answers(options, federation, folder, progress)
        if lone is not None:
            progress.step("Comparison: each device alone, for as long as the run on its own clock.")
            finish(lone, log=log)
    clusters = _clusters(federation)

    progress.step("Figures and page.")
    # Imported here: matplotlib takes a while, and nothing before it needs it.
    from integration_tests.demo.figures import draw_all

    figures = draw_all(federation, clusters, answers, folder)
    write_page(folder / "index.html", clusters=clusters, answers=answers, figures=figures)
    results = {
        "seconds": round(progress.seconds, 1),
        "device_seconds": elapsed(federation),
        "clusters": clusters,
        "answers": [_result(answer) for answer in answers],
        "gained": gained(answers),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    _show(options, results, clusters, answers)
    progress.step(f"Done. Open {folder / 'index.html'}")
    if all(answer.host_text == answer.text for answer in answers if answer.host_text is not None):
        raise DemoError("Every fused answer equals the host's own: the expert changed nothing.")


def _answers(
    options: argparse.Namespace, federation: Federation, folder: Path, progress: Progress
) -> list[Answer]:
    chosen = federation.adapters_for(PROMPTS)
    adapters = {name: choice.name for name, choice in chosen.items()}
    check_forms({federation.forms[name] for name in adapters.values()}, resolve(CLOUD_MODEL))
    progress.step("Servers: the device's small model on llama.cpp, the cloud's large one on vLLM.")
    with pair_of_servers(
        federation,
        folder,
        deadline_ms=10_000,
        first_deadline_ms=20_000,
        waiting=progress.waiting,
    ) as pair:
        progress.step("Prompts: the gate decides what the cloud may see.")
        device = Device(
            pair=pair,
            adapters=adapters,
            forms=federation.forms,
            max_tokens=options.max_tokens,
        )
        return device.ask_all(
            PROMPTS,
            heard=lambda answer: progress.note(f"{answer.prompt.name}: {answer.verdict}"),
        )


def _clusters(federation: Federation) -> list[dict[str, Any]]:
    """Return the clusters with their losses by round, and their devices' alone once they exist."""
    alone = read_alone(federation)
    rounds = federation.history["rounds"]
    devices = {each["node"]: each for each in federation.manifest["devices"]}
    clusters = []
    for cluster in federation.manifest["clusters"]:
        name, members = cluster["name"], [devices[node] for node in cluster["members"]]
        names = [f"{each['device']} ({each['label']}, rank {each['rank']})" for each in members]
        kept = {key: cluster[key] for key in ("name", "loss_before", "loss_after")}
        losses = [entry["clusters"].get(name, {}).get("held_out_loss") for entry in rounds]
        clusters.append({**kept, "devices": names, "losses": losses, "alone": alone.get(name, [])})
    return clusters


def _result(answer: Answer) -> dict[str, Any]:
    return {**asdict(answer), "mean_weight": answer.mean_weight, "bytes_left": answer.bytes_left}


def _show(
    options: argparse.Namespace,
    results: dict[str, Any],
    clusters: Sequence[dict[str, Any]],
    answers: Sequence[Answer],
) -> None:
    if options.json:
        print(json.dumps(results))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    losses = Table(*CLUSTER_COLUMNS, title="Held-out loss")
    for cells in cluster_rows(clusters):
        losses.add_row(*cells)
    table = Table(title="Answers", show_lines=True)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", ratio=3 if column in WIDE else 1)
    for answer in answers:
        # Prompts and answers hold brackets, which are text and not markup.
        table.add_row(*(cell.replace("[", r"\[") for cell in row(answer)))
    console.print(losses)
    console.print(table)
    console.print(gained(answers))


if __name__ == "__main__":
    sys.exit(main())
