"""Options and course of the benchmark; see the package for what it measures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError, FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers import result as summary
from integration_tests.benchmarks.answers.measure import figures
from integration_tests.benchmarks.answers.servers import Item, Servers
from integration_tests.benchmarks.answers.tasks import Sizes, Task, default_tasks, make_tasks
from integration_tests.benchmarks.answers.training import described, federate, federation_in
from integration_tests.benchmarks.data import task_files
from integration_tests.demo.federation import DemoError, Federation
from integration_tests.demo.progress import Progress
from integration_tests.demo.prompts import Prompt
from integration_tests.demo.serving import CLOUD_MODEL, pair_of_servers
from integration_tests.harness.vllm_servers import FORGETS

_DESCRIPTION = (
    "Exact match, latency, processor seconds and bytes of generated answers: LLM alone, SLM alone, "
    "routers of whole prompts, and Floe, with the adapters of a federated run."
)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--in-task", help="tasks that the SLM is trained for, separated by commas")
    add("--out-of-task", help="tasks that it is not trained for; '' for none")
    add(
        "--data",
        default=",".join(map(str, task_files())) or "embedded",
        help="JSONL files, or 'embedded'; each file is a task",
    )
    add("--slm", default="embedded:smollm2-135m-instruct", help="the SLM (%(default)s)")
    add("--llm", default=CLOUD_MODEL, help="the LLM (%(default)s)")
    add("--items", type=cli.at_least_one, default=12, help="asked per task (%(default)s)")
    add("--fit", type=cli.at_least_one, default=4, help="for the cascade, per task (%(default)s)")
    add("--timed", type=cli.at_least_one, default=1, help="asked alone, per task (%(default)s)")
    add(
        "--trained",
        type=cli.at_least_one,
        default=192,
        help="for training, per task (%(default)s)",
    )
    add("--shots", type=int, default=2, help="solved examples before each prompt (%(default)s)")
    add(
        "--prompt-characters",
        type=cli.at_least_one,
        default=300,
        help="longer ones are cut in front",
    )
    add("--max-tokens", type=cli.at_least_one, default=72, help="of an answer (%(default)s)")
    add("--rounds", type=cli.at_least_one, default=2, help="federated rounds (%(default)s)")
    add("--local-steps", type=cli.at_least_one, default=4, help="of a round (%(default)s)")
    add(
        "--max-length",
        type=cli.at_least_one,
        default=96,
        help="tokens of a trained text (%(default)s)",
    )
    add("--export-rank", type=cli.at_least_one, default=8, help="of the adapters (%(default)s)")
    add("--seed", type=int, default=0, help="of the run, the items and the bootstrap")
    add("--run", type=Path, metavar="FOLDER", help="the --output of an earlier call: no training")
    add("--output", type=Path, metavar="FOLDER", help="keep the working files here")
    options = parser.parse_args(arguments)
    if options.shots < 0:
        parser.error(f"--shots is {options.shots}; at least 0 is accepted")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = options_from(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with ExitStack() as stack:
        folder = options.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            values = _measured(options, folder)
        except (FloeError, DemoError) as error:
            return cli.failed(error)
    cli.show(
        options,
        values,
        header=summary.HEADER,
        rows=summary.rows(values),
        remarks=summary.remarks(values),
    )
    return 0


def _measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    begun = time.monotonic()
    tasks = _tasks(options)
    if options.run is None:
        federation = federate(
            folder,
            tasks,
            config={
                "model": options.slm,
                "rounds": options.rounds,
                "local-steps": options.local_steps,
                "max-length": options.max_length,
                "export-rank": options.export_rank,
                "eval-examples": 4,
                "mix": 0.0,
                "seed": options.seed,
            },
        )
    else:
        federation = federation_in(options.run.resolve(), tasks)
    trained_s = time.monotonic() - begun
    items = _items(tasks, federation, fitted=False)
    fitted = _items(tasks, federation, fitted=True)
    cli.note("the device's server and the cloud's")
    with pair_of_servers(
        federation,
        folder,
        llm=options.llm,
        # Eight streams at a time on two cores: a late call would measure the machine's speed, and
        # this benchmark is about what the two models say together.
        deadline_ms=10_000,
        first_deadline_ms=60_000,
        variables=FORGETS,
        waiting=Progress().waiting,
    ) as pair:
        found = figures(
            Servers(**vars(pair)), items, fitted, timed=options.timed, seed=options.seed
        )
    return {
        "seed": options.seed,
        "models": {"slm": federation.manifest["model"], "llm": options.llm},
        "sizes": _sizes(options).described,
        "federation": {
            "reused": options.run is not None,
            "rank": federation.manifest["rank"],
            "rounds": max(entry["round"] for entry in federation.history["rounds"]),
            "seconds": round(trained_s, 1),
            "clusters": described(federation),
        },
        **found,
        "seconds_in_all": round(time.monotonic() - begun, 1),
    }


def _tasks(options: argparse.Namespace) -> tuple[Task, ...]:
    inside, outside = default_tasks(options.data)
    if options.in_task is not None:
        inside = _names(options.in_task)
    if options.out_of_task is not None:
        outside = _names(options.out_of_task)
    else:
        outside = tuple(name for name in outside if name not in inside)
    if not inside:
        raise ConfigError("--in-task names no task; the SLM is trained for at least one.")
    if twice := [name for name, count in Counter((*inside, *outside)).items() if count > 1]:
        raise ConfigError(
            f"The task {twice[0]!r} stands twice in --in-task and --out-of-task; once is accepted."
        )
    names = {**dict.fromkeys(inside, True), **dict.fromkeys(outside, False)}
    return make_tasks(names, data=options.data, sizes=_sizes(options), seed=options.seed)


def _sizes(options: argparse.Namespace) -> Sizes:
    return Sizes(
        trained=options.trained,
        fitted=options.fit,
        asked=options.items,
        shots=options.shots,
        prompt_characters=options.prompt_characters,
        max_tokens=options.max_tokens,
    )


def _items(tasks: Sequence[Task], federation: Federation, *, fitted: bool) -> list[Item]:
    purpose = "fitted" if fitted else "asked"
    examples = {
        f"{task.name}-{purpose}-{row}": (task, example)
        for task in tasks
        for row, example in enumerate(task.fitted if fitted else task.asked)
    }
    # The adapter is chosen by the question itself, whatever stands in front of it.
    adapters = federation.adapters_for(
        tuple(Prompt(key, example.prompt) for key, (_, example) in examples.items())
    )
    return [
        Item(
            key=key,
            task=task,
            question=example.prompt,
            prompt=task.prompt(example),
            reference=example.response,
            adapter=adapters[key],
        )
        for key, (task, example) in examples.items()
    ]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


if __name__ == "__main__":
    sys.exit(cli.command(main))
