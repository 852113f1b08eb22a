"""The routes of a vLLM server that carry text to the model, and the option for the host alone.

A route that is not listed here counts as one with text, because servers add routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from floe_plugins.middleware.asgi import Scope

#: Methods whose bodies are not read.
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

# No request to these makes the model generate a token, the only time that an expert is called.
_FREE = frozenset(
    {
        # The tokenizer alone.
        *("/tokenize", "/detokenize", "/v1/messages/count_tokens"),
        *("/v1/chat/completions/render", "/v1/completions/render", "/v1/responses/render"),
        *("/v1/messages/render", "/cohere/v2/chat/render"),
        *("/v1/chat/completions/derender", "/v1/completions/derender"),
        # Poolers: hidden states instead of logits.
        *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"),
        *("/rerank", "/v1/rerank", "/v2/rerank"),
        # The server itself: adapters, memory, profiles, caches, weights, scale, running requests.
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"),
        *("/sleep", "/wake_up", "/release_kv_cache_memory", "/start_profile", "/stop_profile"),
        *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/collective_rpc"),
        *("/pause", "/resume", "/abort_requests", "/inference/v1/abort_requests", "/ping"),
        *("/init_weight_transfer_engine", "/shutdown_weight_transfer_engine"),
        *("/start_weight_update", "/start_draft_weight_update", "/update_weights"),
        *("/finish_weight_update", "/update_weight_version", "/weight_checker"),
        *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/fault_tolerance/apply"),
    }
)
_FREE_PATTERN = re.compile(r"/v1/responses/[^/]+/cancel|/adapters/[^/]+")

# Routes whose requests have a field that the logits processor reads.
_XARGS = "vllm_xargs"
_WITH_XARGS = frozenset(
    {
        *("/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch"),
        *("/v1/responses", "/v1/messages", "/invocations"),
    }
)
_WITH_SAMPLING = frozenset({"/inference/v1/generate"})

_MODE = "floe"
_HOST_ONLY = "host"


def path_of(scope: Scope) -> str:
    """Return the path by which the server's router finds the route: decoded, below its root."""
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "")
    # As in Starlette: a root consists of whole parts of a path.
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def is_free_of_text(path: str) -> bool:
    """Return whether no request to a path makes the model generate a token.

    The path must match exactly: one that differs by its case or by a slash does not count.
    """
    return path in _FREE or _FREE_PATTERN.fullmatch(path) is not None


def asks_for_host_only(body: Mapping[str, Any]) -> bool:
    """Return whether a client wants its request to stay with the host."""
    extra = body.get(_XARGS)
    return isinstance(extra, Mapping) and extra.get(_MODE) == _HOST_ONLY


def without_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without the options of this server."""
    return {key: value for key, value in body.items() if key != _XARGS}


def kept_here(path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body with the option for the host alone, overriding the client's.

    Returns
    -------
    dict or None
        None if requests to the path have no field for it.
    """
    path = path.rstrip("/")
    if path in _WITH_XARGS:
        return _with_host_mode(body, _XARGS)
    if path in _WITH_SAMPLING:
        parameters = body.get("sampling_params")
        if isinstance(parameters, Mapping):
            return {**body, "sampling_params": _with_host_mode(parameters, "extra_args")}
    return None


def _with_host_mode(options: Mapping[str, Any], key: str) -> dict[str, Any]:
    extra = options.get(key)
    # Anything but a table is left for the server to refuse.
    if extra is not None and not isinstance(extra, Mapping):
        return dict(options)
    return {**options, key: {**(extra or {}), _MODE: _HOST_ONLY}}
