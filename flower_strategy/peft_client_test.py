from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from flower_strategy import Example, client, hold_out, lora_config, peft_mod
from flower_strategy.adapters.adapter import AdapterError, AdapterState, initial_adapter
from flower_strategy.config import ConfigValue
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.messages import METRICS_KEY, Envelope, received_adapter
from flower_strategy.run_folder import load_history
from flower_strategy.server.replies import Sent, read_train_reply
from flower_strategy.server.update_norms import Judgement, LengthJudge, update_norm
from flower_strategy.settings import EmbeddingSettings, ReplyRules, TrainingSettings
from flower_strategy.testing.grids import LocalGrid, start_run

Answer = Callable[[Message, Context], Message]

TEXTS = {"ab": "baba baba", "cd": "dcdc dcdc", "efg": "gfe gfe gfe"}
DATA = hold_out(
    [Example(f"{n} {word}:", f" {said} {n}") for word, said in TEXTS.items() for n in range(6)],
    fraction=0.3,
)


def context_of(**node_config: str | int | float | bool) -> Context:
    return Context(run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={})


def sent_adapter(settings: TrainingSettings, *, rank: int) -> AdapterState:
    adapter = initial_adapter(adapted_shapes(settings.model), rank=rank, seed=3)
    return adapter.with_scaling(settings.scaling(rank))


def message_with(
    settings: TrainingSettings, adapter: AdapterState, kind: str = MessageType.TRAIN
) -> Message:
    envelope = Envelope(training=settings, embedding=EmbeddingSettings())
    (message,) = envelope.adapter_messages(kind, {7: adapter}, server_round=1, extra=ConfigRecord())
    return message


def own_training(message: Message, context: Context) -> Message:
    """Train as a client of FedAvg does, with nothing of Floe but the two names."""
    name = str(message.content.config_records["config"]["model"])
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(name), lora_config(message, lora_dropout=0.1)
    )
    set_peft_model_state_dict(model, message.content.array_records["arrays"].to_torch_state_dict())
    tokenizer = AutoTokenizer.from_pretrained(name)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.02)
    losses = []
    for example in DATA.train[:3]:
        ids = tokenizer(example.text + tokenizer.eos_token, return_tensors="pt").input_ids
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    metrics = MetricRecord(
        {"train_loss": sum(losses) / len(losses), "num-examples": len(DATA.train)}
    )
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def echo(**metrics: float) -> Answer:
    """Return a client that replies with what it got."""

    def answer(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({**metrics})})
        return Message(content=content, reply_to=message)

    return answer


def test_the_server_reads_what_a_client_of_ones_own_has_trained(
    settings: TrainingSettings,
) -> None:
    settings = settings.changed(alpha=6.0, rslora=True)
    adapter = sent_adapter(settings, rank=4)
    message = message_with(settings, adapter)
    before = dict(message.content)
    reply = peft_mod(message, context_of(), own_training)
    sent = Sent("cluster-0", adapter, most_examples=1000, length=1.0, rank=4)
    read = read_train_reply(reply, sent, ReplyRules())
    assert read.num_examples == len(DATA.train)
    assert read.adapter.scaling == adapter.scaling == 3.0
    assert 0 < read.loss < 20
    assert read.seconds > 0
    for layer, factors in read.adapter.layers.items():
        assert not np.array_equal(factors.b, adapter.layers[layer].b)
    # The server's own copy of the message, which nodes of one process share.
    assert dict(message.content) == before
    # A first adapter is described by its layers.
    assert not message.content.array_records["arrays"]


def test_a_client_that_learns_nothing_at_a_rate_of_zero_is_no_liar(
    settings: TrainingSettings,
) -> None:
    adapter = sent_adapter(settings, rank=4)
    answer = echo(**{"train_loss": 1.5, "num-examples": 4})
    reply = peft_mod(message_with(settings, adapter), context_of(), answer)
    sent = Sent("cluster-0", adapter, most_examples=4, length=0.0, rank=4)
    norm = update_norm(adapter, read_train_reply(reply, sent, ReplyRules()).adapter)
    assert LengthJudge(ReplyRules().norm_limit).judge(norm, sent.length) == Judgement(
        1.0, odd=False
    )


def test_the_configuration_is_the_message_s(settings: TrainingSettings) -> None:
    settings = settings.changed(alpha=8.0)
    adapter = sent_adapter(settings, rank=16)
    seen: list[Any] = []

    def look(message: Message, context: Context) -> Message:
        seen.append(lora_config(message, lora_dropout=0.25))
        return echo()(message, context)

    peft_mod(message_with(settings, adapter), context_of(), look)
    (config,) = seen
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 8.0, 0.25)
    assert set(config.target_modules) == set(adapter.layers)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(settings.model), config)
    expected = {name: tuple(factor.shape) for name, factor in adapter.to_peft().items()}
    found = get_peft_model_state_dict(model)
    assert {name: tuple(weight.shape) for name, weight in found.items()} == expected


