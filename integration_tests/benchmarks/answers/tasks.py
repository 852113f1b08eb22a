"""The tasks, each in three parts without a common prompt: trained, fitted on, asked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.data.embedded import TASKS, make_examples
from flower_strategy.data.examples import Example
from flower_strategy.data.jsonl import find_files, read_examples
from integration_tests.benchmarks.answers.marking import LINE, Marking, marking_for

#: GSM8K's notes to a calculator, which no reader of an answer would see.
_CALCULATOR = re.compile(r"<<[^>]*>>")
#: The long answer of PubMedQA after the short one, which alone is asked for.
_EXPLAINED = re.compile(r"(\s*(?:yes|no|maybe)\.)\s.+", re.DOTALL)
#: Added to the seed for embedded examples that no device gets.
_OTHER_SEED = 7_919


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each task is used for what.

    Attributes
    ----------
    trained, fitted, asked : int
        Most examples that devices train on; examples that the cascade's threshold is fitted on;
        items that the systems are compared on.
    shots : int
        Solved examples in front of every prompt; they are of those that devices may train on.
    prompt_characters : int
        Longer prompts lose their beginning, for every system alike.
    max_tokens : int
        Most tokens of an answer, whatever the task.
    """

    trained: int
    fitted: int
    asked: int
    shots: int
    prompt_characters: int
    max_tokens: int

    @property
    def described(self) -> dict[str, int]:
        """The sizes as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes
    ----------
    name : str
    in_task : bool
        Whether the SLM is fine-tuned for it.
    marking : Marking
    trained, fitted, asked : tuple[Example, ...]
        See `Sizes`; of a task that is not trained, the first part gives the shots alone.
    shots : int
    max_tokens : int
        Most tokens of an answer; enough for the longest reference of `trained`.
    """

    name: str
    in_task: bool
    marking: Marking
    trained: tuple[Example, ...]
    fitted: tuple[Example, ...]
    asked: tuple[Example, ...]
    shots: int
    max_tokens: int

    def prompt(self, example: Example) -> str:
        """Return what every system is asked: the shots, then the example's prompt."""
        solved = [shot.text.strip("\n") for shot in self.trained[: self.shots]]
        return "\n\n".join([*solved, example.prompt])

    @property
    def stop(self) -> tuple[str, ...]:
        """Where an answer ends: at a blank line, or at any where the references have one line."""
        lines = any("\n" in example.response.strip("\n") for example in self.trained)
        return ("\n\n",) if lines else ("\n",)


