"""Which model a device keeps, and the folder that it writes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.adapters.stacking import stacked
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.kept_model import KeptModel, choose_model, compact, write_model
from flower_strategy.device.kept_state import DeviceState, SentUpload
from flower_strategy.device.loss import ExampleLosses, example_losses
from flower_strategy.device.training import train_adapter
from flower_strategy.settings import TrainingSettings

EXAMPLES = tuple(
    Example(f"say {word}:", f" {word} {word}") for word in ("ab", "cd", "ef", "gh", "ij", "kl")
)


@pytest.fixture
def trained(tiny_base: BaseModel, settings: TrainingSettings) -> AdapterState:
    start = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    how = settings.changed(local_steps=12)
    return train_adapter(tiny_base, start, EXAMPLES, how).adapter


def state_of(own: AdapterState) -> DeviceState:
    return DeviceState(run="a", began=1, own=own, counted=upload_of(own))


def upload_of(own: AdapterState) -> SentUpload:
    return SentUpload(1, int8.encode(own), own.scaling)


def chosen(
    base: BaseModel,
    cluster: AdapterState,
    kept: DeviceState | None,
    settings: TrainingSettings,
    examples: tuple[Example, ...] = EXAMPLES,
) -> KeptModel:
    measured = example_losses(base, cluster, examples, settings) if examples else None
    return choose_model(base, cluster, kept, examples, settings, measured=measured)


def gains(spread: float) -> NDArray[np.float64]:
    """Return gains of the examples with a mean of 1, which is 1 / spread times two errors."""
    # 1 ± d in equal parts has the error d / sqrt(n - 1).
    d = spread * (len(EXAMPLES) - 1) ** 0.5 / 2
    return np.asarray(1 + d * np.array([1, -1] * (len(EXAMPLES) // 2)))


def test_own_alone_is_kept_where_the_cluster_has_unlearned_it(
    tiny_base: BaseModel, settings: TrainingSettings, trained: AdapterState
) -> None:
    found = chosen(tiny_base, trained.scaled(-1.0), state_of(trained), settings)
    assert found.name == "alone"
    assert found.adapter is trained


def test_the_cluster_s_is_kept_where_what_only_the_device_has_harms(
    tiny_base: BaseModel, settings: TrainingSettings, trained: AdapterState
) -> None:
    # It has sent nothing of what it has learned, and learned the opposite.
    kept = replace(state_of(trained.scaled(-1.0)), counted=None)
    assert chosen(tiny_base, trained, kept, settings).name == "cluster"


def test_own_is_the_cluster_s_and_what_the_server_does_not_have(
    tiny_base: BaseModel, settings: TrainingSettings, trained: AdapterState
) -> None:
    kept = replace(state_of(trained), counted=upload_of(trained.scaled(0.5)))
    cluster = trained.scaled(0.5)
    found = chosen(tiny_base, cluster, kept, settings)
    assert found.name == "own"
    for layer in trained.layers:
        np.testing.assert_allclose(
            found.adapter.delta(layer), trained.delta(layer), atol=1e-3, rtol=1e-2
        )


def test_a_device_without_a_state_or_one_that_has_learned_nothing_has_the_cluster_s(
    tiny_base: BaseModel, settings: TrainingSettings, trained: AdapterState
) -> None:
    assert chosen(tiny_base, trained, None, settings).name == "cluster"
    untrained = DeviceState(run="a", began=1, own=trained.scaled(0.0))
    assert chosen(tiny_base, trained, untrained, settings).name == "cluster"


def test_without_examples_or_with_one_own_is_kept(
    tiny_base: BaseModel, settings: TrainingSettings, trained: AdapterState
) -> None:
    for examples in ((), EXAMPLES[:1]):
        cluster = trained.scaled(-1.0)
        assert chosen(tiny_base, cluster, state_of(trained), settings, examples).name == "own"


@pytest.mark.parametrize(("spread", "name"), [(0.9, "cluster"), (1.1, "own")])
def test_two_standard_errors_are_the_line(
    tiny_base: BaseModel,
    settings: TrainingSettings,
    trained: AdapterState,
    spread: float,
    name: str,
) -> None:
    """The cluster's losses are set so that its mean gain is 1 / spread times two errors."""
    # Alone it would be worse: what it has learned is the opposite.
    kept, cluster = state_of(trained.scaled(-1.0)), trained
    assert kept.sent is not None
    own = stacked([(1.0, cluster), (1.0, kept.own), (-1.0, kept.sent)])
    losses = example_losses(tiny_base, own, EXAMPLES, settings)
    measured = ExampleLosses(losses.sums - gains(spread) * losses.tokens, losses.tokens)
    found = choose_model(tiny_base, cluster, kept, EXAMPLES, settings, measured=measured)
    assert found.name == name


@pytest.mark.parametrize(("spread", "name"), [(0.9, "alone"), (1.1, "own")])
def test_what_has_been_sent_is_measured_as_the_cluster_s(
    tiny_base: BaseModel,
    settings: TrainingSettings,
    trained: AdapterState,
    spread: float,
    name: str,
) -> None:
    """The cluster's losses are set so that alone gains 1 / spread times two errors over them."""
    upload = upload_of(trained)
    kept = replace(state_of(trained), counted=upload, latest=upload)
    alone = example_losses(tiny_base, trained, EXAMPLES, settings)
    measured = ExampleLosses(alone.sums + gains(spread) * alone.tokens, alone.tokens)
    found = choose_model(tiny_base, trained, kept, EXAMPLES, settings, measured=measured)
    assert found.name == name


def test_a_kept_adapter_has_the_smallest_rank_that_holds_it(trained: AdapterState) -> None:
    own = stacked([(1.0, trained), (1.0, trained), (-1.0, trained)])
    assert own.rank == 12
    cut, rank = compact(own)
    assert rank == 8
    for layer in trained.layers:
        np.testing.assert_allclose(cut.adapter.delta(layer), trained.delta(layer), atol=1e-5)
    wide = initial_adapter(trained.shapes, rank=12, seed=3)
    wide = AdapterState(
        {n: replace(f, b=np.eye(*f.b.shape, dtype=np.float32)) for n, f in wide.layers.items()}
    )
    assert compact(wide)[1] == 16


def test_a_folder_with_anything_else_in_it_is_left_as_it_is(
    tiny_base: BaseModel,
    settings: TrainingSettings,
    trained: AdapterState,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
) -> None:
    model = KeptModel("own", trained)
    folder = tmp_path / "new" / "kept"
    for _ in range(2):  # An earlier adapter is replaced.
        write_model(folder, model, tiny_base, settings)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    (folder / "letters.txt").write_text("dear")
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    write_model(folder, model, tiny_base, settings)
    assert "holds letters.txt, which is no adapter, and is left as it is" in log.text
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "file").write_text("")
    write_model(tmp_path / "file", model, tiny_base, settings)
    assert f"The device's adapter is not written to {tmp_path / 'file'}" in log.text
