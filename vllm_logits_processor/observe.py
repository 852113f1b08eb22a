"""Figures for Prometheus, on a port of this machine alone. Numbers and names, never text."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from floe_plugins.errors import ConfigError
from floe_plugins.isolation import failures
from vllm_logits_processor.summary import StreamSummary
from vllm_logits_processor.trace import OUTCOMES, TraceLine

#: The only address that is listened on: whoever may read the figures of a server is on its machine.
_LOOPBACK = "127.0.0.1"

#: What can come of a call, and of anything whose name is not known here.
_CALL_OUTCOMES = ("answered", "late", "failed")
_OTHER = "other"
#: The second word on a call that was late: it ended after all, and its bytes are known now.
_DROPPED = "dropped"
_BREAKER_STATES = ("closed", "half-open", "open")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_BOUNDS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class FusionMetrics:
    """Counts what one engine does and, with a port, answers with it over HTTP.

    Every engine has a registry of its own, so that several in one process do not clash and nothing
    of vLLM's appears. Labels come from closed sets and from the configuration's URLs (without
    credentials and query): nothing of a request becomes a label. May be called from any thread.

    Parameters
    ----------
    port : int or None
        Port on 127.0.0.1; None opens nothing and counts nothing.

    Raises
    ------
    ConfigError
        If the port cannot be opened.
    """

    def __init__(self, *, port: int | None) -> None:
        self._instruments = _Instruments() if port is not None else None
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None
        if self._instruments is not None and port is not None:
            try:
                self._server, self._thread = start_http_server(
                    port, addr=_LOOPBACK, registry=self._instruments.registry
                )
            except OSError as error:
                raise ConfigError(
                    f"floe: metrics_port is {port}, which cannot be opened on {_LOOPBACK} "
                    f"({error.strerror}); accepted is a free port."
                ) from None

    def observe_token(self, line: TraceLine) -> None:
        """Count one row that was decided."""
        if self._instruments is not None:
            self._instruments.token(line)

    def observe_call(
        self, *, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        """Count one call to the expert.

        Parameters
        ----------
        outcome : str
            ``answered``, ``late`` or ``failed``; ``dropped`` for what a late call brought in the
            end, of which only the bytes are counted.
        seconds : float
            From its start until its reply was there, or its deadline.
        prompts : int
            How many texts it asked about.
        sent_bytes, received_bytes : int
            Bodies of the request and of the reply.
        """
        if self._instruments is not None:
            self._instruments.call(outcome, seconds, prompts, sent_bytes, received_bytes)

    def observe_breaker(self, *, url: str, state: str) -> None:
        """Note the state of an expert's breaker: ``closed``, ``half-open`` or ``open``."""
        if self._instruments is not None:
            self._instruments.breaker.labels(server_of(url)).state(state)

    def observe_stream(self, summary: StreamSummary) -> None:
        """Count a stream that has ended."""
        if self._instruments is not None:
            self._instruments.streams.inc()
            self._instruments.constant_streams.inc(summary.constant_weight)

    def observe_fault(self, *, stage: str, reason: str) -> None:
        """Count a fault in Floe itself; see :mod:`vllm_logits_processor.fallback`."""
        if self._instruments is not None:
            self._instruments.faults.labels(stage, reason).inc()

    def observe_fusing(self, *, fusing: bool) -> None:
        """Note whether fusion goes on after faults, or rests or has ended."""
        if self._instruments is not None:
            self._instruments.fusing.set(fusing)

    def close(self) -> None:
        """Close the port, if one is open."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None


class _Instruments:
    """The counters and histograms of one engine, with their label values made beforehand."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_PluginFailures())

        def counter(name: str, documentation: str, label: str | None = None) -> Counter:
            labels = (label,) if label else ()
            return Counter(name, documentation, labels, registry=self.registry)

        def histogram(name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, documentation, buckets=buckets, registry=self.registry)

        calls = counter("floe_expert_calls", "Calls to the expert by outcome.", "outcome")
        self._calls = {word: calls.labels(word) for word in (*_CALL_OUTCOMES, _OTHER)}
        self._call_seconds = histogram(
            "floe_expert_call_seconds", "Time from a call's start to its end.", _SECONDS
        )
        self._misses = counter("floe_expert_deadline_misses", "Calls whose reply was late.")
        self._prompts = counter("floe_expert_prompts", "Texts that calls asked about.")
        self._sent = counter("floe_expert_sent_bytes", "Bodies of requests to the expert.")
        self._received = counter("floe_expert_received_bytes", "Bodies of the expert's replies.")
        self.breaker = Enum(
            "floe_expert_breaker_state",
            "State of the breaker of each expert server.",
            ("server",),
            states=_BREAKER_STATES,
            registry=self.registry,
        )
        tokens = counter("floe_tokens", "Decided rows: fused, or why the host's stood.", "outcome")
        self._tokens = {word: tokens.labels(word) for word in (*OUTCOMES, _OTHER)}
        self._weight = histogram("floe_expert_weight", "Weight of the expert, fused rows.", _SHARES)
        self._error_bound = histogram(
            "floe_error_bound", "Mass of the expert that stayed unknown, fused rows.", _BOUNDS
        )
        self._wait = histogram("floe_wait_seconds", "Time that a row's join took.", _SECONDS)
        self._followed = counter("floe_lookahead_hits", "Rows whose word look-ahead had brought.")
        self.faults = Counter(
            "floe_faults",
            "Faults in Floe itself, each of which cost a step or a request its fusion.",
            ("stage", "reason"),
            registry=self.registry,
        )
        self.fusing = Gauge(
            "floe_fusing", "0 while fusion rests or has ended after faults.", registry=self.registry
        )
        self.fusing.set(1)
        self.streams = counter("floe_streams_finished", "Streams that ended or were aborted.")
        self.constant_streams = counter(
            "floe_streams_constant_weight", "Ended streams whose router never changed its weights."
        )

    def token(self, line: TraceLine) -> None:
        self._tokens.get(line.outcome, self._tokens[_OTHER]).inc()
        self._wait.observe(line.waited_ms / 1000)
        self._followed.inc(line.followed)
        if line.outcome == "fused":
            self._weight.observe(line.expert_weight)
            self._error_bound.observe(line.error_bound)

    def call(
        self, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        self._sent.inc(sent_bytes)
        self._received.inc(received_bytes)
        if outcome == _DROPPED:
            return
        self._calls.get(outcome, self._calls[_OTHER]).inc()
        self._call_seconds.observe(seconds)
        self._misses.inc(outcome == "late")
        self._prompts.inc(prompts)


class _PluginFailures(Collector):
    """What :mod:`floe_plugins.isolation` has counted in this process."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the one family."""
        family = CounterMetricFamily(
            "floe_plugin_failures",
            "Calls into plugins that failed, by exception's type, late or stuck.",
            labels=("hook", "plugin", "name", "reason"),
        )
        for failed, count in failures().items():
            family.add_metric(failed, count)
        yield family


def server_of(url: str) -> str:
    """Return the part of a URL that names its server; never credentials or query."""
    if "://" not in url:
        return "in-process"
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.hostname}:{port}{parts.path}"
