# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Every variable of kube-proxy with wrong values: refused by its name on the node, and by the preflight with the same
words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster import check_cluster
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_checks import parse_kube_proxy
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_options import (
    CLUSTER_OPTIONS,
    OPTIONS,
    PREFIX,
)
from tests.unit.model.test_cluster import declaration

ROLE = Path(__file__).resolve().parents[3] / "roles" / "kube_proxy"
SOUND: dict[str, Any] = {
    "cluster_api_server": "https://192.0.2.10:6443",
    "cluster_pod_cidr": "10.244.0.0/16",
    "cluster_service_cidr": "10.96.0.0/12",
}
NO_DURATION = "must be a duration like 30s or 1h30m, not {!r} ({})"
LONGEST = "2147483s"


def duration(low: str, high: str, below: Any, above: str) -> list[tuple[Any, str]]:
    bad = ("30", "1d", "-5s", "s", "", "1h 5m", "5 s", "１s", True, 30, 1.5, [], {})
    outside = f"must be {low} to {high}, not "
    return [
        *((value, NO_DURATION.format(value, type(value).__name__)) for value in bad),
        *((value, outside + str(value)) for value in (below, above) if value is not None),
    ]


def integer(low: int, high: int) -> list[tuple[Any, str]]:
    bad = ("many", "", "1.5", 1.5, float("inf"), float("nan"), True, [], {})
    return [
        *((value, f"must be a whole number, not {value!r} ({type(value).__name__})") for value in bad),
        *((value, f"must be {low} to {high}, not {value}") for value in (low - 1, high + 1, str(high + 1))),
    ]


def choice(*choices: str) -> list[tuple[Any, str]]:
    listed = ", ".join(choices)
    wrong = (choices[0].swapcase(), f"{choices[0]} ", "other", "", 7, True, [], {}, [choices[0]])
    return [(value, f"must be one of {listed}, not {value!r}") for value in wrong]


SWITCH = [(value, f"must be true or false, not {value!r}") for value in ("sometimes", 7, "", [], {}, 0.5)]
PATH = [(value, "must be an absolute path, not") for value in ("", "pki/ca.crt", 7, True, [], "/a\nb")]
NETWORKS = [
    (["10.0.0.0"], "must be a network like 10.244.0.0/16, not '10.0.0.0'"),
    (["10.0.0.1/24"], "has host bits set"),
    (["10.0.0.0/33"], "must be a network"),
    (["10.0.0.0/24", "10.0.0.0/24"], "10.0.0.0/24 is there twice"),
    ([7], "must be a network"),
    (["fd00::/129"], "must be a network"),
    (7, "must be a list, not 7 (int)"),
    ({}, "must be a list, not {} (dict)"),
]
ENDPOINT = [
    *(
        (value, "must be an address and a port")
        for value in ("10256", ":10256", "0.0.0.0", "0.0.0.0:", 10256, True, [])
    ),
    *((value, "must be an IP address, not") for value in ("localhost:10256", "[x]:10256", "256.0.0.1:10256")),
    *((value, "must have a port of 1 to 65535") for value in ("0.0.0.0:0", "0.0.0.0:65536")),
    ("[0.0.0.0]:10256", "must have brackets around an IPv6 address and around no other"),
    ("fd00::1:10256", "must be an address and a port"),
]
INTERFACE = [(value, "must be an interface name of 1 to 15 characters") for value in ("a b", "x" * 16, "a/b", 7, [])]
SYNC, MIN_SYNC = duration("1s", "24h", "999ms", "24h1s"), duration("1ms", "24h", "0s", "24h1s")
TIMEOUT = [*duration("0s", LONGEST, None, "2147484s"), ("1500ms", "must be whole seconds, not 1500ms")]
BIT = integer(0, 31)
MARKED = [
    (12, "bit 12 is that of this collection's own services (0x1000)"),
    (13, "bit 13 is that of CNI plugin portmap (0x2000)"),
]

