"""`floe-llm doctor` on servers that answer well, badly or not at all.

A real server is checked in integration_tests/plugins/plugins_test.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tokenizers import Tokenizer

from floe_plugins.commands import doctor as doctor_command
from floe_plugins.commands.doctor_lines import Line, Status
from floe_plugins.errors import FloeError
from floe_plugins.manager import PLUGINS_VARIABLE, forget_plugins
from vllm_logits_processor.commands import doctor_environment
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.testing.fake_expert import completion

#: Replaced in most tests, since importing vLLM takes a while.
REAL_RUNNER = doctor_environment._runner


@dataclass
class Served:
    """A server of one model, and its properties."""

    url: str = ""
    model: str = "slm"
    most: int = 20
    block_size: int | None = 32
    caching: bool = True
    status: int = 200
    #: Seconds until it answers, and those that each further token of a call takes.
    delay_s: float = 0.0
    further_s: float = 0.0
    #: The folder of its tokenizer, and the routes that reveal it.
    tokenizer: str = ""
    tokenizes: str = "/tokenize"
    root: str = ""  # the source of its model


@contextmanager
def serving(state: Served) -> Iterator[Served]:
    """Run a server, whose tokenizer may be wrong and which may lack routes.

    The real server in integration_tests has the right tokenizer.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                model = {"id": state.model, "root": state.root, "owned_by": "vllm"}
                self.reply(state.status, json.dumps({"data": [model]}))
            elif state.block_size is None:
                self.reply(404, "")
            else:
                labels = f'block_size="{state.block_size}",enable_prefix_caching="{state.caching}"'
                self.reply(200, f"# HELP x\nvllm:cache_config_info{{{labels}}} 1.0\n")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" or body.get("echo"):
                self.tokenize(body["prompt"])
                return
            count = int(body.get("logprobs", 1))
            if count > state.most:
                self.reply(400, "")
                return
            steps = int(body["max_tokens"])
            time.sleep(state.delay_s + state.further_s * (steps - 1))
            row = dict.fromkeys(range(5, 5 + count), -math.log(count))
            self.reply(200, completion([row] * steps).decode())

        def tokenize(self, text: str) -> None:
            if not state.tokenizer or self.path != state.tokenizes:
                self.reply(404, "")
                return
            backend = Tokenizer.from_file(f"{state.tokenizer}/tokenizer.json")
            ids = backend.encode(text, add_special_tokens=False).ids
            if self.path == "/tokenize":
                self.reply(200, json.dumps({"tokens": ids, "count": len(ids)}))
                return
            # With the token generated after the prompt.
            logprobs = {"tokens": [f"token_id:{token}" for token in [*ids, 7]]}
            usage = {"prompt_tokens": len(ids)}
            self.reply(200, json.dumps({"choices": [{"logprobs": logprobs}], "usage": usage}))

        def reply(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


@pytest.fixture
def served(pair: tuple[str, str]) -> Iterator[Served]:
    with serving(Served(tokenizer=pair[1])) as state:
        yield state


def section(served: Served, pair: tuple[str, str], **values: Any) -> dict[str, Any]:
    expert = {"url": served.url, "model": "slm", "tokenizer": pair[1], **values.pop("expert", {})}
    return {"expert": expert, "deadline_ms": 5000, **values}


def lines_of(values: Any, *, host: str | None = None) -> dict[str, Line]:
    return {line.check: line for line in serving_lines(values, host=host)}


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
    assert lines[0].found == "2 detectors: card, email"
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


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor_command.add_to(parser.add_subparsers())
    parsed = parser.parse_args(["doctor", *arguments])
    return int(parsed.run(parsed))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the runner, which imports vLLM; it has a test of its own."""
    monkeypatch.setattr(doctor_environment, "_runner", lambda: Line("runner", Status.GREEN, "V1"))


@pytest.mark.usefixtures("quick")
def test_the_command_prints_lines_and_exits_with_1_where_one_is_red(
    served: Served, pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps(section(served, pair)))
    assert run("--config", str(file), "--host", pair[0]) == 0
    out = capsys.readouterr().out
    assert "green    expert " in out
    assert " 0 red, " in out.splitlines()[-1]
    file.write_text(json.dumps({"floe": section(served, pair, router="oracle")}))
    assert run("--config", str(file)) == 1
    out = capsys.readouterr().out
    assert "red      router " in out
    assert "-> choose one of entropy" in out
    assert run("--config", str(file), "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["red"] == 1
    (line,) = [line for line in said["lines"] if line["status"] == "red"]
    assert line["check"] == "router"
    assert set(line) == {"check", "status", "found", "advice"}


@pytest.mark.usefixtures("quick")
def test_without_a_configuration_it_says_what_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    assert "--config FILE" in capsys.readouterr().out


def test_a_configuration_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "floe.json").write_text("{")
    with pytest.raises(FloeError, match="cannot be read as JSON"):
        run("--config", str(tmp_path / "floe.json"))


def test_a_torchvision_that_is_built_for_another_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Importing vLLM fails like this beside it: torchvision looks for an operator of its own.
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import torchvision")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    line = REAL_RUNNER()
    assert line.status is Status.RED
    assert "torchvision::nms" in line.found
    assert line.advice.startswith("pip uninstall torchvision")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("check", "version", "status"),
    [
        ("vllm", "0.32.5", Status.GREEN),
        ("vllm", "0.33.0", Status.GREEN),
        ("vllm", "0.99", Status.RED),
        ("vllm", None, Status.UNKNOWN),
        ("flower", "1.35.0", Status.UNKNOWN),
    ],
)
def test_versions(
    monkeypatch: pytest.MonkeyPatch, check: str, version: str | None, status: Status
) -> None:
    monkeypatch.setattr(doctor_environment, "_first_installed", lambda *_: version)
    lines = {line.check: line for line in doctor_environment.environment_lines()}
    assert lines[check].status is status
    assert lines["runner"].status is (Status.UNKNOWN if version is None else Status.GREEN)
    assert (lines["vllm"].advice == "") == (status is Status.GREEN)


WITHOUT = """
import json, sys
sys.modules.update(dict.fromkeys(("torch", "vllm", "flwr")))
from vllm_logits_processor.commands import doctor, doctor_environment
there = doctor_environment._first_installed
doctor_environment._first_installed = (
    lambda *names: None if {"vllm", "flwr"} & set(names) else there(*names)
)
lines = doctor.diagnose(json.loads(sys.argv[1]), host=sys.argv[2])
print(json.dumps({line.check: line.status for line in lines}))
"""


def test_it_needs_neither_vllm_nor_flower_nor_torch(served: Served, pair: tuple[str, str]) -> None:
    values = json.dumps(section(served, pair))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, values, pair[0]], capture_output=True, text=True, check=True
    )
    statuses = json.loads(done.stdout.splitlines()[-1])
    absent = {"vllm", "flower", "runner"}
    assert {statuses[check] for check in absent} == {"unknown"}
    wanted = {
        "expert",
        "expert tokenizer",
        "expert K",
        "expert latency",
        "expert distance",
        "expert blocks",
        "gate",
        "tokenizers",
    }
    assert {statuses[check] for check in wanted} == {"green"}


def test_plugins_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "idle_plugin.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PLUGINS_VARIABLE, "idle_plugin")
    forget_plugins()
    assert lines_of(None)["plugins"].found == "idle_plugin"
    monkeypatch.setenv(PLUGINS_VARIABLE, "absent_plugin")
    line = lines_of(None)["plugins"]
    assert line.status is Status.RED
    assert "FLOE_LLM_PLUGINS" in line.advice
    forget_plugins()


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, Status.GREEN),
        ({"VLLM_USE_RUST_FRONTEND": "0"}, Status.GREEN),
        ({"VLLM_USE_RUST_FRONTEND": "1"}, Status.UNKNOWN),
        ({"VLLM_USE_RUST_FRONTEND": "1", "FLOE_GATE_CONFIG": "gate.json"}, Status.RED),
    ],
)
def test_a_front_end_without_middleware_is_warned_of(
    variables: dict[str, str], status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_USE_RUST_FRONTEND", "FLOE_GATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = doctor_environment._front_end()
    assert line.status is status
    assert ("runs no Python middleware" in line.found) == (status is not Status.GREEN)
