"""The tasks, each in three parts without a common prompt, and how their answers are marked."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.data import read_examples
from flower_strategy.data.embedded import TASKS, make_examples
from flower_strategy.data.examples import Example
from flower_strategy.data.files import find_files, read_rows
from flower_strategy.data.forms import Row

#: What a file's name says of the part of a data set that it holds.
_PART = re.compile(r"_(train|test)$")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_STATED = re.compile(r"(?:####|[Tt]he answer is)\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)")
_PIECES = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Marking:
    """How the answers of a kind of task are read."""

    kind: str  # its name in the results
    rule: str  # what counts as right, in words
    #: Text of an answer -> the value compared with the reference's; None if the answer has none,
    #: which is never right.
    final: Callable[[str], Hashable]

    def right(self, answer: str, reference: str) -> bool:
        found = self.final(answer)
        return found is not None and found == self.final(reference)


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the words and signs that two texts share, as in SQuAD; 0 to 1.

    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016; here
    signs count too, since code and records consist of them.
    """
    first, second = (Counter(_PIECES.findall(text.lower())) for text in (answer, reference))
    shared = (first & second).total()
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def _record(text: str) -> str | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    return json.dumps(value, sort_keys=True)


def _number(text: str) -> float | None:
    stated = _STATED.search(text)
    found = [stated.group(1)] if stated else _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


RECORD = Marking("record", "the first JSON value equals the reference's", _record)
NUMBER = Marking(
    "number", "the number after 'The answer is' or '####', else the last one, is right", _number
)
CHOICE = Marking(
    "choice",
    "the first word is the reference's",
    lambda text: next(iter(re.findall(r"[a-z]+", text.lower())), None),
)
LINE = Marking(
    "line",
    "the next line equals the reference's but for blanks at its ends",
    lambda text: text.strip("\n").split("\n")[0].strip() or None,
)
WHOLE = Marking(
    "whole",
    "the text equals the reference but for blanks",
    lambda text: " ".join(text.split()) or None,
)


def marking_for(examples: Sequence[Example]) -> Marking:
    """Return how a file's answers are read, judged by its references."""
    references = [example.response.strip() for example in examples]
    if all(_STATED.search(reference) for reference in references):
        return NUMBER
    if all(_record(reference) is not None for reference in references):
        return RECORD
    if all(re.fullmatch(r"(yes|no|maybe)\b.*|[A-E]", text, re.DOTALL) for text in references):
        return CHOICE
    return WHOLE


#: GSM8K's calculator annotations, which are not part of a readable answer.
_CALCULATOR = re.compile(r"<<[^>]*>>")
#: PubMedQA's long answer after the short one; only the short one is requested.
_EXPLAINED = re.compile(r"(\s*(?:yes|no|maybe)\.)\s.+", re.DOTALL)
#: Added to the seed for embedded examples that no device gets.
_OTHER_SEED = 7_919


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers of examples and tokens per task."""

    trained: int  # most examples that devices train on
    fitted: int  # examples that the cascade's threshold is fitted on
    asked: int  # items that the systems are compared on
    shots: int  # solved examples in front of every prompt, of those that devices may train on
    prompt_characters: int  # longer prompts lose their beginning, for every system alike
    max_tokens: int  # of an answer, whatever the task


@dataclass(frozen=True)
class Task:
    """One task; of one that is not trained, `trained` gives the shots alone."""

    name: str
    in_task: bool  # whether the SLM is fine-tuned for it
    marking: Marking
    trained: tuple[Example, ...]
    fitted: tuple[Example, ...]
    asked: tuple[Example, ...]
    shots: int
    max_tokens: int  # of an answer; enough for the longest reference of `trained`

    def prompt(self, example: Example) -> str:
        """Return the prompt for every system: the shots, then the example's prompt."""
        solved = [shot.text.strip("\n") for shot in self.trained[: self.shots]]
        return "\n\n".join([*solved, example.prompt])

    @property
    def stop(self) -> tuple[str, ...]:
        """Where an answer ends: at a blank line, or at any where the references have one line."""
        lines = any("\n" in example.response.strip("\n") for example in self.trained)
        return ("\n\n",) if lines else ("\n",)


