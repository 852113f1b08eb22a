import ast
import difflib
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from flwr.app import Context, RecordDict

from floe_plugins.errors import ConfigError
from flower_strategy.client_app import NODE_KEYS, local_data
from flower_strategy.config import RunConfig
from flower_strategy.data import (
    Example,
    check_shared_data,
    load_hub_examples,
    load_local_data,
    read_examples,
)
from flower_strategy.data.embedded import TASKS, make_examples
from flower_strategy.data.files import find_files
from flower_strategy.data.forms import custom_template
from flower_strategy.data.partition import (
    check_shares,
    hold_out,
    main_task,
    node_name,
    partition,
)
from flower_strategy.simulation import NodeConfig


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


# ------------------------------------------------------------------ embedded


@pytest.mark.parametrize("task", list(TASKS))
def test_embedded_tasks_are_the_same_for_the_same_seed_and_hold_nothing_twice(task: str) -> None:
    examples = make_examples(task, count=200, seed=3)
    assert examples == make_examples(task, count=200, seed=3)
    assert examples != make_examples(task, count=200, seed=4)
    assert len(set(examples)) == 200
    assert all(example.response[0].isspace() for example in examples)


def test_the_arithmetic_is_right() -> None:
    for example in make_examples("arithmetic", count=300, seed=0):
        *steps, answer = example.response.strip().rstrip(".").split(". ")
        for step in steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right), step
        assert answer == f"The answer is {steps[-1].split(' = ')[1]}"


def test_records_hold_what_the_sentence_says() -> None:
    for example in make_examples("records", count=100, seed=0):
        record = json.loads(example.response)
        assert all(str(value) in example.prompt for value in record.values())


def test_code_examples_are_whole_functions_of_the_standard_library() -> None:
    for example in make_examples("code", count=50, seed=0):
        assert example.prompt.startswith("def ")
        (function,) = ast.parse(example.text).body
        assert isinstance(function, ast.FunctionDef)


# --------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"prompt": "a", "response": " b"}, Example("a", " b")),
        ({"question": "q", "answer": "a"}, Example("Question: q\nAnswer:", " a")),
        (
            {"question": "q", "context": "c", "answer": "yes", "long_answer": "Since."},
            Example("Context: c\nQuestion: q\nAnswer:", " yes. Since."),
        ),
        (
            {"instruction": "i", "input": "n", "output": "o"},
            Example("i\nn\nResponse:", " o"),
        ),
        ({"text": "t", "spans": []}, Example("", "t")),
    ],
)
def test_common_fields_are_recognised(
    tmp_path: Path, row: dict[str, object], example: Example
) -> None:
    (found,) = read_examples(write_rows(tmp_path / "data.jsonl", [row]))
    assert (found.prompt, found.response) == (example.prompt, example.response)


def test_a_template_over_other_fields(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"en": "one", "de": "eins"}])
    with pytest.raises(ConfigError, match="en, de, which are not recognised"):
        read_examples(path)
    template = custom_template("English: {en}\\nGerman:", " {de}")
    assert read_examples(path, template=template) == [Example("English: one\nGerman:", " eins")]


@pytest.mark.parametrize("prompt", ["{en", "{0}", "{en.x}"])
def test_a_template_that_is_none_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        custom_template(prompt, "{de}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt": ', "line 2: no JSON"),
        ('["a"]', "line 1: a JSON object is needed, got a list"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a"}', "line 2: no field response"),
        ('{"prompt": "a", "response": " "}', "line 1: the response is empty"),
        ("\n", "holds no examples"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)


def test_files_and_folders_become_tasks_by_name(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "a", "response": "b"}]
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder / "one.jsonl", rows)
    write_rows(folder / "two.jsonl", rows)
    write_rows(tmp_path / "three.jsonl", rows)
    assert list(find_files(f"{folder}, {tmp_path / 'three.jsonl'}")) == ["one", "two", "three"]
    with pytest.raises(ConfigError, match=r"names the file .*one\.jsonl twice"):
        find_files(f"{folder},{folder / 'one.jsonl'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="without files of data"):
        find_files(str(tmp_path / "empty"))


def test_an_absent_path_is_answered_with_the_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises(ConfigError) as caught:
        load_local_data(
            RunConfig(data="../data/x.jsonl"),
            {"partition-id": 0, "num-partitions": 2},
            simulated=True,
        )
    assert f"tried {tmp_path.resolve() / 'data' / 'x.jsonl'}" in str(caught.value)


# ----------------------------------------------------------------- partition


def pools(count: int) -> dict[str, list[Example]]:
    return {
        name: [Example(f"{name} {index}", " x") for index in range(count)] for name in ("a", "b")
    }


def test_no_example_is_on_two_nodes_and_none_is_lost() -> None:
    shares = [
        partition(pools(101), partition_id=node, num_partitions=5, mix=0.3, classes=3, seed=1)[0]
        for node in range(5)
    ]
    texts = [example.prompt for share in shares for example in share]
    assert len(texts) == len(set(texts)) == 202


@pytest.mark.parametrize(("mix", "share"), [(0.0, 1.0), (0.4, 0.8), (1.0, 0.5)])
def test_mix_sets_the_share_of_the_main_task(mix: float, share: float) -> None:
    examples, main = partition(
        pools(1000), partition_id=1, num_partitions=4, mix=mix, classes=3, seed=0, max_examples=100
    )
    assert len(examples) == 100
    own = sum(example.prompt.startswith(main) for example in examples)
    assert own / 100 == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("tasks", "classes"), [(3, 3), (2, 3), (3, 2), (2, 2), (4, 2)])
