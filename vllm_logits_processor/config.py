"""The processor's configuration: ``--additional-config '{"floe": {...}}'`` and the file it names.

What stands on the command line becomes part of vLLM's compile-cache key. Values that change between
two starts of the same server (URL, key, deadlines) therefore belong into the JSON file that
``config_file`` names, or, for the key, into an environment variable.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from floe_plugins.errors import ConfigError
from vllm_logits_processor.request import MODES, Mode


def _accept(key: str, value: object, accepted: str, *, good: bool) -> None:
    if not good:
        raise ConfigError(f"floe: {key} is {value!r}; accepted is {accepted}.")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """The other model: section ``expert`` of the configuration.

    Attributes
    ----------
    url : str
        Base URL of an OpenAI-compatible server, ending before ``/completions``.
    model : str
        Name of the model at that server; a request may name another (``floe_expert_model``).
    tokenizer : str
        Where its tokenizer is: a folder, a hub id or ``embedded:...``.
    trusted : bool
        True where the expert's owner may see private text (the user's own SLM). Otherwise only text
        that the privacy gate clears is sent. Default False.
    top_k : int
        Logprobs per token, 1 to 1,000. The server must allow it (vLLM: ``--max-logprobs``).
    api_key_env : str, optional
        Environment variable that holds the API key.
    """

    url: str
    model: str
    tokenizer: str
    trusted: bool = False
    top_k: int = 20
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        good_url = isinstance(self.url, str) and self.url.startswith(("http://", "https://"))
        _accept("expert.url", self.url, "an http:// or https:// URL", good=good_url)
        for key in ("model", "tokenizer"):
            value = getattr(self, key)
            _accept(f"expert.{key}", value, "a name", good=isinstance(value, str) and bool(value))
        _accept("expert.trusted", self.trusted, "true or false", good=type(self.trusted) is bool)
        good_k = type(self.top_k) is int and 1 <= self.top_k <= 1000
        _accept("expert.top_k", self.top_k, "an integer from 1 to 1000", good=good_k)
        if self.api_key_env is not None:
            _accept(
                "expert.api_key_env",
                self.api_key_env,
                "the name of an environment variable that is set",
                good=isinstance(self.api_key_env, str) and self.api_key_env in os.environ,
            )

    @property
    def api_key(self) -> str | None:
        """The API key, if one is configured."""
        return os.environ[self.api_key_env] if self.api_key_env else None


@dataclass(frozen=True, kw_only=True)
class FloeConfig:
    """All that the processor is told at start.

    Attributes
    ----------
    expert : ExpertConfig
        The other model.
    router : str
        Name of the router; default ``evidence``.
    default_mode : {"fused", "host"}
        What a request that says ``auto``, or nothing, gets. Default ``fused``.
    deadline_ms : float
        Milliseconds from the start of a call within which its reply counts, per token. Default 250.
    first_deadline_ms : float
        The same for the first token of an answer, where the expert reads the prompt. Default 5,000.
    breaker_failures : int
        Failed or late calls in a row after which the expert is left alone. Default 5.
    breaker_cooldown_s : float
        Seconds for which it is left alone. Default 5.
    plugins : tuple of str
        Dotted paths of plugin modules to load beside the installed ones.
    detectors : tuple of str, optional
        Names of the detectors that the gate asks; all that are registered if not given.
    trace_file : str, optional
        A JSON Lines file to append one line per step and stream to: figures, never text.
    """

    expert: ExpertConfig
    router: str = "evidence"
    default_mode: Mode = "fused"
    deadline_ms: float = 250.0
    first_deadline_ms: float = 5000.0
    breaker_failures: int = 5
    breaker_cooldown_s: float = 5.0
    plugins: tuple[str, ...] = ()
    detectors: tuple[str, ...] | None = None
    trace_file: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        _accept("router", self.router, "a router's name", good=isinstance(self.router, str))
        modes = tuple(mode for mode in MODES if mode != "auto")
        _accept(
            "default_mode", self.default_mode, " or ".join(modes), good=self.default_mode in modes
        )
        for key in ("deadline_ms", "first_deadline_ms", "breaker_cooldown_s"):
            value = getattr(self, key)
            _accept(key, value, "a number above 0", good=_number(value) and value > 0)
        good = type(self.breaker_failures) is int and self.breaker_failures > 0
        _accept("breaker_failures", self.breaker_failures, "an integer above 0", good=good)
        if self.trace_file is not None:
            parent = isinstance(self.trace_file, str) and Path(self.trace_file).parent.is_dir()
            _accept("trace_file", self.trace_file, "a path in an existing folder", good=parent)

    @classmethod
    def from_additional_config(cls, additional: Mapping[str, Any] | None) -> Self | None:
        """Read the configuration that vLLM was started with; None where there is no ``floe``.

        Raises
        ------
        ConfigError
            If a key is unknown, a value is out of range, or the file cannot be read.
        """
        if not isinstance(additional, Mapping) or "floe" not in additional:
            return None
        values = additional["floe"]
        _accept("the configuration", values, "a JSON object", good=isinstance(values, Mapping))
        values = dict(values)
        if "config_file" in values:
            values = _merged(values, _read(values.pop("config_file")))
        if "expert" not in values:
            raise ConfigError("floe: the section 'expert' (url, model, tokenizer) is missing.")
        expert = values.pop("expert")
        _accept("expert", expert, "a JSON object", good=isinstance(expert, Mapping))
        return cls(
            expert=ExpertConfig(**_known(ExpertConfig, expert, section="expert.")),
            **_known(cls, values, section=""),
        )


def _read(path: object) -> dict[str, Any]:
    try:
        values = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"floe: config_file is {path!r}, which cannot be read as JSON ({error})."
        ) from None
    _accept("config_file", path, "the path of a JSON object", good=isinstance(values, dict))
    return dict(values)


def _merged(inline: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Join both sources; a key in both would leave open which one counts."""
    merged = {**inline, **file}
    for key in inline.keys() & file.keys():
        if not (isinstance(inline[key], dict) and isinstance(file[key], dict)):
            raise ConfigError(
                f"floe: {key} stands on the command line and in config_file; keep one."
            )
        merged[key] = _merged(inline[key], file[key])
    return merged


def _known(kind: type, values: Mapping[str, Any], *, section: str) -> dict[str, Any]:
    """Check the keys against the fields of a configuration class; lists become tuples."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING} - {
        "expert"
    }
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"accepted are {', '.join(fields)}."
            raise ConfigError(f"floe: {section}{key} is not a setting; {hint}")
    for key in sorted(required - values.keys()):
        raise ConfigError(f"floe: {section}{key} is missing.")
    checked = {}
    for key, value in values.items():
        is_list = "tuple" in str(fields[key].type)
        if is_list:
            good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
            _accept(section + key, value, "a list of names", good=good)
        checked[key] = tuple(value) if is_list else value
    return checked
