"""Builds the expert that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from floe_plugins.errors import ConfigError
from floe_plugins.hooks import ExpertKind
from floe_plugins.manager import Registered
from floe_plugins.models import resolve
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import TokenArray
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.http import CompletionsExpert, LoopThread
from vllm_logits_processor.expert.plugin import plugin_expert
from vllm_logits_processor.expert.pool import ExpertPool, OnBreaker
from vllm_logits_processor.expert.protocol import Expert

#: Stands for the URL of an expert in this process; also its kind.
IN_PROCESS = "in-process"
#: The kind of an expert behind a URL.
COMPLETIONS = "completions"


def build_expert(
    config: ExpertConfig,
    *,
    vocabulary: int,
    end_ids: TokenArray,
    breaker_failures: int,
    breaker_cooldown_s: float,
    timeout_s: float = 30.0,
    on_breaker: OnBreaker | None = None,
    kinds: Mapping[str, Registered[ExpertKind]] | None = None,
    plugins: Sequence[str] = (),
    tokenizer: ByteVocabulary | None = None,
    on_reached: Callable[[str], None] | None = None,
) -> ExpertPool:
    """Connect to the expert's servers, load its model into this process, or have a plugin build it.

    Parameters
    ----------
    config : ExpertConfig
        Its `kind` selects the expert; without one, the presence of a URL does.
    vocabulary : int
        Number of the expert's tokens.
    end_ids : int32 array
        The expert's end tokens, joined into one event.
    breaker_failures : int
        Consecutive failed or late calls that open a server's breaker.
    breaker_cooldown_s : float
        Seconds for which the breaker stays open.
    timeout_s : float
        Seconds after which a call to a server is abandoned.
    on_breaker : callable, optional
        See `OnBreaker`.
    kinds : mapping of str to Registered, optional
        The kinds that plugins register.
    plugins : sequence of str, optional
        See `resolve`.
    tokenizer : ByteVocabulary, optional
        The expert's, for servers that give tokens by their spelling.
    on_reached : callable, optional
        Called with a server's URL from any thread, as `CompletionsExpert` says.

    Raises
    ------
    FloeError
        If a certificate cannot be read, the model cannot be loaded, the kind is unknown or does
        not fit the URLs, or its plugin cannot build the expert.
    """
    kind = config.kind
    if kind is not None and kind not in (COMPLETIONS, IN_PROCESS):
        expert = plugin_expert(kind, config, kinds or {}, vocabulary=vocabulary, end_ids=end_ids)
        return ExpertPool(
            {kind: expert},
            failures=breaker_failures,
            cooldown_s=breaker_cooldown_s,
            on_breaker=on_breaker,
            model=config.model,
        )
    if kind is not None and (kind == COMPLETIONS) != bool(config.urls):
        wanted = "an expert.url" if kind == COMPLETIONS else "no expert.url"
        raise ConfigError(f"floe: expert.kind is {kind!r}; accepted with it is {wanted}.")
    loop = LoopThread() if config.urls else None
    experts: dict[str, Expert] = {
        url: completions_expert(
            config,
            url,
            vocabulary=vocabulary,
            end_ids=end_ids,
            loop=loop,
            timeout_s=timeout_s,
            tokenizer=tokenizer,
            on_reached=None if on_reached is None else partial(on_reached, url),
        )
        for url in config.urls
    }
    if not experts:
        experts[IN_PROCESS] = _in_process(
            config, vocabulary=vocabulary, end_ids=end_ids, plugins=plugins
        )
    return ExpertPool(
        experts,
        failures=breaker_failures,
        cooldown_s=breaker_cooldown_s,
        hedge_ms=config.hedge_ms,
        loop=loop,
        on_breaker=on_breaker,
        model=config.model,
    )


def completions_expert(
    config: ExpertConfig,
    url: str,
    *,
    vocabulary: int,
    end_ids: TokenArray,
    top_k: int | None = None,
    loop: LoopThread | None = None,
    timeout_s: float = 30.0,
    tokenizer: ByteVocabulary | None = None,
    on_reached: Callable[[], None] | None = None,
) -> CompletionsExpert:
    """Connect to one of the expert's servers; `top_k` overrides the configuration's.

    For the other parameters see `build_expert` and `CompletionsExpert`.
    """
    return CompletionsExpert(
        url=url,
        top_k=config.top_k if top_k is None else top_k,
        vocabulary=vocabulary,
        end_ids=end_ids,
        api=config.api,
        model=config.model,
        tokenizer=tokenizer,
        api_key=config.api_key(),
        ca_file=Path(config.ca_file) if config.ca_file else None,
        loop=loop,
        timeout_s=timeout_s,
        sessions=config.sessions,
        on_reached=on_reached,
    )


def _in_process(
    config: ExpertConfig, *, vocabulary: int, end_ids: TokenArray, plugins: Sequence[str]
) -> Expert:
    # transformers' models take seconds to import, and only this expert needs them.
    from vllm_logits_processor.expert.local import InProcessExpert
    from vllm_logits_processor.expert.local_model import load_model

    return InProcessExpert(
        load_model(
            resolve(config.model, plugins=plugins), dtype=config.dtype, device=config.device
        ),
        name=config.model,
        top_k=config.top_k,
        vocabulary=vocabulary,
        end_ids=end_ids,
    )
