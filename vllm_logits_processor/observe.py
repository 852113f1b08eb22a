"""Makes fusion visible: metrics for Prometheus, a summary per stream, a trace per step.

All of these are numbers and names, never text. Metrics are served on the loopback address only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any
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

logger = logging.getLogger(__name__)

#: The only address served: only processes on this machine may read the metrics.
_LOOPBACK = "127.0.0.1"

#: The outcomes of a call, and the label for unknown names.
_CALL_OUTCOMES = ("answered", "late", "failed")
_OTHER = "other"
#: The second report on a late call, which has ended: its bytes are now known.
_DROPPED = "dropped"
_BREAKER_STATES = ("closed", "half-open", "open")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_BOUNDS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class FusionMetrics:
    """Counts what one engine does and, with a port, serves the counts over HTTP.

    Every engine has a registry of its own, so that several in one process do not clash and vLLM's
    metrics do not appear. Labels come from closed sets and from the configuration's URLs (without
    credentials and query): nothing of a request becomes a label. Any thread may call it.

    Parameters
    ----------
    port : int or None
        Port on 127.0.0.1; None opens nothing and counts nothing.

    Raises
    ------
    ConfigError
        The port cannot be opened.
    """

    def __init__(self, *, port: int | None) -> None:
        self._instruments = _Instruments() if port is not None else None
        self._left_alone: set[str] = set()
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
        """Count one decided row."""
        if self._instruments is not None:
            self._instruments.token(line)

    def observe_call(
        self, *, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        """Count one call to the expert.

        Parameters
        ----------
        outcome : str
            ``answered``, ``late`` or ``failed``; ``dropped`` for the reply of a late call, of which
            only the bytes are counted.
        seconds : float
            From its start until its reply or its deadline.
        prompts : int
            Number of texts in the call.
        sent_bytes, received_bytes : int
            Bodies of the request and of the reply.
        """
        if self._instruments is not None:
            self._instruments.call(outcome, seconds, prompts, sent_bytes, received_bytes)

    def observe_breaker(self, *, url: str, state: str) -> None:
        """Note the state of an expert's breaker: ``closed``, ``half-open`` or ``open``.

        The log says once that a server is left alone, and once that it answers again.
        """
        server = server_of(url)
        if self._instruments is not None:
            self._instruments.breaker.labels(server).state(state)
        if state == "open" and server not in self._left_alone:
            self._left_alone.add(server)
            logger.warning(
                "The expert at %s has failed repeatedly: the host goes on alone, and asks it now "
                "and then whether it is back. `floe-llm doctor` finds what is wrong.",
                server,
            )
        elif state == "closed" and server in self._left_alone:
            self._left_alone.discard(server)
            logger.info("The expert at %s answers again.", server)

    def observe_stream(self, summary: StreamSummary) -> None:
        """Count a stream that has ended."""
        if self._instruments is not None:
            self._instruments.streams.inc()
            self._instruments.constant_streams.inc(summary.constant_weight)

    def observe_fault(self, *, stage: str, reason: str) -> None:
        """Count a fault in Floe itself; see :mod:`vllm_logits_processor.fail_open`."""
        if self._instruments is not None:
            self._instruments.faults.labels(stage, reason).inc()

    def observe_fusing(self, *, fusing: bool) -> None:
        """Note whether fusion continues after faults, or is paused or has ended."""
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
    """The counters and histograms of one engine, with all their label values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_PluginFailures())

        def counter(name: str, documentation: str, label: str | None = None) -> Counter:
            labels = (label,) if label else ()
            return Counter(name, documentation, labels, registry=self.registry)

        def histogram(name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, documentation, buckets=buckets, registry=self.registry)

        calls = counter("floe_expert_calls", "Calls to the expert by outcome.", "outcome")
        self._calls = {outcome: calls.labels(outcome) for outcome in (*_CALL_OUTCOMES, _OTHER)}
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
        self._tokens = {outcome: tokens.labels(outcome) for outcome in (*OUTCOMES, _OTHER)}
        self._weight = histogram("floe_expert_weight", "Weight of the expert, fused rows.", _SHARES)
        self._error_bound = histogram(
            "floe_error_bound", "Mass of the expert that stayed unknown, fused rows.", _BOUNDS
        )
        self._wait = histogram("floe_wait_seconds", "Time that a row's join took.", _SECONDS)
        self._followed = counter(
            "floe_lookahead_hits", "Fused rows that look-ahead answered in advance."
        )
        self.faults = Counter(
            "floe_faults",
            "Faults in Floe itself, each of which cost a step or a request its fusion.",
            ("stage", "reason"),
            registry=self.registry,
        )
        self.fusing = Gauge(
            "floe_fusing",
            "0 while fusion is paused or has ended after faults.",
            registry=self.registry,
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
    """The counts of :mod:`floe_plugins.isolation` in this process."""

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


#: Weights closer together than this count as equal; a router's arithmetic is in float64.
_SAME_WEIGHT = 1e-9


@dataclass
class StreamSummary:
    """Totals over the rows that were decided for one stream.

    A row is a token of the answer, except where vLLM discards its sample: chunks of a long prompt,
    and draft tokens that are not accepted.

    Attributes
    ----------
    tokens : dict of str to int
        Rows by outcome, as `TraceLine` names them.
    waited_ms, longest_wait_ms : float
        Milliseconds that rows waited for the expert, in total and at most.
    sent_bytes, received_bytes : int
        The stream's share of the bodies of the expert's calls.
    followed : int
        Fused rows whose distribution look-ahead provided before it was needed.
    lowest_weight, highest_weight : float
        Range of the expert's weight over the fused rows; 0 before the first.
    highest_error_bound : float
        Highest error bound of a fused row.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    waited_ms: float = 0.0
    longest_wait_ms: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    followed: int = 0
    lowest_weight: float = 0.0
    highest_weight: float = 0.0
    highest_error_bound: float = 0.0
    _weight_sum: float = 0.0
    _error_bound_sum: float = 0.0

    def add(self, line: TraceLine) -> None:
        """Count one row."""
        count = self.tokens[line.outcome] = self.tokens.get(line.outcome, 0) + 1
        self.waited_ms += line.waited_ms
        if line.waited_ms > self.longest_wait_ms:
            self.longest_wait_ms = line.waited_ms
        self.sent_bytes += line.sent_bytes
        self.received_bytes += line.received_bytes
        if line.outcome == "fused":
            weight = line.expert_weight
            if count == 1 or weight < self.lowest_weight:
                self.lowest_weight = weight
            if weight > self.highest_weight:
                self.highest_weight = weight
            if line.error_bound > self.highest_error_bound:
                self.highest_error_bound = line.error_bound
            self._weight_sum += weight
            self._error_bound_sum += line.error_bound
            self.followed += line.followed

    @property
    def fused(self) -> int:
        """Number of fused rows."""
        return self.tokens.get("fused", 0)

    @property
    def constant_weight(self) -> bool:
        """True if the router gave several rows the same weight: it did not route."""
        return self.fused > 1 and self.highest_weight - self.lowest_weight <= _SAME_WEIGHT

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the log line: numbers, and names of outcomes."""
        fused = max(self.fused, 1)
        return {
            "event": "floe_stream_finished",
            "tokens": dict(self.tokens),
            "weight_mean": round(self._weight_sum / fused, 6),
            "weight_min": round(self.lowest_weight, 6),
            "weight_max": round(self.highest_weight, 6),
            "constant_weight": self.constant_weight,
            "followed_share": round(self.followed / fused, 6),
            "waited_ms": round(self.waited_ms, 3),
            "longest_wait_ms": round(self.longest_wait_ms, 3),
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "error_bound_mean": round(self._error_bound_sum / fused, 6),
            "error_bound_max": round(self.highest_error_bound, 6),
        }

    def log(self) -> None:
        """Write the figures as one line of JSON, at level INFO."""
        logger.info("%s", json.dumps(self.as_dict()))


#: All outcomes of a token; `TraceLine.outcome` explains them. Requests for the host alone are not
#: recorded.
OUTCOMES = (
    "fused",
    "private",
    "no-prompt",
    "mid-character",
    "too-long",
    "sure",
    "budget",
    "open",
    "busy",
    "reading",
    "late",
    "failed",
    "infeasible",
)


@dataclass(kw_only=True, slots=True)
class TraceLine:
    """What happened to one token. It holds neither text nor the token.

    Attributes
    ----------
    label : str or None
        The request's ``floe_label``.
    position : int
        Index of the token in the answer, from 0.
    outcome : str
        ``fused``, or why the host's logits were kept: ``private`` (the gate), ``no-prompt`` (given
        as embeddings), ``mid-character`` (the text is sent as text, and ends inside a character),
        ``too-long`` (for the expert's context), ``sure`` (the host is, and the
        expert is called only where it is not), ``budget`` (the answer's waiting time is spent),
        ``open`` (breaker), ``busy`` (too many first calls are in flight), ``reading`` (this
        answer's first call is in flight), ``late``, ``failed``, ``infeasible`` (the host may
        produce none of the expert's tokens).
    expert_weight : float
        Weight of the expert, 0 to 1; 0 where the host's logits were kept.
    waited_ms : float
        Milliseconds from the start of the join until the reply was there.
    sent_bytes, received_bytes : int
        This stream's share of the bodies of the expert's call; 0 without one.
    error_bound : float
        The unknown mass of the expert, 0 to 1: what its top K and covers that were not requested
        leave out. An upper bound on the total variation distance between the distribution that was
        used and the expert's full one.
    followed : bool
        True if look-ahead provided the expert's distribution before it was needed.
    """

    label: str | None
    position: int
    outcome: str
    expert_weight: float = 0.0
    waited_ms: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    error_bound: float = 0.0
    followed: bool = False


class Trace:
    """Appends lines to a file; every step's lines are on disk before its tokens are sampled.

    A file that cannot be written (a full disk) ends the trace, and nothing else.

    Parameters
    ----------
    path : str or None
        The file; None keeps no trace.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def write(self, lines: list[TraceLine]) -> None:
        """Append the lines of one step."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
        except OSError as error:
            logger.error(
                "The trace ends here: %s cannot be written (%s).", self._path, error.strerror
            )
            self._path = None
