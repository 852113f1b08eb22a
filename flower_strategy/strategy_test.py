import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from floe_plugins.errors import ConfigError
from flower_strategy import FloeStrategy, RunConfig, make_initial_arrays
from flower_strategy.adapter_choice import choose_adapter
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.clusters import Cluster
from flower_strategy.config import ConfigValue
from flower_strategy.device.base_model import adapted_shapes, load_base_model
from flower_strategy.messages import ARRAYS_KEY, METRICS_KEY, read_adapter, received_adapter
from flower_strategy.profile import EMBEDDING_KEY
from flower_strategy.report.page import write_report
from flower_strategy.run_folder import load_history, load_manifest
from flower_strategy.server.admission import NoDevicesError
from flower_strategy.server.state import RunState
from flower_strategy.testing.grids import LocalGrid, Tamper, start_run


def run(
    run_config: dict[str, ConfigValue], *, nodes: int = 6, tamper: Tamper | None = None
) -> tuple[FloeStrategy, LocalGrid, Any]:
    grid = LocalGrid(run_config, nodes, tamper=tamper)
    strategy, result = start_run(run_config, grid)
    return strategy, grid, result


def test_a_run_gives_ranks_clusters_falling_losses_and_an_export(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    strategy, grid, result = run(run_config)
    state = strategy.state

    ranks = {
        state.profiles[node].device: decision.rank for node, decision in state.decisions.items()
    }
    assert ranks == {"slow": 2, "middle": 4, "fast": 8}
    for message in grid.sent:
        if message.metadata.message_type == "train":
            config = message.content.config_records["config"]
            assert config["rank"] == state.decisions[message.metadata.dst_node_id].rank
            # On what it trains is at least as large as what is exported.
            beginning = config["server-round"] == 1
            assert received_adapter(message).rank == (config["rank"] if beginning else 8)

    assert len(state.clusters) >= 2
    tasks = {
        cluster.name: {state.profiles[node].label for node in cluster.members}
        for cluster in state.clusters
    }
    assert sum(len(labels) for labels in tasks.values()) == 3
    for cluster in state.clusters:
        losses = state.losses(cluster.name)
        assert len(losses) == 3
        assert losses[-1] < losses[0]
        name = f"{cluster.name}/held-out-loss"
        assert result.evaluate_metrics_clientapp[2][name] == losses[-1]

    assert result.train_metrics_clientapp[1]["replies"] == 6
    first = next(iter(state.clusters)).name
    assert f"{first}/model.layers.0.self_attn.q_proj.lora_A" in result.arrays

    folder = Path(str(run_config["output"]))
    manifest, history = load_manifest(folder), load_history(folder)
    assert [entry["name"] for entry in manifest["clusters"]] == [c.name for c in state.clusters]
    assert [len(record["devices"]) for record in history["rounds"]] == [6, 6, 6]
    for device in manifest["devices"]:
        assert choose_adapter(manifest, np.array(device["embedding"])) == device["cluster"]
        assert device["observed_seconds"] > 0
    for text in ("Policy: deadline", "predicted", "observed", "held-out loss", "MB up"):
        assert text in log.text


def test_nodes_of_one_cluster_and_rank_share_their_arrays(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"silhouette": 1.0, "rounds": 1}
    _, grid, _ = run(run_config)
    contents = [m.content for m in grid.sent if m.metadata.message_type == "train"]
    assert len(contents) == 6
    assert len({id(content[ARRAYS_KEY]) for content in contents}) == 3


def test_peft_loads_what_was_measured(run_config: dict[str, ConfigValue]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    strategy, _, _ = run({**run_config, "rounds": 1})
    folder = Path(str(run_config["output"]))
    manifest = load_manifest(folder)
    base = load_base_model(str(run_config["model"]))
    ids = torch.tensor([base.tokenizer("def f(x):")["input_ids"]])
    plain = base.model(ids).logits
    for entry in manifest["clusters"]:
        config = json.loads((folder / entry["adapter"] / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] == 8
        assert not config["rank_pattern"]
        assert not config["alpha_pattern"]
        loaded = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"]),
            str(folder / entry["adapter"]),
        )
        moved = loaded(ids).logits
        assert not torch.allclose(moved, plain, atol=1e-3)
        reference = AutoModelForCausalLM.from_pretrained(str(run_config["model"]))
        adapter = strategy.state.cluster_adapters[entry["name"]]
        for layer in adapter.layers:
            reference.get_submodule(layer).weight.data += torch.from_numpy(adapter.delta(layer))
        torch.testing.assert_close(moved, reference(ids).logits, rtol=1e-3, atol=1e-4)


def test_the_first_round_is_the_exact_mean_of_what_the_devices_sent(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"silhouette": 1.0, "rounds": 1, "alpha": 4.0}
    replies: list[tuple[float, AdapterState]] = []

    def listen(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train":
            metrics = reply.content.metric_records[METRICS_KEY]
            adapter = read_adapter(
                reply.content.array_records[ARRAYS_KEY], scaling=_number(metrics["scaling"])
            )
            replies.append((_number(metrics["steps"]), adapter))
        return reply

    # The adapter holds the whole mean: its rank is that of the export. With downloads as long as
    # these, the three classes get three ranks where the middle one is about as slow as this.
    run_config |= {"devices": "slow:4:1:0.00001,middle:4:1:0.000014,fast:4:1:0.001"}
    strategy, _, _ = run({**run_config, "export-rank": 32}, tamper=listen)
    assert {adapter.scaling for _, adapter in replies} == {2.0, 1.0, 0.5}
    total = sum(weight for weight, _ in replies)
    cluster_adapter = strategy.state.cluster_adapters["cluster-0"]
    for layer in cluster_adapter.layers:
        dense = sum(weight / total * adapter.delta(layer) for weight, adapter in replies)
        assert np.linalg.norm(cluster_adapter.delta(layer) - dense) <= 1e-5 * np.linalg.norm(dense)


def _number(value: Any) -> float:
    return float(value)


def _break(message: Message, reply: Message, how: str) -> Message | None:
    content: RecordDict = reply.content
    arrays = content.array_records[ARRAYS_KEY]
    metrics = content.metric_records[METRICS_KEY]
    layer = "model.layers.0.mlp.up_proj"
    factor = arrays[f"{layer}.lora_B"].numpy().copy()
    if how == "error":
        return Message(Error(code=2, reason="out of memory"), reply_to=message)
    if how == "silent":
        return None
    if how == "missing layer":
        del arrays[f"{layer}.lora_A"], arrays[f"{layer}.lora_B"]
    elif how == "unpaired":
        del arrays[f"{layer}.lora_A"]
    elif how == "shape":
        arrays[f"{layer}.lora_B"] = Array(factor[:-1])
    elif how in ("nan", "inf"):
        scales = arrays["scales"].numpy().copy()
        scales[0] = float(how)
        arrays["scales"] = Array(scales)
    elif how == "float nan":
        for name, factors in read_adapter(arrays, scaling=1.0).layers.items():
            factors.b[0, 0] = np.nan
            arrays[f"{name}.lora_A"] = Array(factors.a)
            arrays[f"{name}.lora_B"] = Array(factors.b)
        del arrays["scales"]
    elif how == "no bytes":
        broken = Array(factor)
        broken.data = b"rubbish"
        arrays[f"{layer}.lora_B"] = broken
    elif how == "no metrics":
        del content[METRICS_KEY]
    else:
        key, value = how.split("=")
        metrics[key] = float(value)
    return reply


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("error", "out of memory"),
        ("silent", "no reply within"),
        ("missing layer", "'scales' has 224 scales, 208 are needed"),
        ("unpaired", "There is no 'model.layers.0.mlp.up_proj.lora_A'"),
        ("shape", "asked for were"),
        ("nan", "not finite"),
        ("inf", "not finite"),
        ("float nan", "not finite"),
        ("steps=0", "steps is 0; it must be a whole number from 1"),
        ("no bytes", ""),
        ("no metrics", "there is no 'metrics'"),
        ("num-examples=0", "num-examples is 0"),
        ("num-examples=-5", "num-examples is -5"),
        ("num-examples=1e12", "num-examples is 1e+12"),
        ("num-examples=nan", "num-examples is nan"),
        ("scaling=3", "scaling is 3.0, sent was 1.0"),
        ("train-loss=nan", "train-loss is nan"),
    ],
)
def test_a_bad_reply_is_refused_with_node_and_reason_and_the_others_count(
    run_config: dict[str, ConfigValue], how: str, reason: str
) -> None:
    run_config |= {"rounds": 1, "silhouette": 1.0, "local-steps": 1, "eval-examples": 1}

    def tamper(node: int, message: Message, reply: Message) -> Message | None:
        if node == 102 and message.metadata.message_type == "train":
            return _break(message, reply, how)
        return reply

    strategy, _, result = run(run_config, nodes=4, tamper=tamper)
    record = strategy.state.history[1]
    assert [(refusal.node, refusal.stage) for refusal in record.refused] == [(102, "train")]
    assert reason in record.refused[0].reason
    assert record.clusters["cluster-0"].replies == 3
    assert record.clusters["cluster-0"].moved
    assert math.isfinite(float(result.train_metrics_clientapp[1]["train-loss"]))
    adapter = strategy.state.cluster_adapters["cluster-0"]
    assert all(np.isfinite(adapter.delta(layer)).all() for layer in adapter.layers)


def test_with_too_few_good_replies_a_cluster_keeps_its_adapter(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    run_config |= {"rounds": 1, "silhouette": 1.0, "min-replies": 3, "local-steps": 1}

    def tamper(node: int, message: Message, reply: Message) -> Message | None:
        if node < 102 and message.metadata.message_type == "train":
            return _break(message, reply, "nan")
        return reply

    strategy, _, _ = run(run_config, nodes=4, tamper=tamper)
    record = strategy.state.history[1]
    assert record.clusters["cluster-0"].replies == 2
    assert not record.clusters["cluster-0"].moved
    assert strategy.state.cluster_adapters["cluster-0"] is strategy.state.initial
    assert "cluster-0 keeps its adapter: 2 good replies of 4, 3 needed" in log.text


def test_a_cluster_smaller_than_min_replies_moves_when_all_its_members_reply(
    run_config: dict[str, ConfigValue],
) -> None:
    strategy, _, _ = run({**run_config, "rounds": 1, "min-replies": 5}, nodes=2)
    assert strategy.state.history[1].clusters["cluster-0"].moved


def test_a_bad_profile_leaves_the_others_and_is_asked_again(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"rounds": 1, "silhouette": 1.0, "local-steps": 1}
    asked: list[int] = []

    def tamper(node: int, message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type == "query.profile" and node == 101:
            asked.append(node)
            if len(asked) == 1:
                short = Array(np.array([1.0], np.float32))
                reply.content.array_records[EMBEDDING_KEY]["embedding"] = short
        return reply

    strategy, _, _ = run(run_config, nodes=3, tamper=tamper)
    first, second = strategy.state.history
    assert [(refusal.node, refusal.stage) for refusal in first.refused] == [(101, "profile")]
    assert "1 numbers, the others' 32" in first.refused[0].reason
    assert len(asked) == 2
    assert set(second.devices) == {100, 101, 102}


def test_a_newcomer_joins_the_nearest_cluster_in_the_next_round(
    run_config: dict[str, ConfigValue],
) -> None:
    grid = LocalGrid(run_config, 6)
    grid.online.discard(105)

    class Later(FloeStrategy):
        def aggregate_evaluate(self, server_round: int, replies: Any) -> Any:
            grid.online.add(105)
            return super().aggregate_evaluate(server_round, replies)

    strategy, _ = start_run({**run_config, "rounds": 1}, grid, kind=Later)
    state = strategy.state
    assert 105 not in state.history[0].devices
    assert state.history[1].devices[105].rank == 8

    def likeness(cluster: Cluster) -> float:
        others = [state.profiles[node].embedding for node in cluster.members if node != 105]
        mean = np.mean(others, axis=0)
        return float(mean @ state.profiles[105].embedding / np.linalg.norm(mean))

    assert len(state.clusters) > 1
    assert state.cluster_of(105) is max(state.clusters, key=likeness)


def test_a_node_that_goes_away_is_not_asked(run_config: dict[str, ConfigValue]) -> None:
    grid = LocalGrid(run_config, 3)

    class Leaving(FloeStrategy):
        def aggregate_profile(self, replies: Any) -> Any:
            found = super().aggregate_profile(replies)
            grid.online.discard(101)
            return found

    strategy, _ = start_run({**run_config, "rounds": 1, "silhouette": 1.0}, grid, kind=Leaving)
    assert set(strategy.state.history[1].devices) == {100, 102}
    assert not strategy.state.history[1].refused


def test_without_any_device_the_run_ends_with_every_reason(
    run_config: dict[str, ConfigValue],
) -> None:
    output = Path(str(run_config["output"]))

    def last_round() -> dict[str, Any]:
        write_report(output)
        (only,) = load_history(output)["rounds"]
        return dict(only)

    with pytest.raises(NoDevicesError, match=r"nodes 100, 101: Run configuration data='nowhere"):
        run({**run_config, "data": "nowhere.jsonl"}, nodes=2)
    record = last_round()
    assert "nodes 100, 101: Run configuration data='nowhere.jsonl'" in record["notes"][-1]
    assert load_manifest(output)["clusters"] == []
    assert sorted(refusal["node"] for refusal in record["refused"]) == ["100", "101"]
    with pytest.raises(NoDevicesError, match=r"node 100: rank 2 needs .* the deadline is 0\.0 s"):
        run({**run_config, "round-deadline": 0.0001}, nodes=2)
    record = last_round()
    assert "No device can take part: node 100: rank 2 needs" in record["notes"][-1]
    assert list(record["left_out"]) == ["100", "101"]
    assert [device["rank"] for device in load_manifest(output)["devices"]] == [None, None]
    # The earlier run's result is still in the folder.
    first = output / "exports" / "round-0000" / "history.json"
    assert "nowhere.jsonl" in first.read_text("utf-8")
    with pytest.raises(NoDevicesError, match="none is connected"):
        run(run_config, nodes=0)
    assert last_round()["notes"][-1] == "No device can take part: none is connected."


def test_a_device_s_own_floor_of_noise_reaches_the_server(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    own = {"partition-id": 0, "num-partitions": 1, "simulated": True, "min-embedding-noise": 0.5}
    grid = LocalGrid(run_config, 1, node_configs=[own])
    said = "embedding-noise=0 is below this device's min-embedding-noise=0.5"
    with pytest.raises(NoDevicesError, match=said):
        start_run(run_config, grid)
    assert f"node 100: {said}" in load_history(str(run_config["output"]))["rounds"][0]["notes"][0]
    assert said in log.text


def test_noise_that_was_sent_before_stays_and_is_noted(
    run_config: dict[str, ConfigValue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flower_strategy.device.embedding_noise.state_dir", lambda: tmp_path / "state"
    )
    once = {**run_config, "rounds": 1, "local-steps": 1}
    strategies = [
        run({**once, "embedding-noise": noise, "embedding-texts": texts}, nodes=2)[0].state
        for noise, texts in ((0.3, 8), (0.0, 3))
    ]
    for node, profile in strategies[0].profiles.items():
        later = strategies[1].profiles[node]
        np.testing.assert_array_equal(later.embedding, profile.embedding)
        assert later.embedding_noise == 0.3
    said = [[note for note in each.history[0].notes if "noisier" in note] for each in strategies]
    assert said[0] == []
    (note,) = said[1]
    assert note.startswith("2 devices keep to the noisier task embedding")
    assert note.endswith("noise up to 0.3, asked were 0")


def test_adapters_are_written_out_only_for_those_who_read_them(
    run_config: dict[str, ConfigValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    whole = RunState.to_arrays

    def counted(state: RunState, *, best: bool = False) -> ArrayRecord:
        written.append(len(state.history))
        return whole(state, best=best)

    monkeypatch.setattr(RunState, "to_arrays", counted)
    strategy = FloeStrategy.from_config(RunConfig.from_dict(run_config))
    result = strategy.start(
        LocalGrid(run_config, 2), make_initial_arrays(strategy), num_rounds=2, timeout=5
    )
    # At the end, for the result.
    assert written == [3]
    assert any(key.endswith("lora_B") for key in result.arrays)


def test_a_small_initial_adapter_is_refused(run_config: dict[str, ConfigValue]) -> None:
    config = RunConfig.from_dict(run_config)
    strategy = FloeStrategy.from_config(config)
    initial = initial_adapter(adapted_shapes(config.model), rank=2, seed=0)
    with pytest.raises(ConfigError, match="has rank 2; candidates and export need 8"):
        strategy.start(LocalGrid(run_config, 1), initial.to_arrays())


def test_the_same_seed_gives_the_same_adapters(run_config: dict[str, ConfigValue]) -> None:
    # A round that leaves every device time to spare, for the same ranks: a device that is slower
    # than it was measured stops where its time is over, so the steps would follow the machine.
    run_config |= {"rounds": 1, "round-deadline": 350.0}
    runs = [run(run_config, nodes=3)[0].state for _ in range(2)]
    assert {decision.rank for decision in runs[0].decisions.values()} == {2, 4, 8}
    adapters = [state.cluster_adapters for state in runs]
    assert adapters[0].keys() == adapters[1].keys()
    for name, adapter in adapters[0].items():
        for layer in adapter.layers:
            np.testing.assert_allclose(
                adapter.delta(layer), adapters[1][name].delta(layer), rtol=1e-4, atol=1e-6
            )


def test_a_run_says_which_modules_carry_factors(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    named = {**run_config, "rounds": 1, "target-modules": "q_proj,down_proj"}
    strategy, _, _ = run(named, nodes=2)
    said = log.text
    assert "With factors: q_proj, down_proj (4 modules, " in said
    assert "embed_tokens: an embedding, no linear layer" in said
    assert "vLLM 0.32 serves the adapters with --enable-lora (LlamaForCausalLM)." in said
    assert strategy.output is not None
    modules = load_manifest(strategy.output)["modules"]
    assert modules["architecture"] == "LlamaForCausalLM"
    assert [group["name"] for group in modules["with_factors"]] == [
        "model.layers.*.self_attn.q_proj",
        "model.layers.*.mlp.down_proj",
    ]
    assert {"model.layers.*.mlp.up_proj"} < {g["name"] for g in modules["without_factors"]}
    assert modules["vllm"]["takes"] is True
    adapter = json.loads((strategy.output / "cluster-0" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["down_proj", "q_proj"]
    assert adapter["fan_in_fan_out"] is False
