import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from floe_plugins.errors import ConfigError
from flower_strategy import client
from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.device.base_model import BaseModel, adapted_shapes, load_base_model
from flower_strategy.device.data_order import Place, steps_from
from flower_strategy.device.embedding import task_embedding
from flower_strategy.device.training import TrainingOutcome, train_adapter
from flower_strategy.device.training_cost import TrainingCost, measure_training
from flower_strategy.messages import (
    ARRAYS_KEY,
    CONFIG_KEY,
    METRICS_KEY,
    Envelope,
    read_adapter,
    received_adapter,
)
from flower_strategy.profile import DeviceProfile
from flower_strategy.settings import EmbeddingSettings, TrainingSettings

EXAMPLES = tuple(Example(f"say {word}:", f" {word} {word}") for word in ("ab", "cd", "ef", "gh"))
DATA = LocalData(train=EXAMPLES, held_out=EXAMPLES[:1], label="words")
NodeConfig = dict[str, str | int | float | bool]
SIMULATED: NodeConfig = {"partition-id": 1, "num-partitions": 3, "simulated": True}


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of profiles."""
    monkeypatch.setattr("flower_strategy.device.training_cost.cache_dir", lambda: tmp_path)
    return tmp_path / "profiles"


def context_of(node_config: NodeConfig) -> Context:
    return Context(run_id=1, node_id=77, node_config=node_config, state=RecordDict(), run_config={})


def profiled(
    settings: TrainingSettings,
    node_config: NodeConfig = SIMULATED,
    data: LocalData = DATA,
    **config: str | int | bool | list[str],
) -> DeviceProfile:
    record = settings.to_record()
    record["probe-ranks"] = [2, 8]
    for key, value in config.items():
        record[key] = value
    message = Message(
        content=RecordDict({CONFIG_KEY: record}),
        message_type=f"{MessageType.QUERY}.profile",
        dst_node_id=77,
    )
    reply = client.profile(message, context_of(node_config), data=data)
    return DeviceProfile.from_record(reply.content)


def trained(settings: TrainingSettings, device: str) -> float:
    """Train on a simulated device; return the seconds that it reports."""
    adapter = initial_adapter(adapted_shapes(settings.model), rank=2, seed=0)
    config = settings.to_record()
    config.update(ConfigRecord({"devices": [device], "scaling": 1.0, "server-round": 1}))
    content = RecordDict({ARRAYS_KEY: adapter.to_arrays(), CONFIG_KEY: config})
    message = Message(content=content, message_type=MessageType.TRAIN, dst_node_id=77)
    reply = client.train(message, context_of(SIMULATED), data=DATA)
    seconds = reply.content.metric_records[METRICS_KEY]["seconds"]
    assert isinstance(seconds, float)
    return seconds


@pytest.mark.parametrize(
    ("node_config", "identity"),
    [
        (SIMULATED, "partition:1"),
        ({**SIMULATED, "partition-id": 0}, "partition:0"),
        # As many tutorials start their SuperNodes.
        ({"partition-id": 0, "num-partitions": 3}, ""),
        ({"partition-id": 0, "num-partitions": 3, "name": "attic"}, "name:attic"),
        ({"name": "attic", "device": "board"}, "name:attic"),
        ({"name": 7}, "name:7"),
        ({**SIMULATED, "name": "attic"}, "partition:1"),
        ({"device": "board"}, ""),
        ({"name": ""}, ""),
        ({}, ""),
    ],
)
def test_a_simulated_node_is_known_by_its_partition_and_a_real_one_by_its_name(
    node_config: NodeConfig, identity: str
) -> None:
    assert client.identity_of(context_of(node_config)) == identity


def test_the_profile_carries_identity_and_label_of_a_simulated_node(
    settings: TrainingSettings,
) -> None:
    found = profiled(settings, devices=["phone", "watch:0.5:12:0.1", "laptop"])
    assert (found.device, found.identity, found.label) == ("watch", "partition:1", "words")
    assert found.num_examples == len(EXAMPLES)
    real = profiled(settings, {"device": "board", "name": "attic"}, devices=["phone"])
    assert (real.device, real.identity, real.label) == ("board", "name:attic", "")


def test_the_settings_of_the_embedding_travel_whole(settings: TrainingSettings) -> None:
    how = EmbeddingSettings(texts=2, max_length=9)
    envelope = Envelope(training=settings, embedding=how)
    (message,) = envelope.profile_query([77], (2, 8))
    record = message.content.config_records[CONFIG_KEY]
    assert EmbeddingSettings.from_record(record) == how
    found = DeviceProfile.from_record(
        client.profile(message, context_of(SIMULATED), data=DATA).content
    )
    expected = task_embedding(load_base_model(settings.model), EXAMPLES, how)
    np.testing.assert_allclose(found.embedding, expected.vector, rtol=1e-5)


def test_simulated_devices_share_the_machine_s_measurement_times_their_slowdown(
    settings: TrainingSettings, profiles: Path
) -> None:
    slow = profiled(settings, devices=["slow:1:10:1"])
    fast = profiled(settings, devices=["fast:1:1:1"])
    assert slow.step_seconds == pytest.approx([10 * seconds for seconds in fast.step_seconds])
    assert len(list(profiles.glob("*.json"))) == 1
    # A virtual clock counts processor time; devices that wait and real ones count wall time.
    profiled(settings.changed(clock="real"), devices=["fast:1:1:1"])
    profiled(settings, {"device": "board"})
    assert len(list(profiles.glob("*.json"))) == 2


def test_a_step_of_several_batches_takes_several_times_as_long(
    settings: TrainingSettings, profiles: Path
) -> None:
    one = profiled(settings, {})
    four = profiled(settings.changed(gradient_accumulation_steps=4), {})
    assert four.step_seconds == pytest.approx([4 * seconds for seconds in one.step_seconds])
    assert four.fixed_bytes == one.fixed_bytes
    assert len(list(profiles.glob("*.json"))) == 1
    anew = profiled(settings.changed(gradient_checkpointing=True, batch_size=8), {})
    whole = profiled(settings.changed(batch_size=8), {})
    assert anew.fixed_bytes < whole.fixed_bytes


def test_a_device_without_examples_says_so(settings: TrainingSettings) -> None:
    envelope = Envelope(training=settings, embedding=EmbeddingSettings())
    (message,) = envelope.profile_query([77], (2, 8))
    with pytest.raises(ConfigError, match="This device has 0 examples to train on"):
        client.profile(message, context_of({}), data=replace(DATA, train=()))


def test_the_learning_rate_follows_the_round_of_the_message(settings: TrainingSettings) -> None:
    how = settings.changed(lr_schedule="cosine", learning_rate_min=0.0001)
    start = initial_adapter(adapted_shapes(how.model), rank=2, seed=0)
    envelope = Envelope(training=how, embedding=EmbeddingSettings())
    moves = []
    for number in (1, 10):
        (message,) = envelope.adapter_messages(
            MessageType.TRAIN,
            {77: start},
            server_round=number,
            extra=ConfigRecord({"num-rounds": 10, "run": "a"}),
        )
        reply = client.train(message, context_of(SIMULATED), data=DATA)
        back = read_adapter(reply.content.array_records[ARRAYS_KEY], scaling=1.0)
        moves.append(max(float(np.abs(factors.b).max()) for factors in back.layers.values()))
    assert moves[1] < 0.2 * moves[0]


def test_a_round_begins_at_the_clusters_model_and_goes_on_with_the_devices_own_adapter(
    settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[AdapterState, AdapterState | None, TrainingOutcome]] = []

    def noted(base: BaseModel, own: AdapterState, *others: Any, **options: Any) -> TrainingOutcome:
        outcome = train_adapter(base, own, *others, **options)
        seen.append((own, options["fixed"], outcome))
        return outcome

    monkeypatch.setattr("flower_strategy.client.train_adapter", noted)
    shapes = adapted_shapes(settings.model)
    envelope = Envelope(training=settings.changed(alpha=8.0), embedding=EmbeddingSettings())
    context = context_of(SIMULATED)
    generator = np.random.default_rng(1)
    cluster, replies = initial_adapter(shapes, rank=3, seed=0).with_scaling(4.0), []
    received: list[AdapterState] = []
    for number in (1, 2, 3):
        (message,) = envelope.adapter_messages(
            MessageType.TRAIN,
            {77: cluster},
            server_round=number,
            extra=ConfigRecord({"num-rounds": 3, "run": "a"}),
            # The second upload is lost: the third round's adapter still has the first.
            own={
                77: ConfigRecord({"rank": 2, "began": int(number > 1), "counted": int(number > 1)})
            },
        )
        received.append(received_adapter(message))
        replies.append(client.train(message, context, data=DATA))
        layers = initial_adapter(shapes, rank=3, seed=number).layers
        for factors in layers.values():
            factors.b[:] = 0.1 * generator.normal(size=factors.b.shape)
        cluster = AdapterState(layers, scaling=4.0)
    metrics = [reply.content.metric_records[METRICS_KEY] for reply in replies]
    assert [each["began"] for each in metrics] == [1, 1, 1]
    assert [each["steps"] for each in metrics] == [3, 3, 3]
    (first, nothing, outcome), (second, fixed, after), (third, later, _) = seen
    # At the start there is nothing but what follows from the seed.
    assert nothing is None
    assert first.rank == second.rank == third.rank == 2
    assert first.scaling == 4.0
    sent = read_adapter(replies[0].content.array_records[ARRAYS_KEY], scaling=4.0)
    assert fixed is not None
    assert later is not None
    for name in shapes:
        # Own adapter and moments go on, to the last bit.
        np.testing.assert_array_equal(second.layers[name].b, outcome.adapter.layers[name].b)
        np.testing.assert_array_equal(third.layers[name].a, after.adapter.layers[name].a)
        model = fixed.delta(name) + second.delta(name)
        rounding = second.delta(name) - sent.delta(name)
        np.testing.assert_allclose(model, received[1].delta(name) + rounding, atol=1e-5)
        assert 0 < np.abs(rounding).max() < 0.02 * np.abs(second.delta(name)).max() + 1e-6
        # What was lost is still in the device's model.
        np.testing.assert_allclose(
            later.delta(name) + sent.delta(name), received[2].delta(name), atol=1e-5
        )


def test_a_device_that_lost_its_state_begins_with_other_examples_and_goes_on_in_their_order(
    settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def noted(*arguments: Any, **options: Any) -> TrainingOutcome:
        seeds.append(options["order_seed"])
        return train_adapter(*arguments, **options)

    monkeypatch.setattr("flower_strategy.client.train_adapter", noted)
    data = replace(DATA, train=tuple(Example(f"say {n}:", f" {n}") for n in range(40)))
    envelope = Envelope(training=settings, embedding=EmbeddingSettings())
    start = initial_adapter(adapted_shapes(settings.model), rank=2, seed=0)
    context = context_of(SIMULATED)
    began = {1: 0, 2: 1, 3: 0, 4: 3}
    for number, known in began.items():
        if not known:
            context.state.clear()
        (message,) = envelope.adapter_messages(
            MessageType.TRAIN,
            {77: start},
            server_round=number,
            extra=ConfigRecord({"num-rounds": 4, "run": "a", "rank": 2, "began": known}),
        )
        client.train(message, context, data=data)
    first, second, third, fourth = seeds
    # As in a run in which nothing is lost.
    assert first == second == (settings.seed, 1)
    assert third == fourth
    orders = [
        [chosen for chosen, _ in steps_from(Place(), data.train, settings, seed, steps=3)]
        for seed in (first, third)
    ]
    assert orders[0] != orders[1]


def test_a_server_that_names_no_run_gets_its_adapter_back_whole(
    settings: TrainingSettings,
) -> None:
    start = initial_adapter(adapted_shapes(settings.model), rank=2, seed=4)
    context, moves = context_of(SIMULATED), []
    for number in (1, 2):
        config = settings.to_record()
        config.update(ConfigRecord({"scaling": 1.0, "server-round": number}))
        content = RecordDict({ARRAYS_KEY: start.to_arrays(), CONFIG_KEY: config})
        message = Message(content=content, message_type=MessageType.TRAIN, dst_node_id=77)
        reply = client.train(message, context, data=DATA)
        assert "began" not in reply.content.metric_records[METRICS_KEY]
        moves.append(AdapterState.from_arrays(reply.content.array_records[ARRAYS_KEY]))
    assert not context.state
    layer = next(iter(start.layers))
    # Another round, other examples first.
    assert not np.array_equal(moves[0].layers[layer].b, moves[1].layers[layer].b)


def test_a_client_without_state_says_that_it_sends_floats(settings: TrainingSettings) -> None:
    envelope = Envelope(training=settings, embedding=EmbeddingSettings())
    sizes = {}
    for keeps in (True, False):
        (message,) = envelope.profile_query([77], (2, 8))
        reply = client.profile(message, context_of(SIMULATED), data=DATA, keeps_state=keeps)
        sizes[keeps] = DeviceProfile.from_record(reply.content).upload_per_rank
    numbers = sum(map(sum, adapted_shapes(settings.model).values()))
    assert sizes == {True: numbers + 4 * 14, False: 4 * numbers}


def test_a_device_is_measured_once_and_again_when_asked_to(settings: TrainingSettings) -> None:
    first = profiled(settings, {})
    assert profiled(settings, {}).step_seconds == first.step_seconds
    assert profiled(settings, {}, refresh="one").step_seconds != first.step_seconds
    wider = settings.changed(batch_size=2 * settings.batch_size)
    assert profiled(wider, {}).fixed_bytes > first.fixed_bytes


def test_thirty_left_out_simulated_nodes_share_one_new_measurement(
    settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(*arguments: Any, **options: Any) -> TrainingCost:
        measured.append(measure_training(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr("flower_strategy.client.measure_training", measure)
    envelope = Envelope(training=settings, embedding=EmbeddingSettings(), devices=("phone",))
    for number in (1, 2):
        for node, message in enumerate(envelope.profile_query(range(30), (2, 8), refresh=True)):
            place: NodeConfig = {"partition-id": node, "num-partitions": 30, "simulated": True}
            reply = client.profile(message, context_of(place), data=DATA)
            found = DeviceProfile.from_record(reply.content)
            slow = 3 * measured[-1].step_seconds[0]
            assert found.step_seconds[0] == pytest.approx(slow)
        assert len(measured) == number


def test_the_base_model_s_weights_are_part_of_the_budget_and_node_config_lowers_it(
    settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine's free memory fluctuates by more than the tiny model's size.
    monkeypatch.setattr("flower_strategy.device.training_cost.available_memory", lambda: 2**28)
    weights = load_base_model(settings.model).weight_bytes
    assert profiled(settings, {}).memory_bytes == 2**28 + weights
    assert profiled(settings, {"memory-gib": 0.125}).memory_bytes == 2**27


def test_a_device_that_waits_is_slow_for_real_and_says_what_wall_time_was(
    settings: TrainingSettings,
) -> None:
    real = settings.changed(clock="real", local_steps=1)
    trained(real, "warm:1:1:1")
    began = time.perf_counter()
    reported = trained(real, "slow:1:4:0.005")
    wall = time.perf_counter() - began
    upload = 2 * int8.bytes_per_rank(adapted_shapes(settings.model)) / 0.005e6
    assert upload > 0.3
    assert upload < reported <= wall
    virtual = settings.changed(local_steps=1)
    began = time.perf_counter()
    assert trained(virtual, "far:1:1:0.00001") > 400 * upload
    assert time.perf_counter() - began < 10


def test_a_device_says_in_which_form_it_trains_most_examples(
    settings: TrainingSettings, tiny_chat_model: str
) -> None:
    chat = settings.changed(model=tiny_chat_model)
    documents = tuple(Example(response=f"a document on {word}") for word in ("ab", "cd", "ef"))
    assert profiled(settings).form == "plain"
    assert profiled(chat).form == "chat"
    assert profiled(chat, template="none").form == "plain"
    mixed = LocalData(train=(*EXAMPLES, *documents), held_out=())
    assert profiled(chat, data=mixed).form == "chat"
    assert (
        profiled(chat, data=LocalData(train=(EXAMPLES[0], *documents), held_out=())).form == "plain"
    )