def test_every_task_meets_several_device_classes(tasks: int, classes: int) -> None:
    met: dict[int, set[int]] = {}
    for node in range(tasks * classes):
        met.setdefault(main_task(node, tasks=tasks, classes=classes), set()).add(node % classes)
    assert len(met) == tasks
    assert all(len(seen) == classes for seen in met.values())


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="Node 0 of 9 gets"):
        partition(pools(4), partition_id=0, num_partitions=9, mix=0, classes=1, seed=0)
    with pytest.raises(ConfigError, match="at least 2 that differ are needed"):
        hold_out([Example("a", " b")], fraction=0.5)


@pytest.mark.parametrize("count", [4, 5, 8, 13, 60])
@pytest.mark.parametrize("kinds", [2, 7, 1000])
@pytest.mark.parametrize(("mix", "most"), [(0.0, 0), (0.3, 0), (1.0, 0), (0.3, 2), (1.0, 3)])
def test_what_suffices_is_known_before_anything_is_dealt_out(
    count: int, kinds: int, mix: float, most: int
) -> None:
    """Also of rows that are nearly all equal: `kinds` is how many different ones there are."""
    tasks = {
        name: [pool[max(0, min(row, row - len(pool) + kinds))] for row in range(len(pool))]
        for name, pool in pools(count).items()
    }
    for nodes in (1, 3, 7):
        said: dict[str, str] = {}
        deal: dict[str, Any] = {"num_partitions": nodes, "mix": mix, "classes": 3, "seed": 0}
        for node in range(nodes):
            try:
                share, _ = partition(tasks, partition_id=node, max_examples=most, **deal)
                hold_out(share, fraction=0.2, node=node_name(node, nodes))
            except ConfigError as error:
                said[str(error)] = str(node)
        refused = ""
        try:
            check_shares(tasks, max_examples=most, **deal)
        except ConfigError as error:
            refused = str(error)
        # In the words that the device would have, whichever of them it is.
        assert refused in said if said else not refused


def test_rows_that_are_nearly_all_equal_are_found_before_the_run(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "same", "response": " x"} for _ in range(200)]
    path = write_rows(tmp_path / "data.jsonl", [*rows, {"prompt": "other", "response": " x"}])
    config = RunConfig(data=str(path), max_examples=0)
    with pytest.raises(
        ConfigError, match=r"^Node \d of 4 has one example, \d\d times; at least 2 that differ"
    ):
        check_shared_data(config, num_partitions=4)
    check_shared_data(config, num_partitions=1)


def test_both_parts_of_a_node_hold_something() -> None:
    for count in (2, 3, 10):
        examples = [Example(str(index), " x") for index in range(count)]
        for fraction in (0.01, 0.2, 0.9):
            data = hold_out(examples, fraction=fraction)
            assert data.held_out
            assert data.train
            assert sorted((*data.train, *data.validation, *data.held_out), key=str) == sorted(
                examples, key=str
            )


def test_about_the_share_that_was_asked_for_is_held_out() -> None:
    examples = [Example(str(index), " x") for index in range(2000)]
    for fraction in (0.05, 0.2, 0.9):
        held = len(hold_out(examples, fraction=fraction).held_out)
        # Four standard deviations of as many fair draws.
        assert abs(held - fraction * 2000) < 4 * (2000 * fraction * (1 - fraction)) ** 0.5


def test_held_out_rows_stay_held_out_as_files_grow() -> None:
    examples = [Example(str(index), " x") for index in range(200)]
    before = hold_out(examples[:150], fraction=0.2)
    after = hold_out(examples, fraction=0.2)
    assert set(before.held_out) <= set(after.held_out)
    assert set(before.train) <= set(after.train)


