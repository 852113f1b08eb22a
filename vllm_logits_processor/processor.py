"""The class that vLLM loads: ``--logits-processors vllm_logits_processor:FloeLogitsProcessor``.

A thin adapter between vLLM and :class:`vllm_logits_processor.engine.FusionEngine`. vLLM has two
runners with an interface each, and one class serves both: :mod:`runners.rows` follows V1's rows,
:mod:`runners.slots` V2's slots, and :mod:`rank_sync` lets one rank decide for all.
"""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as RowInterface

from floe_plugins.system import log_with_vllm
from vllm_logits_processor.build import build_engine
from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.rank_sync import RankSync
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.runners.compat import (
    check_parallelism,
    check_rows,
    check_slots,
    say_of_logprobs,
    warn_if_off,
    warn_of_untested_version,
)
from vllm_logits_processor.runners.rows import RowBatch
from vllm_logits_processor.runners.warm_up import made_up
from vllm_logits_processor.warm_passes import make_pass

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotInterface
except ModuleNotFoundError:  # V2 supports processors from vLLM 0.31 on
    SlotInterface = object  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    from vllm_logits_processor.runners.slots import SlotBatch


logger = logging.getLogger(__name__)


class FloeLogitsProcessor(RowInterface, SlotInterface):
    """Fuses the hosted model with an expert at every decoding step, in both of vLLM's runners.

    Without a ``floe`` section in vLLM's ``--additional-config`` it does nothing, and warns if it
    was named. V2 supports processors with speculative decoding; V1 refuses them at start. An
    unforeseen fault costs one step; a recurring one ends fusion, not the server: see
    :mod:`fail_open`.

    Parameters
    ----------
    arguments
        ``(device, is_pin_memory)`` from the V1 runner, ``(req_states,)`` from V2.

    Raises
    ------
    ConfigError
        At the start: the configuration is wrong, a tokenizer cannot be used, a detector or router
        does not load, or vLLM lacks something that Floe needs.
    """

    def __init__(self, vllm_config: VllmConfig, *arguments: Any) -> None:
        log_with_vllm("floe_plugins", "vllm_logits_processor")
        self._config = _configuration(vllm_config)
        self._rows: RowBatch | None = None
        self._slots: SlotBatch | None = None
        self._rank_sync = RankSync()
        self._fail_open = FailOpen()
        if self._config is None:
            return
        if len(arguments) == 1:
            check_slots()
        else:
            check_rows()
        check_parallelism(vllm_config)
        warn_of_untested_version()
        self._rank_sync = _rank_sync(vllm_config, self._fail_open)
        device = arguments[0].device if len(arguments) == 1 else arguments[0]
        if device.type != "cpu":
            make_pass(device, columns=vllm_config.model_config.get_vocab_size())
        if self._rank_sync.decides:
            config = self._config
            if len(arguments) == 1:
                config = _beside_drafts(config, vllm_config)
            engine = _engine(config, vllm_config)
            self._fail_open.observer = engine.metrics
            # Connections, threads and a plugin's expert are closed with this object or the process.
            weakref.finalize(self, engine.close)
            if len(arguments) == 1:
                self._slots = _slots(engine, vllm_config, arguments[0], self._fail_open)
            else:
                length = vllm_config.model_config.max_model_len
                self._rows = RowBatch(engine, max_model_len=length, fail_open=self._fail_open)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose ``vllm_xargs`` are wrong, with HTTP 400."""
        RequestOptions.from_extra_args(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Return False: fusion may change the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1: follow the batch, then start the expert's call."""
        self._next_step()
        if self._rows is not None:
            self._rows.begin(batch_update)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2: add a request; return whether it is fused, the same on every rank."""
        if self._config is None:
            return False
        options = RequestOptions.from_extra_args(sampling_params.extra_args)
        fused = self._config.fuses(options.mode) and not made_up(sampling_params)
        if self._slots is not None:
            if fused:
                self._slots.add(req_idx, sampling_params, options)
            else:
                self._slots.vacate(req_idx)
        return fused

    def apply_staged_writes(self) -> None:
        """V2: read the new tokens, then start the expert's call."""
        self._next_step()
        if self._slots is not None:
            self._slots.begin()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Join the expert's call and fuse; return the logits, shape (rows, vocabulary), float32."""
        if self._config is None:
            return logits
        if self._rank_sync.alone:
            run = partial(self._fail_open.run, undo=self._abandon)
            dense = run(logits.contiguous, otherwise=logits, stage="write")
            cells = self._decide(dense, ctx)
            written = run(partial(_written, cells, dense), otherwise=None, stage="write")
            return logits if written is None else written
        return self._apply_alike(logits, ctx)

    def _apply_alike(self, logits: torch.Tensor, ctx: LogitsContext | None) -> torch.Tensor:
        """Fuse as the other ranks do.

        A rank that alone kept its logits would continue with another text. So a fault after all
        ranks have agreed stops the server.
        """
        dense: torch.Tensor | None = None
        try:
            # V1 passes a view of wider rows if it pads the vocabulary; cells index a dense tensor,
            # and both runners continue with the returned one.
            dense = logits.contiguous()
        except (MemoryError, RuntimeError) as error:
            self._rank_sync.on_fault(error)
        cells = self._rank_sync.broadcast(
            partial(self._decide, logits if dense is None else dense, ctx),
            device=logits.device,
            ready=dense is not None,
            doubtful=not logits.is_contiguous(),
        )
        return logits if dense is None else _written(cells, dense)

    def _decide(self, logits: torch.Tensor, ctx: LogitsContext | None) -> FusedCells:
        if self._slots is not None and ctx is not None:
            return self._slots.decide(logits, ctx)
        if self._rows is None:
            return FusedCells.none()
        return self._fail_open.run(
            partial(self._rows.decide, logits),
            otherwise=FusedCells.none(),
            stage="decide",
            undo=self._rows.abandon,
        )

    def _next_step(self) -> None:
        self._fail_open.next_step()
        batch = self._rows or self._slots
        if self._fail_open.ended and batch is not None:
            self._rows = self._slots = None
            self._fail_open.aside(batch.close, stage="end")

    def _abandon(self) -> None:
        batch = self._rows or self._slots
        if batch is not None:
            batch.abandon()


