"""Checks what a server starts with: configuration, plugins, router, tokenizers, gate and ports."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from floe_plugins.commands.doctor_lines import Line, green, red, unknown
from floe_plugins.errors import ConfigError, FloeError, PluginError, first_line
from floe_plugins.manager import PluginManager, plugin_manager
from floe_plugins.models import resolve
from vllm_logits_processor.commands.doctor_expert import expert_lines
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.expert.build import COMPLETIONS, IN_PROCESS
from vllm_logits_processor.expert.fetcher import Fetcher

if TYPE_CHECKING:
    from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_LOOPBACK = "127.0.0.1"


def serving_lines(values: Any, *, host: str | None) -> list[Line]:
    """Check a configuration's section ``floe``; `values` is None without one."""
    if values is None:
        advice = "name the processor's configuration with --config FILE"
        return [*_plugins(()), unknown("configuration", "not given", advice)]
    try:
        config = FloeConfig.from_additional_config({"floe": values})
    except ConfigError as error:
        return [red("configuration", str(error), "correct that key: docs/reference/serving.md")]
    assert config is not None
    expert = config.expert
    trust = "trusted" if expert.trusted else "not trusted"
    where = f"{len(expert.urls)} server(s), {trust}" if expert.urls else "in the host's process"
    lines = [green("configuration", f"accepted: expert {expert.model!r}, {where}")]
    lines += _plugins(config.plugins)
    try:
        plugins = plugin_manager(config.plugins)
    except PluginError:
        return lines
    tokenizer, tokenizer_lines = _tokenizers(expert, host, config.plugins)
    return [
        *lines,
        _router(config, plugins),
        *tokenizer_lines,
        *_expert(config, plugins, tokenizer),
        *_gate(config),
        *_ports(config, host),
    ]


def _plugins(paths: tuple[str, ...]) -> list[Line]:
    try:
        loaded = plugin_manager(paths).plugins
    except PluginError as error:
        advice = "correct or uninstall that plugin, or leave it out with FLOE_LLM_PLUGINS"
        return [red("plugins", str(error), advice)]
    others = [f"{each.name} {each.version or ''}".strip() for each in loaded if each.name != "floe"]
    return [green("plugins", ", ".join(others) or "none but Floe's own")]


def _router(config: FloeConfig, plugins: PluginManager) -> Line:
    found = plugins.routers.get(config.router)
    if found is None:
        accepted = ", ".join(sorted(plugins.routers))
        return red("router", f"nobody registers {config.router!r}", f"choose one of {accepted}")
    return green("router", f"{config.router} of {found.plugin}")


def _tokenizers(
    expert: ExpertConfig, host: str | None, plugins: tuple[str, ...]
) -> tuple[ByteVocabulary | None, list[Line]]:
    """Return the expert's tokenizer, if it can be loaded, and the lines."""
    from vllm_logits_processor.alignment.inspection import side_reports
    from vllm_logits_processor.alignment.maps import keep
    from vllm_logits_processor.alignment.unknown import bytes_alone

    if not expert.knows_tokenizer:
        found = "the expert's is not known: its tokens are aligned by their spelling alone"
        advice = "name it in expert.tokenizer if you can: see docs/how-to/serve.md"
        return bytes_alone(), [unknown("tokenizers", found, advice)]
    try:
        theirs = _vocabulary(expert.tokenizer_reference, plugins)
    except FloeError as error:
        advice = "name the tokenizer of the expert's model in expert.tokenizer"
        return None, [red("tokenizers", str(error), advice)]
    lines = [_ends("expert", theirs)]
    if host is None:
        advice = "name the model that vLLM runs with --host to look over the pair"
        found = f"the expert's has {len(theirs):,} tokens"
        return theirs, [unknown("tokenizers", found, advice), *lines]
    try:
        ours = _vocabulary(host, plugins)
        kept = keep(ours, theirs)
    except (FloeError, OSError) as error:
        advice = "name the model that vLLM runs; floe-llm align says more of a pair"
        return theirs, [red("tokenizers", f"{host!r}: {first_line(error)}", advice), *lines]
    lines.insert(0, _ends("host", ours))
    reports = side_reports(ours, theirs, kept.maps)
    shares = [side.mapped / max(1, side.tokens - side.without_text) for side in reports]
    found = (
        f"host {len(ours):,} tokens, {shares[0]:.1%} of them mapped; "
        f"expert {len(theirs):,}, {shares[1]:.1%}"
    )
    if min(shares) < 0.5:
        advice = "most tokens of one have no like in the other: floe-llm align HOST EXPERT shows it"
        return theirs, [red("tokenizers", found, advice), *lines]
    return theirs, [green("tokenizers", found), *lines]


def _vocabulary(name: str, plugins: tuple[str, ...]) -> ByteVocabulary:
    from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

    return ByteVocabulary.from_pretrained(resolve(name, plugins=plugins, tokenizer=True), name=name)


