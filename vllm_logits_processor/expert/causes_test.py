"""The causes of failed requests, as calls for tokens and the doctor's requests report them."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.testing.fake_expert import Authority, completion, fake_expert


def well(body: dict[str, Any]) -> bytes:
    return completion(*([{1: math.log(0.5)}] for _ in body["prompt"]))


def asked_for_tokens(url: str, ca_file: Path | None) -> str:
    client = CompletionsExpert(
        url=url,
        top_k=1,
        vocabulary=10,
        end_ids=np.empty(0, dtype=np.int32),
        ca_file=ca_file,
        timeout_s=2.0,
    )
    with closing(client), pytest.raises(ExpertError) as caught:
        client.start([[1]], model="slm").result(timeout=10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetched(url: str, ca_file: Path | None) -> str:
    authority = str(ca_file) if ca_file else None
    config = ExpertConfig(url=url, model="slm", tokenizer="slm", ca_file=authority)
    said = Fetcher(config).get(f"{url}/models")
    assert isinstance(said, str)
    return said


#: Calls for tokens, and the doctor's requests.
Way = Callable[[str, Path | None], str]
both_ways = pytest.mark.parametrize("way", [asked_for_tokens, fetched])


@both_ways
@pytest.mark.parametrize(
    ("options", "known", "cause"),
    [
        ({"days": (-3, -1)}, True, "its certificate has expired: renew it"),
        ({"days": (1, 3)}, True, "its certificate is not valid yet"),
        ({"address": "127.0.0.9"}, True, "its certificate is for another address"),
        ({"itself": True}, True, "its certificate is self-signed: name its certificate"),
        ({}, False, "is from an authority that is not known here: name its certificate"),
    ],
)
def test_a_certificate_that_will_not_do(
    authority: Authority, way: Way, options: dict[str, Any], known: bool, cause: str
) -> None:
    with fake_expert(well, tls=authority.vouches(**options)) as server:
        assert cause in way(server.url, authority.file if known else None)
        assert server.requests == []


@both_ways
def test_a_certificate_for_another_name(authority: Authority, way: Way) -> None:
    with fake_expert(well, tls=authority.vouches()) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert "its certificate is for another host name" in way(url, authority.file)


@both_ways
def test_tls_spoken_to_plain_http(way: Way) -> None:
    with fake_expert(well) as server:
        said = way(server.url.replace("http://", "https://"), None)
    assert "it speaks plain HTTP, not TLS: write http://" in said


@both_ways
def test_plain_http_spoken_to_tls(authority: Authority, way: Way) -> None:
    with fake_expert(well, tls=authority.vouches()) as server:
        said = way(server.url.replace("https://", "http://"), None)
    assert "TLS" in said
    assert "write https://" in said


@both_ways
def test_a_name_that_is_not_known(way: Way) -> None:
    # A reserved name, which never resolves (RFC 6761).
    assert "its host name is not known here (DNS)" in way("http://expert.invalid/v1", None)


@both_ways
def test_nobody_listens(way: Way) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        said = way(f"http://127.0.0.1:{port}/v1", None)
    assert "nobody listens there (connection refused)" in said


@contextmanager
def listening() -> Iterator[int]:
    """Listen on a port without ever replying."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@both_ways
def test_a_server_that_accepts_and_never_answers(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_logits_processor.expert.fetcher._TIMEOUT_S", 0.2)
    monkeypatch.setattr(CompletionsExpert, "__init__", _impatient(CompletionsExpert.__init__))
    with listening() as port:
        assert "it did not answer in time" in way(f"http://127.0.0.1:{port}/v1", None)


def _impatient(made: Callable[..., None]) -> Callable[..., None]:
    def make(self: CompletionsExpert, **values: Any) -> None:
        made(self, **{**values, "timeout_s": 0.2})

    return make
