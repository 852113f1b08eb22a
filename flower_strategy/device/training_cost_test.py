import dataclasses
import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel
from flower_strategy.device.encoding import Encoder
from flower_strategy.device.hardware import Device
from flower_strategy.device.training_cost import (
    CostKey,
    TrainingCost,
    cached_cost,
    longest,
    machine_name,
    measure_training,
)
from flower_strategy.settings import TrainingSettings

KEY = CostKey(
    model="somewhere",
    model_stamp="0",
    dtype="float32",
    quantization="none",
    bf16=False,
    gradient_checkpointing=False,
    batch_size=4,
    max_length=64,
    target_modules=("all-linear",),
    probe_ranks=(4, 32),
    clock="wall",
    machine="one",
)
COST = TrainingCost(
    step_ranks=(4, 32),
    step_seconds=(0.5, 0.75),
    fixed_bytes=10**10,
    bytes_per_rank=10**6,
    upload_per_rank=10**5,
)


def refuse() -> TrainingCost:
    raise AssertionError("measured although a cost is known")


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    assert cached_cost(KEY, lambda: COST, folder=tmp_path) == COST
    assert cached_cost(KEY, refuse, folder=tmp_path) == COST
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".json"]


def test_every_part_of_the_key_counts(tmp_path: Path) -> None:
    cached_cost(KEY, lambda: COST, folder=tmp_path)
    other = replace(COST, fixed_bytes=1)
    for field in dataclasses.fields(KEY):
        value = getattr(KEY, field.name)
        changed: Any = (4, 16) if isinstance(value, tuple) else value * 2
        key = replace(KEY, **{field.name: changed})
        assert cached_cost(key, lambda: other, folder=tmp_path) == other, field.name
    assert cached_cost(KEY, refuse, folder=tmp_path) == COST


