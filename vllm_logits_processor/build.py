"""Builds the fusion engine, once, when a vLLM worker starts."""

from __future__ import annotations

import logging
import os

import numpy as np

from floe_plugins.config import ApiKey
from floe_plugins.errors import ConfigError
from floe_plugins.manager import PluginManager, plugin_manager
from floe_plugins.models import resolve
from floe_plugins.routers import Router
from vllm_logits_processor.alignment.maps import load_maps
from vllm_logits_processor.alignment.prompt import Conversation
from vllm_logits_processor.alignment.unknown import bytes_alone, is_unknown, maps_of_none
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.engine import FusionEngine, Pair
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.build import COMPLETIONS, build_expert
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import Expert
from vllm_logits_processor.expert.same_tokenizer import TokenizerComparison
from vllm_logits_processor.observe import FusionMetrics, server_of
from vllm_logits_processor.privacy import gate_of
from vllm_logits_processor.warm_passes import make_pass

logger = logging.getLogger(__name__)


def build_engine(
    config: FloeConfig, *, host_tokenizer: str, host_vocabulary: int, host_model: str
) -> FusionEngine:
    """Load tokenizers, maps, router and gate, and connect the expert.

    Parameters
    ----------
    host_tokenizer : str
        Folder or hub id of the tokenizer of vLLM's model.
    host_vocabulary : int
        Columns of vLLM's logits.
    host_model : str
        The name of vLLM's model on its own server.

    Raises
    ------
    FloeError
        If a part cannot be loaded. The server then does not start, because it would not do what
        its configuration says.
    """
    make_pass()
    plugins = plugin_manager(config.plugins)
    router = _router(config.router, plugins)
    gate = gate_of(config)
    pair = _pair(config, host_tokenizer=host_tokenizer, host_vocabulary=host_vocabulary)
    metrics = FusionMetrics(port=config.metrics_port)
    comparison = None
    if config.expert.kind in (None, COMPLETIONS) and config.expert.knows_tokenizer:
        comparison = TokenizerComparison(config.expert, pair.expert)
    expert = build_expert(
        config.expert,
        vocabulary=len(pair.expert),
        end_ids=pair.maps.end_ids,
        breaker_failures=config.breaker_failures,
        breaker_cooldown_s=config.breaker_cooldown_s,
        # The pool cancels calls in time; this limit is for servers that get no more calls.
        timeout_s=max(config.deadline_ms, config.first_deadline_ms) / 1000 + 1,
        on_breaker=metrics.observe_breaker,
        kinds=plugins.experts,
        plugins=config.plugins,
        tokenizer=pair.expert,
        on_reached=comparison.reached if comparison else None,
    )
    if comparison is not None:
        comparison.begin()
    logger.info(
        "Floe fuses %d host tokens with %d of %s at %s (%s), router %s, gate %s.",
        len(pair.host),
        len(pair.expert),
        config.expert.model,
        ", ".join(map(server_of, config.expert.urls)) or "this process",
        "trusted" if config.expert.sees_everything else "untrusted",
        router.name,
        ", ".join(gate.detectors) if gate else "not needed",
    )
    return FusionEngine(
        config=config,
        pair=pair,
        expert=expert,
        router=router,
        gate=gate,
        metrics=metrics,
        scorer=_scorer(config, host_model=host_model, vocabulary=len(pair.host), expert=expert),
    )


def _pair(config: FloeConfig, *, host_tokenizer: str, host_vocabulary: int) -> Pair:
    host = ByteVocabulary.from_pretrained(host_tokenizer)
    if len(host) > host_vocabulary:
        raise ConfigError(
            f"floe: the tokenizer {host_tokenizer!r} has {len(host)} tokens, and the model's "
            f"logits have {host_vocabulary} columns; accepted are tokenizers that fit their model."
        )
    expert = _expert_vocabulary(config)
    expert.make_tables()
    for vocabulary in (host, expert):
        if vocabulary.ends is not None and vocabulary.ends.doubt is not None:
            logger.warning("%s", vocabulary.ends.doubt)
    return Pair(
        host=host,
        expert=expert,
        maps=maps_of_none(host) if is_unknown(expert) else load_maps(host, expert),
        conversation=Conversation(host, expert),
    )


def _expert_vocabulary(config: FloeConfig) -> ByteVocabulary:
    if not config.expert.knows_tokenizer:
        return bytes_alone()
    reference = config.expert.tokenizer_reference
    return ByteVocabulary.from_pretrained(
        resolve(reference, plugins=config.plugins, tokenizer=True), name=reference
    )


def _scorer(
    config: FloeConfig, *, host_model: str, vocabulary: int, expert: Expert
) -> PromptScorer | None:
    """Return the scorer of prompts, if the configuration says how to reach this server."""
    if config.host_url is None:
        return None
    host = CompletionsExpert(
        url=config.host_url,
        top_k=1,
        vocabulary=vocabulary,
        end_ids=np.empty(0, dtype=np.int32),
        api_key=ApiKey(os.environ[config.host_api_key_env]) if config.host_api_key_env else None,
    )
    return PromptScorer(host=host, host_model=host_model, expert=expert)


def _router(name: str, plugins: PluginManager) -> Router:
    if name not in plugins.routers:
        accepted = ", ".join(sorted(plugins.routers))
        raise ConfigError(f"floe: router is {name!r}; accepted are {accepted}.")
    return plugins.routers[name].value
