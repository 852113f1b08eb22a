"""The metrics as a Prometheus server sees them: over HTTP, on a real port."""

from __future__ import annotations

import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from floe_plugins.errors import ConfigError
from vllm_logits_processor.expert.build import IN_PROCESS
from vllm_logits_processor.observe import OUTCOMES, FusionMetrics, StreamSummary, Trace, TraceLine

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def text_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        return str(reply.read().decode())


def samples_of(port: int) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text_of(port))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def metrics(port: int) -> Iterator[FusionMetrics]:
    opened = FusionMetrics(port=port)
    yield opened
    opened.close()


def call(metrics: FusionMetrics, outcome: str, **figures: int) -> None:
    wanted = {"prompts": 1, "sent_bytes": 0, "received_bytes": 0, **figures}
    metrics.observe_call(outcome=outcome, seconds=0.02, **wanted)


def test_calls_are_counted_by_outcome(metrics: FusionMetrics, port: int) -> None:
    call(metrics, "answered", prompts=3, sent_bytes=100, received_bytes=900)
    call(metrics, "late")
    call(metrics, "failed")
    samples = samples_of(port)
    for outcome in ("answered", "late", "failed"):
        assert value(samples, "floe_expert_calls_total", outcome=outcome) == 1
    assert value(samples, "floe_expert_call_seconds_count") == 3
    assert value(samples, "floe_expert_call_seconds_bucket", le="0.025") == 3
    assert value(samples, "floe_expert_call_seconds_bucket", le="0.01") == 0
    assert value(samples, "floe_expert_deadline_misses_total") == 1
    assert value(samples, "floe_expert_prompts_total") == 5
    assert value(samples, "floe_expert_sent_bytes_total") == 100
    assert value(samples, "floe_expert_received_bytes_total") == 900


def test_what_a_late_call_brings_is_bytes_and_no_second_call(
    metrics: FusionMetrics, port: int
) -> None:
    call(metrics, "late")
    call(metrics, "dropped", prompts=0, sent_bytes=10, received_bytes=90)
    samples = samples_of(port)
    assert value(samples, "floe_expert_call_seconds_count") == 1
    assert value(samples, "floe_expert_received_bytes_total") == 90


def test_tokens_are_counted_with_weight_wait_and_bound(metrics: FusionMetrics, port: int) -> None:
    for outcome in OUTCOMES:
        metrics.observe_token(
            TraceLine(
                label="secret",
                position=0,
                outcome=outcome,
                expert_weight=0.35 if outcome == "fused" else 0.0,
                error_bound=0.02 if outcome == "fused" else 0.0,
                waited_ms=30.0,
                followed=outcome == "fused",
            )
        )
    samples = samples_of(port)
    for outcome in OUTCOMES:
        assert value(samples, "floe_tokens_total", outcome=outcome) == 1
    assert value(samples, "floe_expert_weight_count") == 1
    assert value(samples, "floe_expert_weight_bucket", le="0.3") == 0
    assert value(samples, "floe_expert_weight_bucket", le="0.4") == 1
    assert value(samples, "floe_error_bound_sum") == pytest.approx(0.02)
    assert value(samples, "floe_wait_seconds_sum") == pytest.approx(0.03 * len(OUTCOMES))
    assert value(samples, "floe_lookahead_hits_total") == 1


def test_a_breaker_is_in_one_state_per_server(metrics: FusionMetrics, port: int) -> None:
    near, far = "http://user:hunter2@near:8001/v1?key=hunter2", "https://far.example/v1"
    for url, state in [(near, "closed"), (far, "closed"), (near, "open"), (near, "half-open")]:
        metrics.observe_breaker(url=url, state=state)
    metrics.observe_breaker(url=IN_PROCESS, state="open")
    states = {
        (dict(labels)["server"], dict(labels)["floe_expert_breaker_state"])
        for (name, labels), on in samples_of(port).items()
        if name == "floe_expert_breaker_state" and on
    }
    assert states == {
        ("near:8001/v1", "half-open"),
        ("far.example:443/v1", "closed"),
        ("in-process", "open"),
    }
    assert "hunter2" not in text_of(port)


def test_the_log_says_once_that_a_server_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    silent = FusionMetrics(port=None)
    url = "http://user:hunter2@near:8001/v1"
    for state in ("closed", "open", "half-open", "open", "closed", "closed"):
        silent.observe_breaker(url=url, state=state)
    first, second = caplog.messages
    assert first.startswith("The expert at near:8001/v1 has failed repeatedly")
    assert second == "The expert at near:8001/v1 answers again."


def test_streams_whose_router_stood_still_are_counted(metrics: FusionMetrics, port: int) -> None:
    for weights in [(0.5, 0.5), (0.4, 0.6)]:
        summary = StreamSummary()
        for position, weight in enumerate(weights):
            summary.add(
                TraceLine(label=None, position=position, outcome="fused", expert_weight=weight)
            )
        metrics.observe_stream(summary)
    samples = samples_of(port)
    assert value(samples, "floe_streams_finished_total") == 2
    assert value(samples, "floe_streams_constant_weight_total") == 1


def test_faults_are_counted_and_what_they_did_is_shown(metrics: FusionMetrics, port: int) -> None:
    assert value(samples_of(port), "floe_fusing") == 1
    for _ in range(2):
        metrics.observe_fault(stage="decide", reason="OutOfMemoryError")
    metrics.observe_fusing(fusing=False)
    samples = samples_of(port)
    counted = {"stage": "decide", "reason": "OutOfMemoryError"}
    assert value(samples, "floe_faults_total", **counted) == 2
    assert value(samples, "floe_fusing") == 0
    metrics.observe_fusing(fusing=True)
    assert value(samples_of(port), "floe_fusing") == 1


