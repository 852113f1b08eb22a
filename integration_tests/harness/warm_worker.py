"""A CPU worker that warms up as GPUs' workers do, and vLLM 0.33's own: ``--worker-cls``."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from vllm.v1.sample.ops import topk_topp_sampler
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu.warmup import run_mixed_prefill_decode_warmup, warmup_kernels


class WarmWorker(CPUWorker):
    """Feeds the sampler vLLM's own made-up requests before it serves."""

    def compile_or_warm_up_model(self) -> Any:
        """Warm up, with the requests that vLLM makes up for it."""
        done = super().compile_or_warm_up_model()
        runner: Any = self.model_runner
        assert run_mixed_prefill_decode_warmup(runner, self.execute_model, self.sample_tokens, 8)
        # Both come after all processors: the one kernel that Triton's interpreter cannot run, and
        # logprobs of prompts, which vLLM 0.32 cannot compute on a CPU beside adapters.
        with (
            patch.object(topk_topp_sampler, "HAS_TRITON", new=False),
            patch.object(runner.prompt_logprobs_worker, "compute_prompt_logprobs", return_value={}),
        ):
            warmup_kernels(runner, self.execute_model, self.sample_tokens)
        print("warmed up with made-up requests", flush=True)
        return done
