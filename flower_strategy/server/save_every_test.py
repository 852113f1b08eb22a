"""A run exports its adapters as it goes, and goes on where that fails."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flower_strategy import FloeStrategy
from flower_strategy.adapter_choice import adapter_for_text
from flower_strategy.config import ConfigValue
from flower_strategy.run_folder import load_history, load_manifest
from flower_strategy.server.result_folders import ExportError
from flower_strategy.settings import CheckpointSettings
from flower_strategy.testing.grids import LocalGrid, start_run

NODES = 4


@pytest.fixture
def run_config(run_config: dict[str, ConfigValue]) -> dict[str, ConfigValue]:
    return {**run_config, "local-steps": 1, "eval-examples": 1, "max-examples": 8}


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 64 bytes, which ends a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def exports(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "exports").iterdir())


@pytest.mark.parametrize(
    ("every", "rounds"),
    [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (7, [])],
)
def test_adapters_are_exported_after_every_so_many_rounds(every: int, rounds: list[int]) -> None:
    settings = CheckpointSettings(save_every=every)
    assert [number for number in range(7) if settings.exports_after(number)] == rounds


def test_each_export_holds_the_run_until_then(run_config: dict[str, ConfigValue]) -> None:
    output = Path(str(run_config["output"]))
    shown: list[int] = []

    def after_round(number: int) -> None:
        # A round is over before it is exported: this one shows the one before.
        shown.append(load_manifest(output)["round"] if number > 2 else -1)

    run_config |= {"rounds": 5, "save-every": 2}
    start_run(run_config, LocalGrid(run_config, NODES), after_round=after_round)
    assert shown == [-1, -1, -1, 2, 2, 4]
    assert exports(output) == ["current", "round-0002", "round-0004", "round-0005"]
    for number in (2, 4, 5):
        folder = output / "exports" / f"round-{number:04d}"
        assert load_manifest(folder)["round"] == number
        assert [each["round"] for each in load_history(folder)["rounds"]] == [*range(number + 1)]
        for cluster in load_manifest(folder)["clusters"]:
            config = json.loads((folder / cluster["adapter"] / "adapter_config.json").read_text())
            assert config["r"] == 8
    assert load_manifest(output)["round"] == 5


def test_the_last_round_is_exported_once(run_config: dict[str, ConfigValue]) -> None:
    run_config |= {"rounds": 2, "save-every": 1}
    start_run(run_config, LocalGrid(run_config, NODES))
    assert exports(Path(str(run_config["output"]))) == ["current", "round-0001", "round-0002"]


def test_an_export_that_fails_costs_the_run_nothing(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    class OnceFull(FloeStrategy):
        def export(self) -> None:
            if self.round.record.round == 2:
                with full_disk():
                    super().export()
            else:
                super().export()

    output = Path(str(run_config["output"]))
    run_config |= {"rounds": 3, "save-every": 1}
    start_run(run_config, LocalGrid(run_config, NODES), kind=OnceFull)
    assert exports(output) == ["current", "round-0001", "round-0003"]
    said = f"The result of round 2 cannot be written to {output}/exports/round-0002 (File too"
    assert any(note.startswith(said) for note in load_history(output)["rounds"][2]["notes"])
    assert said in log.text


def test_a_full_disk_at_the_end_is_named_and_resume_writes_the_result(
    run_config: dict[str, ConfigValue],
) -> None:
    class AlwaysFull(FloeStrategy):
        def export(self) -> None:
            with full_disk():
                super().export()

    output = Path(str(run_config["output"]))
    run_config |= {"rounds": 1}
    with pytest.raises(ExportError, match=rf"written to {output}/exports/round-0001 \(File too"):
        start_run(run_config, LocalGrid(run_config, NODES), kind=AlwaysFull)
    assert exports(output) == []
    grid = LocalGrid(run_config, NODES)
    start_run({**run_config, "resume": str(output)}, grid)
    assert not grid.sent
    assert load_manifest(output)["round"] == 1


@pytest.mark.parametrize(
    ("template", "form", "route"),
    [("auto", "chat", "/v1/chat/completions"), ("none", "plain", "/v1/completions")],
)
def test_an_adapter_is_asked_in_the_form_that_it_was_trained_in(
    run_config: dict[str, ConfigValue], tiny_chat_model: str, template: str, form: str, route: str
) -> None:
    run_config |= {"model": tiny_chat_model, "rounds": 1, "template": template}
    start_run(run_config, LocalGrid(run_config, NODES))
    output = Path(str(run_config["output"]))
    manifest = load_manifest(output)
    assert {cluster["form"] for cluster in manifest["clusters"]} == {form}
    assert {device["form"] for device in manifest["devices"]} == {form}
    choice = adapter_for_text(output, "Text: Ada Ito, 34, works as a baker.\nRecord:")
    assert (choice.form, choice.route) == (form, route)
    assert choice.path == output / "exports" / "round-0001" / choice.name
    assert (choice.path / "adapter_config.json").is_file()
    told = {cluster["name"]: cluster["least_cosine"] for cluster in manifest["clusters"]}
    assert choice.least_cosine == told[choice.name]
    # A device with two examples cannot tell.
    assert any(told.values())
    least = told[choice.name]
    assert choice.fits == (least is None or choice.cosines[choice.name] >= least)


def test_a_run_that_does_not_know_how_far_its_prompts_differ_takes_any_text(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"rounds": 1, "embedding-noise": 0.1}
    start_run(run_config, LocalGrid(run_config, NODES))
    output = Path(str(run_config["output"]))
    assert {each["least_cosine"] for each in load_manifest(output)["clusters"]} == {None}
    choice = adapter_for_text(output, "Colourless green ideas")
    assert choice.least_cosine is None
    assert choice.fits
