import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from matplotlib.image import imread

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.__main__ import (
    NOT_RUN,
    RESULTS,
    ROOT,
    FailedError,
    Runner,
    index,
    measure,
    rewrite,
)
from integration_tests.benchmarks.cli import cells
from integration_tests.benchmarks.data import find_data
from integration_tests.benchmarks.pages import BEGIN, END, draw, markdown_table, result, write_page
from integration_tests.benchmarks.suite import SUITE, Benchmark, named

FOLDER = ROOT / "integration_tests" / "benchmarks"
SMALL = Benchmark(
    name="aggregation_cost", title="A small one", quick="--size 96x160 --clients 3 --repeats 1"
)


def test_no_benchmark_is_left_out() -> None:
    packages = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert {each.name for each in SUITE} == packages


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda each: each.name)
def test_a_benchmark_has_a_figure_and_a_page_with_both_markers(benchmark: Benchmark) -> None:
    assert (FOLDER / benchmark.name / "figure.py").is_file()
    page = (RESULTS / f"{benchmark.name}.md").read_text("utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert f"python -m integration_tests.benchmarks.{benchmark.name}" in page
    for heading in ("What it shows", "What it does not show", "How it is measured"):
        assert f"\n## {heading}\n" in page


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda each: each.name)
def test_what_is_published_is_what_the_json_says(benchmark: Benchmark, tmp_path: Path) -> None:
    text = (RESULTS / f"{benchmark.name}.json").read_text("utf-8")
    assert str(Path.home()) not in text
    assert str(ROOT.parent) not in text
    values = json.loads(text)
    assert values["run"]["seconds"] > 1
    assert values["machine"]["cores"] >= 1
    assert result(benchmark, values) in (RESULTS / f"{benchmark.name}.md").read_text("utf-8")
    draw(benchmark.name, values, tmp_path / "again.png")
    again, published = imread(tmp_path / "again.png"), imread(RESULTS / f"{benchmark.name}.png")
    assert again.shape == published.shape
    # Not one colour alone, and the same picture but for how another release draws letters.
    assert again.std() > 0.05
    assert abs(again - published).mean() < 0.02


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda each: each.name)
def test_table_and_remarks_follow_from_the_values(benchmark: Benchmark) -> None:
    values = json.loads((RESULTS / f"{benchmark.name}.json").read_text("utf-8"))
    command = import_module(f"integration_tests.benchmarks.{benchmark.name}.__main__")
    options = command.OPTIONS.read(shlex.split(values["run"]["command"])[3:])
    found = command.result(values, options)
    table = {"header": list(found.header), "rows": cells(found.rows)}
    assert (table, list(found.remarks)) == (values["table"], values["remarks"])


