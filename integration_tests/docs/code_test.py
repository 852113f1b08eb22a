"""Every code block of README and docs runs in a test, or says which test runs what it shows.

What a block may be:

- ``<!-- test: NAME -->`` above it: the page's own test runs it (`OWN_TESTS`);
- ``<!-- shown-by: PATH::TEST -->``: that test runs its commands, with its own folders and ports;
- ``<!-- needs: gpu -->``, or ``index`` for one of packages: its syntax is checked. What set-up
  installs is what the tests run in;
- with a title: a file, which the commands and programs below it on the page find;
- ``python`` or ``bash`` and nothing else: it is run here, in the order of the page;
- ``<!-- output -->``: exactly what the block above it prints;
- ``json``, ``toml``, ``yaml``: it is parsed. ``text``: an excerpt.

Pages of benchmarks show commands that take too long here: each benchmark that they name has a test
that runs it with small sizes.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from floe_plugins.cli import main
from integration_tests.harness.markdown import Block, blocks_of
from vllm_logits_processor.observe import _Instruments

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# The output of `make bench-quick` is not part of the documentation.
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "quick"),
]

#: Pages whose blocks are run or checked by a separate test.
OWN_TESTS: Mapping[str, tuple[str, ...]] = {
    "README.md": (
        "integration_tests/docs/readme_test.py",
        "integration_tests/demo/demo_test.py",
        "flower_strategy/server/resume_test.py",
    ),
    "docs/how-to/deployment.md": ("integration_tests/flower/deployment_test.py",),
    "docs/how-to/from-flowertune.md": ("integration_tests/flower/flowertune_test.py",),
    "docs/how-to/gate.md": ("floe_plugins/gate/docs_test.py",),
    "docs/how-to/own-flower-app.md": ("integration_tests/flower/federated_test.py",),
    "docs/how-to/serve.md": (
        "vllm_logits_processor/serving_docs_test.py",
        "integration_tests/serving/serving_test.py",
    ),
    "docs/how-to/write-a-detector.md": ("integration_tests/plugins/plugins_docs_test.py",),
    "docs/how-to/write-a-router.md": ("integration_tests/plugins/plugins_docs_test.py",),
    "docs/plugin-template/README.md": ("integration_tests/plugins/plugins_docs_test.py",),
    "docs/reference/hooks.md": ("integration_tests/plugins/plugins_docs_test.py",),
    "docs/reference/serving.md": ("vllm_logits_processor/serving_docs_test.py",),
}

pytestmark = pytest.mark.timeout(240)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


#: Pages whose blocks are the commands that measure what they show.
MEASURED = [page for page in PAGES if page.parent.name in ("benchmarks", "results")]
OWNED_HERE = [page for page in PAGES if name_of(page) not in OWN_TESTS and page not in MEASURED]
ALL = [block for page in PAGES for block in blocks_of(page)]


def of_kind(kind: str) -> list[Block]:
    return [block for block in ALL if block.kind == kind]


@pytest.mark.parametrize("page", OWN_TESTS)
def test_a_page_with_tests_of_its_own_has_them(page: str) -> None:
    assert (ROOT / page).is_file(), page
    for test in OWN_TESTS[page]:
        assert (ROOT / test).is_file(), test


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.place)
def test_what_is_data_can_be_parsed(block: Block) -> None:
    if block.language == "json":
        for text in _documents(block.code):
            json.loads(text)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "yaml":
        assert yaml.safe_load(block.code)
    elif block.language == "python":
        ast.parse(block.code)


def _documents(code: str) -> list[str]:
    """Return the JSON documents of a block: the block itself, or one per line."""
    try:
        json.loads(code)
    except json.JSONDecodeError:
        return [line for line in code.splitlines() if line.strip()]
    return [code]


@pytest.mark.parametrize("page", OWNED_HERE, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in ("bash", "python", "json", "toml", "yaml", "text"), block.place
        if block.kind == "test":
            raise AssertionError(f"{block.place}: name the page's test in OWN_TESTS")
        if block.kind == "output":
            assert block.language == "text", block.place


@pytest.mark.parametrize("page", MEASURED, ids=name_of)
def test_the_benchmarks_that_a_page_names_are_tested(page: Path) -> None:
    code = "".join(block.code for block in blocks_of(page))
    folder = ROOT / "integration_tests" / "benchmarks"
    tests = "".join(path.read_text("utf-8") for path in folder.rglob("*_test.py"))
    for name in re.findall(r"-m integration_tests\.benchmarks\.(\w+)", code):
        assert (folder / name).is_dir() or (folder / f"{name}.py").is_file(), name
        assert name in tests, f"{name_of(page)}: no test speaks of {name}"
    for target in re.findall(r"^make ([\w-]+)", code, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("block", of_kind("shown-by"), ids=lambda block: block.place)
def test_the_test_that_a_block_names_runs_its_commands(block: Block) -> None:
    path, _, test = block.value.partition("::")
    assert (ROOT / path).is_file(), f"{block.place}: there is no {path}"
    source = (ROOT / path).read_text("utf-8")
    assert re.search(rf"^def {re.escape(test)}\(", source, re.MULTILINE), block.place
    # A test's helpers, and the page that it runs, count as part of the test.
    sources = source + "".join(helper.read_text("utf-8") for helper in _helpers(source))
    for word in _telling_words(block):
        assert word in sources, f"{block.place}: {path} does not speak of {word!r}"


def _helpers(source: str) -> list[Path]:
    modules = re.findall(r"^from (integration_tests[\w.]*) import", source, re.MULTILINE)
    files = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    pages = [ROOT / "README.md"] if "README.md" in source else []
    pages += [page for page in PAGES[1:] if f'"{page.name}"' in source]
    return [path for path in (*files, *pages) if path.is_file()]


def _telling_words(block: Block) -> list[str]:
    """Return the words by which a test shows that it runs what a block shows."""
    if block.language == "python":
        return [
            alias.name
            for node in ast.walk(ast.parse(block.code))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
    words = []
    for command in block.commands:
        if command[0] == "make":
            words += _modules_of_target(command[1])
            continue
        options = [word for word in command if word.startswith("--")]
        words += [option.partition("=")[0] for option in options]
        words += [word for word in command if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", word)]
        if command[0] == "floe-llm":
            words.append(command[1])
        else:
            words.append(Path(command[0]).name)
    return words


def _modules_of_target(target: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe, f"The Makefile has no target {target}"
    return re.findall(r"-m ([\w.]+)", recipe[1])


@pytest.mark.parametrize("block", of_kind("needs"), ids=lambda block: block.place)
def test_what_needs_other_hardware_is_at_least_well_formed(block: Block) -> None:
    assert block.value in ("gpu", "index"), block.place
    assert block.language == "bash", block.place
    checked = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("page", OWNED_HERE, ids=name_of)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Pages set environment variables, which must be removed.
    for variable in re.findall(r'os\.environ\["(\w+)"\]', page.read_text("utf-8")):
        monkeypatch.setenv(variable, "")
    space: dict[str, Any] = {"__name__": name_of(page)}
    printed = None
    for block in blocks_of(page):
        if block.title:
            (tmp_path / block.title).write_text(block.code, "utf-8")
        elif block.kind == "output":
            assert printed is not None, f"{block.place}: nothing was run above it"
            assert _lines(printed) == _lines(block.code), block.place
        elif not block.kind and block.language == "python":
            printed = _run_python(block, space)
        elif not block.kind and block.language == "bash":
            printed = _run_shell(block, tmp_path)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _run_python(block: Block, space: dict[str, Any]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(block.code, block.place, "exec"), space)
    return printed.getvalue()


def _run_shell(block: Block, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{block.place}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", [DOCS / "how-to" / "monitor.md"], ids=name_of)
def test_the_metrics_of_the_alerts_are_there(page: Path) -> None:
    families = [metric.name for metric in _Instruments().registry.collect()]
    rules = "".join(block.code for block in blocks_of(page) if block.language == "yaml")
    named = set(re.findall(r"\bfloe_\w+", rules))
    assert named
    for name in named:
        assert name.removesuffix("_total") in families, name


def test_every_command_and_option_is_on_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "reference" / "command-line.md").read_text("utf-8")

    def help_of(*command: str) -> str:
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return capsys.readouterr().out

    commands = re.findall(r"^    (\w+)  ", help_of(), re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        assert f"floe-llm {command}" in page, command
        for option in re.findall(r"^  (--[\w-]+)", help_of(command), re.MULTILINE):
            assert option in page, f"{command} {option}"


def test_the_readers_find_their_pages_in_one_click() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([\w/-]+\.md)", index))
    assert {
        "how-to/install.md",
        "how-to/own-flower-app.md",
        "how-to/from-flowertune.md",
        "how-to/own-data.md",
        "how-to/deployment.md",
        "how-to/serve.md",
        "how-to/gpu.md",
        "how-to/device-and-cloud.md",
        "how-to/write-a-detector.md",
        "how-to/write-a-router.md",
        "how-to/choose-ranks.md",
        "how-to/monitor.md",
        "how-to/troubleshoot.md",
    } <= linked


def test_what_contributors_are_told_to_run_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = [words for block in blocks_of(ROOT / "CONTRIBUTING.md") for words in block.commands]
    for words in commands:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
            continue
        assert words[:2] == [".venv/bin/python", "-m"]
        path, _, test = words[3].partition("::")
        if words[2] == "pytest":
            assert (ROOT / path).exists(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text("utf-8"), test


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert "2602.14302" in paper["url"]