def _ends(role: str, vocabulary: ByteVocabulary) -> Line:
    """Report what ends a turn, and whether the model's files disagree on it."""
    check = f"{role} end of turn"
    ends = vocabulary.ends
    if ends is None or not ends.ids:
        advice = "its tokenizer should have an eos_token: an answer ends with nothing else"
        return unknown(check, f"nothing says what ends a turn of {vocabulary.name!r}", advice)
    if ends.doubt is not None:
        advice = "if one of them is wrong, correct that file of the model"
        return unknown(check, ends.doubt, advice)
    return green(check, ", ".join(ends.spelled))


def _expert(
    config: FloeConfig, plugins: PluginManager, tokenizer: ByteVocabulary | None
) -> list[Line]:
    kind = config.expert.kind
    if kind is None or kind in (COMPLETIONS, IN_PROCESS):
        return expert_lines(config, tokenizer=tokenizer)
    found = plugins.experts.get(kind)
    if found is None:
        accepted = ", ".join([COMPLETIONS, IN_PROCESS, *sorted(plugins.experts)])
        return [red("expert", f"nobody registers the kind {kind!r}", f"choose one of {accepted}")]
    return [unknown("expert", f"{kind} of {found.plugin}: only the server can ask it")]


def _gate(config: FloeConfig) -> list[Line]:
    from floe_plugins.gate.detector import coverage
    from vllm_logits_processor.privacy import gate_of

    try:
        gate = gate_of(config)
    except FloeError as error:
        return [red("gate", str(error), "correct detectors in the configuration, or that plugin")]
    if gate is None:
        return [green("gate", "not needed: the expert may see everything")]
    failures = gate.decide("Water boils at 100 degrees.").failures
    if failures:
        failed = ", ".join(f"{each.detector} ({each.reason})" for each in failures)
        advice = "until that detector works, no text at all leaves"
        return [red("gate", f"a plain sentence cannot be scanned: {failed}", advice)]
    detectors = f"{len(gate.detectors)} detectors: {', '.join(gate.detectors)}"
    lines = [green("gate", f"profile {config.gate_profile}; {detectors}")]
    known = coverage(gate.labels)
    if known.covered:
        lines.append(green("gate coverage", "; ".join(known.covered)))
    if known.uncovered:
        found = f"nothing looks for: {'; '.join(known.uncovered)}"
        lines.append(unknown("gate coverage", found, "floe-llm plugins lists further detectors"))
    return lines


def _ports(config: FloeConfig, host: str | None) -> list[Line]:
    lines = []
    if config.metrics_port is not None:
        lines.append(_metrics_port(config.metrics_port))
    if config.host_url is not None:
        lines.append(_host_server(config.host_url, host))
    return lines


def _metrics_port(port: int) -> Line:
    taken = _taken(port)
    if taken is None:
        return green("metrics port", f"{port} is free")
    body = Fetcher().body(f"http://{_LOOPBACK}:{port}/metrics")
    if body is not None and "floe_tokens_total" in body:
        return green("metrics port", f"{port}: a Floe server answers there")
    return red("metrics port", f"{port}: {taken}", "set metrics_port to a free port")


def _host_server(url: str, host: str | None) -> Line:
    """Check whether the server at `host_url` is there and serves the host."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{parts.hostname}:{port}"
    body = Fetcher().body(f"{url.rstrip('/')}/models")
    if body is not None:
        served = _models_of(body)
        # One model has several names: a folder, absolute or not, or the hub's id.
        names = {Path(name).name for name in served}
        if host is None or not served or not names.isdisjoint(_names_of(host)):
            return green("host", f"{where}: a server answers there")
        found = f"{where} serves {', '.join(sorted(served))}, where --host is {host}"
        advice = "host_url must be the server that Floe runs in: its model scores the prompts"
        return unknown("host", found, advice)
    taken = _taken(port)
    if taken is None:
        return unknown("host", f"{parts.hostname}:{port}: nobody answers, the port is free")
    return red("host", f"port {port}: {taken}", "correct host_url, or start vLLM on another port")


def _models_of(body: str) -> set[str]:
    """Return the sources of a vLLM server's models; empty if it does not report them."""
    try:
        return {str(model["root"]) for model in json.loads(body)["data"] if model.get("root")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _names_of(host: str) -> set[str]:
    try:
        return {Path(host).name, Path(resolve(host)).name}
    except FloeError:
        return {Path(host).name}


def _taken(port: int) -> str | None:
    """Return why a port of this machine cannot be opened; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            words: Mapping[int, str] = {
                errno.EADDRINUSE: "something else listens there",
                errno.EACCES: "this user may not listen there",
            }
            return words.get(error.errno or 0, str(error.strerror))
    return None
