import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins.errors import ConfigError
from floe_plugins.routers import CERTAIN, RouterSignals
from integration_tests.benchmarks.answers import random_router, systems
from integration_tests.benchmarks.answers.__main__ import main
from integration_tests.benchmarks.answers.costs import Meter
from integration_tests.benchmarks.answers.device import Device, has_gguf
from integration_tests.benchmarks.answers.servers import (
    ALONE,
    ASKING,
    FLOE,
    LLM,
    MEAN,
    RANDOM,
    SLM,
    SLM_BASE,
    Item,
    Reply,
)
from integration_tests.benchmarks.answers.tasks import (
    CHOICE,
    LINE,
    NUMBER,
    RECORD,
    WHOLE,
    Marking,
    Sizes,
    Task,
    check_disjoint,
    line_of,
    make_tasks,
    token_f1,
    write_training,
)
from integration_tests.benchmarks.pages import draw
from integration_tests.harness.tiny_models import TinyModels
from integration_tests.harness.vllm_servers import Server

SIZES = Sizes(trained=12, fitted=3, asked=4, shots=0, prompt_characters=300, max_tokens=72)


def made(names: dict[str, bool], *, data: str = "embedded", sizes: Sizes = SIZES) -> list[Task]:
    return list(make_tasks(names, data=data, sizes=sizes, seed=0))


# ------------------------------------------------------------------- marking


@pytest.mark.parametrize(
    ("marks", "answer", "reference", "right"),
    [
        (NUMBER, " 2 + 3 = 5. The answer is 5. 9", "#### 5", True),
        (NUMBER, " That makes 1,200", "The answer is 1200.", True),
        (NUMBER, " 5 apples of 6", "The answer is 5.", False),
        (NUMBER, " none", "The answer is 5.", False),
        (RECORD, ' {"b": 2, "a": 1} and more', '{"a": 1, "b": 2}', True),
        (RECORD, ' {"a": 1', '{"a": 1}', False),
        (CHOICE, " Yes, it does", " yes.", True),
        (CHOICE, " it says yes", " yes.", False),
        (LINE, "    return 1  \nmore", "    return 1", True),
        (LINE, "", "    return 1", False),
        (WHOLE, " two\nwords", "two words", True),
    ],
)
def test_what_is_right_depends_on_the_kind(
    marks: Marking, answer: str, reference: str, right: bool
) -> None:
    assert marks.right(answer, reference) is right


def test_token_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # Three of four pieces shared with five: precision 3/4, recall 3/5.
    assert token_f1("a b c x", "A b c d e") == pytest.approx(2 / (4 / 3 + 5 / 3))
    assert token_f1("", "a") == 0


# --------------------------------------------------------------------- tasks


def test_no_prompt_serves_two_purposes() -> None:
    tasks = made({"arithmetic": True, "records": True, "code": False})
    for task in tasks:
        parts = [{one.prompt for one in part} for part in (task.trained, task.fitted, task.asked)]
        assert [len(part) for part in parts[1:]] == [3, 4]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert all(task.marking.right(one.response, one.response) for one in task.asked)
    code = tasks[2]
    assert all(one.prompt.endswith("\n") and "\n" not in one.response for one in code.asked)


def test_a_run_that_was_trained_on_what_is_asked_is_refused(tmp_path: Path) -> None:
    tasks = made({"records": True})
    with pytest.raises(ConfigError, match="no training files"):
        check_disjoint(tasks, tmp_path)
    write_training(tasks, tmp_path)
    check_disjoint(tasks, tmp_path)
    with pytest.raises(ConfigError, match="trained for records; --in-task says arithmetic"):
        check_disjoint(made({"arithmetic": True}), tmp_path)
    asked = line_of(tasks[0].asked[0])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(asked)
    with pytest.raises(ConfigError, match="also trained or fitted on"):
        check_disjoint(tasks, tmp_path)