def _written(cells: FusedCells, logits: torch.Tensor) -> torch.Tensor:
    cells.write(logits)
    return logits


def _configuration(vllm_config: VllmConfig) -> FloeConfig | None:
    """Read Floe's configuration; None if this process does not sample."""
    additional = vllm_config.additional_config
    config = FloeConfig.from_additional_config(additional if isinstance(additional, dict) else None)
    if vllm_config.parallel_config.pipeline_parallel_size > 1 and not get_pp_group().is_last_rank:
        return None
    if config is None:
        warn_if_off(vllm_config, processor=FloeLogitsProcessor)
    else:
        say_of_logprobs(vllm_config)
    return config


def _beside_drafts(config: FloeConfig, vllm_config: VllmConfig) -> FloeConfig:
    """Turn look-ahead off where vLLM drafts: a call asks about the drafts anyway."""
    drafts = vllm_config.num_speculative_tokens
    if not drafts or config.expert.lookahead == 1:
        return config
    logger.info("vLLM drafts %d tokens a step: expert.lookahead is not used.", drafts)
    return config.changed(expert=config.expert.changed(lookahead=1))


def _rank_sync(vllm_config: VllmConfig, fail_open: FailOpen) -> RankSync:
    if vllm_config.parallel_config.tensor_parallel_size == 1:
        return RankSync()
    ranks = get_tp_group()
    return RankSync(
        ranks.cpu_group,
        first_rank=ranks.first_rank,
        decides=bool(ranks.is_first_rank),
        # Only the deciding rank judges whether a fault recurs.
        on_fault=partial(fail_open.lose if ranks.is_first_rank else fail_open.report, stage="rank"),
    )


def _engine(config: FloeConfig, vllm_config: VllmConfig) -> FusionEngine:
    model = vllm_config.model_config
    names = model.served_model_name
    return build_engine(
        config,
        host_tokenizer=model.tokenizer,
        host_vocabulary=model.get_vocab_size(),
        host_model=str(names[0] if isinstance(names, list) else names),
    )


def _slots(
    engine: FusionEngine,
    vllm_config: VllmConfig,
    states: LogitsProcRequestState,
    fail_open: FailOpen,
) -> SlotBatch:
    from vllm_logits_processor.runners.slot_tokens import token_reader
    from vllm_logits_processor.runners.slots import SlotBatch

    drafts = vllm_config.num_speculative_tokens
    return SlotBatch(
        engine,
        states,
        reader=token_reader(states),
        max_model_len=vllm_config.model_config.max_model_len,
        drafts=drafts > 0,
        embeddings=vllm_config.model_config.enable_prompt_embeds,
        most_new=1 + drafts,
        fail_open=fail_open,
    )
