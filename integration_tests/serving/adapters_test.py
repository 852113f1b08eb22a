"""Adapters that Floe exports, for several architectures, served by vLLM as PEFT computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.peft_folder import save_adapter
from flower_strategy.adapters.vllm_support import REFUSES, RELEASE, TAKES, vllm_support
from flower_strategy.device.base_model import adapted_modules
from flower_strategy.testing.architectures import write_checkpoint
from integration_tests.harness.vllm_servers import Server, ServerSpec, running

RANK = 8
STEPS = 8
PROMPTS = ["The cat sat on the mat", "def add(first, second):", "12,50 for a naïve café"]

#: Two servers at a time, one on each core.
PAIRS = (("llama", "qwen3"), ("phi3", "gpt_neox"))
MIXTURES = ("mixtral", "qwen2_moe")

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Tuned:
    """A checkpoint and an adapter for it."""

    base: str
    adapter: str

    def spec(self, name: str, *, core: int) -> ServerSpec:
        """Return a server of both: ``name`` is the checkpoint alone, ``tuned`` has the adapter."""
        lora = ["--enable-lora", "--max-lora-rank", str(RANK)]
        modules = ["--lora-modules", f"tuned={self.adapter}"]
        return ServerSpec(
            model=self.base,
            name=name,
            core=core,
            arguments=["--max-model-len", "128", *lora, *modules],
        )

    def expected(self, prompt: str) -> tuple[list[int], list[float]]:
        """Return PEFT's greedy tokens and their log probabilities."""
        ids = AutoTokenizer.from_pretrained(self.base)(prompt).input_ids
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(self.base), self.adapter
        ).eval()
        tokens: list[int] = []
        logprobs: list[float] = []
        for _ in range(STEPS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, -1]
            tokens.append(int(logits.argmax()))
            logprobs.append(float(logits.log_softmax(-1).max()))
        return tokens, logprobs


def make_tuned(kind: str, folder: Path) -> Tuned:
    """Write a checkpoint, and an adapter that Floe exports with factors on all of its modules."""
    # No tokens beyond the tokenizer's: a server puts them into words.
    base = write_checkpoint(kind, folder / "base", vocab_size=257)
    modules = adapted_modules(base)
    assert vllm_support(modules).takes
    generator = np.random.default_rng(0)

    def factors(out: int, inner: int) -> LoraFactors:
        b = generator.normal(scale=0.15, size=(out, RANK)).astype(np.float32)
        a = generator.normal(scale=0.15, size=(RANK, inner)).astype(np.float32)
        return LoraFactors(b=b, a=a)

    adapter = AdapterState({path: factors(*shape) for path, shape in modules.shapes.items()})
    save_adapter(adapter, folder / "adapter", rank=RANK, base_model=base, modules=modules)
    return Tuned(base, str(folder / "adapter"))


def served(server: Server, model: str, prompt: str) -> tuple[list[int], list[float]]:
    """Return a server's greedy tokens and their log probabilities."""
    options: dict[str, Any] = {"max_tokens": STEPS, "ignore_eos": True, "logprobs": 1}
    (choice,) = server.choices(prompt, model=model, return_token_ids=True, **options)
    return list(choice["token_ids"]), list(choice["logprobs"]["token_logprobs"])


def check(server: Server, tuned: Tuned) -> None:
    """Check that a server with the adapter writes what PEFT writes, and without it does not."""
    for prompt in PROMPTS:
        tokens, logprobs = served(server, "tuned", prompt)
        wanted, sure = tuned.expected(prompt)
        assert tokens == wanted
        assert logprobs == pytest.approx(sure, abs=0.02)
    plain = [served(server, server.name, prompt)[0] for prompt in PROMPTS]
    assert plain != [tuned.expected(prompt)[0] for prompt in PROMPTS]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[Server, Tuned]]]:
    kinds: Sequence[str] = request.param
    folder = tmp_path_factory.mktemp("adapters")
    tuned = [make_tuned(kind, folder / kind) for kind in kinds]
    specs = [
        each.spec(kind, core=core)
        for core, (kind, each) in enumerate(zip(kinds, tuned, strict=True))
    ]
    with running(*specs, logs=folder) as servers:
        yield list(zip(servers, tuned, strict=True))


def test_vllm_serves_the_adapter_as_peft_computes_it(pair: list[tuple[Server, Tuned]]) -> None:
    for server, tuned in pair:
        check(server, tuned)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="vLLM's layer for experts under --enable-lora is made of Triton kernels, for GPUs",
)
@pytest.mark.parametrize("kind", MIXTURES)
def test_vllm_serves_the_adapter_of_a_mixture(kind: str, tmp_path: Path) -> None:
    tuned = make_tuned(kind, tmp_path)
    with running(tuned.spec(kind, core=0), logs=tmp_path) as (server,):
        check(server, tuned)


def test_the_table_is_that_of_vllm() -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    if not vllm.__version__.startswith(f"{RELEASE}."):
        pytest.skip(f"The table is of vLLM {RELEASE}; {vllm.__version__} is installed.")
    models = pytest.importorskip("vllm.model_executor.models")
    registered = models.ModelRegistry.models
    assert registered.keys() >= TAKES | REFUSES
    loaded = {
        name: model
        for name in TAKES | REFUSES
        if (model := _model_class(registered[name])) is not None
    }
    supports = {name for name, model in loaded.items() if models.supports_lora(model)}
    assert supports == TAKES & loaded.keys()
    assert "GPT2LMHeadModel" in loaded.keys() & REFUSES
    # Without torchvision some models that see cannot be imported; those of text can.
    assert len(loaded) > 0.8 * len(TAKES | REFUSES)


def _model_class(registered: Any) -> Any:
    try:
        return registered.load_model_cls()
    except ImportError as error:
        cause: BaseException | None = error
        while cause is not None and "torchvision" not in str(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        return None