@pytest.mark.parametrize(("count", "fewest"), [(2, 0), (4, 0), (8, 1), (200, 8)])
def test_validation_examples_are_neither_trained_on_nor_held_out(count: int, fewest: int) -> None:
    examples = [Example(str(index), " x") for index in range(count)]
    plain = hold_out(examples, fraction=0.2)
    data = hold_out(examples, fraction=0.2, validation=0.1)
    assert data.held_out == plain.held_out
    assert set(data.train) | set(data.validation) == set(plain.train)
    assert not set(data.train) & set(data.validation)
    assert len(data.train) + len(data.validation) == len(plain.train)
    assert (len(data.validation) > 0) == (len(plain.train) >= 4)
    assert fewest <= len(data.validation) < 40
    assert set(data.everything) == set(examples)


def test_validation_rows_stay_so_as_files_grow() -> None:
    examples = [Example(str(index % 180), " x") for index in range(200)]
    before = hold_out(examples[:150], fraction=0.2, validation=0.2)
    after = hold_out(examples, fraction=0.2, validation=0.2)
    assert before.validation
    assert set(before.validation) <= set(after.validation)
    assert set(before.train) <= set(after.train)


def test_equal_rows_are_on_one_side() -> None:
    examples = [Example(str(index % 20), " x") for index in range(200)]
    data = hold_out(examples, fraction=0.2)
    assert not set(data.train) & set(data.held_out)
    with pytest.raises(ConfigError, match="one example, 5 times; at least 2 that differ"):
        hold_out([Example("a", " b")] * 5, fraction=0.5)


# ---------------------------------------------------------------- local data


def test_nodes_hold_mostly_one_embedded_task() -> None:
    config = RunConfig(mix=0.1)
    labels = []
    for node in range(6):
        data = load_local_data(config, {"partition-id": node, "num-partitions": 6}, simulated=True)
        labels.append(data.label)
        assert 90 <= len((*data.train, *data.validation, *data.held_out)) <= 128
    assert labels == ["code", "arithmetic", "records", "arithmetic", "records", "code"]


def test_a_real_node_reads_its_own_path(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": str(index), "response": " x"} for index in range(10)
    ]
    path = write_rows(tmp_path / "mine.jsonl", rows)
    data = load_local_data(RunConfig(data="embedded"), {"data-path": str(path)}, simulated=False)
    prompts = [example.prompt for example in (*data.train, *data.validation, *data.held_out)]
    assert sorted(prompts) == sorted(str(row["prompt"]) for row in rows)
    assert data.held_out
    assert data.label == ""