def default_tasks(data: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the tasks that are trained, and of those that are not."""
    names = list(_files(data))
    inside = ("arithmetic", "records", *(name for name in names if name == "pubmedqa"))
    return inside, ("code", *(name for name in names if name not in inside))


def make_tasks(names: Mapping[str, bool], *, data: str, sizes: Sizes, seed: int) -> list[Task]:
    """Make the tasks; `names` says of each whether it is trained."""
    files = _files(data)
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
        trained, fitted, asked = map(tuple, parts)
        marking = LINE if name == "code" and name not in files else marking_for(trained)
        longest = max(len(example.response.encode()) for example in trained)
        most = min(sizes.max_tokens, math.ceil(0.8 * longest) + 4)
        made.append(Task(name, in_task, marking, trained, fitted, asked, sizes.shots, most))
    return made


def line_of(example: Example) -> str:
    return json.dumps({"prompt": example.prompt, "response": example.response}) + "\n"


def write_training(tasks: Iterable[Task], folder: Path) -> None:
    """Write what devices may train on: one JSONL file per trained task."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task.in_task:
            lines = [line_of(example) for example in task.trained]
            (folder / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")


def check_disjoint(tasks: Iterable[Task], folder: Path) -> None:
    """Refuse items that a device could have trained on, by the training files in `folder`."""
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


def _files(data: str) -> dict[str, Path]:
    files = find_files(data) if data != "embedded" else {}
    return {_PART.sub("", stem): path for stem, path in files.items()}


def _examples(path: Path) -> list[Example]:
    """Read a file, whose rows may be questions with lettered choices, as those of ARC are.

    Of such a file, rows without choices cannot be answered and are left out.
    """
    choices = [_of_choices(row) for _, row in read_rows(path)]
    return [each for each in choices if each] or read_examples(path)


def _of_choices(row: Row) -> Example | None:
    """Return the example of a question with choices; None for any other row.

    Clark et al., "Think you have Solved Question Answering? Try ARC", arXiv 1803.05457.
    """
    letters = [letter for letter in "ABCDE" if row.get(letter)]
    if not row.get("question") or row.get("answer") not in letters:
        return None
    listed = "".join(f"\n{letter}. {row[letter]}" for letter in letters)
    return Example(f"Question: {row['question']}{listed}\nAnswer:", f" {row['answer']}")


def _generate(name: str, *, sizes: Sizes, seed: int) -> list[list[Example]]:
    next_line = name == "code"
    trained = _ready(make_examples(name, count=sizes.trained, seed=seed), sizes, next_line)
    wanted = sizes.fitted + sizes.asked
    others = make_examples(name, count=sizes.trained + 4 * wanted, seed=seed + _OTHER_SEED)
    fresh: list[Example] = []
    for example in _ready(others, sizes, next_line):
        if len(fresh) < wanted and not _is_among(example, [*trained, *fresh]):
            fresh.append(example)
    return [trained, *_cut(fresh, name, sizes)]


def _split(path: Path, name: str, *, sizes: Sizes, seed: int) -> list[list[Example]]:
    examples = _ready(_examples(path), sizes)
    order = np.random.default_rng(seed).permutation(len(examples))
    shuffled = [examples[int(row)] for row in order]
    rest = shuffled[sizes.fitted + sizes.asked :][: sizes.trained]
    if len(rest) < max(2, sizes.shots):
        raise ConfigError(
            f"{path} holds {len(examples)} different prompts; {sizes.fitted + sizes.asked} are "
            "asked or fitted on and at least 2 must be left to train on."
        )
    return [rest, *_cut(shuffled, name, sizes)]


def _cut(examples: list[Example], name: str, sizes: Sizes) -> list[list[Example]]:
    wanted = sizes.fitted + sizes.asked
    if len(examples) < wanted:
        raise ConfigError(
            f"The task {name!r} has {len(examples)} examples that are not trained on; "
            f"{wanted} are needed."
        )
    return [examples[: sizes.fitted], examples[sizes.fitted : wanted]]


def _ready(examples: Sequence[Example], sizes: Sizes, next_line: bool = False) -> list[Example]:
    """Return examples as they are sent, without duplicate prompts."""
    explained = all(_EXPLAINED.fullmatch(example.response) for example in examples)
    found: dict[str, Example] = {}
    for example in examples:
        prompt, response = example.prompt, _CALCULATOR.sub("", example.response)
        if explained:
            response = _EXPLAINED.sub(r"\1", response)
        if next_line:
            # Only the next line is requested, so the prompt ends where it begins.
            prompt, response = prompt + "\n", response.strip("\n").split("\n")[0]
        if len(prompt) > sizes.prompt_characters:
            prompt = prompt[-sizes.prompt_characters :].split(" ", 1)[-1]
        if response.strip():
            found.setdefault(prompt, Example(prompt, response))
    return list(found.values())
