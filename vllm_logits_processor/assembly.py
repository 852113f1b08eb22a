"""Put the parts of a fusion engine together, once, at the start of a vLLM worker."""

from __future__ import annotations

import logging

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Gate
from floe_plugins.manager import PluginManager, plugin_manager
from floe_plugins.models import resolve
from floe_plugins.routers import Router
from vllm_logits_processor.alignment.cache import load_maps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.engine import FusionEngine, Pair
from vllm_logits_processor.experts.completions import CompletionsExpert

logger = logging.getLogger(__name__)


def build_engine(config: FloeConfig, *, host_tokenizer: str, host_vocabulary: int) -> FusionEngine:
    """Load tokenizers, maps, router and gate, and connect the expert.

    Parameters
    ----------
    config : FloeConfig
    host_tokenizer : str
        Folder or hub id of the tokenizer of vLLM's model.
    host_vocabulary : int
        Columns of vLLM's logits.

    Raises
    ------
    FloeError
        If a part cannot be loaded; the server then does not start, rather than serve without what
        its configuration promises.
    """
    plugins = plugin_manager(config.plugins)
    router = _router(config.router, plugins)
    gate = None if config.expert.trusted else _gate(config, plugins)
    host = ByteVocabulary.from_pretrained(host_tokenizer)
    if len(host) > host_vocabulary:
        raise ConfigError(
            f"floe: the tokenizer {host_tokenizer!r} has {len(host)} tokens, and the model's "
            f"logits have {host_vocabulary} columns; accepted are tokenizers that fit their model."
        )
    expert = ByteVocabulary.from_pretrained(
        resolve(config.expert.tokenizer), name=config.expert.tokenizer
    )
    maps = load_maps(host, expert)
    logger.info(
        "Floe fuses %d host tokens with %d of %s at %s (%s), router %s, gate %s.",
        len(host),
        len(expert),
        config.expert.model,
        config.expert.url,
        "trusted" if config.expert.trusted else "untrusted",
        router.name,
        ", ".join(gate.detectors) if gate else "not needed",
    )
    return FusionEngine(
        config=config,
        pair=Pair(host=host, expert=expert, maps=maps),
        expert=CompletionsExpert(
            url=config.expert.url,
            top_k=config.expert.top_k,
            vocabulary=len(expert),
            end_ids=maps.end_ids,
            api_key=config.expert.api_key,
        ),
        router=router,
        gate=gate,
    )


def _router(name: str, plugins: PluginManager) -> Router:
    if name not in plugins.routers:
        accepted = ", ".join(sorted(plugins.routers))
        raise ConfigError(f"floe: router is {name!r}; accepted are {accepted}.")
    return plugins.routers[name].value


def _gate(config: FloeConfig, plugins: PluginManager) -> Gate:
    names = config.detectors if config.detectors is not None else tuple(sorted(plugins.detectors))
    unknown = [name for name in names if name not in plugins.detectors]
    if unknown:
        accepted = ", ".join(sorted(plugins.detectors))
        raise ConfigError(f"floe: detectors names {unknown[0]!r}; accepted are {accepted}.")
    return Gate(detectors=[plugins.detectors[name].value for name in names])