def test_a_real_node_draws_from_all_its_files(tmp_path: Path) -> None:
    """Not the first rows of the first file, however its rows are sorted."""
    for name in ("a", "b"):
        rows: list[dict[str, object]] = [
            {"prompt": f"{name}{index:03}", "response": " x"} for index in range(200)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    config = RunConfig(data="embedded", max_examples=100, held_out=0.2)
    data = load_local_data(config, {"data-path": str(tmp_path)}, simulated=False)
    assert len((*data.train, *data.validation, *data.held_out)) == 100
    assert 4 <= len(data.held_out) <= 36  # four standard deviations of as many fair draws
    for part in (data.train, data.held_out):
        prompts = [example.prompt for example in part]
        assert {prompt[0] for prompt in prompts} == {"a", "b"}
        assert prompts != sorted(prompts)
    assert load_local_data(config, {"data-path": str(tmp_path)}, simulated=False) == data


@pytest.mark.parametrize(
    "node_config", [{}, {"name": "attic"}, {"partition-id": 0, "num-partitions": 3}]
)
def test_the_error_of_a_real_node_without_data_of_its_own_says_what_to_set(
    node_config: NodeConfig,
) -> None:
    with pytest.raises(ConfigError, match="names no data of its own: set --node-config"):
        load_local_data(RunConfig(data="embedded"), node_config, simulated=False)


def test_a_real_node_opts_in_to_its_share_of_common_data(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": str(index), "response": " x"} for index in range(20)
    ]
    path = write_rows(tmp_path / "common.jsonl", rows)
    # The run's own data, files of this machine for all that the server knows, are not read.
    config = RunConfig(data=str(tmp_path / "absent.jsonl"))
    shares = [
        load_local_data(
            config,
            {"data": str(path), "partition-id": node, "num-partitions": 4},
            simulated=False,
        )
        for node in range(4)
    ]
    prompts = [
        example.prompt
        for share in shares
        for example in (*share.train, *share.validation, *share.held_out)
    ]
    assert sorted(prompts, key=int) == [row["prompt"] for row in rows]
    own: NodeConfig = {"data": "embedded", "partition-id": 1, "num-partitions": 6}
    embedded = load_local_data(config, own, simulated=False)
    dealt: NodeConfig = {"partition-id": 1, "num-partitions": 6}
    assert embedded == load_local_data(RunConfig(), dealt, simulated=True)
    with pytest.raises(ConfigError, match="has no partition-id"):
        load_local_data(config, {"data": "embedded"}, simulated=False)
    with pytest.raises(ConfigError, match="give data-path for files"):
        load_local_data(config, {"data": "embedded", "data-path": str(path)}, simulated=False)


@pytest.mark.parametrize(("own", "of"), [(5, 1), (-1, 2), (2, 2), ("a", 2), (0, 1.5), (True, 2)])
def test_a_partition_that_is_not_there_is_refused(own: int, of: int) -> None:
    said = re.escape(f"partition-id is {own!r} and its num-partitions {of!r}")
    with pytest.raises(ConfigError, match=said):
        load_local_data(RunConfig(), {"partition-id": own, "num-partitions": of}, simulated=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for the download: tests run without a network. What it returns is real.
    def load(path: str, name: str | None = None, *, split: str) -> datasets.Dataset:
        assert split == "train"
        said = [f"{path} {name} {i}" for i in range(10)]
        if name == "equal":
            said[1:] = [path] * 9
        return datasets.Dataset.from_list([{"question": each, "answer": "a"} for each in said])

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.usefixtures("hub")
def test_a_hub_data_set_is_dealt_out() -> None:
    for name, said in (("owner/set", "owner/set None"), ("owner/set:main", "owner/set main")):
        shares = [load_hub_examples(name, partition_id=n, num_partitions=4) for n in range(4)]
        prompts = [example.prompt for share in shares for example in share]
        assert sorted(prompts) == [f"Question: {said} {i}\nAnswer:" for i in range(10)]
        assert [len(share) for share in shares] == [3, 3, 2, 2]
        assert prompts != sorted(prompts)


@pytest.mark.usefixtures("hub")
def test_every_share_of_a_hub_data_set_is_looked_at_before_the_run() -> None:
    check_shared_data(RunConfig(data="owner/set:main"), num_partitions=4)
    config = RunConfig(data="owner/set:equal")
    check_shared_data(config, num_partitions=1)
    shares = [
        load_hub_examples("owner/set:equal", partition_id=node, num_partitions=2)
        for node in range(2)
    ]
    (poor,) = [node for node, share in enumerate(shares) if len(set(share)) == 1]
    with pytest.raises(ConfigError, match=f"^Node {poor} of 2 has one example, 5 times"):
        check_shared_data(config, num_partitions=2)


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no file or folder here, and the hub does not provide"):
        load_local_data(
            RunConfig(data="openai/gsm8k"), {"partition-id": 0, "num-partitions": 2}, simulated=True
        )


# ------------------------------------------------------------------- nodes


def test_two_files_of_one_name_are_fine_on_a_real_node(tmp_path: Path) -> None:
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
        rows: list[dict[str, object]] = [
            {"prompt": f"{folder} {index}", "response": " x"} for index in range(20)
        ]
        write_rows(tmp_path / folder / "notes.jsonl", rows)
    paths = f"{tmp_path / 'home' / 'notes.jsonl'},{tmp_path / 'work' / 'notes.jsonl'}"
    data = load_local_data(RunConfig(), {"data-path": paths}, simulated=False)
    prompts = {
        example.prompt.split()[0] for example in (*data.train, *data.validation, *data.held_out)
    }
    assert prompts == {"home", "work"}


def test_a_wrong_data_path_blames_the_node_s_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--node-config data-path='.*' does not exist: tried /"):
        load_local_data(RunConfig(), {"data-path": str(tmp_path / "x.jsonl")}, simulated=False)


@pytest.mark.parametrize("key", ["datapath", "data_path", "bandwith-mbps", "Name"])
def test_an_unknown_key_of_a_node_is_refused_with_the_nearest(key: str) -> None:
    context = Context(1, 1, {key: "x"}, RecordDict(), {})
    nearest = difflib.get_close_matches(key, NODE_KEYS, n=1)[0]
    said = f"--node-config has the unknown key {key!r}; did you mean {nearest!r}?"
    with pytest.raises(ConfigError, match=re.escape(said)):
        local_data(context)


def test_the_page_lists_every_key_of_a_node() -> None:
    page = Path("docs/how-to/deployment.md").read_text("utf-8")
    rows = page.split("| key of `--node-config` | meaning |")[1].split("\n\n")[0].splitlines()[2:]
    listed = [key for row in rows for key in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(NODE_KEYS)
