"""An expert in this process: a second model without a second server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.expert.local_model import LocalModel, most_reads, tokens_within
from vllm_logits_processor.expert.protocol import (
    Continuation,
    ExpertReply,
    NoSuchModelError,
    checked,
)

#: Bytes of the cache. SmolLM2 in bfloat16 needs 23 kB per token.
_CACHE_BYTES = 512 * 2**20
#: A smaller cache might not hold the texts of one step.
_FEWEST_TOKENS = 8192


class InProcessExpert:
    """Answers with a transformers model on its own thread.

    Computed prefixes are cached and shared by all texts that begin alike. Texts of any lengths
    share a forward pass. The number of the process's threads and their binding to cores stay
    unchanged.

    Parameters
    ----------
    model : PreTrainedModel
        See `load_model`.
    name : str
        The only model name that requests may use.
    top_k : int
        Logprobs per token.
    vocabulary : int
        Number of the tokenizer's tokens; further columns of the logits are ignored.
    end_ids : int32 array
        The model's end tokens, joined into one event.
    capacity : int, optional
        Tokens that the cache holds, over all texts; the least recently used are evicted. By
        default as many as fit into 512 MiB, and at least 8,192.

    Raises
    ------
    ConfigError
        If the model has layers that this cache does not support.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str,
        top_k: int,
        vocabulary: int,
        end_ids: TokenArray,
        capacity: int | None = None,
    ) -> None:
        if capacity is None:
            capacity = max(_FEWEST_TOKENS, tokens_within(model, _CACHE_BYTES))
        self._model = LocalModel(model, capacity=capacity)
        self._name = name
        self._top_k = top_k
        self._vocabulary = vocabulary
        self._end_ids = end_ids
        self._ends = frozenset(end_ids.tolist())
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="floe-expert",
            initializer=partial(_own_stream, model.device),
        )

    @property
    def context(self) -> int | None:
        """The most tokens of a text, including those to come; None if unknown."""
        return self._model.context

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Queue a computation and return; see `Expert.start`.

        Long texts are read in parts, and waiting calls run between the parts: texts that have been
        read continue while a new one is being read.
        """
        future: Future[ExpertReply] = Future()
        self._submit(future, prompts, model, steps, most_reads(prompts))
        return future

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Queue the scoring of a text and return; see `Expert.score`."""
        return self._thread.submit(self._score, prompt, model)

    def close(self) -> None:
        """End the thread; calls that have not started are cancelled."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _submit(self, future: Future[ExpertReply], *call: Any) -> None:
        try:
            task = self._thread.submit(self._continue, future, *call)
        except RuntimeError:  # closed
            future.cancel()
            return
        task.add_done_callback(partial(_pass_on, future))

    def _continue(
        self,
        future: Future[ExpertReply],
        prompts: Sequence[Sequence[int]],
        model: str,
        steps: int,
        reads: int,
    ) -> None:
        """Read a part and queue the call again, or answer it."""
        if future.cancelled():
            return
        self._check(model)
        # A cache too small for all current texts would otherwise read them for ever.
        if reads and self._model.read_on(prompts):
            self._submit(future, prompts, model, steps, reads - 1)
            return
        reply = self._answer(prompts, model, steps)
        if future.set_running_or_notify_cancel():
            future.set_result(reply)

    def _answer(self, prompts: Sequence[Sequence[int]], model: str, steps: int) -> ExpertReply:
        rows = self._model.begin_call(prompts)
        said: list[list[int]] = [[] for _ in rows]
        tops: list[list[ExpertTopK]] = [[] for _ in rows]
        running = list(range(len(rows)))
        for _ in range(steps):
            top, own = self._tops(self._model.next_logits([rows[at] for at in running]))
            for place, at in enumerate(running):
                said[at].append(own[place])
                tops[at].append(
                    ExpertTopK(
                        token_ids=top.token_ids[place : place + 1],
                        logprobs=top.logprobs[place : place + 1],
                    )
                )
                rows[at].tokens.append(own[place])
            running = [at for at in running if said[at][-1] not in self._ends]
            if not running:
                break
        return ExpertReply(
            continuations=tuple(
                Continuation(
                    tokens=np.array(own, dtype=np.int64),
                    top=ExpertTopK(
                        token_ids=np.concatenate([top.token_ids for top in each]),
                        logprobs=np.concatenate([top.logprobs for top in each]),
                    ),
                )
                for own, each in zip(said, tops, strict=True)
            ),
            sent_bytes=0,
            received_bytes=0,
        )

    def _score(self, prompt: Sequence[int], model: str) -> float:
        self._check(model)
        (row,) = self._model.begin_call([prompt])
        return self._model.score(row)

    def _check(self, model: str) -> None:
        if model != self._name:
            raise NoSuchModelError(
                f"The expert in this process is {self._name!r} and has no model {model!r}; give "
                "another one's server as expert.url."
            )

    def _tops(self, logits: torch.Tensor) -> tuple[ExpertTopK, list[int]]:
        """Return the top K of each row, and its greedy token."""
        columns = min(self._vocabulary, logits.shape[1])
        best, best_ids = logits[:, :columns].topk(min(self._top_k, columns), dim=1)
        logprobs, ids = best - logits.logsumexp(dim=1, keepdim=True), best_ids.cpu()
        top = checked(
            ExpertTopK(token_ids=ids.numpy(), logprobs=logprobs.double().cpu().numpy()),
            vocabulary=columns,
            end_ids=self._end_ids,
        )
        return top, ids[:, 0].tolist()


def _own_stream(device: torch.device) -> None:
    """Let this thread's work run beside the host's on an accelerator, and not queue behind it."""
    if device.type != "cpu":
        there = torch.get_device_module(device)
        there.set_stream(there.Stream(device))


def _pass_on(future: Future[ExpertReply], task: Future[None]) -> None:
    """End a call whose task was cancelled or failed."""
    error = None if task.cancelled() else task.exception()
    if task.cancelled():
        future.cancel()
    elif error is not None and future.set_running_or_notify_cancel():
        future.set_exception(error)
