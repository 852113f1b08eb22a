"""Keys that rotate, and certificates, against a server with TLS."""

from __future__ import annotations

import datetime
import ipaddress
import math
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from floe_plugins.credentials import ApiKey
from vllm_logits_processor.experts.completions import CompletionsExpert
from vllm_logits_processor.experts.conftest import FakeExpert, completion, fake_expert
from vllm_logits_processor.experts.reply import ExpertError


def well(body: dict[str, Any]) -> bytes:
    return completion(*([{1: math.log(0.5)}] for _ in body["prompt"]))


def client_of(server: FakeExpert, **values: Any) -> CompletionsExpert:
    return CompletionsExpert(
        url=server.url, top_k=1, vocabulary=10, end_ids=np.empty(0, dtype=np.int32), **values
    )


@dataclass(frozen=True)
class Authority:
    """A certificate authority, as a file, and the context of a server that it vouches for."""

    file: Path
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Floe's test authority")])
    today = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, of: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(certificate(name, key, ca=True))
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expert")])
    (folder / "server.pem").write_bytes(
        certificate(subject, own, ca=False)
        + own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return Authority(folder / "ca.pem", context)


def test_a_server_is_verified_with_the_given_certificates(authority: Authority) -> None:
    with fake_expert(well, tls=authority.server) as server:
        client = client_of(server, ca_file=authority.file)
        assert client.start([[1]], model="slm").result(timeout=5).continuations
        client.close()
        assert server.url.startswith("https://")


def test_a_server_that_nobody_vouches_for_gets_nothing(authority: Authority) -> None:
    with fake_expert(well, tls=authority.server) as server:
        client = client_of(server, api_key=ApiKey("open-sesame"))
        with pytest.raises(ExpertError, match=r"did not answer \(ConnectError\)"):
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