def test_nothing_of_a_request_is_shown(metrics: FusionMetrics, port: int) -> None:
    metrics.observe_token(TraceLine(label="secret", position=0, outcome="secret"))
    call(metrics, "secret")
    samples = samples_of(port)
    assert value(samples, "floe_tokens_total", outcome="other") == 1
    assert value(samples, "floe_expert_calls_total", outcome="other") == 1
    assert "secret" not in text_of(port)


def test_it_listens_on_this_machine_alone(metrics: FusionMetrics, port: int) -> None:
    # Linux answers all of 127.0.0.0/8: a server on 0.0.0.0 would be reached by this address.
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))


def test_a_port_in_use_is_said_in_one_sentence(metrics: FusionMetrics, port: int) -> None:
    with pytest.raises(ConfigError, match=rf"^floe: metrics_port is {port}, .* in use\); .*\.$"):
        FusionMetrics(port=port)


def test_engines_in_one_process_do_not_clash(metrics: FusionMetrics, port: int) -> None:
    second_port = free_port()
    second = FusionMetrics(port=second_port)
    call(second, "answered")
    assert value(samples_of(port), "floe_expert_calls_total", outcome="answered") == 0
    assert value(samples_of(second_port), "floe_expert_calls_total", outcome="answered") == 1
    second.close()
    with pytest.raises(urllib.error.URLError):
        text_of(second_port)
    FusionMetrics(port=second_port).close()


def test_without_a_port_all_is_accepted_and_nothing_kept() -> None:
    metrics = FusionMetrics(port=None)
    call(metrics, "answered")
    metrics.observe_token(TraceLine(label=None, position=0, outcome="fused"))
    metrics.observe_breaker(url="http://a", state="open")
    metrics.observe_stream(StreamSummary())
    metrics.observe_fault(stage="write", reason="ValueError")
    metrics.observe_fusing(fusing=False)
    metrics.close()
    metrics.close()


def line(outcome: str = "fused", *, position: int = 0, **figures: float | int | bool) -> TraceLine:
    return TraceLine(label="a secret", position=position, outcome=outcome, **figures)  # type: ignore[arg-type]


def test_a_stream_is_summed_up() -> None:
    summary = StreamSummary()
    summary.add(line(expert_weight=0.25, waited_ms=4.0, error_bound=0.1, sent_bytes=100))
    summary.add(line(expert_weight=0.75, error_bound=0.3, followed=True, received_bytes=50))
    summary.add(line("late", waited_ms=20.0))
    assert summary.as_dict() == {
        "event": "floe_stream_finished",
        "tokens": {"fused": 2, "late": 1},
        "weight_mean": 0.5,
        "weight_min": 0.25,
        "weight_max": 0.75,
        "constant_weight": False,
        "followed_share": 0.5,
        "waited_ms": 24.0,
        "longest_wait_ms": 20.0,
        "sent_bytes": 100,
        "received_bytes": 50,
        "error_bound_mean": pytest.approx(0.2),
        "error_bound_max": 0.3,
    }


def test_a_stream_without_the_expert_has_figures_too() -> None:
    summary = StreamSummary()
    assert summary.as_dict()["tokens"] == {}
    summary.add(line("private"))
    figures = summary.as_dict()
    assert (figures["weight_mean"], figures["weight_max"], figures["constant_weight"]) == (
        0,
        0,
        False,
    )


@pytest.mark.parametrize(
    ("weights", "constant"),
    [([0.5], False), ([0.5, 0.5, 0.5], True), ([0.5, 0.5, 0.4999], False), ([0.0, 0.0], True)],
)
def test_a_router_that_gives_one_weight_shows(weights: list[float], constant: bool) -> None:
    summary = StreamSummary()
    for weight in weights:
        summary.add(line(expert_weight=weight))
    assert summary.constant_weight is constant


def test_the_log_line_is_one_json_object_without_text(caplog: pytest.LogCaptureFixture) -> None:
    summary = StreamSummary()
    summary.add(line(expert_weight=0.25))
    with caplog.at_level(logging.INFO):
        summary.log()
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.INFO
    assert json.loads(message) == summary.as_dict()
    assert "\n" not in message
    assert "secret" not in message


def test_lines_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    trace = Trace(str(tmp_path / "trace.jsonl"))
    first = TraceLine(label=None, position=0, outcome="late", waited_ms=20.0)
    second = TraceLine(
        label="mine",
        position=1,
        outcome="fused",
        expert_weight=0.5,
        error_bound=0.02,
        followed=True,
    )
    trace.write([first])
    trace.write([second])
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["late", "fused"]
    assert lines[1] == {
        "label": "mine",
        "position": 1,
        "outcome": "fused",
        "expert_weight": 0.5,
        "waited_ms": 0.0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "error_bound": 0.02,
        "followed": True,
    }


def test_a_file_that_cannot_be_written_ends_the_trace_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it raised, `FailOpen` would end fusion for all requests."""
    trace = Trace(str(tmp_path))
    for position in range(3):
        trace.write([TraceLine(label=None, position=position, outcome="fused")])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"{tmp_path} cannot be written (Is a directory)" in caplog.text


def test_without_a_file_nothing_is_written() -> None:
    Trace(None).write([TraceLine(label=None, position=0, outcome="fused")])


def test_every_outcome_is_explained() -> None:
    explained = TraceLine.__doc__ or ""
    assert all(f"``{outcome}``" in explained for outcome in OUTCOMES)
