import numpy as np
import pytest

from flower_strategy.data.embedded import make_examples
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, load_base_model
from flower_strategy.device.embedding import (
    TaskEmbedding,
    embed_texts,
    least_cosine,
    mean_embedding,
)
from flower_strategy.settings import EmbeddingSettings

PLAIN = EmbeddingSettings(template="none", texts=8)


def of(base: BaseModel, examples: list[Example]) -> TaskEmbedding:
    return mean_embedding(base, examples, PLAIN).embedding()


def test_a_task_tells_its_own_prompts_from_others() -> None:
    base = load_base_model("embedded:smollm2-135m-instruct")
    tasks = {name: make_examples(name, count=20, seed=1) for name in ("records", "arithmetic")}
    for name, examples in tasks.items():
        device = of(base, examples[:8])
        least = least_cosine(base, examples[:8], device, PLAIN)
        assert 0.5 < least < 1
        for other, rows in tasks.items():
            vectors = embed_texts(base, [each.prompt for each in rows[8:]], template="none")
            fits = float(np.mean(vectors @ device.vector >= least))
            assert fits > 0.8 if other == name else fits < 0.2


def test_a_conversations_prompt_is_what_the_user_says_first(tiny_base: BaseModel) -> None:
    plain = [Example(f"say {'ab ' * count}:", " ab") for count in range(1, 6)]
    turns = [Example.of_turns("", each.response, user=each.prompt) for each in plain]
    device = of(tiny_base, plain)
    spoken = [Example(conversation=each.conversation) for each in turns]
    assert least_cosine(tiny_base, spoken, device, PLAIN) == pytest.approx(
        least_cosine(tiny_base, plain, device, PLAIN)
    )


def test_where_there_is_no_telling_every_text_fits(tiny_base: BaseModel) -> None:
    few = [Example("ab:", " ab"), Example("cd:", " cd"), Example("ef:", " ef")]
    device = of(tiny_base, few)
    assert least_cosine(tiny_base, few, device, PLAIN) == -1
    documents = [Example("", f"only a document {number}") for number in range(8)]
    assert least_cosine(tiny_base, documents, of(tiny_base, documents), PLAIN) == -1
    many = make_examples("records", count=8, seed=1)
    noisy = TaskEmbedding(device.vector, 0.1, noise=0.5)
    assert least_cosine(tiny_base, many, noisy, PLAIN) == -1


def test_alike_prompts_leave_some_room(tiny_base: BaseModel) -> None:
    alike = [Example("say ab:", f" {'ab ' * count}") for count in range(1, 9)]
    device = of(tiny_base, alike)
    (vector,) = embed_texts(tiny_base, ["say ab:"], template="none")
    assert least_cosine(tiny_base, alike, device, PLAIN) < float(vector @ device.vector)
