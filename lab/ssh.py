# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""SSH into a lab from the host: keys, a client configuration, and waiting until a node answers."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import network
from lab.state import Lab, run_dir

_TRY_SECONDS = 3.0


def key_pair(comment: str) -> tuple[str, str]:
    """A new ed25519 key: private part in OpenSSH format, public part as one line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}\n"


def lab_key(lab: Lab) -> str:
    """Make the lab's log-in key unless it is there; returns its public line."""
    private, public = lab.dir / "id_ed25519", lab.dir / "id_ed25519.pub"
    if not public.exists():
        secret, line = key_pair(f"lab {lab.name}")
        private.touch(mode=0o600)
        private.write_text(secret)
        public.write_text(line)
    return public.read_text()


def config_path(lab: Lab) -> Path:
    return lab.dir / "ssh_config"


def write_config(lab: Lab, host_keys: dict[str, str]) -> None:
    """Client configuration and known hosts.

    :param host_keys: each node's public host key line.
    """
    known = "".join(f"{node},{lab.nodes[node]} {' '.join(line.split()[:2])}\n" for node, line in host_keys.items())
    (lab.dir / "known_hosts").write_text(known)
    config_path(lab).write_text(config(lab))


def config(lab: Lab) -> str:
    """OpenSSH client configuration with an entry for each node, by name and by address."""
    hosts = "".join(f"Host {node} {address}\n    HostName {address}\n" for node, address in lab.nodes.items())
    return f"""{hosts}
Host *
    User root
    IdentityFile {lab.dir}/id_ed25519
    IdentitiesOnly yes
    UserKnownHostsFile {lab.dir}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    HostKeyAlgorithms ssh-ed25519
    KexAlgorithms curve25519-sha256
    Ciphers aes128-gcm@openssh.com
    PreferredAuthentications publickey
    ConnectTimeout 60
    ProxyCommand nsenter --net={network.namespace(lab.netns)} nc %h %p
    ControlMaster auto
    ControlPath {run_dir(lab.name)}/%h
    ControlPersist 60
    ServerAliveInterval 5
    ServerAliveCountMax 6
    LogLevel ERROR
"""


def disconnect(lab: Lab, node: str) -> None:
    """End the shared connection to a node: one that outlives its node fails the next command."""
    if (run_dir(lab.name) / lab.nodes[node]).exists():
        command = ["ssh", "-F", str(config_path(lab)), "-O", "exit", node]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def answers(lab: Lab, node: str) -> bool:
    """Whether the node lets us log in now (banner, host key of any kind, authentication)."""
    try:
        connection = network.connect(lab.netns, lab.nodes[node], 22, _TRY_SECONDS)
    except OSError:
        return False
    return _logs_in(connection, lab.dir / "id_ed25519")


def _logs_in(connection: socket.socket, key: Path) -> bool:
    transport = paramiko.Transport(connection)
    transport.banner_timeout = transport.auth_timeout = 20
    try:
        transport.start_client(timeout=20)
        transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(key)))
        return bool(transport.is_authenticated())
    except (paramiko.SSHException, OSError, EOFError):
        return False
    finally:
        transport.close()
