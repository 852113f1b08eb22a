"""Keys that rotate, and certificates, against a server with TLS."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins.config import ApiKey
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.testing.fake_expert import Authority, FakeExpert, completion, fake_expert


def well(body: dict[str, Any]) -> bytes:
    return completion(*([{1: math.log(0.5)}] for _ in body["prompt"]))


def client_of(server: FakeExpert, **values: Any) -> CompletionsExpert:
    return CompletionsExpert(
        url=server.url, top_k=1, vocabulary=10, end_ids=np.empty(0, dtype=np.int32), **values
    )


def test_a_server_is_verified_with_the_given_certificates(authority: Authority) -> None:
    with fake_expert(well, tls=authority.vouches()) as server:
        client = client_of(server, ca_file=authority.file)
        assert client.start([[1]], model="slm").result(timeout=5).continuations
        client.close()
        assert server.url.startswith("https://")


def test_a_server_that_nobody_vouches_for_gets_nothing(authority: Authority) -> None:
    with fake_expert(well, tls=authority.vouches()) as server:
        client = client_of(server, api_key=ApiKey("open-sesame"))
        with pytest.raises(ExpertError, match="did not answer: its certificate is from an auth"):
            client.start([[1]], model="slm").result(timeout=5)
        client.close()
        assert server.requests == []


def test_a_key_that_rotates_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n", encoding="ascii")
    with fake_expert(well) as server:
        client = client_of(server, api_key=ApiKey(file=file))
        client.start([[1]], model="slm").result(timeout=5)
        fresh = tmp_path / "fresh"
        fresh.write_text("other\n", encoding="ascii")
        before = file.stat()
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        fresh.replace(file)
        client.start([[1]], model="slm").result(timeout=5)
        client.close()
    assert [headers["Authorization"] for headers in server.headers] == [
        "Bearer first",
        "Bearer other",
    ]


def test_a_key_that_cannot_be_read_is_a_call_that_failed(tmp_path: Path) -> None:
    with fake_expert(well) as server:
        client = client_of(server, api_key=ApiKey(file=tmp_path / "key"))
        with pytest.raises(ExpertError, match=r"cannot be read \(FileNotFoundError\)"):
            client.start([[1]], model="slm").result(timeout=5)
        (tmp_path / "key").write_text("back", encoding="ascii")
        assert client.start([[1]], model="slm").result(timeout=5).continuations
        client.close()
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer back"]
