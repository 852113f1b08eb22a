"""What LiteLLM is about to call, and with which text: what its deployment hook is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import litellm
from litellm.types.utils import all_litellm_params

# Calls whose requests are text, and where the text stands in them. A call without any of these is
# not read: the proxy may have put the text somewhere else.
_TEXTS_OF = {
    "completion": ("messages",),
    "text_completion": ("prompt",),
    "responses": ("input",),
    "anthropic_messages": ("messages",),
    "embedding": ("input",),
    "moderation": ("input",),
    "rerank": ("query", "documents"),
}

# Where a call goes, beside its model and provider.
_PLACES = (
    *("litellm_credential_name", "use_litellm_proxy", "proxy_base_url", "deployment_id"),
    *("aws_bedrock_runtime_endpoint", "aws_region_name", "region_name"),
    *("vertex_location", "vertex_project", "organization", "azure_endpoint"),
)
# What makes a call ask somebody else too, or another model in its place.
ELSEWHERE = frozenset(
    {
        *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
        *("context_window_fallback_dict", "vector_store_ids", "prompt_id", "prompt_version"),
    }
)

# What LiteLLM keeps for itself, and does not send on, but for these, which it makes a request of.
_KEPT = frozenset(all_litellm_params) - {
    *("headers", "extra_headers", "extra_body", "metadata", "provider_specific_header"),
    *("prompt_variables", "litellm_system_prompt", "final_prompt_value", "custom_prompt_dict"),
    *("assistant_continue_message", "user_continue_message", "roles", "id", "bedrock_tags"),
}
_OF_THE_PROXY = frozenset(
    {
        *("guardrails", "litellm_call_id", "litellm_logging_obj", "litellm_metadata"),
        *("litellm_trace_id", "metadata", "model", "proxy_server_request", "secret_fields"),
        *("model_info", "api_key", "api_base", "base_url", "custom_llm_provider", "timeout"),
    }
)
_JSON = (str, int, float, list, dict, tuple, type(None))


def of_the_client(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a call, or of a request to the proxy, is sent on and may be the client's."""
    # Where the proxy has a place of its own for what it notes, `metadata` is the client's.
    proxy = _OF_THE_PROXY - {"metadata"} if "litellm_metadata" in call else _OF_THE_PROXY
    operators = _configured(call)
    return {
        key: value
        for key, value in call.items()
        if key not in proxy
        and not (key in _KEPT and key not in _spoken())
        # A session or a router of the proxy is nothing that a client sent.
        and isinstance(value, _JSON)
        and not (key in operators and operators[key] == value)
    }


def is_text_call(name: str | None, call: Mapping[str, Any]) -> bool:
    """Tell whether a call is one of texts, and has its text where such calls have it."""
    places = _TEXTS_OF.get((name or "").removeprefix("a"), _TEXTS_OF.get(name or ""))
    return places is not None and all(isinstance(call.get(place), str | list) for place in places)


def stays_local(call: Mapping[str, Any], local_model: str | None) -> bool:
    """Tell whether a call goes to a deployment of the local model, and nowhere else.

    What counts is where it goes, in the proxy's own configuration: nothing that a client can write
    into a request, such as the id of a deployment, makes another place the local one.
    """
    if local_model is None or any(call.get(key) for key in ELSEWHERE):
        return False
    return any(
        _place(call) == _place(deployment["litellm_params"])
        for deployment in _deployments()
        if deployment.get("model_name") == local_model
    )


def _place(call: Mapping[str, Any]) -> tuple[object, ...]:
    base = call.get("base_url") or call.get("api_base") or None
    model, provider = call.get("model"), call.get("custom_llm_provider")
    # What is no model that LiteLLM knows is compared as it is written.
    with suppress(litellm.BadRequestError, AttributeError, TypeError):
        model, provider, _, _ = litellm.get_llm_provider(
            model=model, custom_llm_provider=provider, api_base=base
        )
    return (model, provider, base, *(call.get(key) or None for key in _PLACES))


def _deployments() -> list[Mapping[str, Any]]:
    # Bound when the proxy has started, and anew when its configuration changes.
    from litellm.proxy import proxy_server

    router = proxy_server.llm_router
    return [] if router is None else list(router.model_list)


def _configured(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the proxy's own configuration gives to the called model."""
    found: dict[str, Any] = {}
    for deployment in _deployments():
        params = deployment["litellm_params"]
        if params.get("model") == call.get("model"):
            found.update(params)
    return found


def _spoken() -> frozenset[str]:
    return frozenset(place for places in _TEXTS_OF.values() for place in places)
