import json
import time
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from floe_plugins import models
from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example
from flower_strategy.device.encoding import Encoded, Encoder

SMOLLM2, GEMMA = "embedded:smollm2-135m-instruct", "embedded:gemma-3-270m"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Second."},
]
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHTS_LEFT_OUT = MARKED.replace(
    "{% generation %}{{ message.content }}",
    "<think></think>{% generation %}{{ message.content }}",
)
FORGETS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('!')[-1] "
    "if message.role == 'assistant' and not loop.last else message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module", params=[SMOLLM2, GEMMA])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


def load(name: str) -> Any:
    return AutoTokenizer.from_pretrained(models.resolve(name, progress=False))


@pytest.fixture(scope="module")
def instruct() -> Any:
    return load(SMOLLM2)


def learned(encoded: Encoded, tokenizer: Any) -> str:
    pairs = zip(encoded.ids, encoded.learned, strict=True)
    return str(tokenizer.decode([each for each, wanted in pairs if wanted]))


def front(encoded: Encoded) -> list[int]:
    return list(encoded.ids[: encoded.learned.index(True)])


# -------------------------------------------------------------------- plain


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("What is 2+2?", " Four."),
        ("def f(x):\n", "    return x"),
        ("", "A document of its own."),
        ("The answer: ", "none"),
        ("é中", " 🙂"),
    ],
)
def test_plain_text_has_the_prompt_s_ids_as_a_server_reads_them(
    tokenizer: Any, prompt: str, response: str
) -> None:
    encoded = Encoder(tokenizer, template="none", max_length=64).encode(Example(prompt, response))
    assert front(encoded) == tokenizer(prompt)["input_ids"]
    assert learned(encoded, tokenizer) == response + tokenizer.eos_token
    whole = tokenizer.decode(encoded.ids, skip_special_tokens=True)
    assert whole == prompt + response


def test_gemma_has_its_bos_in_front() -> None:
    gemma = load(GEMMA)
    encoder = Encoder(gemma, max_length=8)
    assert encoder.form == "plain"
    long = encoder.encode(Example("word " * 5000, " yes"))
    assert long.ids[0] == gemma.bos_token_id
    assert len(long.ids) == 8
    assert encoder.prompt("hi")[0] == gemma.bos_token_id


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [(100, 4, (5, 5)), (3, 100, (3, 7)), (100, 100, (5, 5)), (0, 100, (0, 10))],
)
def test_what_is_too_long_keeps_the_end_of_the_prompt_and_half_for_the_response(
    instruct: Any, prompt: int, response: int, kept: tuple[int, int]
) -> None:
    example = Example("1" * (prompt - 1) + "2" if prompt else "", "3" * response)
    encoded = Encoder(instruct, template="none", max_length=10).encode(example)
    assert (encoded.learned.count(False), encoded.learned.count(True)) == kept
    assert encoded.ends is (response < 100)
    assert (encoded.ids[-1] == instruct.eos_token_id) is encoded.ends
    if prompt:
        assert instruct.decode(encoded.ids[kept[0] - 1]) == "2"


@pytest.mark.parametrize("words", [12, 2000])
@pytest.mark.parametrize("around", [("", ""), ("<|im_start|>", ""), ("<|im_start|>", "<|im_end|>")])
def test_a_cut_prompt_keeps_the_special_tokens_around_it(
    around: tuple[str, str], words: int
) -> None:
    """Whether it is cut by its tokens alone or, much longer, before it is tokenized."""
    tokenizer = load(SMOLLM2)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, (around[0], "$A", around[1]))),
        special_tokens=[
            (token, tokenizer.convert_tokens_to_ids(token)) for token in around if token
        ],
    )
    text = " the mat was flat" * words
    whole = tokenizer(text)["input_ids"]
    encoder = Encoder(tokenizer, template="none", max_length=24)
    kept = front(encoder.encode(Example(text, " fine")))
    in_front = 1 if around[0] else 0
    assert kept == [*whole[:in_front], *whole[len(whole) - len(kept) + in_front :]]
    assert len(kept) < 24 < len(whole)


