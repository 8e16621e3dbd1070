# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Inventories with mistakes: the site playbook refuses each of them in one message and connects to no host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKEN = ROOT / "tests" / "inventories" / "broken"

# What is refused in each inventory, by item, with the part of the message that matters.
EXPECTED: dict[str, dict[str, str]] = {
    "01_services_inside_pods": {"cluster_service_cidr": "10.96.0.0/12 overlaps cluster_pod_cidr 10.0.0.0/8"},
    "02_pods_inside_services": {"cluster_service_cidr": "10.96.0.0/12 overlaps cluster_pod_cidr 10.100.0.0/16"},
    "03_node_inside_pods": {
        "hosts.cp1.ansible_host": "192.0.2.11 is inside cluster_pod_cidr 192.0.0.0/16",
        "hosts.w1.ansible_host": "192.0.2.14 is inside cluster_pod_cidr 192.0.0.0/16",
    },
    "04_node_inside_services": {
        "hosts.cp1.ansible_host": "192.0.2.11 is inside cluster_service_cidr 192.0.2.0/26",
        "hosts.w1.ansible_host": "192.0.2.14 is inside cluster_service_cidr 192.0.2.0/26",
    },
    "05_too_few_subnets": {"cluster_pod_cidr": "10.244.0.0/22 has 3 subnets /24"},
    "06_same_address": {"hosts.w1.ansible_host": "192.0.2.11 is also that of hosts.cp1.ansible_host"},
    "07_name_not_lower_case": {"hosts.W_1": "must be a lower-case RFC 1123 name"},
    "08_misspelt_variable": {"flannel_vni": "did you mean flannel_vxlan_vni?"},
    "09_out_of_range": {
        "flannel_vxlan_port": "must be 1 to 65535, not 70000",
        "flannel_vxlan_vni": "must be 1 to 9999999, not 16777216",
        "etcd_client_port": "must be a whole number, not 'high'",
    },
    "10_no_etcd": {"groups.etcd": "has no host"},
    "11_worker_outside_nodes": {"groups.nodes": "lacks w1 of group worker"},
    "12_host_bits": {
        "cluster_pod_cidr": "10.244.1.0/16 has host bits set; the network is 10.244.0.0/16",
        "cluster_service_cidr": "must be a network like 10.244.0.0/16, not '10.96.0.0'",
    },
    "13_subnet_range": {
        "flannel_subnet_min": "10.244.10.128 is not the first address of a /24 subnet",
        "flannel_subnet_max": "10.245.0.0 is not inside the network 10.244.0.0/16",
    },
    "14_nodes_disagree": {"flannel_vxlan_vni": "must be the same on all nodes, and is 1 on cp1; 2 on w1"},
    "15_name_for_address": {
        "hosts.cp1.ansible_host": "must be an IP address, not 'cp1.example.com'; set cluster_node_address",
        "hosts.w1": "has no address; set ansible_host",
    },
    "16_not_a_choice": {
        "flannel_backend_type": "must be one of vxlan, host-gw, ipip, wireguard, not 'udp'",
        "flannel_masquerade": "must be true or false, not 'sometimes'",
    },
    "17_address_from_facts": {"hosts.w1.cluster_node_address": "cannot be computed before the node is asked"},
    "18_everything_at_once": {
        "hosts.cp1.ansible_host": "127.0.0.1 is reached by no other node",
        "cni_brige": "did you mean cni_bridge?",
        "cluster_name": "is not set",
        "hosts.w1.ansible_host": "10.244.3.4 is inside cluster_pod_cidr 10.244.0.0/16",
        "cluster_service_cidr": "10.244.128.0/17 overlaps cluster_pod_cidr 10.244.0.0/16",
    },
    "19_ipv4_for_ipv6": {"cluster_pod_cidr6": "must be an IPv6 network, not 10.245.0.0/16"},
    "20_ipv6_network_too_small": {"cluster_pod_cidr6": "must be /124 or shorter"},
    "21_ipv6_too_few_subnets": {"cluster_pod_cidr6": "fd00:10:244::/62 has 3 subnets /64"},
    "22_ipv6_node_addresses": {
        "hosts.cp1.cluster_node_address6": "fd00:10:244:7::11 is inside cluster_pod_cidr6 fd00:10:244::/56",
        "hosts.w1.cluster_node_address6": "is not set; every node of a cluster with cluster_pod_cidr6 needs one",
        "hosts.w2.cluster_node_address6": "2001:db8:2::12 is also that of hosts.cp2.cluster_node_address6",
        "hosts.w3.cluster_node_address6": "192.0.2.16 is not an IPv6 address",
        "hosts.w4.cluster_node_address6": "fe80::17 is reached by no other node",
        "hosts.w5.cluster_node_address6": "cannot be computed before the node is asked",
    },
    "23_ipv6_and_backend": {"cluster_pod_cidr6": "backend ipip carries IPv4 only"},
    "24_ipv6_on_one_node": {
        "flannel_subnet6_len": "must be the same on all nodes, and is 66 on w1; not set on cp1",
        "flannel_subnet6_min": "fd00:10:244:3::1 is not the first address of a /66 subnet",
        "flannel_vxlan_vni": "must be 1 to 9999 with cluster_pod_cidr6, not 10000",
        "flannel_mtu": "must be 0 or 1350 to 65535, not 1300",
    },
    "25_wireguard": {
        "flannel_wireguard_psk": "must be the same on all nodes, and is 'sha256:4bb06f8e4e3a' on cp1; 'sha256:",
        "flannel_wireguard_listen_port6": "must not be 51820, which is the port of the other device",
    },
    "26_kube_proxy": {
        "cluster_api_server": "is not set, and cluster_kube_proxy is true",
        "cluster_virtual_cidrs[1]": "10.100.0.0/24 overlaps cluster_service_cidr 10.96.0.0/12",
        "kube_proxy_archive_sha256": "has no SHA-256 for amd64",
        "kube_proxy_bind_adress": "did you mean kube_proxy_bind_address?",
        "kube_proxy_iptables_masquerade_bit": "must be 0 to 31, not 32",
        "kube_proxy_ipvs_scheduler": "must be one of rr, wrr, lc",
        "kube_proxy_ipvs_sync_period": "must be a duration like 30s or 1h30m, not 30 (int)",
        "kube_proxy_metrics_bind_address": "cannot be listened on beside kube_proxy_healthz_bind_address",
        "kube_proxy_mode": "it was removed in 1.43; use nftables",
        "kube_proxy_tcp_keepalive_time": "7200 seconds are not less than the 900",
        "hosts.w1.kube_proxy_log_verbosity": "must be a whole number, not 'high'",
    },
    "27_services": {
        "services_scheduler": "must be one of rr, wrr, lc",
        "services_drain_seconds": "must be 0 to 3600, not 86400",
        "services_files": "must be a list, not",
        "services_masqerade_all": "did you mean services_masquerade_all?",
    },
}


