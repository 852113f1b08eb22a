"""vLLM's V2 runner without a model: its own buffers and context, filled by the test."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from vllm_logits_processor import FloeLogitsProcessor
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.runners.slot_tokens import HostReader
from vllm_logits_processor.runners.slots import SlotBatch
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.testing.engines import HOST

SLOTS, LENGTH = 4, 64


def _buffer(**halves: Any) -> Any:
    return SimpleNamespace(**halves)


class Runner:
    """The V2 runner's calls to a processor, without a model."""

    def __init__(
        self,
        parts: FusionEngine,
        *,
        drafts: bool = False,
        embeddings: bool = False,
        idle_s: float = 1000.0,
    ) -> None:
        # vLLM's buffers need an accelerator's memory; these have only the halves that are read.
        self.states: Any = LogitsProcRequestState(
            device=torch.device("cpu"),
            max_num_reqs=SLOTS,
            vocab_size=len(HOST),
            all_token_ids=_buffer(gpu=torch.zeros(SLOTS, LENGTH, dtype=torch.int32)),
            prompt_len=_buffer(np=np.zeros(SLOTS, dtype=np.int32)),
            prefill_len=_buffer(np=np.zeros(SLOTS, dtype=np.int32)),
            total_len=_buffer(gpu=torch.zeros(SLOTS, dtype=torch.int32)),
        )
        self.fail_open = FailOpen()
        self.batch = SlotBatch(
            parts,
            self.states,
            reader=HostReader(self.states),
            max_model_len=LENGTH,
            drafts=drafts,
            embeddings=embeddings,
            most_new=3 if drafts else 1,
            fail_open=self.fail_open,
            idle_s=idle_s,
        )
        self.processor = FloeLogitsProcessor(VllmConfig(), self.states)
        self.processor._fail_open = self.fail_open
        self.processor._config = parts._config
        self.processor._slots = self.batch
        self.ended: list[Stream] = []
        parts.end_stream = self.ended.append  # type: ignore[method-assign, assignment]

    def add(
        self,
        slot: int,
        prompt: bytes | list[int],
        answer: Sequence[int] = (),
        *,
        floe: str | None = None,
        **options: Any,
    ) -> bool:
        """Put a request into a slot, as `GPUModelRunner.add_requests` does."""
        prompt_ids = HOST.encode(prompt) if isinstance(prompt, bytes) else prompt
        tokens = [*prompt_ids, *answer]
        self.states.prompt_len.np[slot] = len(prompt_ids)
        self.states.prefill_len.np[slot] = len(tokens)
        params = SamplingParams(extra_args={"floe": floe} if floe else None, **options)
        wanted = self.processor.add_request(slot, params)
        # vLLM writes the tokens with a kernel, after it has notified the processors.
        self.states.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
        self.states.total_len.gpu[slot] = len(tokens)
        return wanted

    def sample(self, slot: int, *tokens: int) -> None:
        """Append tokens to a request."""
        length = int(self.states.total_len.gpu[slot])
        self.states.all_token_ids.gpu[slot, length : length + len(tokens)] = torch.tensor(tokens)
        self.states.total_len.gpu[slot] = length + len(tokens)

    def step(
        self,
        *slots: int,
        drafts: dict[int, list[int]] | None = None,
        seen: dict[int, int] | None = None,
    ) -> torch.Tensor:
        """Run a step with these requests in the batch; return the changes to the logits, by row."""
        self.processor.apply_staged_writes()
        drafts, seen = drafts or {}, seen or {}
        rows = [(slot, at) for slot in slots for at in range(1 + len(drafts.get(slot, [])))]
        lengths = self.states.total_len.gpu
        fed = [
            drafts[slot][at - 1]
            if at
            else int(self.states.all_token_ids.gpu[slot, lengths[slot] - 1])
            for slot, at in rows
        ]
        self.context = context = LogitsContext(
            expanded_idx_mapping=torch.tensor([slot for slot, _ in rows]),
            idx_mapping=torch.tensor(slots),
            idx_mapping_np=np.array(slots),
            expanded_local_pos=torch.tensor([at for _, at in rows]),
            input_ids=torch.tensor(fed),
            pos=torch.tensor([int(lengths[slot]) - 1 + at for slot, at in rows]),
            seq_lens_upper_bound_np=np.array([seen.get(slot, lengths[slot]) for slot in slots]),
        )
        logits = torch.randn(len(rows), len(HOST), generator=torch.Generator().manual_seed(0))
        before = logits.clone()
        assert self.processor.apply(logits, context) is logits
        return (logits - before).abs().sum(dim=1)


def from_a_worker(method: str, module: str) -> Any:
    """Return a function that calls its argument, as that method of vLLM's worker would."""
    namespace = {"__name__": module}
    exec(f"def {method}(call):\n    return call()", namespace)
    made = namespace[method]
    assert isinstance(made, FunctionType)
    return made


def prompts_of(call: tuple[list[list[int]], str]) -> list[list[int]]:
    """Return the prompts of a call to :class:`~vllm_logits_processor.testing.engines.Scripted`."""
    return call[0]