def test_a_file_is_a_task_and_its_kind_is_seen(tmp_path: Path) -> None:
    rows = [
        {"question": f"Is {number} even?", "context": "c" * 400, "answer": answer}
        for number, answer in enumerate(["yes", "no"] * 10)
    ]
    explained = [{**row, "long_answer": "So it is."} for row in rows]
    file = tmp_path / "even_train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in explained))
    (task,) = made({"even": True}, data=str(file))
    assert task.marking.kind == "choice"
    assert {one.response.strip() for one in task.trained} == {"yes.", "no."}
    assert all(len(one.prompt) <= 300 and one.prompt.endswith("Answer:") for one in task.asked)
    shots = made({"even": True}, data=str(file), sizes=Sizes(**{**vars(SIZES), "shots": 2}))[0]
    assert shots.prompt(shots.asked[0]).count("Answer:") == 3
    choices = [
        {"question": f"Which is {n}?", "A": "this", "B": f"{n}", "C": "", "answer": "B"}
        for n in range(20)
    ]
    unanswered = {"question": "Which?", "A": "", "B": "", "C": "", "answer": "2"}
    file = tmp_path / "which_test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [unanswered, *choices]))
    (which,) = made({"which": False}, data=str(file))
    assert which.marking.kind == "choice"
    assert {one.response for one in which.trained} == {" B"}
    assert all(
        re.fullmatch(r"Question: .*\nA. this\nB. \d+\nAnswer:", one.prompt) for one in which.asked
    )
    with pytest.raises(ConfigError, match="20 different prompts"):
        made({"which": True}, data=str(file), sizes=Sizes(**{**vars(SIZES), "asked": 16}))
    with pytest.raises(ConfigError, match="'odd' is not known; accepted are code, arithmetic"):
        made({"odd": True}, data=str(file))


# ------------------------------------------------------------------- systems


def test_the_random_router_gives_each_model_half_of_the_rows() -> None:
    entropies = np.random.default_rng(0).random(4_000)
    signals = RouterSignals(
        host_entropy=entropies,
        expert_entropy=entropies,
        disagreement=entropies,
        evidence=entropies,
    )
    odds = random_router.RandomRouter().log_odds(signals)
    assert set(odds) == {CERTAIN, -CERTAIN}
    assert abs((odds > 0).mean() - 0.5) < 0.05
    alone = replace(signals, host_entropy=entropies[7:8])
    assert random_router.RandomRouter().log_odds(alone)[0] == odds[7]


def reply(text: str, logprob: float) -> Reply:
    return Reply(text=text, tokens=1, logprob=logprob, request_bytes=1, seconds=0.1)


def test_the_router_takes_whom_the_prompt_surprises_less() -> None:
    assert systems.routed({LLM: 1.0, SLM: 0.9}) == SLM
    assert systems.routed({LLM: 0.9, SLM: 1.0}) == LLM


def test_the_threshold_separates_sure_answers_from_wrong_ones() -> None:
    (task,) = made({"arithmetic": True})
    items = [
        Item(key=key, task=task, question="", prompt="", reference="The answer is 1.", adapter="a")
        for key in ("sure", "torn", "lost")
    ]
    replies = {
        SLM: {"sure": reply("1", -0.1), "torn": reply("2", -0.5), "lost": reply("3", -0.9)},
        LLM: {"sure": reply("9", -0.1), "torn": reply("1", -0.1), "lost": reply("1", -0.1)},
    }
    threshold = systems.fitted_threshold(items, replies)
    assert -0.5 < threshold <= -0.1
    assert [systems.escalates(replies[SLM][item.key], threshold) for item in items] == [
        False,
        True,
        True,
    ]
    # An SLM that is always right is never passed over.
    right = {SLM: {item.key: reply("1", -0.5) for item in items}, LLM: replies[LLM]}
    assert systems.fitted_threshold(items, right) == -math.inf


# ------------------------------------------------------------------- servers


def test_both_engines_are_told_which_adapter_answers(tmp_path: Path) -> None:
    server = Server(name="slm", url="http://localhost/v1", log=tmp_path, process=None)  # type: ignore[arg-type]
    vllm = Device(server=server, engine="vllm", ids={})
    assert (vllm.asked("b"), vllm.asked(None)) == ({"model": "b"}, {})
    llama = Device(server=server, engine="llama.cpp", ids={"a": 0, "b": 1})
    assert llama.asked("b") == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}
    assert all(each["scale"] == 0 for each in llama.asked(None)["lora"])
    assert has_gguf("embedded:smollm2-135m-instruct")
    assert not has_gguf(str(tmp_path))


# ------------------------------------------------------------------ metering


def test_the_meter_reads_processor_seconds_and_joules_over_a_wrap(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "energy_uj").write_text("900000")
    (package / "max_energy_range_uj").write_text("1000000")
    meter = Meter({"me": os.getpid()}, powercap=tmp_path)
    before, begun = meter.read(), time.process_time()
    while time.process_time() < begun + 0.2:
        pass
    (package / "energy_uj").write_text("100000")
    after = meter.read()
    assert meter.cpu_between(before, after, ["me"]) >= 0.15
    assert meter.joules_between(before, after) == pytest.approx(0.2)
    nothing = Meter({"me": os.getpid()}, powercap=tmp_path / "none")
    assert nothing.joules_between(nothing.read(), nothing.read()) is None


