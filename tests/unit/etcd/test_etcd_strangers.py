# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Who is kept apart from us by TLS is told from nobody: real handshakes on loopback."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import Gateway, UnreachableError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.etcd import Access


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("other")
    (directory / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "crt", directory / "key"


@contextlib.contextmanager
def listening(context: ssl.SSLContext | None) -> Iterator[str]:
    """The URL of a server that ends each connection after its handshake, or never takes one up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            assert context is not None
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _address = server.accept()
                    with connection, context.wrap_socket(connection, server_side=True) as tls:
                        tls.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        server.settimeout(0.1)
        if context is not None:
            thread.start()
        yield f"https://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        if context is not None:
            thread.join()


def strangers(url: str, ca_file: Path, timeout: float = 20) -> tuple[str, ...]:
    with pytest.raises(UnreachableError) as caught:
        Gateway(Access((url,), ca_file=str(ca_file), timeout=timeout)).post("cluster/member/list", {})
    return caught.value.strangers


def test_server_of_another_authority_is_a_stranger(pair: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    unrelated = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    with listening(context) as url:
        (reason,) = strangers(url, Path(unrelated))
    assert reason.startswith(f"{url}: its certificate is not valid here")


def test_server_that_does_not_accept_us_is_a_stranger(pair: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(pair[0])
    with listening(context) as url:
        (reason,) = strangers(url, pair[0])
    assert reason.startswith(url)


def test_member_that_is_not_ready_yet_is_no_stranger(pair: tuple[Path, Path]) -> None:
    with listening(None) as url:
        assert strangers(url, pair[0], timeout=1) == ()
    assert strangers("https://127.0.0.1:1", pair[0]) == ()