def test_what_the_client_measures_stays_in_its_reply(settings: TrainingSettings) -> None:
    adapter = sent_adapter(settings, rank=2)
    answer = echo(**{"train_loss": 1.5, "num-examples": 4, "accuracy": 0.5})
    reply = peft_mod(message_with(settings, adapter), context_of(), answer)
    metrics = reply.content.metric_records[METRICS_KEY]
    assert metrics["accuracy"] == 0.5
    assert metrics["train-loss"] == metrics["train_loss"] == 1.5
    both = echo(**{"train_loss": 1.5, "train-loss": 1.25})
    reply = peft_mod(message_with(settings, adapter), context_of(), both)
    assert reply.content.metric_records[METRICS_KEY]["train-loss"] == 1.25


def test_a_simulated_device_is_as_slow_as_its_class(settings: TrainingSettings) -> None:
    adapter = sent_adapter(settings, rank=2)
    message = message_with(settings, adapter)
    # A megabyte a second.
    message.content.config_records["config"]["devices"] = ["phone:4:1:1"]
    place: dict[str, Any] = {"partition-id": 0, "num-partitions": 1, "simulated": True}
    reply = peft_mod(message, context_of(**place), echo())
    seconds = reply.content.metric_records[METRICS_KEY]["seconds"]
    assert isinstance(seconds, float)
    assert adapter.num_bytes / 1e6 < seconds < adapter.num_bytes / 1e6 + 5


def test_other_arrays_than_those_sent_are_refused_on_the_device(
    settings: TrainingSettings,
) -> None:
    def some_layers(message: Message, context: Context) -> Message:
        reply = echo()(message, context)
        arrays = reply.content.array_records["arrays"]
        reply.content["arrays"] = ArrayRecord(
            {name: array for name, array in arrays.items() if "q_proj" in name or "v_proj" in name}
        )
        return reply

    message = message_with(settings, sent_adapter(settings, rank=2))
    with pytest.raises(AdapterError, match=r"20 differ, such as 'base_model\.model\.model\."):
        peft_mod(message, context_of(), some_layers)


def test_what_has_no_adapter_passes_unchanged(settings: TrainingSettings) -> None:
    envelope = Envelope(training=settings, embedding=EmbeddingSettings())
    (query,) = envelope.profile_query([7], (2, 4))
    seen: list[Message] = []

    def refuse(message: Message, context: Context) -> Message:
        seen.append(message)
        return Message(Error(code=1, reason="no"), reply_to=message)

    assert peft_mod(query, context_of(), refuse).error.reason == "no"
    assert seen == [query]
    train = message_with(settings, sent_adapter(settings, rank=2))
    assert peft_mod(train, context_of(), refuse).error.reason == "no"

    def measure(message: Message, context: Context) -> Message:
        assert lora_config(message).r == 2
        metrics = MetricRecord({"held-out-loss": 2.0, "num-tokens": 3})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=message)

    evaluate = message_with(settings, sent_adapter(settings, rank=2), MessageType.EVALUATE)
    reply = peft_mod(evaluate, context_of(), measure)
    assert dict(reply.content.metric_records[METRICS_KEY]) == {
        "held-out-loss": 2.0,
        "num-tokens": 3,
    }


def test_without_the_mod_the_configuration_says_what_is_missing(
    settings: TrainingSettings,
) -> None:
    message = message_with(settings, sent_adapter(settings, rank=2))
    with pytest.raises(AdapterError, match=r"train message .*mods=\[peft_mod\]"):
        lora_config(message)


def test_a_run_with_clients_of_ones_own(run_config: dict[str, ConfigValue]) -> None:
    app = ClientApp()

    @app.query("profile")
    def profile(message: Message, context: Context) -> Message:
        return client.profile(message, context, data=DATA, keeps_state=False)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client.evaluate(message, context, data=DATA)

    app.train(mods=[peft_mod])(own_training)
    grid = LocalGrid(run_config, 3, client_app=app)
    strategy, result = start_run(run_config, grid)
    state = strategy.state
    ranks = {state.profiles[n].device: decision.rank for n, decision in state.decisions.items()}
    assert ranks == {"slow": 2, "middle": 4, "fast": 8}
    assert [result.train_metrics_clientapp[number]["replies"] for number in (1, 2)] == [3, 3]
    for cluster in state.clusters:
        losses = state.losses(cluster.name)
        assert losses[-1] < losses[0]
    rounds = load_history(strategy.output or "")["rounds"]
    assert [len(record["devices"]) for record in rounds] == [3, 3, 3]
    for message in grid.sent:
        if message.metadata.message_type == MessageType.TRAIN:
            received_adapter(message)
