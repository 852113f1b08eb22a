"""Checks at start the parts of vLLM that Floe relies on and that change between releases."""

from __future__ import annotations

import logging
from dataclasses import fields, is_dataclass
from functools import cache

import vllm
from packaging.version import Version
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from floe_plugins.errors import ConfigError
from vllm_logits_processor.config import why_off
from vllm_logits_processor.tested_releases import VLLM_TESTED

logger = logging.getLogger(__name__)

_REQUEST = ("extra_args", "max_tokens", "stop_token_ids", "eos_token_id")
_BATCH_UPDATE = ("batch_size", "removed", "added", "moved")
_SLOT_STATES = (
    "device",
    "all_token_ids",
    "prompt_len",
    "prefill_len",
    "total_len",
)
_CONTEXT = (
    "expanded_idx_mapping",
    "idx_mapping_np",
    "expanded_local_pos",
    "input_ids",
    "seq_lens_upper_bound_np",
)


@cache
def warn_of_untested_version() -> None:
    """Warn of an untested release of vLLM, once per process."""
    version = Version(vllm.__version__)
    if f"{version.major}.{version.minor}" not in VLLM_TESTED:
        logger.warning(
            "Floe was tested with vLLM %s; this is %s. What it relies on is there.",
            ", ".join(VLLM_TESTED),
            vllm.__version__,
        )


def warn_if_off(config: VllmConfig, *, processor: type) -> None:
    """Log why fusion is off, if the user named the processor.

    A processor loaded through an entry point logs nothing: every vLLM server of its environment has
    it.

    Parameters
    ----------
    config : VllmConfig
        A configuration without a usable section ``floe``.
    """
    model = config.model_config
    named = getattr(model, "logits_processors", None) or ()
    if any(each is processor or _is_name_of(each, processor) for each in named):
        logger.warning(
            "Floe is off, and the host answers alone: %s", why_off(config.additional_config)
        )


def _is_name_of(name: object, processor: type) -> bool:
    return isinstance(name, str) and name.rpartition(":")[2] == processor.__name__


def say_of_logprobs(config: VllmConfig) -> None:
    """Log a note if clients receive the host's own logprobs."""
    mode = getattr(config.model_config, "logprobs_mode", None)
    if isinstance(mode, str) and mode.startswith("raw"):
        logger.info(
            "Logprobs in answers are the host's, before fusion (--logprobs-mode is %s); with "
            "--logprobs-mode processed_logprobs they are those of the answer.",
            mode,
        )


def check_rows() -> None:
    """Check the interface of the V1 runner.

    Raises
    ------
    ConfigError
        If something is missing; names it.
    """
    _check("SamplingParams", SamplingParams, _REQUEST)
    _check("BatchUpdate", BatchUpdate, _BATCH_UPDATE)
    _check("MoveDirectionality", MoveDirectionality, ("SWAP", "UNIDIRECTIONAL"))


def check_slots() -> None:
    """Check the interface of the V2 runner.

    Raises
    ------
    ConfigError
        If something is missing; names it.
    """
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    _check("SamplingParams", SamplingParams, _REQUEST)
    _check("LogitsProcRequestState", LogitsProcRequestState, _SLOT_STATES)
    _check("LogitsContext", LogitsContext, _CONTEXT)


def check_parallelism(config: VllmConfig) -> None:
    """Refuse ways of distributing the sampler over ranks that Floe does not support.

    Raises
    ------
    ConfigError
    """
    if getattr(config.parallel_config, "enable_batch_sharded_sampling", None):
        raise ConfigError(
            "floe: enable_batch_sharded_sampling is true, so that each rank samples requests of "
            "its own; accepted is false."
        )


def _check(name: str, owner: type, wanted: tuple[str, ...]) -> None:
    declared = {each.name for each in fields(owner)} if is_dataclass(owner) else set()
    missing = [each for each in wanted if each not in declared and not hasattr(owner, each)]
    if missing:
        raise ConfigError(
            f"floe: {name} of vLLM {vllm.__version__} has no {', '.join(missing)}; accepted are "
            f"releases that have it, as {', '.join(VLLM_TESTED)} do."
        )