def default_tasks(data: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the tasks that are trained, and of those that are not."""
    files = find_files(data) if data != "embedded" else {}
    names = [_name(stem) for stem in files]
    inside = ("arithmetic", "records", *(name for name in names if name == "pubmedqa"))
    return inside, ("code", *(name for name in names if name not in inside))


def make_tasks(
    names: Mapping[str, bool], *, data: str, sizes: Sizes, seed: int
) -> tuple[Task, ...]:
    """Make the tasks.

    Parameters
    ----------
    names : Mapping[str, bool]
        Task -> whether it is trained.
    data : str
        ``embedded``, or JSONL files and folders separated by commas.
    sizes : Sizes
    seed : int

    Raises
    ------
    ConfigError
        There is no such task, or it has too few examples.
    """
    files = {_name(stem): path for stem, path in find_files(data).items()} if _given(data) else {}
    known = [*TASKS, *files]
    made = []
    for name, in_task in names.items():
        if name not in known:
            raise ConfigError(
                f"The task {name!r} is not known; accepted are {', '.join(known)}, or the name of "
                "a JSONL file that --data names."
            )
        if name in files:
            parts = _split(files[name], name, sizes=sizes, seed=seed)
        else:
            parts = _generate(name, sizes=sizes, seed=seed)
        marking = LINE if name == "code" and name not in files else marking_for(parts[0])
        longest = max(len(example.response.encode()) for example in parts[0])
        made.append(
            Task(
                name=name,
                in_task=in_task,
                marking=marking,
                trained=parts[0],
                fitted=parts[1],
                asked=parts[2],
                shots=sizes.shots,
                max_tokens=min(sizes.max_tokens, math.ceil(0.8 * longest) + 4),
            )
        )
    return tuple(made)


def line_of(example: Example) -> str:
    """Return an example as a line of JSONL."""
    return json.dumps({"prompt": example.prompt, "response": example.response}) + "\n"


def write_training(tasks: Iterable[Task], folder: Path) -> None:
    """Write what devices may train on: one JSONL file per trained task."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task.in_task:
            lines = [line_of(example) for example in task.trained]
            (folder / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")


def check_disjoint(tasks: Iterable[Task], folder: Path) -> None:
    """Refuse items that a device could have trained on.

    Parameters
    ----------
    tasks : Iterable[Task]
    folder : Path
        The training files of the run.

    Raises
    ------
    ConfigError
        There are no training files; they are of other tasks; or they hold a prompt that is asked.
    """
    tasks = list(tasks)
    if not any(folder.glob("*.jsonl")):
        raise ConfigError(
            f"There are no training files in {str(folder)!r}, so nobody can tell what the run was "
            "trained on; give --run the --output folder of an earlier call."
        )
    trained = {name: read_examples(path) for name, path in find_files(str(folder)).items()}
    expected = {task.name for task in tasks if task.in_task}
    if set(trained) != expected:
        raise ConfigError(
            f"The run was trained for {', '.join(sorted(trained))}; --in-task says "
            f"{', '.join(sorted(expected))}."
        )
    known = [example for examples in trained.values() for example in examples]
    for task in tasks:
        for mine, theirs in ((task.asked, [*known, *task.fitted]), (task.fitted, known)):
            if shared := [example.prompt for example in mine if _is_among(example, theirs)]:
                raise ConfigError(
                    f"The task {task.name!r} asks {shared[0][:80]!r}, which was also trained or "
                    "fitted on; every prompt may serve one purpose alone."
                )


def _is_among(example: Example, others: Iterable[Example]) -> bool:
    """Tell whether another example has the same prompt, or the same but for its beginning."""
    return any(
        example.prompt.endswith(other.prompt) or other.prompt.endswith(example.prompt)
        for other in others
    )


def _given(data: str) -> bool:
    return data != "embedded"


def _name(stem: str) -> str:
    return stem.removesuffix("_train")


def _generate(name: str, *, sizes: Sizes, seed: int) -> tuple[tuple[Example, ...], ...]:
    next_line = name == "code"
    trained = _ready(make_examples(name, count=sizes.trained, seed=seed), sizes, next_line)
    wanted = sizes.fitted + sizes.asked
    others = make_examples(name, count=sizes.trained + 4 * wanted, seed=seed + _OTHER_SEED)
    fresh: list[Example] = []
    for example in _ready(others, sizes, next_line):
        if len(fresh) < wanted and not _is_among(example, [*trained, *fresh]):
            fresh.append(example)
    return tuple(trained), *_cut(fresh, name, sizes)


def _split(path: Path, name: str, *, sizes: Sizes, seed: int) -> tuple[tuple[Example, ...], ...]:
    examples = _ready(read_examples(path), sizes)
    order = np.random.default_rng(seed).permutation(len(examples))
    shuffled = [examples[int(row)] for row in order]
    rest = shuffled[sizes.fitted + sizes.asked :][: sizes.trained]
    if len(rest) < max(2, sizes.shots):
        raise ConfigError(
            f"{path} holds {len(examples)} different prompts; {sizes.fitted + sizes.asked} are "
            "asked or fitted on and at least 2 must be left to train on."
        )
    return tuple(rest), *_cut(shuffled, name, sizes)


def _cut(examples: Sequence[Example], name: str, sizes: Sizes) -> list[tuple[Example, ...]]:
    wanted = sizes.fitted + sizes.asked
    if len(examples) < wanted:
        raise ConfigError(
            f"The task {name!r} has {len(examples)} examples that are not trained on; "
            f"{wanted} are needed."
        )
    return [tuple(examples[: sizes.fitted]), tuple(examples[sizes.fitted : wanted])]


def _ready(examples: Sequence[Example], sizes: Sizes, next_line: bool = False) -> list[Example]:
    """Return examples as they are asked, no prompt twice."""
    explained = all(_EXPLAINED.fullmatch(example.response) for example in examples)
    found: dict[str, Example] = {}
    for example in examples:
        prompt, response = example.prompt, _CALCULATOR.sub("", example.response)
        if explained:
            response = _EXPLAINED.sub(r"\1", response)
        if next_line:
            # The next line alone is asked for, so the prompt ends where it begins.
            prompt, response = prompt + "\n", response.strip("\n").split("\n")[0]
        if len(prompt) > sizes.prompt_characters:
            prompt = prompt[-sizes.prompt_characters :].split(" ", 1)[-1]
        if response.strip():
            found.setdefault(prompt, Example(prompt, response))
    return list(found.values())
