import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_strategy.device.embedding import TaskEmbedding
from integration_tests.benchmarks.task_embeddings.__main__ import main
from integration_tests.benchmarks.task_embeddings.figure import draw
from integration_tests.benchmarks.task_embeddings.measure import Node, deal, judge, read_tasks
from integration_tests.benchmarks.task_embeddings.result import remarks


def test_nodes_are_embedded_clustered_and_drawn(
    tiny_model: str, tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    files = []
    for letters in ("abc", "xyz"):
        random = np.random.default_rng(ord(letters[0]))
        files.append(tmp_path / f"{letters}.jsonl")
        rows = ["".join(random.choice(list(letters), 40)) for _ in range(50)]
        files[-1].write_text("\n".join(json.dumps({"text": row}) for row in rows), "utf-8")
    options = ["--model", tiny_model, "--data", ",".join(map(str, files))]
    options += ["--nodes", "9", "--texts", "5", "--mixed", "3", "--noise", "0", "3"]
    values = values_of(main, *options)
    assert [node["mixed"] for node in values["nodes"]] == [0] * 6 + [0.2] * 3
    quiet, loud = values["levels"]
    assert (quiet["noise"], loud["noise"]) == (0, 3)
    for level in (quiet, loud):
        cosines = np.array(level["cosines"])
        assert cosines.shape == (9, 9)
        np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-3)
        assert list(level["silhouettes"]) == ["2", "3", "4", "5", "6"]
    # Two alphabets of three letters and code are three tasks, for any model; not under so much
    # noise.
    assert max(quiet["silhouettes"], key=quiet["silhouettes"].__getitem__) == "3"
    assert quiet["adjusted_rand"] == 1
    assert quiet["within"]["mean"] > quiet["across"]["mean"]
    assert loud["error"] > 3 * quiet["error"]
    assert loud["adjusted_rand"] < 1
    figure = draw(values)
    assert [axes.get_xlabel() for axes in figure.axes] == ["node", "node", "cosine"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(node["name"] for node in values["nodes"])
    figure.canvas.draw()


def test_no_text_is_on_two_nodes_and_mixed_ones_have_their_share() -> None:
    tasks = {name: [f"{name}{at}" for at in range(40)] for name in ("one", "two", "three")}
    nodes = deal(tasks, nodes=6, texts=5, mixed=2, share=0.4, seed=0)
    dealt = [text for node in nodes for text in node.texts]
    assert len(set(dealt)) == len(dealt) == 30
    assert [node.task for node in nodes] == ["one", "two", "three"] * 2
    for node in nodes:
        own = sum(text.startswith(node.task) for text in node.texts)
        assert own == (3 if node.mixed else 5)


def test_what_is_wrong_in_a_split_is_counted() -> None:
    def embedding(degrees: float) -> TaskEmbedding:
        turn = np.deg2rad(degrees)
        return TaskEmbedding(np.array([np.cos(turn), np.sin(turn)], np.float32), 0.01)

    nodes = [Node(task=task, mixed=0.0, texts=()) for task in ("a", "a", "a", "b", "b")]
    # The third node lies with the other task's.
    found = judge(nodes, [embedding(turn) for turn in (0, 1, 89, 90, 91)])
    assert found["labels"][0] == found["labels"][1] != found["labels"][2] == found["labels"][4]
    assert max(found["silhouettes"], key=found["silhouettes"].__getitem__) == "2"
    assert 0 < found["adjusted_rand"] < 1
    assert found["within"]["least"] < 0.1
    assert found["across"]["most"] > 0.99
    values = {
        "nodes": [{"task": node.task, "mixed": 0} for node in nodes],
        "tasks": ["a", "b"],
        "texts": 1,
        "levels": [{"noise": 0, **found}],
    }
    (_, said) = remarks(values)
    assert "1 of 5 nodes with a cluster of another task" in said
    assert "are not always closer" in said


def test_texts_come_without_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "integration_tests.benchmarks.task_embeddings.measure.task_files", lambda: []
    )
    tasks = read_tasks(None, count=3, seed=1)
    assert sorted(tasks) == ["arithmetic", "code", "records"]
    assert all(len(set(texts)) == 3 for texts in tasks.values())


def test_a_file_with_too_few_texts_is_named(tmp_path: Path, error_of: Callable[..., str]) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"text": "x"}\n' * 9, "utf-8")
    assert "Task 'one' has 9 texts; 120 are needed." in error_of(main, "--data", str(file))
