"""A hundred greedy answers: where both models end theirs, the fused one ends too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from integration_tests.benchmarks.answers.tasks import Sizes, Task, make_tasks
from integration_tests.harness.in_process import Writer, fused_answers, fusing
from vllm_logits_processor.engine import FusionEngine

HOST, EXPERT = "embedded:smollm2-135m-instruct", "embedded:gemma-3-270m"
ASKED = 50  # of each task
TASKS = ("records", "arithmetic")

#: Answers that may go on although both models end theirs: the two can keep each other from ending
#: where they mean different answers, which no rule of a step can see.
MOST_ENDLESS = 3


@dataclass(frozen=True)
class Pair:
    host: Writer
    expert: Writer
    engine: FusionEngine


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    host, expert = Writer(HOST), Writer(EXPERT)
    with fusing(host, EXPERT) as engine:
        yield Pair(host, expert, engine)


def tasks() -> list[Task]:
    sizes = Sizes(trained=40, fitted=0, asked=ASKED, shots=2, prompt_characters=1200, max_tokens=96)
    return make_tasks(dict.fromkeys(TASKS, False), data="embedded", sizes=sizes, seed=5)


def test_a_fused_answer_ends_where_both_models_would_end_theirs(pair: Pair) -> None:
    endless, ended = 0, 0
    for task in tasks():
        prompts = [task.prompt(each) for each in task.asked]
        most, stop = task.max_tokens, task.stop[0]
        fused = fused_answers(pair.engine, pair.host, prompts, max_tokens=most, stop=stop)
        ended += sum(answer.ended for answer in fused)
        # Only where the fused answer goes on does it matter what each model does alone.
        asked = [prompt for prompt, answer in zip(prompts, fused, strict=True) if not answer.ended]
        host = pair.host.answers(asked, max_tokens=most, stop=stop)
        expert = pair.expert.answers(asked, max_tokens=most, stop=stop)
        endless += sum(one.ended and other.ended for one, other in zip(host, expert, strict=True))
    assert ended >= ASKED
    assert endless <= MOST_ENDLESS
