import json
from collections import Counter
from pathlib import Path
from random import Random

import httpx
import pytest

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.gate.data import Prompt
from integration_tests.benchmarks.pages import draw
from integration_tests.benchmarks.privacy.__main__ import main
from integration_tests.benchmarks.privacy.data import generated, load_prompts
from integration_tests.benchmarks.privacy.measure import StrayTextError, what_left
from integration_tests.benchmarks.privacy.relay import Request, relay
from vllm_logits_processor.testing.fake_expert import fake_expert

ANN = Prompt("Ann Bee writes to Joe", ((0, 7, "PERSON"), (18, 21, "PERSON")))
BOB = Prompt("Call 555 1234 at once", ((5, 13, "PHONE"),))
OPEN = Prompt("What is two and two?", ())


def request(prompt: object) -> Request:
    return Request(
        b"POST /v1/completions HTTP/1.1\r\n\r\n", json.dumps({"prompt": prompt}).encode()
    )


def codes(text: str) -> list[int]:
    return list(text.encode())


def test_what_left_is_told_by_prompt_and_class() -> None:
    requests = [
        request("What is two and two?"),
        # Token ids of two streams in one request, one of them without its last word.
        request([codes("Ann Bee writes to"), codes("What is two and two? Four")]),
    ]
    left = what_left(requests, [ANN, BOB, OPEN], decode=bytes)
    assert left.requests == 2
    assert left.sent_bytes == sum(len(each.head) + len(each.body) for each in requests)
    assert left.prompts == {0, 2}
    # Joe, the other person, was in the word that was left out.
    assert left.spans == Counter({"PERSON": 1})
    assert left.leaking == {0}
    more = what_left([*requests, request("Ann Bee writes to Joe")], [ANN, BOB, OPEN], decode=bytes)
    assert more.spans == Counter({"PERSON": 2})


def test_a_text_of_no_prompt_is_an_error() -> None:
    with pytest.raises(StrayTextError, match="begins like none"):
        what_left([request("Something else")], [ANN, BOB], decode=bytes)


def test_the_relay_keeps_what_it_passes_on() -> None:
    with fake_expert(lambda body: json.dumps({"got": body["prompt"]}).encode()) as server:
        with relay(server.url) as wire:
            for text in ("one", "two"):
                reply = httpx.post(
                    f"{wire.url}/completions", json={"prompt": text}, trust_env=False
                )
                assert reply.json() == {"got": text}
            first, second = wire.taken()
            assert wire.taken() == []
        assert json.loads(first.body) == {"prompt": "one"}
        assert first.head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
        assert second.size == len(second.head) + len(second.body)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{wire.url}/completions", json={}, trust_env=False)


def test_generated_prompts_have_their_spans_where_they_say() -> None:
    prompts = generated(40, Random(1))
    assert prompts == generated(40, Random(1))
    assert all(prompt.spans for prompt in prompts)
    mails = [
        prompt.text[start:end]
        for prompt in prompts
        for start, end, label in prompt.spans
        if label == "EMAIL_ADDRESS"
    ]
    assert mails
    assert all("@" in mail and " " not in mail for mail in mails)


def test_kinds_are_mixed_evenly_and_public_files_share_alike() -> None:
    prompts = load_prompts("", private=9, public=3, seed=5)
    assert (len(prompts.private), len(prompts.public)) == (9, 3)
    assert [bool(each.spans) for each in prompts.all].index(False) in (1, 2)
    assert sorted(each.text for each in prompts.all) == sorted(
        each.text for each in [*prompts.private, *prompts.public]
    )
    assert prompts == load_prompts("", private=9, public=3, seed=5)


def test_too_few_prompts_are_said_to_be_too_few(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"text": "Ann", "spans": [["0", "3", "PERSON"]]}))
    with pytest.raises(ConfigError, match="Asked for are 2 private prompts"):
        load_prompts(str(file), private=2, public=1, seed=0)


@pytest.mark.timed
def test_private_spans_stay_and_public_prompts_are_helped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Under `personal` names alone may leave.
    few = [
        "--profile",
        "strict",
        "--tiny",
        "--data",
        "",
        "--private",
        "8",
        "--public",
        "8",
        "--tokens",
        "4",
        "--json",
    ]
    assert main(few) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    systems = values["systems"]
    llm, floe = systems["llm-only"], systems["floe"]
    assert llm["spans_left"] == values["spans"] > 8
    assert llm["public_helped_share"] == llm["leaking_share"] == 1
    assert (llm["requests"], systems["router"]["requests"]) == (16, 8)
    assert systems["router+gate"]["spans_left"] < systems["router"]["spans_left"]
    assert floe["retention"] > 0.9
    assert 0 < floe["public_helped_share"] <= 1
    # One request per token, of the growing text.
    assert floe["bytes_per_helped_answer"] > 2 * llm["bytes_per_helped_answer"]
    assert (systems["slm-only"]["requests"], systems["slm-only"]["bytes"]) == (0, 0)
    for prompt in load_prompts("", private=8, public=8, seed=0).private:
        for start, end, _ in prompt.spans:
            assert prompt.text[start:end] not in printed.out + printed.err
    draw("privacy", values, tmp_path / "privacy.png")
    assert (tmp_path / "privacy.png").read_bytes()[:4] == b"\x89PNG"
