"""`floe-llm doctor` on servers that answer well, badly or not at all.

A real server is checked in integration_tests/plugins/plugins_test.py.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from floe_plugins.commands.doctor_lines import Status
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.testing.served_expert import Served, lines_of, section, serving


def test_a_good_configuration_is_green(served: Served, pair: tuple[str, str]) -> None:
    lines = lines_of(section(served, pair, expert={"trusted": True}), host=pair[0])
    assert {line.status for line in lines.values()} == {Status.GREEN}
    assert lines["expert"].found.endswith("serves 'slm'")
    assert lines["expert api"].found == "vllm (it says so itself)"
    assert lines["expert K"].found == "20 logprobs a token, as configured"
    assert lines["expert latency"].found.endswith("deadline_ms is 5000")
    assert lines["expert blocks"].found == "32 tokens a block, prefix caching on"
    assert lines["tokenizers"].found.startswith("host 406 tokens, 100.0% of them mapped; ")
    assert lines["expert tokenizer"].found == f"the server tokenizes as {pair[1]!r} does"
    assert lines["host end of turn"].found == "<|end|>"
    assert lines["expert end of turn"].found == "</s>"
    assert lines["gate"].found == "not needed: the expert may see everything"
    assert not any(line.advice for line in lines.values())


@pytest.mark.parametrize(
    ("state", "check", "found", "advice"),
    [
        ({"most": 7}, "expert K", "gives at most 7", "--max-logprobs 20, or set expert.top_k to 7"),
        ({"most": 1}, "expert K", "gives at most 1", "--max-logprobs 20"),
        ({"most": 0}, "expert K", "HTTP 400", "token ids as prompts"),
        ({"model": "llm"}, "expert", "does not serve 'slm'", "what it serves: llm"),
        ({"status": 401}, "expert", "HTTP 401", "API key"),
        ({"status": 404}, "expert", "HTTP 404", "before /completions"),
        ({"block_size": 128}, "expert blocks", "128 tokens", "--block-size 32"),
        ({"caching": False}, "expert blocks", "off", "--enable-prefix-caching"),
    ],
)
def test_a_server_that_will_not_do_is_red_and_says_what_to_do(
    pair: tuple[str, str], state: dict[str, Any], check: str, found: str, advice: str
) -> None:
    with serving(Served(**state)) as served:
        line = lines_of(section(served, pair))[check]
    assert line.status is Status.RED
    assert found in line.found
    assert advice in line.advice


@pytest.mark.parametrize("route", ["/tokenize", "/v1/completions"])
def test_another_models_tokenizer_is_red(pair: tuple[str, str], route: str) -> None:
    with serving(Served(tokenizer=pair[1], tokenizes=route)) as served:
        assert lines_of(section(served, pair))["expert tokenizer"].status is Status.GREEN
        values = section(served, pair, expert={"tokenizer": pair[0]})
        line = lines_of(values)["expert tokenizer"]
    assert line.status is Status.RED
    assert "the server has another one: it makes [" in line.found
    assert "Naïve café" in line.found
    assert "set expert.tokenizer to the tokenizer of the model" in line.advice


def test_a_tokenizer_that_differs_in_its_ends_of_turn_is_red(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    """The model is tuned for chat, but the configured tokenizer is still its base model's."""
    tuned = tmp_path / "tuned"
    shutil.copytree(pair[0], tuned)
    tokenizer = Tokenizer.from_file(str(tuned / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(tuned / "tokenizer.json"))
    settings = json.loads((tuned / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|im_end|>"
    (tuned / "tokenizer_config.json").write_text(json.dumps(settings))
    with serving(Served(tokenizer=pair[0])) as served:
        line = lines_of(section(served, pair, expert={"tokenizer": str(tuned)}))["expert tokenizer"]
    assert line.status is Status.RED
    assert "of the ends of turn <|im_end|>" in line.found


def test_a_server_that_does_not_tokenize_is_unknown(pair: tuple[str, str]) -> None:
    with serving(Served()) as served:
        line = lines_of(section(served, pair))["expert tokenizer"]
    assert line.status is Status.UNKNOWN
    assert "expert.tokenizer is that of 'slm'" in line.advice


def test_files_that_disagree_on_the_end_of_turn_are_shown(
    served: Served, pair: tuple[str, str]
) -> None:
    (Path(pair[1]) / "generation_config.json").write_text('{"eos_token_id": 99}')
    line = lines_of(section(served, pair))["expert end of turn"]
    assert line.status is Status.UNKNOWN
    assert line.found.endswith("All count, save 99.")


def test_a_folder_with_nothing_but_a_tokenizer_will_do(
    served: Served, pair: tuple[str, str]
) -> None:
    (Path(pair[1]) / "config.json").unlink()
    assert lines_of(section(served, pair))["expert tokenizer"].status is Status.GREEN
    (Path(pair[1]) / "tokenizer.json").unlink()
    line = lines_of(section(served, pair))["tokenizers"]
    assert line.status is Status.RED
    assert "has no tokenizer in it: none of tokenizer.json" in line.found


def test_a_server_that_does_not_speak_of_blocks_is_unknown(pair: tuple[str, str]) -> None:
    with serving(Served(block_size=None)) as served:
        assert lines_of(section(served, pair))["expert blocks"].status is Status.UNKNOWN


def test_a_server_that_is_too_slow_is_red(served: Served, pair: tuple[str, str]) -> None:
    line = lines_of(section(served, pair, deadline_ms=0.001))["expert latency"]
    assert line.status is Status.RED
    assert "deadline_ms is 0.001" in line.advice
    line = lines_of(section(served, pair, first_deadline_ms=0.001))["expert latency"]
    assert "first_deadline_ms is 0.001" in line.advice


def test_a_far_server_says_how_many_tokens_a_call_should_have(
    served: Served, pair: tuple[str, str]
) -> None:
    served.delay_s = 0.12
    line = lines_of(section(served, pair))["expert distance"]
    assert line.status is Status.GREEN
    trip = float(line.found.split()[0])
    assert trip >= 120
    assert f"fewer than {trip:g}, gains from up to ceil({trip:g} / S) tokens a call" in line.found
    assert f"{math.ceil(trip / 50)} at 50 ms" in line.found
    # It answers after the same time, however many tokens it is asked for.
    assert float(line.found.split()[-2]) < 10
    served.delay_s = 0.0
    served.further_s = 0.02
    line = lines_of(section(served, pair))["expert distance"]
    assert 20 <= float(line.found.split()[-2]) < 40


def test_a_server_that_is_down_is_red_without_its_credentials(pair: tuple[str, str]) -> None:
    down = Served(url="http://user:hunter2@127.0.0.1:9/v1")
    lines = lines_of(section(down, pair))
    assert lines["expert"].status is Status.RED
    assert "127.0.0.1:9/v1 does not answer: nobody listens there" in lines["expert"].found
    assert "--served-model-name slm" in lines["expert"].advice
    assert "hunter2" not in str(lines)
    assert "expert K" not in lines


def test_files_of_the_expert_that_cannot_be_used_are_red(
    served: Served, pair: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    (tmp_path / "key").write_text("schlüssel")
    for key, file in (("ca_file", "ca.pem"), ("api_key_file", "key")):
        values = section(served, pair, expert={key: str(tmp_path / file)})
        assert "cannot be asked" in lines_of(values)["expert"].found


@pytest.mark.parametrize(
    ("values", "check", "found"),
    [
        ({"routr": "x"}, "configuration", "did you mean 'router'?"),
        ({"router": "oracle"}, "router", "nobody registers 'oracle'"),
        ({"expert": {"kind": "oracle"}}, "expert", "nobody registers the kind 'oracle'"),
        ({"detectors": ["oracle"]}, "gate", "There is no detector 'oracle'"),
        ({"plugins": ["not.there"]}, "plugins", "'not.there' cannot be loaded"),
        ({"expert": {"tokenizer": "/nowhere/at-all"}}, "tokenizers", "'/nowhere/at-all'"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_red(
    served: Served, pair: tuple[str, str], values: dict[str, Any], check: str, found: str
) -> None:
    line = lines_of(section(served, pair, **values))[check]
    assert line.status is Status.RED
    assert found in line.found
    assert line.advice


def test_the_hosts_tokenizer_is_asked_for(served: Served, pair: tuple[str, str]) -> None:
    values = section(served, pair)
    assert lines_of(values)["tokenizers"].status is Status.UNKNOWN
    assert lines_of(values, host="/nowhere/at-all")["tokenizers"].status is Status.RED


def test_a_model_in_the_hosts_process_is_resolved(pair: tuple[str, str]) -> None:
    assert lines_of({"expert": {"model": pair[1]}})["expert"].found.startswith(pair[1])
    assert lines_of({"expert": {"model": "/nowhere/at-all"}})["expert"].status is Status.RED


def test_the_gate_says_what_it_covers_and_what_it_does_not(
    served: Served, pair: tuple[str, str]
) -> None:
    values = section(served, pair, detectors=["email", "card"])
    lines = [line for line in serving_lines(values, host=None) if line.check.startswith("gate")]
    assert [line.status for line in lines] == [Status.GREEN, Status.GREEN, Status.UNKNOWN]
    assert lines[0].found == "profile personal; 2 detectors: card, email"
    assert lines[1].found == "e-mail addresses; payment cards"
    assert "names of persons" in lines[2].found


def test_a_detector_that_fails_on_a_plain_sentence_is_red(
    served: Served, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_detector.py").write_text(
        "from floe_plugins import hookimpl\n"
        "class Detector:\n"
        "    name, labels = 'broken', ('X',)\n"
        "    def detect(self, text):\n"
        "        raise LookupError(text)\n"
        "@hookimpl\n"
        "def floe_register_detectors():\n"
        "    return [Detector()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    line = lines_of(section(served, pair, plugins=["broken_detector"]))["gate"]
    assert line.status is Status.RED
    assert line.found == "a plain sentence cannot be scanned: broken (LookupError)"


def test_ports_and_the_hosts_server(served: Served, pair: tuple[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = lines_of(
        section(served, pair, metrics_port=port, host_url=f"http://127.0.0.1:{port}/v1")
    )
    assert lines["metrics port"].found == f"{port} is free"
    assert lines["host"].status is Status.UNKNOWN
    port = int(served.url.split(":")[2].removesuffix("/v1"))
    lines = lines_of(section(served, pair, metrics_port=port, host_url=served.url))
    assert lines["metrics port"].status is Status.RED
    assert "something else listens there" in lines["metrics port"].found
    assert lines["host"].status is Status.GREEN
    values = section(served, pair, host_url=served.url)
    for root, status in ((pair[0], Status.GREEN), ("/models/another", Status.UNKNOWN)):
        served.root = root
        assert lines_of(values, host=pair[0])["host"].status is status
    assert "/models/another, where --host is" in lines_of(values, host=pair[0])["host"].found
