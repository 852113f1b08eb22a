"""The gate as a guardrail of a LiteLLM proxy; needs ``litellm[proxy]``.

.. code-block:: yaml

    guardrails:
      - guardrail_name: floe
        litellm_params:
          guardrail: floe_plugins.litellm_guardrail.FloeGuardrail
          mode: pre_call
          default_on: true
          local_model: device
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.utils import all_litellm_params

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Verdict
from floe_plugins.gate.settings import GateSettings
from floe_plugins.middleware.asgi import App, Receive, Scope, Send, refuse
from floe_plugins.middleware.request_texts import leaving, texts_of, why_of

logger = logging.getLogger(__name__)

# The proxy forwards these to where its configuration says, whatever model the request names.
_PASSED_THROUGH = frozenset({"pass_through_endpoint", "allm_passthrough_route"})

# Number of clear requests that are remembered, as digests, so that each is scanned once.
_REMEMBERED = 4096


class FloeGuardrail(CustomGuardrail):  # type: ignore[misc, unused-ignore]  # untyped if absent
    """Decides about every request, and again about every call of a deployment.

    A clear request passes unchanged, a redacted one with its placeholders. Any other goes to the
    local model, or is refused with HTTP 400 if none is named.

    The proxy may call another model than the request names: a fallback, a retry, one of several.
    So the guardrail scans the text of each call after the proxy has chosen the deployment. Only a
    deployment of the local model gets text that is not clear.

    Parameters
    ----------
    local_model : str, optional
        The proxy's name (``model_name``) of the model that may see everything. All deployments of
        that name may.
    gate_config : str, optional
        The path of the gate's configuration; by default what ``FLOE_GATE_CONFIG`` names.
    **options
        LiteLLM's options of every guardrail.

    Raises
    ------
    ConfigError, PluginError
        The configuration is wrong, or a detector does not load; the proxy does not start.
    """

    def __init__(
        self, *, local_model: str | None = None, gate_config: str | None = None, **options: Any
    ) -> None:
        if local_model is not None and (not isinstance(local_model, str) or not local_model):
            raise ConfigError(
                f"The guardrail's local_model is {local_model!r}; accepted is a model's name."
            )
        settings = (
            GateSettings.from_file(gate_config) if gate_config else GateSettings.from_environment()
        )
        self._gate = settings.gate()
        self._local_model = local_model
        self._cleared: OrderedDict[bytes, None] = OrderedDict()
        super().__init__(**options)
        if not self._event_hook_is_event_type(GuardrailEventHooks.pre_call):
            mode = options.get("event_hook")
            raise ConfigError(f"The guardrail's mode is {mode!r}; accepted is pre_call.")
        if options.get("default_on"):
            filter_routes()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Return the request as it may be forwarded.

        Raises
        ------
        HTTPException
            The request may not leave and no local model is named. Holds nothing of the text.
        """
        del user_api_key_dict, cache
        if call_type in _PASSED_THROUGH:
            raise _held(None)
        if self._local_model is not None and data.get("model") == self._local_model:
            return data
        verdict, left = None, None
        if is_text_call(call_type, data):
            verdict, left = await self._leaving(of_the_client(data))
        if left is not None:
            return {**data, **left}
        if self._local_model is None:
            raise _held(verdict)
        logger.info("A request stays with %s: %s.", self._local_model, _said_of(verdict))
        here = {key: value for key, value in data.items() if key not in ELSEWHERE}
        return {**here, "model": self._local_model}

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any]:
        """Return the call of a deployment as it may be forwarded.

        The decision depends only on what is about to be sent, not on the request's own hook or on
        its claims.

        Raises
        ------
        HTTPException
            The text may not leave and the deployment is not the local model's.
        """
        # Under `default_on` it runs on every request, except for a key that the proxy's
        # administrator has exempted.
        if not self.should_run_guardrail(data=kwargs, event_type=GuardrailEventHooks.pre_call):
            return kwargs
        if stays_local(kwargs, self._local_model):
            return kwargs
        verdict, left = None, None
        if is_text_call(getattr(call_type, "value", None), kwargs):
            verdict, left = await self._leaving(of_the_client(kwargs))
        if left is None:
            logger.info("A call of a deployment is held: %s.", _said_of(verdict))
            raise _held(verdict)
        return {**kwargs, **left}

    async def _leaving(
        self, body: Mapping[str, Any]
    ) -> tuple[Verdict | None, Mapping[str, Any] | None]:
        """Let the gate decide, unless it has cleared the same texts before."""
        texts = texts_of(body)
        said = json.dumps([(each.text, each.role, each.field) for each in texts.messages])
        digest = hashlib.sha256(said.encode()).digest()
        if texts.readable and digest in self._cleared:
            self._cleared.move_to_end(digest)
            return None, body
        verdict, left = await leaving(self._gate, body)
        if verdict is not None and verdict.decision is Decision.CLEAR:
            self._cleared[digest] = None
            if len(self._cleared) > _REMEMBERED:
                self._cleared.popitem(last=False)
        return verdict, left


def _held(verdict: Verdict | None) -> HTTPException:
    return HTTPException(
        status_code=400,
        detail={"error": f"The privacy gate keeps this request here ({_said_of(verdict)})."},
    )


def _said_of(verdict: Verdict | None) -> str:
    decision = Decision.LOCAL if verdict is None else verdict.decision
    return f"{decision}: {why_of(verdict)}"


