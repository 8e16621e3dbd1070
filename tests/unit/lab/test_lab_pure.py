# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the lab that only compute: features, sources, names, files of a node, client configuration."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
from pathlib import Path

import pytest

from lab import features, network, seed, sources, ssh
from lab.errors import LabError, need, run
from lab.state import Lab

LAB = Lab("x", "/inventory", "container", "192.0.2.0/24", "192.0.2.1", 512, {"a": "192.0.2.11", "b": "192.0.2.12"})

TARGETS = """\
Debian|bookworm|http://mirror.example/debian/|main|$(SIGNED_BY)
Debian|bookworm|http://mirror.example/debian/|contrib|$(SIGNED_BY)
Debian|bookworm-security|http://mirror.example/security/|main|/keys/own.gpg
Debian|trixie|http://mirror.example/debian/|main|$(SIGNED_BY)
Third Party|bookworm|http://other.example/|main|/keys/other.gpg
"""


def test_sources_are_the_distribution_s_own_for_this_release_only() -> None:
    found = sources.parse(TARGETS, "bookworm")
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found.lines == (
        f"deb [signed-by={key}] http://mirror.example/debian/ bookworm main contrib",
        "deb [signed-by=/keys/own.gpg] http://mirror.example/security/ bookworm-security main",
    )


def test_missing_package_index_says_what_to_run() -> None:
    with pytest.raises(LabError, match="apt-get update"):
        sources.parse("", "bookworm")


@pytest.mark.parametrize(
    ("config", "has"),
    [
        ("CONFIG_NF_NAT=y\nCONFIG_NFT_NAT=m\n", True),
        ("CONFIG_NF_NAT=m\nCONFIG_IP_NF_NAT=m\n", True),
        ("CONFIG_NF_NAT=y\n", False),
        ("# CONFIG_NF_NAT is not set\nCONFIG_NFT_NAT=m\n", False),
        ("", False),
    ],
)
def test_feature_takes_all_its_symbols_and_any_alternative(config: str, has: bool) -> None:
    assert features.configured("netfilter_nat", config) is has


def test_cheapest_kind_with_all_features_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = {"container": {"ip_vs"}, "uml": {"nftables"}}
    monkeypatch.setattr(features, "missing", lambda kind, names: [name for name in names if name in lacks[kind]])
    assert features.choose(["vxlan"], None) == "container"
    assert features.choose(["ip_vs"], None) == "uml"
    assert features.choose(["vxlan"], "uml") == "uml"
    with pytest.raises(LabError, match="container: ip_vs$"):
        features.choose(["ip_vs"], "container")
    with pytest.raises(LabError, match="container: ip_vs; uml: nftables$"):
        features.choose(["ip_vs", "nftables"], None)
    with pytest.raises(LabError, match="unknown quantum; known are bridge"):
        features.choose(["quantum"], None)


def test_missing_command_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabError, match="apt-get install systemd-container user-mode-linux$"):
        need("linux.uml", "systemd-nspawn")


def test_port_names_fit_the_kernel_and_differ() -> None:
    names = ["a", "control-1", "x" * 40, "x" * 41]
    ports = [network.port(name) for name in names]
    assert len(set(ports)) == len(names)
    assert all(len(port) <= 15 for port in ports)


def test_hardware_addresses_are_local_stable_and_differ() -> None:
    first, second = network.mac(LAB, "a"), network.mac(LAB, "b")
    assert first == network.mac(LAB, "a")
    assert first != second
    assert first.startswith("02:")


def test_node_s_files_are_written_with_their_modes(tmp_path: Path) -> None:
    content = seed.files(LAB, "a", "ssh-ed25519 KEY lab\n", ("private", "public"))
    for _ in range(2):
        seed.write(tmp_path, content)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in content}
    assert modes["etc/ssh/ssh_host_ed25519_key"] == 0o600
    assert modes["root/.ssh/authorized_keys"] == 0o600
    assert stat.S_IMODE((tmp_path / "root/.ssh").stat().st_mode) == 0o700
    assert "Address=192.0.2.11/24" in (tmp_path / "etc/systemd/network/10-lan.network").read_text()
    assert (tmp_path / "etc/machine-id").read_text() != seed.machine_id(LAB, "b") + "\n"


def test_node_with_an_ipv6_address_has_it_beside_the_other() -> None:
    lab = dataclasses.replace(LAB, lan6="2001:db8::/64", gateway6="2001:db8::1", nodes6={"a": "2001:db8::a"})
    having, without = (seed.files(lab, node, "", ("", ""))["etc/systemd/network/10-lan.network"][1] for node in "ab")
    assert "Address=192.0.2.11/24\nGateway=192.0.2.1\nAddress=2001:db8::a/64\nGateway=2001:db8::1\n" in having
    assert without == seed.files(LAB, "b", "", ("", ""))["etc/systemd/network/10-lan.network"][1]
    assert "2001" not in without


def test_client_configuration_knows_nodes_by_name_and_address() -> None:
    text = ssh.config(LAB)
    assert "Host a 192.0.2.11\n    HostName 192.0.2.11\n" in text
    assert "StrictHostKeyChecking yes" in text
    assert "nsenter --net=/run/netns/fl-x nc %h %p" in text


def test_key_pair_is_usable_by_openssh_s_format() -> None:
    private, public = ssh.key_pair("comment")
    assert private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert public.startswith("ssh-ed25519 AAAA")
    assert public.endswith(" comment\n")


def test_command_is_not_disturbed_by_what_another_one_did_to_a_shared_standard_input() -> None:
    """As ssh does that is killed: Ansible then refuses to start."""
    asked = [sys.executable, "-c", "import os; print(os.get_blocking(0))"]
    before = os.get_blocking(0)
    os.set_blocking(0, False)
    try:
        assert run(asked) == "True\n"
    finally:
        os.set_blocking(0, before)