def test_the_index_says_what_the_pages_say(tmp_path: Path) -> None:
    for file in RESULTS.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index(tmp_path, quick=False, left_out={})
    assert (tmp_path / "index.md").read_text() == (RESULTS / "index.md").read_text()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return the folder of a run of a benchmark that is there and of one that is not."""
    folder = tmp_path_factory.mktemp("measured")
    return folder, measure([Benchmark("nothing", "Not there"), SMALL], folder, size="quick")


def test_the_suite_writes_json_figure_page_and_index(measured: tuple[Path, dict[str, str]]) -> None:
    folder, _ = measured
    index(folder, quick=True, left_out={})
    values = json.loads((folder / "aggregation_cost.json").read_text())
    assert values["cases"][0]["clients"] == 3
    assert imread(folder / "aggregation_cost.png").std() > 0.05
    page = (folder / "aggregation_cost.md").read_text()
    assert "![A small one](aggregation_cost.png)" in page
    assert f"{values['cases'][0]['speedup']:.4g}" in page
    listed = (folder / "index.md").read_text()
    (folder / "aggregation_cost.png").unlink()
    (folder / "aggregation_cost.md").unlink()
    assert rewrite([SMALL], folder) == {}
    assert (folder / "aggregation_cost.md").read_text() == page
    assert imread(folder / "aggregation_cost.png").std() > 0.05
    assert rewrite([Benchmark("gate", "Not there")], folder) == {"gate": NOT_RUN}
    assert values["remarks"][0] in listed
    assert "gate: it was not run." in listed


def test_a_benchmark_that_fails_is_named_and_the_others_run(
    measured: tuple[Path, dict[str, str]],
) -> None:
    broken = Benchmark("aggregation_cost", "Broken", quick="--size large")
    with pytest.raises(FailedError, match="aggregation_cost ended with status 2"):
        Runner(size="quick").run(broken)
    folder, left_out = measured
    assert left_out == {"nothing": "nothing ended with status 1."}
    assert (folder / "aggregation_cost.md").is_file()


def test_an_interrupted_suite_ends_what_it_has_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "integration_tests.benchmarks", "--only", "scale"]
    marker = str(uuid.uuid4())

    def alive() -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if _environment(each).get("MARK") == marker]

    def measures() -> bool:
        """Tell whether a benchmark runs; libraries start processes of their own when imported."""
        with contextlib.suppress(psutil.Error):
            return any("integration_tests.benchmarks.scale" in each.cmdline() for each in alive())
        return False

    with subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        env={**os.environ, "MARK": marker},
        stderr=subprocess.PIPE,
        text=True,
    ) as suite:
        while not measures():
            assert suite.poll() is None
            time.sleep(0.1)
        suite.terminate()
        _, said = suite.communicate(timeout=60)
    assert suite.returncode == 130
    assert "every process that was started has been ended" in said
    assert alive() == []
    assert not list(tmp_path.glob("*.json"))


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def test_data_of_the_same_kinds_goes_where_it_belongs(tmp_path: Path) -> None:
    rows = {
        "a": {"question": "1 + 1?", "answer": "2"},
        "b": {"context": "c", "question": "q", "answer": "yes", "long_answer": "l"},
        "c": {"text": "Ada", "spans": [{"type": "PERSON", "start": 0, "end": 3}]},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in rows)
    data = find_data(tmp_path)
    asked = {each.name: each.arguments(size="quick", data=data) for each in SUITE}
    assert asked["federated_quality"][-2:] == ["--data", f"{a},{b}"]
    assert asked["fusion_quality"][-3:] == ["--text", a, b]
    assert asked["gate"][-2:] == ["--data", c]
    assert asked["privacy"][-2:] == ["--data", f"{c},{a},{b}"]
    assert asked["scale"] == next(each.quick for each in SUITE if each.name == "scale").split()
    with pytest.raises(ConfigError, match="no folder"):
        find_data(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no JSONL file"):
        find_data(tmp_path / "empty")


def test_the_published_sizes_are_the_usual_ones_but_for_those_named() -> None:
    usual = {each.name: each.arguments(size="usual") for each in SUITE}
    full = {each.name: each.arguments(size="full") for each in SUITE}
    assert {name for name in usual if usual[name] != full[name]} == {"answers"}
    assert full["answers"][:2] == ["--items", "100"]


def test_the_larger_model_goes_to_the_benchmarks_of_two() -> None:
    asked = {each.name: each.arguments(size="usual", llm="one/model") for each in SUITE}
    assert asked["answers"][-2:] == ["--llm", "one/model"]
    assert asked["fusion_quality"][-2:] == ["--further-hosts", "one/model"]
    assert sum("one/model" in each for each in asked.values()) == 2


def test_the_command_says_what_it_does_not_know() -> None:
    command = [sys.executable, "-m", "integration_tests.benchmarks", "--only", "poems"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "There is no benchmark 'poems'; there are federated_quality, " in done.stderr
    assert named([]) == list(SUITE)
    with pytest.raises(ConfigError, match="'poems'"):
        named(["gate", "poems"])


def values_of(**more: Any) -> dict[str, Any]:
    machine = {"cores": 2, "processor": "x", "memory_gib": 1, "load": 0, "python": "3"}
    machine |= {"libraries": {"numpy": "2"}, "blas": []}
    table = {"header": ["way", "s"], "rows": [["a|b", "1.5"]]}
    run = {"command": "python -m x", "seconds": 3.0}
    return {"table": table, "remarks": ["It is <1."], "run": run, "machine": machine, **more}


def test_a_page_keeps_its_prose_and_changes_between_the_markers(tmp_path: Path) -> None:
    frame, page = tmp_path / "frame.md", tmp_path / "page.md"
    frame.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\n## What it shows\n")
    for _ in range(2):
        write_page(SMALL, values_of(seeds=[0, 1]), frame=frame, page=page)
        frame = page
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith(f"{END}\n\n## What it shows\n")
    assert "old" not in text
    assert "| way | s |\n| --- | ---: |\n| a\\|b | 1.5 |" in text
    assert "Seeds: 0, 1." in text
    assert "numpy 2" in text
    assert "- It is &lt;1." in text
    frame.write_text("# Title\n")
    with pytest.raises(ConfigError, match=r"page\.md needs"):
        write_page(SMALL, values_of(), frame=frame, page=page)
    with pytest.raises(ConfigError, match=r"none\.md is missing"):
        write_page(SMALL, values_of(), frame=tmp_path / "none.md", page=page)


def test_columns_of_numbers_stand_to_the_right() -> None:
    rows = [["a", "1.5", "-", "2 x"], ["b", "12 %", "1e-05", "3"]]
    assert markdown_table(["n", "x", "y", "z"], rows)[1] == "| --- | ---: | ---: | --- |"