def test_a_long_prompt_is_cut_before_it_is_tokenized(instruct: Any) -> None:
    example = Example("Some words of a long text. " * 40_000, " yes")
    encoder = Encoder(instruct, max_length=64)
    encoder.encode(Example("a", "b"))
    begun = time.process_time()
    first = encoder.encode(example)
    assert time.process_time() - begun < 0.5
    begun = time.process_time()
    assert encoder.encode(example) is first
    assert time.process_time() - begun < 0.01


# --------------------------------------------------------------------- chat


def test_prompt_and_response_are_a_conversation_where_the_model_has_a_template(
    instruct: Any,
) -> None:
    encoded = Encoder(instruct, max_length=64).encode(Example("One?", " First."))
    asked = [{"role": "user", "content": "One?"}]
    served = instruct.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert front(encoded) == served
    assert Encoder(instruct, max_length=64).prompt("One?") == served
    assert learned(encoded, instruct) == "First.<|im_end|>"


@pytest.mark.parametrize("template", [None, MARKED], ids=["by prefix", "marked"])
def test_every_turn_of_the_assistant_is_learned_and_no_other(template: str | None) -> None:
    tokenizer = load(SMOLLM2)
    tokenizer.chat_template = template or tokenizer.chat_template
    encoded = Encoder(tokenizer, max_length=64).encode(Example(conversation=json.dumps(TALK)))
    assert learned(encoded, tokenizer) == "First.<|im_end|>Second.<|im_end|>"
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode(encoded.ids) == whole.rstrip()
    served = tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True)["input_ids"]
    assert list(encoded.ids[: len(served)]) == served


def test_what_a_template_marks_is_learned_rather_than_the_whole_turn() -> None:
    tokenizer = load(SMOLLM2)
    tokenizer.chat_template = THOUGHTS_LEFT_OUT
    encoded = Encoder(tokenizer, max_length=64).encode(Example(conversation=json.dumps(TALK)))
    assert learned(encoded, tokenizer) == "First.<|im_end|>Second.<|im_end|>"
    assert tokenizer.decode(encoded.ids).count("<think></think>") == 2


def test_a_template_that_shows_earlier_turns_otherwise_has_the_last_one_learned() -> None:
    tokenizer = load(SMOLLM2)
    tokenizer.chat_template = FORGETS
    talk = [*TALK[:2], {"role": "assistant", "content": "Well! First."}, *TALK[3:]]
    encoded = Encoder(tokenizer, max_length=64).encode(Example(conversation=json.dumps(talk)))
    assert learned(encoded, tokenizer) == "Second.<|im_end|>"
    served = tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True)["input_ids"]
    assert front(encoded) == served


def test_a_turn_without_an_end_gets_the_tokenizer_s() -> None:
    tokenizer = load(SMOLLM2)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoded = Encoder(tokenizer, max_length=64).encode(Example(conversation=json.dumps(TALK[1:3])))
    assert learned(encoded, tokenizer) == "First.\n<|im_end|>"


def test_a_long_conversation_keeps_its_last_answer(instruct: Any) -> None:
    talk = [*TALK[:3], {"role": "user", "content": "word " * 2000}, TALK[4]]
    encoded = Encoder(instruct, max_length=32).encode(Example(conversation=json.dumps(talk)))
    assert len(encoded.ids) == len(encoded.learned) == 32
    assert learned(encoded, instruct) == "Second.<|im_end|>"
    assert encoded.ends


def test_a_long_answer_of_a_conversation_loses_its_end(instruct: Any) -> None:
    talk = [*TALK[:3], {"role": "assistant", "content": "word " * 2000}]
    encoded = Encoder(instruct, max_length=32).encode(Example(conversation=json.dumps(talk)))
    assert not encoded.ends
    assert encoded.ids[-1] != instruct.eos_token_id


def test_conversations_need_a_template() -> None:
    example = Example(conversation=json.dumps(TALK))
    for encoder in (
        Encoder(load(GEMMA), max_length=64),
        Encoder(load(SMOLLM2), template="none", max_length=64),
    ):
        with pytest.raises(ConfigError, match="which a chat template renders"):
            encoder.encode(example)


def test_what_a_template_refuses_is_one_sentence() -> None:
    tokenizer = load(SMOLLM2)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ConfigError, match="System role not supported; its roles are system, user"):
        Encoder(tokenizer, max_length=64).encode(Example(conversation=json.dumps(TALK)))
