"""A broken model or data file gives one sentence, before anything is sent to a device."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from floe_plugins.errors import FloeError
from flower_strategy import server_app
from flower_strategy.config import ConfigValue
from flower_strategy.device.base_model import check_base_model, load_base_model
from flower_strategy.server.admission import NoDevicesError
from flower_strategy.simulation import NodeConfig, simulates
from flower_strategy.testing.grids import LocalGrid, start_run

Config = dict[str, ConfigValue]
Row = Mapping[str, Any]

GOOD: list[Row] = [{"prompt": f"say {n}:", "response": f" {n} {n}"} for n in range(40)]


class InMemoryGrid(LocalGrid):
    """A mock of the simulation engine's grid, which is recognised by name; its nodes are local."""


def start(config: Config, grid: LocalGrid) -> None:
    """Run the ServerApp as Flower does."""
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    server_app.main(grid, context)


# --------------------------------------------------------------------------- models


def changed_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def changed_tokens(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def removed(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def indexed(folder: Path, *, shards: int) -> None:
    """Leave an index of the weights that names missing files."""
    removed(folder / "model.safetensors")
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    index = {"weight_map": {name: name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def saved(model: str, **sizes: Any) -> Callable[[Path], None]:
    """Return a function that replaces the Llama with a tiny model of another architecture."""

    def save(folder: Path) -> None:
        import transformers

        kind = getattr(transformers, model)
        small = kind.config_class(vocab_size=257, **sizes)
        small.architectures = [model]
        small.save_pretrained(folder)
        kind(small).save_pretrained(folder)

    return save


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "There is no folder "),
    "no config": (lambda at: removed(at / "config.json"), "holds no config.json"),
    "a broken config": (
        lambda at: (at / "config.json").write_text("{"),
        "The configuration of model '.*' cannot be read from /.*not a valid JSON",
    ),
    "an unknown kind": (
        lambda at: changed_config(at, model_type="nonesuch"),
        "cannot be read from /.*model type `nonesuch`",
    ),
    "no tokenizer": (
        lambda at: removed(*at.glob("tokenizer*")),
        "The folder of model '.*' has no tokenizer: none of tokenizer.json, ",
    ),
    "a broken tokenizer": (
        lambda at: (at / "tokenizer.json").write_text("{"),
        "The tokenizer of model '.*' cannot be read from /.*JSONDecodeError",
    ),
    "a tokenizer without an end": (
        lambda at: changed_tokens(at, eos_token=None),
        "has no end-of-text token",
    ),
    "another model's tokenizer": (
        lambda at: changed_config(at, vocab_size=100),
        "the model embeds 100 tokens: the tokenizer is another model's",
    ),
    "an encoder": (
        saved("BertForMaskedLM", num_attention_heads=4, **SMALL),
        "was saved as BertForMaskedLM, which has no head",
    ),
    "a classifier": (
        lambda at: changed_config(at, architectures=["LlamaForSequenceClassification"]),
        "was saved as LlamaForSequenceClassification, which has no head .* LlamaForCausalLM",
    ),
    "a vision model": (
        lambda at: changed_config(at, model_type="clip_vision_model"),
        "is of the kind 'clip_vision_model', of which transformers has no causal language model",
    ),
    "an encoder with a decoder": (
        lambda at: changed_config(at, model_type="t5", is_encoder_decoder=True),
        r"is an encoder with a decoder \(t5\)",
    ),
    "no layers to adapt": (
        saved("GPT2LMHeadModel", n_embd=32, n_layer=0, n_head=4),
        "has no linear layer that PEFT could adapt",
    ),
    "numbers that contradict each other": (
        lambda at: changed_config(at, num_attention_heads=0),
        "cannot be (read|built) from",
    ),
    "no weights": (
        lambda at: removed(at / "model.safetensors"),
        "has no weights: none of model.safetensors, pytorch_model.bin is in /",
    ),
    "cut off weights": (
        lambda at: (at / "model.safetensors").write_bytes(b"\0" * 100),
        r"The weights of model '.*' are damaged: /.*model\.safetensors",
    ),
    "a missing shard": (
        lambda at: indexed(at, shards=2),
        "are not whole: /.*model-00001-of-00002.safetensors is missing",
    ),
}


@pytest.fixture
def model(tiny_model: str, tmp_path: Path) -> Path:
    """Return a copy of the tiny Llama to break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize("case", MODELS)
def test_what_a_model_lacks_is_one_sentence(case: str, model: Path) -> None:
    damage, sentence = MODELS[case]
    damage(model)
    with pytest.raises(FloeError, match=sentence) as caught:
        check_base_model(str(model), max_length=64, weights=True)
    assert "\n" not in str(caught.value)


def test_a_whole_model_passes(tiny_model: str) -> None:
    assert check_base_model(tiny_model, max_length=256, weights=True)


def test_a_model_that_is_neither_here_nor_on_the_hub_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's client reads the variable on import; without it, it retries for a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FloeError, match="'models/absent' is no folder here") as caught:
        check_base_model("models/absent", max_length=64)
    assert f"tried {tmp_path / 'models/absent'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_fewer_layers_are_not_made_up(model: Path) -> None:
    """Otherwise nodes would train a base model with a random layer."""
    changed_config(model, num_hidden_layers=3, layer_types=None)
    with pytest.raises(FloeError, match=r"lack 9 tensors .* among them model\.layers\.2\."):
        load_base_model(str(model))


# ----------------------------------------------------------------------------- data


def rows(*, changed: Row) -> str:
    """Return valid lines of JSON, the 31st with other values."""
    lines = [json.dumps(row) for row in GOOD]
    lines[30] = json.dumps({**GOOD[30], **changed})
    return "\n".join(lines)


DATA: dict[str, tuple[str, str, str]] = {
    "empty": ("data.jsonl", "", "data.jsonl holds no examples"),
    "wrong fields": (
        "data.jsonl",
        json.dumps({"de": "a", "en": "b"}),
        "has the fields de, en, which are not recognised",
    ),
    "null": ("data.jsonl", rows(changed={"prompt": None}), "line 31: the field prompt holds null"),
    "a list": (
        "data.jsonl",
        rows(changed={"response": ["a", "b"]}),
        "line 31: the field response holds a list; text or a number is needed",
    ),
    "an object": ("data.jsonl", rows(changed={"prompt": {}}), "prompt holds an object"),
    "a truth value": ("data.jsonl", rows(changed={"response": True}), "holds true or false"),
    "an empty response": ("data.jsonl", rows(changed={"response": ""}), "the response is empty"),
    "half a character": (
        "data.jsonl",
        rows(changed={"prompt": "\ud83d"}),
        "line 31: its text has '.*ud83d', half of a character",
    ),
    "a long number": ("data.jsonl", '{"prompt": ' + "1" * 5000 + "}", "line 1: no JSON"),
    "deep brackets": ("data.jsonl", "[" * 200_000, "line 1: no JSON"),
    "no JSON": ("data.jsonl", rows(changed={}) + "\nsay 41: 41", "line 41: no JSON"),
    "a spreadsheet": ("data.xlsx", "PK", r"is a file of another kind \(\.xlsx\): read are \.arrow"),
    "a table of one row": (
        "data.csv",
        "prompt,response\na,b",
        r"Node \d of 3 gets 0 examples .*: give more data or fewer nodes",
    ),
    "a list of numbers": ("data.json", "[1, 2]", "line 1: a JSON object is needed, got int"),
    "a written-out array": (
        "data.jsonl",
        json.dumps(GOOD, indent=2),
        "it is one JSON text over several lines: give it the suffix .json",
    ),
    "messages without an answer": (
        "data.jsonl",
        json.dumps({"messages": [{"role": "user", "content": "a"}]}),
        "line 1: the field messages has no turn of the assistant to learn",
    ),
    "a role": (
        "data.jsonl",
        json.dumps({"messages": [{"role": "narrator", "content": "a"}]}),
        r"line 1: messages\[0\] has an unknown role; accepted are assistant",
    ),
    "too few rows": (
        "data.jsonl",
        json.dumps(GOOD[0]),
        r"Node \d of 3 gets 0 examples .*: give more data or fewer nodes",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_what_a_file_lacks_is_reported_before_anything_is_sent(
    case: str, run_config: Config, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    name, text, sentence = DATA[case]
    (tmp_path / name).write_text(text, "utf-8")
    config = {**run_config, "data": str(tmp_path / name)}
    stopped(config, sentence, log)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max-length": 0}, "max-length=0 is not accepted: .* from 8"),
        ({"max-length": 4096}, "max-length=4096 is more than the 256 positions of model"),
        ({"dtype": "float17"}, "dtype='float17' is not accepted: .* float32, bfloat16"),
        ({"held-out": 1.0}, "held-out=1.0 is not accepted"),
        ({"max-examples": 1}, "max-examples=1 is not accepted: a node needs 2 examples"),
        (
            {"data": "FIVE", "mix": 1.0, "max-examples": 2},
            r"max-examples=2 leaves node \d of 3 with 0 of its \d+ examples",
        ),
        (
            {"data": "GOOD", "prompt-template": "{question}", "response-template": "{answer}"},
            "line 1: no field answer, question; the row has prompt, response",
        ),
        (
            {"data": "GOOD", "prompt-template": "{prompt:d}", "response-template": "{response}"},
            "line 1: the template does not fit the row",
        ),
        ({"data": "EMPTY"}, "is a folder without files of data: /"),
        ({"data": "absent/table.csv"}, "does not exist: tried /"),
    ],
)
def test_a_configuration_that_asks_too_much_is_refused_before_anything_is_sent(
    values: Config,
    sentence: str,
    run_config: Config,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "GOOD").with_suffix(".jsonl").write_text(rows(changed={}))
    for folder, files in (("EMPTY", 0), ("FIVE", 5)):
        (tmp_path / folder).mkdir()
        for number in range(files):
            (tmp_path / folder / f"{number}.jsonl").write_text(rows(changed={}))
    places = {"GOOD": tmp_path / "GOOD.jsonl", **{n: tmp_path / n for n in ("EMPTY", "FIVE")}}
    if values.get("data") in places:
        values = {**values, "data": str(places[str(values["data"])])}
    stopped({**run_config, **values}, sentence, log)


def stopped(config: Config, sentence: str, log: pytest.LogCaptureFixture) -> None:
    """Start a run; check that it ends with one sentence, logged once, before it sends anything."""
    grid = InMemoryGrid(config, 3)
    assert simulates(grid)
    with pytest.raises(FloeError, match=sentence) as caught:
        start(config, grid)
    assert grid.sent == []
    said = [record for record in log.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in said] == [str(caught.value)]
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


# ----------------------------------------------------------------------- real nodes


def test_a_real_node_s_fault_reaches_the_server_under_its_name_and_the_others_go_on(
    run_config: Config, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.jsonl").write_text(rows(changed={}))
    (tmp_path / "null.jsonl").write_text(rows(changed={"prompt": None}))
    nodes: list[NodeConfig] = [
        {"name": "desk", "data-path": str(tmp_path / "good.jsonl")},
        {"name": "attic", "data-path": str(tmp_path / "null.jsonl")},
        # As Flower's tutorials start a SuperNode.
        {"name": "cellar", "partition-id": 0, "num-partitions": 2},
        {"name": "barn", "data": "embedded", "partition-id": 1, "num-partitions": 4},
    ]
    config = {**run_config, "rounds": 1, "ranks": "2"}
    grid = LocalGrid(config, len(nodes), node_configs=nodes)
    strategy, _ = start_run(config, grid)
    assert {profile.identity: profile.device for profile in strategy.state.profiles.values()} == {
        "name:desk": "device",
        "name:barn": "device",
    }
    refused = {entry.node: entry.reason for entry in strategy.state.history[0].refused}
    assert refused[101].startswith(f"attic: {tmp_path / 'null.jsonl'}, line 31: the field prompt")
    assert refused[102].startswith("cellar: This SuperNode names no data of its own: set --node-")
    assert refused[101] in log.text
    assert "Traceback" not in log.text


def test_a_run_of_which_no_node_has_data_ends_with_their_sentences(run_config: Config) -> None:
    nodes: list[NodeConfig] = [{"partition-id": n, "num-partitions": 7} for n in range(7)]
    with pytest.raises(NoDevicesError) as caught:
        start_run(run_config, LocalGrid(run_config, 7, node_configs=nodes))
    said = str(caught.value)
    assert re.search(r"nodes [\d, ]+ and 2 more: This SuperNode names no data of its own", said)
    assert said.count("This SuperNode") == 1


def test_a_node_that_says_nonsense_of_itself_is_refused(run_config: Config) -> None:
    nodes: list[NodeConfig] = [{"simulated": "yes", "data": "embedded"}, {"simulated": True}]
    with pytest.raises(NoDevicesError) as caught:
        start_run(run_config, LocalGrid(run_config, 2, node_configs=nodes))
    assert "node 100: --node-config simulated='yes' must be true or false." in str(caught.value)
    assert "node 101: The node has no partition-id: set both" in str(caught.value)
