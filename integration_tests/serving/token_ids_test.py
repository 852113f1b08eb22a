"""What devices train on has the token ids that a server gives a prompt.

`integration_tests.harness.render` serves without an engine; it reads prompts as whole servers do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from floe_plugins.models import resolve
from flower_strategy.data.examples import Example
from flower_strategy.data.forms import to_examples
from flower_strategy.device.encoding import Encoder
from integration_tests.harness.prepared import fork
from integration_tests.harness.processes import end, free_port, tail
from vllm_logits_processor.testing.tokenizers import TRAINED, TRAINED_WORDS

_START_TIMEOUT_S = 300.0

_LLAMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_CHATML = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}<|user|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)

#: The embedded models' tokenizers, and those of the families that base models have.
TOKENIZERS = ("smollm2", "gemma3", "gpt-2", "llama-2", "llama-3", "xglm", "bert")

TEXTS = (
    "The cat sat on the mat",
    "  def add(first, second):\n    return first\n",
    "Naïve café owners paid 12,50 € for 3 crêpes. 你好",
    "Ask <|user|> or </s>: special tokens in a text",
    " ",
    "line\n\nline\n",
    "the mat was flat, and the cat was fat. " * 200,
)

TALK = (
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?\n"},
    {"role": "assistant", "content": "Second, and the cat sat."},
)

#: As OpenAI's interface has them: arguments are text, of which servers make objects.
CALL = {"name": "weather", "arguments": '{"city": "Ulm", "days": 2}'}
TOOL_TALK = (
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": CALL}],
    },
    {"role": "tool", "content": "dry", "tool_call_id": "1"},
    {"role": "assistant", "content": "No."},
)
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Forecast",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)


def _trained(name: str) -> PreTrainedTokenizerFast:
    family = {
        "gpt-2": "byte-level",
        "llama-2": "sentencepiece",
        "llama-3": "byte-level",
        "xglm": "unigram",
        "bert": "wordpiece",
    }[name]
    backend = (TRAINED | TRAINED_WORDS)[family](420)
    first = {"llama-2": "<s>", "llama-3": "<|user|>", "xglm": "</s>", "bert": "[CLS]"}.get(name)
    last = {"bert": "[SEP]"}.get(name)
    if first:
        single = f"{first} $A" + (f" {last}" if last else "")
        special = [(token, backend.token_to_id(token)) for token in (first, last) if token]
        backend.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=special
        )
    end_of_text = next(
        t for t in ("<|end|>", "</s>", "[SEP]") if backend.token_to_id(t) is not None
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end_of_text, bos_token=first
    )
    tokenizer.chat_template = {"llama-2": _LLAMA, "llama-3": _CHATML, "gpt-2": None}.get(name)
    return tokenizer


@pytest.fixture(scope="module", params=TOKENIZERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PreTrainedTokenizerBase, str]]:
    """Serve a tokenizer; yield it and the server's URL."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in ("smollm2", "gemma3"):
        name = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma-3-270m"}[request.param]
        model = resolve(f"embedded:{name}")
    else:
        model = str(folder / "model")
        tokenizer = _trained(request.param)
        tokenizer.save_pretrained(model)
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8192,
            )
        ).save_pretrained(model)
    port = free_port()
    options = ["--model", model, "--served-model-name", "m"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "render.log"
    process = fork("integration_tests.harness.render", options, log=log, env={})
    url = f"http://127.0.0.1:{port}"
    try:
        begun = time.monotonic()
        while not _answers(url):
            assert process.poll() is None, tail(log)
            assert time.monotonic() - begun < _START_TIMEOUT_S, tail(log)
            time.sleep(0.5)
        yield AutoTokenizer.from_pretrained(model), url
    finally:
        end(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _post(url: str, route: str, body: dict[str, Any]) -> Any:
    reply = httpx.post(
        f"{url}/v1/{route}/render", json={"model": "m", **body}, timeout=60, trust_env=False
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_prompt_has_the_ids_that_the_server_gives_it(
    served: tuple[PreTrainedTokenizerBase, str],
) -> None:
    tokenizer, url = served
    encoder = Encoder(tokenizer, template="none", max_length=8192)
    for text in TEXTS:
        ids = _post(url, "completions", {"prompt": text, "max_tokens": 1})[0]["token_ids"]
        assert encoder.prompt(text) == ids, text
        # What is trained on, and what the task is embedded by, begin with the same ids.
        assert list(encoder.encode(Example(text, " fine")).ids[: len(ids)]) == ids, text


def test_a_conversation_has_the_ids_that_the_server_gives_it(
    served: tuple[PreTrainedTokenizerBase, str],
) -> None:
    tokenizer, url = served
    if not tokenizer.chat_template:
        pytest.skip("the tokenizer has no chat template")
    encoder = Encoder(tokenizer, max_length=8192)
    assert encoder.form == "chat"
    for text in TEXTS:
        messages = [{"role": "user", "content": text}]
        ids = _post(url, "chat/completions", {"messages": messages})["token_ids"]
        assert encoder.prompt(text) == ids, text
        if text.strip():
            found = encoder.encode(Example(text, " fine")).ids
            stripped = [{"role": "user", "content": text.strip()}]
            ids = _post(url, "chat/completions", {"messages": stripped})["token_ids"]
            assert list(found[: len(ids)]) == ids, text
    for turns in (1, 3):
        ids = _post(url, "chat/completions", {"messages": TALK[:turns]})["token_ids"]
        talk = encoder.encode(Example(conversation=json.dumps(TALK[: turns + 1])))
        assert list(talk.ids[: len(ids)]) == ids, turns
        assert any(talk.learned[len(ids) :])
        # Of what the server is sent, the assistant's earlier turn alone is learned.
        shown = zip(talk.ids[: len(ids)], talk.learned[: len(ids)], strict=True)
        spoken = [token for token, on in shown if on]
        earlier = str(tokenizer.decode(spoken, skip_special_tokens=True)).strip()
        assert earlier == ("First." if turns > 1 else "")


def test_calls_of_tools_have_the_ids_that_the_server_gives_them(
    served: tuple[PreTrainedTokenizerBase, str],
) -> None:
    tokenizer, url = served
    if tokenizer.chat_template != _CHATML:
        pytest.skip("the tokenizer's chat template shows no tools")
    encoder = Encoder(tokenizer, max_length=8192)
    row = {"messages": list(TOOL_TALK), "tools": list(TOOLS)}
    (example,) = to_examples([(1, row)], source="data")
    found = encoder.encode(example)
    body = {"messages": TOOL_TALK[:-1], "tools": TOOLS, "tool_choice": "none"}
    ids = _post(url, "chat/completions", body)["token_ids"]
    assert tokenizer.decode(found.ids[: len(ids)]) == tokenizer.decode(ids)
    assert list(found.ids[: len(ids)]) == ids
    learned = [token for token, on in zip(found.ids, found.learned, strict=True) if on]
    assert "Ulm" in tokenizer.decode(learned)


#: Cut by its tokens alone, and, much longer, before it is tokenized.
LONG = tuple("the mat was flat, and the cat was fat. " * times for times in (12, 400))


def _special(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Return how many special tokens stand in front."""
    special = set(tokenizer.all_special_ids)
    return next(place for place, each in enumerate(ids) if each not in special)


def _begins_a_word(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if "[CLS]" in tokenizer.all_special_tokens:
        return not piece.startswith("##")
    return piece.startswith(("Ġ", "▁"))


@pytest.mark.parametrize("text", LONG, ids=["tokens", "characters"])
def test_a_cut_prompt_has_the_ids_that_the_server_gives_what_is_kept(
    served: tuple[PreTrainedTokenizerBase, str], text: str
) -> None:
    tokenizer, url = served
    whole = _post(url, "completions", {"prompt": text, "max_tokens": 1})[0]["token_ids"]
    front = _special(tokenizer, whole)
    compared = 0
    # The cut falls elsewhere at each length; within a word, it would be spelled otherwise.
    for length in range(40, 52):
        encoder = Encoder(tokenizer, template="none", max_length=length)
        encoded = encoder.encode(Example(text, " fine"))
        assert len(encoded.ids) == length < len(whole)
        kept = list(encoded.ids[: encoded.learned.index(True)])
        assert kept == [*whole[:front], *whole[len(whole) - len(kept) + front :]]
        if _begins_a_word(tokenizer, kept[front]):
            prompt = tokenizer.decode(kept, skip_special_tokens=True)
            ids = _post(url, "completions", {"prompt": prompt, "max_tokens": 1})[0]["token_ids"]
            assert ids == kept, prompt
            compared += 1
    assert compared


@pytest.mark.parametrize("text", LONG, ids=["tokens", "characters"])
def test_a_cut_question_has_the_ids_that_the_server_gives_its_end(
    served: tuple[PreTrainedTokenizerBase, str], text: str
) -> None:
    tokenizer, url = served
    if not tokenizer.chat_template:
        pytest.skip("the tokenizer has no chat template")
    messages = [{"role": "user", "content": text.strip()}]
    whole = _post(url, "chat/completions", {"messages": messages})["token_ids"]
    front = _special(tokenizer, whole)
    encoded = Encoder(tokenizer, max_length=48).encode(Example(text, " fine"))
    assert len(encoded.ids) == 48 < len(whole)
    kept = list(encoded.ids[: encoded.learned.index(True)])
    assert kept == [*whole[:front], *whole[len(whole) - len(kept) + front :]]


@pytest.mark.parametrize("text", LONG, ids=["tokens", "characters"])
def test_a_cut_response_has_the_ids_that_the_server_gives_its_beginning(
    served: tuple[PreTrainedTokenizerBase, str], text: str
) -> None:
    tokenizer, url = served
    prompt, response = "What was flat?", f" {text}"
    body = {"prompt": prompt + response, "max_tokens": 1}
    whole = _post(url, "completions", body)[0]["token_ids"]
    encoded = Encoder(tokenizer, template="none", max_length=48).encode(Example(prompt, response))
    assert len(encoded.ids) == 48 < len(whole)
    assert encoded.learned[-1]
    # What is cut has no end; some tokenizers put the token of an end around every prompt.
    end_of_text = tokenizer.eos_token_id
    assert encoded.ids[-1] != end_of_text
    kept = [token for token in encoded.ids if token != end_of_text]
    assert kept == [token for token in whole if token != end_of_text][: len(kept)]
