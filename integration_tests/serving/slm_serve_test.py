"""`floe-llm slm serve` as users start it, with the embedded SmolLM2 and a run's adapters."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins import models
from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.gguf_lora import GGUF_FILE, gguf_base, save_gguf
from flower_strategy.adapters.peft_folder import save_adapter
from flower_strategy.device.base_model import adapted_shapes
from integration_tests.harness.gguf_base import post
from integration_tests.harness.markdown import blocks_of

ROOT = Path(__file__).resolve().parents[2]
SMOLLM2 = "embedded:smollm2-135m-instruct"
COMMAND = (str(Path(sys.executable).with_name("floe-llm")), "slm", "serve", SMOLLM2)
PROMPT = "Once upon a time there was a lighthouse keeper who"
RANK = 8

pytestmark = pytest.mark.timeout(300)


@dataclass
class Serving:
    """The command while it runs, and what its line of JSON says."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as reply:
            return json.loads(reply.read())

    def complete(self, prompt: str | list[int] = PROMPT, **values: Any) -> dict[str, Any]:
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, **values}
        return post(f"{self.url}/v1/completions", body)

    def text(self, **values: Any) -> str:
        return str(self.complete(**values)["choices"][0]["text"])


@contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--threads", "1", "--json", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Serving(process, json.loads(line))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the folder of a run with two clusters whose adapters change what is answered."""
    folder = tmp_path_factory.mktemp("run")
    base = models.resolve(SMOLLM2)
    clusters = []
    for number in range(2):
        draw = np.random.default_rng(number)
        adapter = AdapterState(
            {
                name: LoraFactors(
                    b=draw.normal(0, 0.15, (rows, RANK)).astype(np.float32),
                    a=draw.normal(0, columns**-0.5, (RANK, columns)).astype(np.float32),
                )
                for name, (rows, columns) in adapted_shapes(base).items()
            }
        )
        name = f"cluster-{number}"
        save_adapter(adapter, folder / name, rank=RANK, base_model=base)
        save_gguf(adapter, folder / name / GGUF_FILE, rank=RANK, base=gguf_base(base))
        clusters.append({"name": name, "adapter": name})
    manifest = {"format": 1, "model": SMOLLM2, "clusters": clusters, "devices": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Serving]:
    with serving("--adapters", str(run), "--context", "256", "--slots", "2") as found:
        yield found


def test_the_line_says_all_that_a_client_needs(served: Serving, run: Path) -> None:
    url = served.url
    assert served.ready == {
        "url": url,
        "model": "smollm2-135m-instruct",
        "adapters": [
            {"id": number, "name": name, "path": str(run / name / GGUF_FILE)}
            for number, name in enumerate(("cluster-0", "cluster-1"))
        ],
        "context": 256,
        "slots": 2,
        "config": {
            "expert": {
                "url": f"{url}/v1",
                "model": "smollm2-135m-instruct",
                "tokenizer": SMOLLM2,
            }
        },
    }
    (model,) = served.get("/v1/models")["data"]
    assert model["id"] == "smollm2-135m-instruct"
    assert model["meta"]["n_ctx"] == 256
    listed = served.get("/lora-adapters")
    assert [(each["id"], each["path"]) for each in listed] == [
        (each["id"], each["path"]) for each in served.ready["adapters"]
    ]


def test_an_adapter_changes_the_answer_of_the_request_that_names_it(served: Serving) -> None:
    none, first, second = (
        [{"id": 0, "scale": a}, {"id": 1, "scale": b}] for a, b in ((0, 0), (1, 0), (0, 1))
    )
    alone = served.text()
    assert alone.strip()
    texts = {served.text(lora=first), served.text(lora=second), alone}
    assert len(texts) == 3
    # The same texts come back, in whichever order they are asked for.
    assert served.text(lora=none) == alone
    assert {served.text(lora=second), served.text(lora=first), served.text(lora=none)} == texts


def test_a_growing_text_evaluates_its_newest_token_alone(served: Serving) -> None:
    tokens = list(range(1000, 1060))
    evaluated = []
    for length in range(40, 60):
        timings = served.complete(tokens[:length], max_tokens=1, lora=[{"id": 0, "scale": 0}])
        evaluated.append(timings["timings"]["prompt_n"])
    assert evaluated == [40] + [1] * 19


def test_two_growing_texts_keep_a_slot_each(served: Serving) -> None:
    texts = [list(range(start, start + 60)) for start in (2000, 3000)]
    evaluated = []
    for length in range(40, 60):
        for text in texts:
            reply = served.complete(text[:length], max_tokens=1, lora=[{"id": 0, "scale": 0}])
            evaluated.append(reply["timings"]["prompt_n"])
    assert evaluated == [40, 40] + [1] * 38


def test_pages_in_a_browser_get_no_answers(served: Serving) -> None:
    request = urllib.request.Request(
        f"{served.url}/v1/models", headers={"Origin": "http://page.example"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert not reply.headers["Access-Control-Allow-Origin"]
    with pytest.raises(urllib.error.HTTPError):
        served.get("/slots")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_a_signal_without_a_word(number: signal.Signals) -> None:
    with serving("--context", "64", "--slots", "1") as found:
        assert found.ready["adapters"] == []
        found.process.send_signal(number)
        out, err = found.process.communicate(timeout=120)
        assert (found.process.returncode, out, err) == (0, "", "")


def test_what_goes_wrong_is_said_in_one_sentence(served: Serving, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    port = served.url.rpartition(":")[2]
    assert f"floe-llm: Port {port} of 127.0.0.1 is taken" in said("--port", port)
    (tmp_path / "manifest.json").write_text("{}")
    assert f"export {tmp_path} --to gguf" in said("--adapters", str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + b"\x07" + bytes(100))
    assert f"does not load the adapter {tmp_path}/a.gguf on " in said(
        *("--port", "0", "--adapters", str(tmp_path))
    )


def test_without_json_one_line_says_it(run: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--context", "64", "--adapters", str(run)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("smollm2-135m-instruct is ready at http://127.0.0.1:")
        assert "adapters: 0 cluster-0, 1 cluster-1;" in line
        config = json.loads(line.partition("configuration: ")[2])
        assert config["expert"]["tokenizer"] == SMOLLM2
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_requests_of_the_page_are_answered_by_the_adapter(served: Serving) -> None:
    own = Path(__file__).relative_to(ROOT).as_posix()
    name = test_the_requests_of_the_page_are_answered_by_the_adapter.__name__
    asked = [
        block.code
        for block in blocks_of(ROOT / "docs" / "how-to" / "llama-cpp.md")
        if block.value == f"{own}::{name}"
    ]
    texts = []
    for command in asked:
        assert command.startswith("curl ")
        done = subprocess.run(
            ["bash", "-eu", "-c", command.replace("http://127.0.0.1:8081", served.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        texts.append(json.loads(done.stdout)["choices"][0]["text"])
    prompt = "def mean(values):"
    assert texts == [
        served.text(prompt=prompt, max_tokens=16, lora=[{"id": 0, "scale": scale}])
        for scale in (1, 0)
    ]
    assert texts[0] != texts[1]
