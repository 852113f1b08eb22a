"""The class that vLLM loads: ``--logits-processors vllm_logits_processor:FloeLogitsProcessor``.

A thin adapter between vLLM's V1 runner and :class:`vllm_logits_processor.engine.FusionEngine`: it
follows the batch (who is in which row) and calls the engine before and after each forward pass.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from floe_plugins.errors import ConfigError
from vllm_logits_processor.assembly import build_engine
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.request import RequestOptions
from vllm_logits_processor.stream import Stream

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams

#: Streams that left the batch and may come back: preempted requests are removed and added again.
_KEPT = 256


class FloeLogitsProcessor(LogitsProcessor):
    """Fuses the hosted model with an expert at every decoding step; V1 runner.

    Without a ``floe`` section in vLLM's ``--additional-config`` it does nothing.

    Raises
    ------
    ConfigError
        At start, if the configuration is wrong, a tokenizer cannot be taken, a detector or router
        does not load, or the engine samples on several ranks.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        additional = vllm_config.additional_config
        _log_with_vllm()
        config = FloeConfig.from_additional_config(
            additional if isinstance(additional, dict) else None
        )
        self._engine = None
        self._streams: dict[int, Stream] = {}
        self._left: OrderedDict[int, Stream] = OrderedDict()
        if config is None:
            return
        ranks = vllm_config.parallel_config.tensor_parallel_size
        if ranks > 1:
            # Every rank samples; ranks that see different replies would write different texts.
            raise ConfigError(
                f"floe: tensor_parallel_size is {ranks}; accepted is 1 in this version."
            )
        model = vllm_config.model_config
        self._engine = build_engine(
            config, host_tokenizer=model.tokenizer, host_vocabulary=model.get_vocab_size()
        )

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose ``vllm_xargs`` are wrong, with HTTP 400."""
        RequestOptions.from_extra_args(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Return False: fusion is there to change the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch, then start the expert's call: the forward pass comes next."""
        if self._engine is None:
            return
        if batch_update is not None:
            self._follow(batch_update)
        self._engine.begin_step(list(self._streams.values()))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Join the expert's call and fuse, in place; shape (requests, vocabulary), float32."""
        if self._engine is not None and self._streams:
            self._engine.finish_step(logits, self._streams)
        return logits

    def _follow(self, update: BatchUpdate) -> None:
        """Apply removals, additions and moves, in this order, as vLLM prescribes."""
        assert self._engine is not None
        for row in update.removed:
            self._leave(row)
        for row, params, prompt_ids, output_ids in update.added:
            self._leave(row)
            stream = self._returning(output_ids)
            if stream is None:
                options = RequestOptions.from_extra_args(params.extra_args)
                stream = self._engine.new_stream(prompt_ids, output_ids, options)
            if stream is not None:
                self._streams[row] = stream
        for first, second, direction in update.moved:
            moving, replaced = self._streams.pop(first, None), self._streams.pop(second, None)
            if moving is not None:
                self._streams[second] = moving
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._streams[first] = replaced

    def _leave(self, row: int) -> None:
        stream = self._streams.pop(row, None)
        if stream is not None:
            self._left[id(stream.output_ids)] = stream
            while len(self._left) > _KEPT:
                self._left.popitem(last=False)

    def _returning(self, output_ids: list[int]) -> Stream | None:
        """Return the stream of a preempted request: vLLM hands over the very same list again."""
        stream = self._left.pop(id(output_ids), None)
        return stream if stream is not None and stream.output_ids is output_ids else None


def _log_with_vllm() -> None:
    """Send Floe's log lines where vLLM's go; vLLM sets up no logger but its own."""
    theirs = logging.getLogger("vllm")
    for name in ("floe_plugins", "vllm_logits_processor"):
        ours = logging.getLogger(name)
        if not ours.handlers:
            ours.handlers, ours.propagate = list(theirs.handlers), theirs.propagate
            ours.setLevel(theirs.level)
