import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.suite import SUITE

RESULT = cli.Result(
    header=["size", "seconds"], rows=[["2048x2048", 0.123456], ["8x8", 1]], remarks=["A remark."]
)


def test_json_is_one_object_alone_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in cli.progress(range(2), "counting"):
        cli.note("a word")
    cli.show({"seconds": 1.5}, RESULT, as_json=True)
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["seconds"] == 1.5
    assert values["machine"]["cores"] >= 1
    assert values["machine"]["blas"]
    rows = [["2048x2048", "0.1235"], ["8x8", "1"]]
    assert values["table"] == {"header": ["size", "seconds"], "rows": rows}
    assert values["remarks"] == ["A remark."]
    assert values["run"]["seconds"] > 0
    assert "counting" in err
    assert "a word" in err


def test_the_table_is_aligned_and_says_where_it_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.show({}, RESULT, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["size       seconds", "2048x2048  0.1235", "8x8        1"]
    assert lines[-2] == "A remark."
    assert lines[-1].startswith("Measured on: ")


def test_the_command_is_what_a_reader_would_give() -> None:
    module = "integration_tests.benchmarks.fusion_cost"
    size = ["--synthetic", "--rows", "1", "--vocabulary", "300", "--k", "5", "--repeats", "1"]
    command = [sys.executable, "-m", module, *size, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    run = json.loads(done.stdout)["run"]
    assert run["command"] == shlex.join(["python", "-m", module, *size])


def test_the_machine_has_no_host_name_and_no_path() -> None:
    text = json.dumps(cli.machine())
    assert socket.gethostname() not in text
    assert os.sep not in text


@pytest.mark.parametrize("name", [each.name for each in SUITE])
def test_help_names_the_module_and_json(name: str) -> None:
    text = import_module(f"integration_tests.benchmarks.{name}.__main__").OPTIONS.format_help()
    assert f"python -m integration_tests.benchmarks.{name} [-h] [--json]" in " ".join(text.split())
    assert "--json" in text


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("aggregation_cost", "--size large", "--size is MxN such as 2048x2048, not 'large'"),
        ("answers", "--items 0", "at least 1"),
        ("answers", "--shots -1", "at least 0"),
        ("answers", "--in-task records --out-of-task records", "stands twice"),
        ("deadlines", "--tokens 2", "at least 8"),
        ("deadlines", "--deadlines 0", "above 0"),
        ("deadlines", "--sigma -1", "not negative"),
        ("deadlines", "--host nosuch:model", "nosuch"),
        ("decode_overlap", "--tokens 2", "--tokens is at least 8"),
        ("decode_peers", "--repeats 0", "at least 1"),
        ("federated_quality", "--methods floe,fedprox", "names no method fedprox"),
        ("fusion_cost", "--rows 0", "at least 1"),
        ("privacy", "--public 0", "at least 1"),
        ("rank_latency", "--ranks 8", "two ranks or more"),
        ("rank_latency", "--devices watch", "no device class"),
        ("scale", "--devices 20", "at least 200"),
        ("scale", "--streams 0", "at least 1"),
        ("scale", "--forward-ms 0", "above 0"),
    ],
)
def test_what_is_out_of_range_is_refused(
    name: str, wrong: str, said: str, error_of: Callable[..., str]
) -> None:
    main = import_module(f"integration_tests.benchmarks.{name}.__main__").main
    assert said in error_of(main, *wrong.split())
