import json
import os
import shlex
import socket
import subprocess
import sys

import pytest

from integration_tests.benchmarks import cli


def test_json_is_one_object_alone_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    options = cli.parser("Measures nothing.").parse_args(["--json"])
    for _ in cli.progress(range(2), "counting"):
        cli.note("a word")
    cli.show(options, {"seconds": 1.5}, header=["seconds"], rows=[[1.5]], remarks=["unseen"])
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["seconds"] == 1.5
    assert values["machine"]["cores"] >= 1
    assert values["machine"]["blas"]
    assert values["table"] == {"header": ["seconds"], "rows": [["1.5"]]}
    assert values["remarks"] == ["unseen"]
    assert values["run"]["seconds"] > 0
    assert "counting" in err
    assert "a word" in err


def test_the_table_is_aligned_and_says_where_it_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = cli.parser("Measures nothing.").parse_args([])
    cli.show(
        options,
        {},
        header=["size", "seconds"],
        rows=[["2048x2048", 0.123456], ["8x8", 1]],
        remarks=["A remark."],
    )
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