class Controller:
    """ansible-playbook with an ssh that only notes that it was called."""

    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.ssh = directory / "ssh"
        self.ssh.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\nexit 255\n')
        self.ssh.chmod(0o755)

    def play(self, inventory: Path, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), f"playbooks/{playbook}"]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_SSH_EXECUTABLE": str(self.ssh),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    @property
    def contacted(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def problems_in(output: str) -> dict[str, str]:
    """Item to message, from the one list that the user sees; the lists after it repeat it."""
    found = {}
    for line in output.split("nothing was touched:\n", 1)[1].splitlines():
        match = re.fullmatch(r"- (\S+)(?: \(\S+:\d+\))?: (.*)", line)
        if match is None:
            break
        found[match[1]] = match[2]
    return found


def test_every_broken_inventory_has_an_expectation() -> None:
    assert sorted(path.name for path in BROKEN.iterdir()) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_broken_inventory_is_refused_before_any_host_is_contacted(name: str, controller: Controller) -> None:
    result = controller.play(BROKEN / name / "hosts.yml", "site.yml")
    assert result.returncode == 2, result.stdout + result.stderr
    found = problems_in(result.stdout)
    assert sorted(found) == sorted(EXPECTED[name])
    for item, text in EXPECTED[name].items():
        assert text in found[item]
    assert result.stdout.count("TASK [") == 2, "something ran beside the preflight"
    assert controller.contacted == ""


def test_secrets_that_differ_are_shown_to_nobody(controller: Controller) -> None:
    inventory = BROKEN / "25_wireguard" / "hosts.yml"
    result = controller.play(inventory, "site.yml", "-vvv")
    secrets = re.findall(r"flannel_wireguard_psk: (\S+)", inventory.read_text())
    assert len(set(secrets)) == 2
    assert not [secret for secret in secrets if secret in result.stdout + result.stderr]


def test_place_of_a_mistake_is_named(controller: Controller) -> None:
    result = controller.play(BROKEN / "08_misspelt_variable" / "hosts.yml", "preflight.yml")
    place = "tests/inventories/broken/08_misspelt_variable/group_vars/all/cluster.yml:4"
    assert f"- flannel_vni ({place}): " in result.stdout


@pytest.mark.parametrize("arguments", [["--check"], ["--limit", "w1"], ["-e", "cluster_pod_cidr=10.0.0.0/8"]])
def test_refused_in_check_mode_for_one_host_and_from_the_command_line(
    arguments: list[str], controller: Controller
) -> None:
    result = controller.play(BROKEN / "01_services_inside_pods" / "hosts.yml", "site.yml", *arguments)
    assert result.returncode == 2
    assert "overlaps cluster_pod_cidr 10.0.0.0/8" in problems_in(result.stdout)["cluster_service_cidr"]
    assert controller.contacted == ""


def test_sound_inventory_gets_past_the_preflight_to_the_hosts(controller: Controller) -> None:
    """Shows that the stand-in for ssh would have noticed."""
    result = controller.play(ROOT / "inventories" / "stacked", "site.yml")
    assert result.returncode == 4, result.stdout + result.stderr
    assert "192.0.2.11" in controller.contacted
