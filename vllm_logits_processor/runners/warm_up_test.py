"""vLLM's own made-up requests, as its warm-up adds them, and real ones that look like them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from vllm_logits_processor.runners.warm_up import made_up
from vllm_logits_processor.testing.engines import HOST, Scripted
from vllm_logits_processor.testing.runners import SLOTS, Runner, from_a_worker


def warm_up(runner: Runner, params: SamplingParams) -> None:
    """Run the steps of `warmup_kernels`: prompts 0, 1, all slots in descending order."""
    slots = list(range(SLOTS))[::-1]
    for slot in slots:
        runner.states.prompt_len.np[slot] = runner.states.prefill_len.np[slot] = 2
        runner.processor.add_request(slot, params)
        runner.states.all_token_ids.gpu[slot, :2] = runner.states.total_len.gpu.new_tensor([0, 1])
        runner.states.total_len.gpu[slot] = 2
    for batch in (slots, slots, slots[:2], slots[:1]):
        assert not runner.step(*batch).any()
        for slot in batch:
            runner.sample(slot, 3)
    # The clean-up is a step without requests: vLLM does not report that they are gone.
    runner.processor.apply_staged_writes()


def test_those_of_the_sampler_are_dropped(runner: Runner, expert: Scripted) -> None:
    warm_up(runner, SamplingParams.for_sampler_warmup())
    assert expert.calls == []
    assert runner.batch.streams == {}
    assert runner.ended == []


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0),
        SamplingParams(max_tokens=2, temperature=0.0),
        SamplingParams(),
    ],
)
@pytest.mark.parametrize(
    ("method", "module"),
    [
        ("run_mixed_prefill_decode_warmup", "vllm.v1.worker.gpu.warmup"),
        ("compile_or_warm_up_model", "vllm.v1.worker.gpu_worker"),
        ("determine_available_memory", "vllm.v1.worker.cpu_worker"),
    ],
)
def test_those_that_look_like_anybodys_are_known_by_who_adds_them(
    runner: Runner, expert: Scripted, params: SamplingParams, method: str, module: str
) -> None:
    from_a_worker(method, module)(lambda: warm_up(runner, params))
    assert expert.calls == []
    assert runner.batch.streams == {}
    assert runner.ended == []
    assert runner.add(0, b"The")
    assert (runner.step(0) > 0).tolist() == [True]


def test_a_real_request_that_looks_like_one_is_fused(runner: Runner) -> None:
    alike = {
        name: value
        for name, value in vars_of(SamplingParams.for_sampler_warmup()).items()
        if not name.startswith("_")
    }
    params = SamplingParams(**alike)
    assert not made_up(params)
    runner.states.prompt_len.np[0] = runner.states.prefill_len.np[0] = 2
    assert runner.processor.add_request(0, params)
    assert runner.add(1, HOST.encode(b"The"), max_tokens=2, temperature=0.0)
    same_name = from_a_worker("compile_or_warm_up_model", "my_service.workers")
    assert same_name(lambda: runner.add(2, b"The"))


def test_v1_makes_up_no_requests_for_processors() -> None:
    """Its dummy runs of the sampler have no processors; the runner itself is not needed."""
    seen: list[Any] = []
    fields = {
        "vllm_config": SimpleNamespace(model_config=SimpleNamespace(multimodal_config=None)),
        "model": SimpleNamespace(compute_logits=lambda hidden: hidden),
        "device": torch.device("cpu"),
        "speculative_config": None,
    }

    def sampler(*, logits: torch.Tensor, sampling_metadata: SamplingMetadata) -> None:
        del logits
        seen.append(list(sampling_metadata.logitsprocs.all))

    sampler.logprobs_mode = "raw_logprobs"  # type: ignore[attr-defined]
    runner: Any = SimpleNamespace(**fields, sampler=sampler)
    GPUModelRunner._dummy_sampler_run(runner, torch.zeros(3, 5))
    assert seen == [[], []]


def vars_of(params: SamplingParams) -> dict[str, Any]:
    names = (
        "temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty "
        "min_tokens logit_bias logprobs prompt_logprobs"
    )
    return {name: getattr(params, name) for name in names.split()}