# Calls whose requests are text, and the fields that hold it. A call without any of these is not
# read: the proxy may have put the text somewhere else.
_TEXTS_OF = {
    "completion": ("messages",),
    "text_completion": ("prompt",),
    "responses": ("input",),
    "anthropic_messages": ("messages",),
    "embedding": ("input",),
    "moderation": ("input",),
    "rerank": ("query", "documents"),
}

# Destination of a call, beside its model and provider.
_PLACES = (
    *("litellm_credential_name", "use_litellm_proxy", "proxy_base_url", "deployment_id"),
    *("aws_bedrock_runtime_endpoint", "aws_region_name", "region_name"),
    *("vertex_location", "vertex_project", "organization", "azure_endpoint"),
)
# Fields by which a call also goes to somebody else, or to another model instead.
ELSEWHERE = frozenset(
    {
        *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
        *("context_window_fallback_dict", "vector_store_ids", "prompt_id", "prompt_version"),
    }
)

# Fields that LiteLLM keeps to itself, except these, from which it builds a request.
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
    """Return the parts of a call or request that are sent on and may come from the client."""
    # If the proxy has a field of its own for its notes, `metadata` is the client's.
    proxy = _OF_THE_PROXY - {"metadata"} if "litellm_metadata" in call else _OF_THE_PROXY
    operators = _configured(call)
    return {
        key: value
        for key, value in call.items()
        if key not in proxy
        and not (key in _KEPT and key not in _spoken())
        # A session or a router of the proxy does not come from a client.
        and isinstance(value, _JSON)
        and not (key in operators and operators[key] == value)
    }


def is_text_call(name: str | None, call: Mapping[str, Any]) -> bool:
    """Return whether a call is a text call with its text in the usual fields."""
    places = _TEXTS_OF.get((name or "").removeprefix("a"), _TEXTS_OF.get(name or ""))
    return places is not None and all(isinstance(call.get(place), str | list) for place in places)


def stays_local(call: Mapping[str, Any], local_model: str | None) -> bool:
    """Return whether a call goes to a deployment of the local model, and nowhere else.

    The proxy's own configuration decides: nothing that a client writes into a request, such as
    the id of a deployment, makes another deployment local.
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
    # A model unknown to LiteLLM is compared as it is written.
    with suppress(litellm.BadRequestError, AttributeError, TypeError):
        model, provider, _, _ = litellm.get_llm_provider(
            model=model, custom_llm_provider=provider, api_base=base
        )
    return (model, provider, base, *(call.get(key) or None for key in _PLACES))


def _deployments() -> list[Mapping[str, Any]]:
    # Bound when the proxy has started, and again when its configuration changes.
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


# Routes to models on which the proxy calls the guardrail and, for each deployment, its hook, which
# hold private text. The proxy has further routes that call a provider without any hook, such as
# those that count tokens.
_HELD_ROUTES = re.compile(
    r"/(?:chat/completions|completions|embeddings|moderations|responses|messages|rerank"
    r"|audio/(?:transcriptions|translations|speech)|images/(?:generations|edits)"
    r"|models/[^/]+:(?:generateContent|streamGenerateContent)|files|batches)"
)
_ROUTE_PREFIXES = re.compile(
    r"(?:/v1|/v2|/v1beta|/openai|/openai/v1|/openai/deployments/[^/]+|/engines/[^/]+|/cursor)?"
)
# Known to call a provider, whatever the proxy classifies them as.
_COUNTING_ROUTES = re.compile(
    r"count_?tokens|token_counter|input_tokens|transform_request", re.IGNORECASE
)
_BODIES = ("POST", "PUT", "PATCH")


class RouteFilter:
    """ASGI middleware in front of a proxy.

    Parameters
    ----------
    app : callable
        The proxy's application with all of its own middleware.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":
            # Its later messages pass no hook. 1008: against the server's policy.
            await send({"type": "websocket.close", "code": 1008, "reason": "The privacy gate."})
            return
        if scope["type"] == "http" and scope["method"] in _BODIES and _unheld(scope):
            message = (
                "The privacy gate keeps this request here: the proxy asks its providers on this "
                "route without showing the text to the gate."
            )
            await refuse(send, 403, message)
            return
        await self._app(scope, receive, send)


def filter_routes() -> None:
    """Put a `RouteFilter` in front of the proxy that is starting in this process; once.

    Raises
    ------
    ConfigError
        This LiteLLM's stack of middleware is unknown.
    """
    from litellm.proxy.proxy_server import app

    if isinstance(app.middleware_stack, RouteFilter):
        return
    stack: Any = app.middleware_stack
    if stack is None:
        # Not called yet: it builds its stack at the first event, with this around all the others.
        app.add_middleware(RouteFilter)
    elif callable(stack):
        # It reads its configuration during start-up, when the stack already exists.
        app.middleware_stack = RouteFilter(stack)
    else:
        raise ConfigError("This LiteLLM has no place for the gate in front of its routes.")
    logger.info("The gate stands in front of the proxy's routes.")


def _unheld(scope: Scope) -> bool:
    from litellm.proxy.auth.route_checks import RouteChecks

    path = str(scope["path"]).removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
    if _COUNTING_ROUTES.search(path):
        return True
    held = _HELD_ROUTES.search(path)
    if held and held.end() == len(path) and _ROUTE_PREFIXES.fullmatch(path[: held.start()]):
        return False
    # Other paths of the proxy also call a model; those that manage it do not. Requests that a
    # configuration passes through call the guardrail, which refuses them.
    return bool(RouteChecks.is_llm_api_route(path))