WRONG: dict[str, list[tuple[Any, str]]] = {
    "kube_proxy_version": [
        *(
            (value, "must be a release of Kubernetes like 1.36.3")
            for value in ("", "v1.36.3", "1.36", 1.36, "latest", [])
        ),
        ("1.30.9", "must be 1.31 or newer, not 1.30.9"),
    ],
    "kube_proxy_mode": choice("ipvs", "nftables", "iptables"),
    "kube_proxy_feature_gates": [
        *((value, "must be a mapping") for value in ("KubeProxyIPVS=true", 7, True, [])),
        ({"kubeProxyIPVS": True}, "must hold names of feature gates"),
        ({7: True}, "must hold names of feature gates"),
        ({"KubeProxyIPVS": "perhaps"}, "must be true or false"),
        ({"KubeProxyIPVS": True}, "is not known before 1.37"),
    ],
    "kube_proxy_hostname_override": [
        (value, "must be the name of a Node") for value in ("N1", "a b", "-x", 7, [], "x_y")
    ],
    "kube_proxy_bind_address": [
        *((value, "must be an IP address, not") for value in ("", "0.0.0.0/0", "node1", 7, [])),
        ("::", "must be an IPv4 address, the cluster's first family"),
    ],
    "kube_proxy_bind_address_hard_fail": SWITCH,
    "kube_proxy_healthz_bind_address": ENDPOINT,
    "kube_proxy_metrics_bind_address": ENDPOINT,
    "kube_proxy_enable_profiling": SWITCH,
    "kube_proxy_show_hidden_metrics_for_version": [
        *((value, "must be a minor release in quotes like '1.35'") for value in (1.35, "1.35.0", "v1.35", [], True)),
        ("1.34", "must be empty or that before kube_proxy_version 1.36.3, which is 1.35, not 1.34"),
    ],
    "kube_proxy_oom_score_adj": integer(-1000, 1000),
    "kube_proxy_config_sync_period": SYNC,
    "kube_proxy_client_qps": [
        *((value, "must be a number, not") for value in ("many", "", True, [], {}, float("nan"))),
        *((value, "must be 0.1 to 10000, not") for value in (0, -1, 0.05, "10001", float("inf"))),
    ],
    "kube_proxy_client_burst": integer(1, 100000),
    "kube_proxy_client_content_type": choice("application/vnd.kubernetes.protobuf", "application/json"),
    "kube_proxy_ca_file": PATH,
    "kube_proxy_cert_file": PATH,
    "kube_proxy_key_file": PATH,
    "kube_proxy_log_format": choice("text", "json"),
    "kube_proxy_log_verbosity": integer(0, 10),
    "kube_proxy_log_flush_frequency": duration("1ms", "24h", "999us", "24h1s"),
    "kube_proxy_log_vmodule": [
        *((value, "must be a mapping") for value in ("proxier=5", 7, [])),
        ({"a=b": 5}, "must hold patterns"),
        ({"proxier": 11}, "must be 0 to 10, not 11"),
        ({"proxier": "high"}, "must be a whole number"),
    ],
    "kube_proxy_detect_local_mode": choice("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
    "kube_proxy_detect_local_bridge_interface": INTERFACE,
    "kube_proxy_detect_local_interface_name_prefix": INTERFACE,
    "kube_proxy_node_port_addresses": [
        *NETWORKS,
        (["primary", "192.0.2.0/24"], "must be a network"),
        (["fd00::/64", "192.0.2.0/24"], "holds an IPv6 network, and the cluster has no cluster_pod_cidr6"),
    ],
    "kube_proxy_iptables_masquerade_bit": [*BIT, *MARKED],
    "kube_proxy_iptables_masquerade_all": SWITCH,
    "kube_proxy_iptables_localhost_node_ports": SWITCH,
    "kube_proxy_iptables_sync_period": SYNC,
    "kube_proxy_iptables_min_sync_period": [*MIN_SYNC, ("31s", "31s is more than kube_proxy_iptables_sync_period 30s")],
    "kube_proxy_ipvs_scheduler": choice(
        "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"
    ),
    "kube_proxy_ipvs_strict_arp": SWITCH,
    "kube_proxy_ipvs_exclude_cidrs": [*NETWORKS, (["10.100.0.0/16"], "overlaps cluster_service_cidr 10.96.0.0/12")],
    "kube_proxy_ipvs_sync_period": SYNC,
    "kube_proxy_ipvs_min_sync_period": [
        *duration("0s", "24h", None, "24h1s"),
        ("1m", "1m0s is more than kube_proxy_ipvs_sync_period 30s"),
    ],
    "kube_proxy_ipvs_tcp_timeout": TIMEOUT,
    "kube_proxy_ipvs_tcp_fin_timeout": TIMEOUT,
    "kube_proxy_ipvs_udp_timeout": TIMEOUT,
    "kube_proxy_nftables_masquerade_bit": [*BIT, *MARKED],
    "kube_proxy_nftables_masquerade_all": SWITCH,
    "kube_proxy_nftables_sync_period": SYNC,
    "kube_proxy_nftables_min_sync_period": [
        *MIN_SYNC,
        ("1h", "1h0m0s is more than kube_proxy_nftables_sync_period 30s"),
    ],
    "kube_proxy_conntrack_max_per_core": integer(0, 2**31 - 1),
    "kube_proxy_conntrack_min": integer(0, 2**31 - 1),
    "kube_proxy_conntrack_tcp_established_timeout": TIMEOUT,
    "kube_proxy_conntrack_tcp_close_wait_timeout": TIMEOUT,
    "kube_proxy_conntrack_tcp_be_liberal": SWITCH,
    "kube_proxy_conntrack_udp_timeout": TIMEOUT,
    "kube_proxy_conntrack_udp_stream_timeout": TIMEOUT,
    "kube_proxy_tcp_keepalive_time": integer(0, 32767),
    "cluster_api_server": [
        *(
            (value, "must be a URL like https://192.0.2.10:6443")
            for value in ("192.0.2.10:6443", "http://192.0.2.10", 7, [])
        ),
        *((value, "must be a URL like") for value in ("https://", "https://h:0", "https://h:65536", "https://h/path")),
        ("https://[fd00::g]:6443", "must be"),
    ],
    "cluster_virtual_cidrs": [*NETWORKS, (["10.111.0.0/24"], "overlaps cluster_service_cidr 10.96.0.0/12")],
    "cluster_metallb": SWITCH,
}
CASES = [pytest.param(name, *case, id=f"{name}-{number}") for name in WRONG for number, case in enumerate(WRONG[name])]
# Checked, and tested, with the networks of the cluster.
NETWORKS_OF_THE_CLUSTER = {"cluster_pod_cidr", "cluster_pod_cidr6", "cluster_service_cidr"}


def specified() -> dict[str, dict[str, Any]]:
    spec = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    options: dict[str, dict[str, Any]] = spec["options"]
    return options


def test_every_option_has_wrong_values() -> None:
    known = {PREFIX + name for name in OPTIONS} | set(CLUSTER_OPTIONS)
    assert set(WRONG) == known - NETWORKS_OF_THE_CLUSTER
    assert all(len(cases) >= 5 for cases in WRONG.values())


def test_every_numeric_and_enumerated_variable_of_the_role_has_wrong_values() -> None:
    judged = {
        name for name, option in specified().items() if option["type"] in ("int", "float") or option.get("choices")
    }
    # What is about installing, and typed by Ansible alone.
    assert judged - set(WRONG) == {"kube_proxy_install_method", "kube_proxy_wait"}


@pytest.mark.parametrize(("name", "value", "text"), CASES)
def test_wrong_value_is_refused_by_the_name_of_its_variable(name: str, value: Any, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_kube_proxy({**SOUND, name: value})
    assert caught.value.path.partition("[")[0].partition(".")[0] == name
    assert text in caught.value.problem


@pytest.mark.parametrize(("name", "value", "text"), CASES)
def test_wrong_value_is_refused_by_the_preflight_too(name: str, value: Any, text: str) -> None:
    variables = {"kube_proxy_archive_sha256": {"amd64": "a" * 64}, "cluster_kube_proxy": True, **SOUND, name: value}
    options = {option: {"type": "raw"} for option in variables}
    given = declaration(variables)
    report = check_cluster({**given, "options": {**given["options"], **options}})
    found = [problem for problem in report.errors if problem.path.partition("[")[0].partition(".")[0] == name]
    assert any(text in problem.text for problem in found), report.errors
    assert len(found) == len(report.errors), "something else is taken for wrong too"


def test_sound_values_are_accepted() -> None:
    """Else the refusals above would be worth nothing."""
    assert parse_kube_proxy(SOUND).mode == "nftables"
    for name, option in OPTIONS.items():
        assert parse_kube_proxy({**SOUND, PREFIX + name: option.default})