# ---------------------------------------------------------------- the command


def test_a_whole_run_from_training_to_the_figure(
    tiny: TinyModels, tmp_path: Path, values_of: Callable[..., Any], error_of: Callable[..., str]
) -> None:
    few = ["--items", "3", "--fit", "1", "--timed", "1", "--trained", "12", "--max-tokens", "6"]
    short = ["--rounds", "1", "--local-steps", "1", "--max-length", "16"]
    which = ["--in-task", "records", "--out-of-task", "arithmetic", "--data", "embedded"]
    which += ["--further", f"{SLM_BASE},{RANDOM},{ASKING}"]
    which += ["--shots", "1", "0", "--other-llms", tiny.host, "--other-items", "2"]
    output = tmp_path / "output"
    kept = ["--output", str(output), "--slm", tiny.host, "--llm", tiny.host]
    values = values_of(main, *few, *short, *which, *kept)

    assert values["federation"]["clusters"][0]["tasks"] == ["records"]
    cells = {(cell["task"], cell["system"]): cell for cell in values["cells"]}
    marked = {each["system"] for each in values["cells"]}
    assert marked == set(systems.SYSTEMS) - {MEAN}
    assert len(cells) == 2 * len(marked)
    for task in ("records", "arithmetic"):
        best = cells[task, "hindsight"]
        assert best["n"] == 3
        assert best["low"] <= best["exact_match"] <= best["high"]
        assert best["f1"] >= max(cells[task, each]["f1"] for each in ("slm", "llm", "router"))
    for total in values["totals"]:
        own = [cells[task, total["system"]] for task in ("records", "arithmetic")]
        assert (total["n"], total["right"]) == (6, sum(each["right"] for each in own))
        assert total["f1"] == pytest.approx(sum(each["f1"] for each in own) / 2)
    priced = {row[0] for row in values["table"]["rows"] if row[-1] != "-"}
    assert priced == {*marked, ASKING} - {systems.HINDSIGHT}
    assert {row[1] for row in values["table"]["rows"] if row[-1] != "-"} == {"all"}
    costs: dict[str, dict[str, Any]] = values["costs"]
    assert costs["slm"]["bytes_left"] == costs["slm-base"]["bytes_left"] == 0
    assert costs["floe"]["bytes_left"] > costs["llm"]["bytes_left"] > 0
    assert costs["router"]["bytes_left"] == costs["llm"]["bytes_left"]
    assert all(cost["cpu_seconds"] > 0 for cost in costs.values())
    assert costs["router"]["latency_ms"] > min(costs[each]["latency_ms"] for each in (SLM, LLM))
    assert values["fusion"]["fused_share"] > 0.9
    for each in values["against_better"]:
        best = max(cells[each["task"], writer]["right"] for writer in (LLM, SLM))
        own = cells[each["task"], each["system"]]["right"]
        assert own - best == each["system_only"] - each["other_only"]
    texts = [answer["texts"] for answer in values["answers"]]
    assert all(set(each) == {*ALONE, SLM_BASE, RANDOM, FLOE} for each in texts)
    assert len({each["llm"] for each in texts}) > 1

    assert [(each["shots"], each["cells"][0]["n"]) for each in values["others"]] == [(0, 3), (1, 2)]
    assert [each["costs"] for each in values["others"]] == [{}, {}]
    (right,) = values["other_tables"]
    # Per comparison a row per task, and one for all.
    assert [row[2:4] for row in right["rows"]] == [
        [task, str(items)]
        for each in (3, 3, 2)
        for task, items in (("records", each), ("arithmetic", each), ("all", 2 * each))
    ]

    draw("answers", values, tmp_path / "answers.png")
    assert (tmp_path / "answers.png").read_bytes()[:4] == b"\x89PNG"

    # A run that was interrupted goes on from what has been answered.
    kept = (output / "answers.jsonl").read_text().splitlines()[1:]
    assert len(kept) == 2 * (2 * 4 + 3 * 3 + 3)
    # What was trained for other tasks, or on what is asked, is not taken again.
    reused = ["--run", str(output), "--data", "embedded", *few]
    said = error_of(main, *reused, "--in-task", "code")
    assert "trained for records; --in-task says code" in said
    data = output / "data" / "records.jsonl"
    asked = made({"records": True}, sizes=Sizes(**{**vars(SIZES), "fitted": 1, "asked": 3}))[0]
    data.write_text(data.read_text() + line_of(asked.asked[0]))
    said = error_of(main, *reused, "--in-task", "records", "--out-of-task", "")
    assert "also trained or fitted on" in said
