"""One noisy embedding of the same texts, whatever a server asks; no mock, the tiny real model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from floe_plugins.errors import ConfigError
from flower_strategy.config import RunConfig
from flower_strategy.data import load_local_data
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.device.base_model import BaseModel
from flower_strategy.device.embedding import mean_embedding
from flower_strategy.device.embedding_noise import (
    EmbeddingRefusedError,
    answers_file,
    device_embedding,
    least_noise,
)
from flower_strategy.settings import EmbeddingSettings
from flower_strategy.simulation import NodeConfig

EXAMPLES = tuple(Example(f"note {number}:", f" {word}") for number, word in enumerate("abcdefghij"))
DATA = LocalData(train=EXAMPLES, held_out=())
NOISE = 0.18
"""On 32 numbers of a mean of length 1: noise as long as the mean."""
HOW = EmbeddingSettings(texts=8, noise=NOISE)


class Asker:
    """A device that is asked, and what a server makes of its answers."""

    def __init__(self, base: BaseModel, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.truth = mean_embedding(base, [e.text for e in EXAMPLES], HOW).embedding().vector

    def __call__(
        self,
        how: EmbeddingSettings = HOW,
        *,
        data: LocalData = DATA,
        base: BaseModel | None = None,
        node: NodeConfig | None = None,
    ) -> NDArray[np.float32]:
        found = device_embedding(base or self.base, data, how, node or {}, folder=self.folder)
        return found.vector

    def cosine(self, answers: list[NDArray[np.float32]]) -> float:
        """Return how close the mean of answers comes to what they hide."""
        mean = np.mean(answers, axis=0)
        return float(mean @ self.truth) / float(np.linalg.norm(mean))


@pytest.fixture
def ask(tiny_base: BaseModel, tmp_path: Path) -> Asker:
    return Asker(tiny_base, tmp_path / "answers")


# ------------------------------------------------------------------- attacks


@pytest.mark.parametrize("step", [1e-6, -1e-6])
def test_noise_that_differs_a_little_is_not_averaged_away(ask: Asker, step: float) -> None:
    answers = [ask(replace(HOW, noise=NOISE + step * number)) for number in range(400)]
    single = ask.cosine(answers[:1])
    assert single < 0.95
    assert ask.cosine(answers) == pytest.approx(single, abs=0.06)


def test_no_setting_of_the_server_gives_a_second_draw(ask: Asker, tiny_base: BaseModel) -> None:
    first = ask()
    same_size = replace(tiny_base, path="another model")
    random = np.random.default_rng(0)
    settings = itertools.product((1, 2, 5, 8, 100), (8, 9, 32, 64, 128), (0.0, NOISE / 3, NOISE))
    asked = 0
    for count, length, noise in settings:
        how = EmbeddingSettings(texts=count, max_length=length, noise=noise)
        for _ in range(6):
            order = [EXAMPLES[int(row)] for row in random.permutation(len(EXAMPLES))]
            cut = int(random.integers(0, 4))
            # As other seeds, other shares to hold out, and fewer examples give it.
            split = LocalData(tuple(order[cut:]), tuple(order[:cut]))
            few = LocalData(tuple(order[cut:5]), tuple(order[:cut]), source=EXAMPLES)
            for data in (split, few):
                np.testing.assert_array_equal(ask(how, data=data), first)
                asked += 1
        with pytest.raises(EmbeddingRefusedError, match="another base model and sends no second"):
            ask(how, base=same_size)
    assert asked > 400


def test_two_levels_of_noise_do_not_give_the_embedding_away(ask: Asker) -> None:
    few = ask()
    much = ask(replace(HOW, noise=3 * NOISE))
    # v1 = e + a z, v2 = e + b z with one z would have e in the plane of the two.
    plane, _ = np.linalg.qr(np.stack([few, much]).T)
    hidden = float(np.linalg.norm(plane.T @ ask.truth))
    assert hidden < min(0.97, ask.cosine([few]) + 0.35)
    # The noisier answer is the less noisy one and chance: from now on it is the only one.
    for noise in (0.0, NOISE, 2 * NOISE, 3 * NOISE):
        np.testing.assert_array_equal(ask(replace(HOW, noise=noise)), much)


def test_noise_is_added_to_what_was_sent(ask: Asker) -> None:
    sent = [ask(replace(HOW, noise=noise)) for noise in np.linspace(NOISE, 2 * NOISE, 60)]
    # All of them are made of the first one; drawn one by one, their mean comes to 0.98.
    assert ask.cosine(sent) < min(0.95, ask.cosine(sent[:1]) + 0.3)


def test_the_error_that_goes_along_is_made_of_the_noisy_mean_alone(
    ask: Asker, tiny_base: BaseModel
) -> None:
    texts = [example.text for example in EXAMPLES]
    exact = mean_embedding(tiny_base, texts, HOW)
    noisy = exact.blurred(0.01, seed=3)
    assert noisy.embedding().error == pytest.approx(
        replace(exact, mean=noisy.mean, noise=0.01).embedding().error
    )
    # So does what a device without noise says of itself; it is the spread of its texts.
    assert 0 < exact.embedding().error < noisy.embedding().error
    found = [
        device_embedding(tiny_base, DATA, replace(HOW, texts=count), {}, folder=ask.folder)
        for count in (8, 1, 3)
    ]
    assert len({(each.error, each.noise) for each in found}) == 1


def test_the_server_s_seed_templates_and_cuts_do_not_change_a_real_node_s_answer(
    ask: Asker, tmp_path: Path
) -> None:
    file = tmp_path / "own.jsonl"
    rows = [{"text": f"row {number} of mine", "other": str(number)} for number in range(60)]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    node: NodeConfig = {"data-path": str(file)}
    answers = set()
    templates = [{}, {"prompt-template": "{other} says:", "response-template": " {text}"}]
    for seed, most, template in itertools.product(range(20), (4, 12, 60), templates):
        config = RunConfig.from_dict({"seed": seed, "max-examples": most, **template})
        answers.add(ask(data=load_local_data(config, node, simulated=False), node=node).tobytes())
    assert len(answers) == 1
    # A file that has changed by more than half of what was sent is another matter.
    file.write_text("\n".join(json.dumps({"text": f"new {n}"}) for n in range(60)), "utf-8")
    config = RunConfig.from_dict({})
    assert (
        ask(data=load_local_data(config, node, simulated=False), node=node).tobytes() not in answers
    )


# ------------------------------------------------------------- other texts


def test_each_text_takes_part_in_one_answer(ask: Asker) -> None:
    def holding(*numbers: int) -> LocalData:
        return LocalData(tuple(Example("", f"text {number}") for number in numbers), ())

    first = ask(data=holding(0, 1, 2, 3))
    np.testing.assert_array_equal(ask(data=holding(0, 1, 8, 9)), first)
    second = ask(data=holding(0, 6, 7, 8))
    assert not np.array_equal(first, second)
    answers = json.loads(answers_file({}, folder=ask.folder).read_text("utf-8"))["answers"]
    assert [len(answer["texts"]) for answer in answers] == [4, 3]
    # Text 0 was not used again; where only such are left, an old answer is repeated.
    np.testing.assert_array_equal(ask(data=holding(0)), first)
    np.testing.assert_array_equal(ask(replace(HOW, noise=0.0), data=holding(3)), first)
    # Nodes that share a file and take turns keep their own.
    for _ in range(3):
        np.testing.assert_array_equal(ask(data=holding(0, 1, 2, 3)), first)
        np.testing.assert_array_equal(ask(data=holding(6, 7, 8, 20)), second)


def test_without_noise_nothing_is_kept(ask: Asker) -> None:
    plain = ask(replace(HOW, noise=0.0))
    assert float(plain @ ask.truth) > 0.99
    assert not ask.folder.exists()


# ----------------------------------------------------------- the device's own


@pytest.mark.parametrize(
    ("config", "least"),
    [({}, 0), ({"min-embedding-noise": 1}, 1), ({"min-embedding-noise": 0.25, "name": "a"}, 0.25)],
)
def test_a_device_sets_its_own_floor(config: NodeConfig, least: float) -> None:
    assert least_noise(config) == least


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"min-embedding-noise": "much"}, "min-embedding-noise='much' must be a number from 0"),
        ({"min-embedding-noise": True}, "min-embedding-noise=True must be a number from 0 to 100"),
        ({"min-embedding-noise": -1}, "min-embedding-noise=-1 must be a number from 0 to 100."),
        ({"min-embedding-noise": float("nan")}, "min-embedding-noise=nan must be a number"),
        ({"min_embedding_noise": 1}, "'min_embedding_noise'; did you mean 'min-embedding-noise'"),
        ({"min-embeding-noise": 1}, "'min-embeding-noise'; did you mean 'min-embedding-noise'?"),
    ],
)
def test_a_floor_that_is_not_understood_is_one_sentence(config: NodeConfig, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        least_noise(config)
    assert sentence in str(caught.value)


def test_what_is_below_the_floor_is_refused_and_nothing_is_sent(ask: Asker) -> None:
    node: NodeConfig = {"min-embedding-noise": 0.5}
    for noise in (0.0, NOISE, 0.499999):
        with pytest.raises(
            EmbeddingRefusedError,
            match=r"embedding-noise=0\.?\d* is below this device's min-embedding-noise=0\.5",
        ):
            ask(replace(HOW, noise=noise), node=node)
    assert not ask.folder.exists()
    ask(replace(HOW, noise=0.5), node=node)


def test_nodes_of_one_machine_answer_each_for_itself(ask: Asker) -> None:
    nodes: list[NodeConfig] = [{"partition-id": at, "num-partitions": 6} for at in range(6)]

    def asked(node: NodeConfig) -> bytes:
        return ask(node=node).tobytes()

    with ThreadPoolExecutor(12) as pool:
        rounds = [list(pool.map(asked, nodes)) for _ in range(3)]
    assert rounds[0] == rounds[1] == rounds[2]
    assert len(set(rounds[0])) == 6
    assert len(list(ask.folder.glob("*.json"))) == 6


@pytest.fixture(autouse=True)
def nothing_is_left_behind(ask: Asker) -> Iterator[None]:
    """See after every test that its answers are their user's alone, and that no part is left."""
    yield
    if ask.folder.exists():
        assert not list(ask.folder.glob("*.part"))
        assert not list(ask.folder.glob(".*.part"))
        modes = {path.stat().st_mode & 0o777 for path in ask.folder.glob("*.json")}
        assert modes == {0o600}