def test_refresh_measures_and_replaces(tmp_path: Path) -> None:
    cached_cost(KEY, lambda: COST, folder=tmp_path)
    slower = replace(COST, step_seconds=(5.0, 7.5))
    assert cached_cost(KEY, lambda: slower, folder=tmp_path, refresh="one") == slower
    assert cached_cost(KEY, refuse, folder=tmp_path) == slower


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "\udcff",
        lambda text: text.replace('"version": 2', '"version": 3'),
        lambda text: text.replace('"version": 2', '"edition": 2'),
        lambda text: text.replace('"model": "somewhere"', '"model": "elsewhere"'),
        lambda text: text.replace("0.75", "NaN"),
        lambda text: text.replace("0.75", "-1"),
        lambda text: text.replace("0.5,", ""),
        lambda text: text.replace("1000000,", "null,"),
    ],
)
def test_a_damaged_or_foreign_file_is_measured_anew_and_replaced(
    tmp_path: Path, damage: object, log: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    cached_cost(KEY, lambda: COST, folder=tmp_path)
    path = tmp_path / f"{KEY.digest}.json"
    text = path.read_text()
    damaged = damage(text)
    assert damaged != text
    path.write_bytes(damaged.encode(errors="surrogateescape"))
    other = replace(COST, fixed_bytes=1)
    assert cached_cost(KEY, lambda: other, folder=tmp_path) == other
    assert "is not usable" in log.text
    assert cached_cost(KEY, refuse, folder=tmp_path) == other


def test_a_folder_that_cannot_be_written_costs_the_cache_and_nothing_else(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    assert cached_cost(KEY, lambda: COST, folder=occupied / "profiles") == COST
    assert "No lock" in log.text
    assert "could not be kept" in log.text


def test_a_file_system_without_locks_costs_the_lock_and_nothing_else(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a file system cannot be mounted here: the lock says what filelock says there.
    def acquire(_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("floe_plugins.files.FileLock.acquire", acquire)
    assert cached_cost(KEY, lambda: COST, folder=tmp_path) == COST
    assert cached_cost(KEY, refuse, folder=tmp_path) == COST
    assert "No lock" in log.text


def test_a_failed_measurement_leaves_nothing_and_the_next_one_measures(tmp_path: Path) -> None:
    def fail() -> TrainingCost:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_cost(KEY, fail, folder=tmp_path)
    assert cached_cost(KEY, lambda: COST, folder=tmp_path) == COST


def _ask(folder: Path, refresh: str) -> None:
    def measure() -> TrainingCost:
        (folder / f"measured-{os.getpid()}").touch()
        time.sleep(0.3)
        return COST

    assert cached_cost(KEY, measure, folder=folder, refresh=refresh) == COST


@pytest.mark.parametrize("refresh", ["", "third query"])
def test_of_six_processes_that_ask_at_once_one_measures(tmp_path: Path, refresh: str) -> None:
    if refresh:
        cached_cost(KEY, lambda: replace(COST, fixed_bytes=1), folder=tmp_path, refresh="second")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_ask, args=(tmp_path, refresh)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(list(tmp_path.glob("measured-*"))) == 1
    assert json.loads((tmp_path / f"{KEY.digest}.json").read_text())["key"]["model"] == "somewhere"


def test_of_thirty_nodes_of_one_machine_that_are_asked_anew_one_measures(
    tmp_path: Path, tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    here = Device(name="here", memory_bytes=1, simulated=True)
    key = CostKey.of(tiny_base, settings, here, probe_ranks=(2, 4))
    measured = []

    def measure() -> TrainingCost:
        examples = [Example("say ab:", " ab ab")]
        measured.append(measure_training(tiny_base, examples, settings, here, ranks=(2, 4)))
        return measured[-1]

    def asked(query: str) -> list[TrainingCost]:
        # The first half as if at once, in threads; the second as Ray's actors take up one node
        # after the other, when the first measurement is long over.
        def ask(_: int) -> TrainingCost:
            return cached_cost(key, measure, folder=tmp_path, refresh=query)

        with ThreadPoolExecutor(15) as pool:
            at_once = list(pool.map(ask, range(15)))
        return [*at_once, *map(ask, range(15))]

    for number, query in enumerate(("", "first", "second"), 1):
        assert asked(query) == [measured[-1]] * 30
        assert len(measured) == number
    assert len({cost.step_seconds for cost in measured}) == 3


def test_the_length_of_the_longest_example_is_what_is_timed(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    short = [Example("ab", f" {'ab ' * count}") for count in range(1, 30)]
    plain = settings.changed(template="none", max_length=200)
    encoder = Encoder(tiny_base.tokenizer, template="none", max_length=200)
    tokens = max(len(encoder.encode(example).ids) for example in short)
    assert 16 < tokens < 184
    found = longest(tiny_base, short, plain)
    assert found % 16 == 0
    assert tokens <= found < tokens + 16
    assert longest(tiny_base, short[:5], plain) < found
    # Where the longest is cut, its length is that of the cut.
    assert longest(tiny_base, [*short, Example("ab", " ab" * 500)], plain) == 200
    assert longest(tiny_base, short, plain.changed(max_length=8)) == 8


def test_the_key_follows_the_weights_the_settings_and_the_clock(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    here = Device(name="here", memory_bytes=1)
    key = CostKey.of(tiny_base, settings, here, probe_ranks=(4, 8))
    assert key == CostKey.of(tiny_base, settings, here, probe_ranks=(4, 8))
    assert "torch" in key.machine
    assert key.machine == machine_name()
    simulated = replace(here, simulated=True)
    waiting = replace(simulated, waits=True)
    assert CostKey.of(tiny_base, settings, simulated, probe_ranks=(4, 8)) != key
    assert CostKey.of(tiny_base, settings, waiting, probe_ranks=(4, 8)) == key
    # What a step does not depend on does not measure anew.
    faster = settings.changed(learning_rate=0.5, local_steps=9, seed=3)
    assert CostKey.of(tiny_base, faster, here, probe_ranks=(4, 8)) == key

    weights = next(Path(tiny_base.path).glob("*.safetensors"))
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    try:
        assert CostKey.of(tiny_base, settings, here, probe_ranks=(4, 8)) != key
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
