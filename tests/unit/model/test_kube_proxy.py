# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy's variables make, and what of them does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy import (
    BANNER,
    as_yaml,
    configuration,
    kernel_modules,
    kubeconfig,
    optional_sysctls,
    sysctls,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_checks import (
    parse_kube_proxy,
    problems_of,
    warnings,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_options import (
    MODES,
    OPTIONS,
    PREFIX,
    known,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_values import Duration, read_duration
from tests.unit.model.test_kube_proxy_wrong import ROLE, SOUND, specified

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "kube_proxy_configuration"
KUBECONFIG = "/etc/fairlead/kube-proxy/kubeconfig"
DUAL = {**SOUND, "cluster_pod_cidr6": "fd00:10:244::/56", "cluster_virtual_cidrs": ["198.18.0.0/24", "fd00:99::/112"]}
# As many options as possible with another value than the default.
FULL: dict[str, Any] = {
    **DUAL,
    "kube_proxy_feature_gates": {"ContextualLogging": "yes"},
    "kube_proxy_hostname_override": "n1",
    "kube_proxy_bind_address": "192.0.2.11",
    "kube_proxy_bind_address_hard_fail": True,
    "kube_proxy_healthz_bind_address": "[::]:11256",
    "kube_proxy_metrics_bind_address": "192.0.2.11:11249",
    "kube_proxy_enable_profiling": "on",
    "kube_proxy_show_hidden_metrics_for_version": "1.35",
    "kube_proxy_oom_score_adj": "-500",
    "kube_proxy_config_sync_period": "10m30s",
    "kube_proxy_client_qps": 7.5,
    "kube_proxy_client_burst": 20,
    "kube_proxy_client_content_type": "application/json",
    "kube_proxy_log_verbosity": 4,
    "kube_proxy_log_flush_frequency": "1500ms",
    "kube_proxy_log_vmodule": {"proxier": 6, "node*": 2},
    "kube_proxy_detect_local_mode": "BridgeInterface",
    "kube_proxy_detect_local_bridge_interface": "cni0",
    "kube_proxy_node_port_addresses": "192.0.2.0/24,2001:db8::/64",
    "kube_proxy_iptables_masquerade_bit": 20,
    "kube_proxy_iptables_masquerade_all": True,
    "kube_proxy_iptables_localhost_node_ports": False,
    "kube_proxy_iptables_sync_period": "1h",
    "kube_proxy_iptables_min_sync_period": "500ms",
    "kube_proxy_ipvs_scheduler": "mh",
    "kube_proxy_ipvs_strict_arp": True,
    "kube_proxy_ipvs_exclude_cidrs": ["203.0.113.0/24", "198.18.0.0/24"],
    "kube_proxy_ipvs_sync_period": "45s",
    "kube_proxy_ipvs_min_sync_period": "2s",
    "kube_proxy_ipvs_tcp_timeout": "2h",
    "kube_proxy_ipvs_tcp_fin_timeout": "90s",
    "kube_proxy_ipvs_udp_timeout": "3m",
    "kube_proxy_nftables_masquerade_bit": 21,
    "kube_proxy_nftables_masquerade_all": True,
    "kube_proxy_nftables_sync_period": "20s",
    "kube_proxy_nftables_min_sync_period": "10ms",
    "kube_proxy_conntrack_max_per_core": 0,
    "kube_proxy_conntrack_min": 0,
    "kube_proxy_conntrack_tcp_established_timeout": "5h",
    "kube_proxy_conntrack_tcp_close_wait_timeout": "30m",
    "kube_proxy_conntrack_tcp_be_liberal": True,
    "kube_proxy_conntrack_udp_timeout": "30s",
    "kube_proxy_conntrack_udp_stream_timeout": "4m",
    "kube_proxy_tcp_keepalive_time": 1200,
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["10.0.0.0/8", "30s", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def parsed(changes: dict[str, Any]) -> Any:
    return parse_kube_proxy({**SOUND, **changes})


@pytest.mark.parametrize("mode", MODES)
def test_configuration_is_the_golden_one(mode: str) -> None:
    proxy = parse_kube_proxy({**FULL, "kube_proxy_mode": mode})
    text = as_yaml(configuration(proxy, KUBECONFIG))
    assert text == (GOLDEN / f"{mode}.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == configuration(proxy, KUBECONFIG)


def test_defaults_make_the_golden_configuration() -> None:
    text = as_yaml(configuration(parsed({}), KUBECONFIG))
    assert text == (GOLDEN / "defaults.yaml").read_text(encoding="utf-8")


def test_kubeconfig_names_files_and_holds_no_key() -> None:
    proxy = parsed({})
    document = yaml.safe_load(as_yaml(kubeconfig(proxy)))
    assert document["clusters"][0]["cluster"] == {
        "server": "https://192.0.2.10:6443",
        "certificate-authority": "/etc/fairlead/pki/kubernetes-ca.crt",
    }
    assert document["users"][0] == {
        "name": "system:kube-proxy",
        "user": {
            "client-certificate": "/etc/fairlead/pki/kube-proxy.crt",
            "client-key": "/etc/fairlead/pki/kube-proxy.key",
        },
    }
    assert document["contexts"][0]["name"] == document["current-context"]
    assert BANNER in as_yaml(kubeconfig(proxy)).splitlines()[0]


def test_role_has_the_same_defaults_choices_and_variables() -> None:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    environment.filters["bool"] = bool
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    for name, option in OPTIONS.items():
        if name != "hostname_override":
            value = defaults[PREFIX + name]
            computed = isinstance(value, str) and "{{" in value
            given = environment.from_string(value).render() if computed else value
            assert option.read(given, name) == option.read(option.default, name), name
    for name, spec in specified().items():
        for choice in spec.get("choices") or []:
            if name in known():
                assert known()[name].read(choice, name) == choice
    handed_over = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))["__kube_proxy_variables"]
    assert set(handed_over) == set(known())


@given(st.dictionaries(st.sampled_from(sorted(known())), ANYTHING, max_size=8))
@settings(max_examples=300, derandomize=True, database=None)
def test_any_values_are_read_or_refused_by_the_name_of_a_variable(values: dict[str, Any]) -> None:
    proxy, problems = problems_of(values)
    assert all(problem.path.partition("[")[0].partition(".")[0] in known() for problem in problems)
    if not problems:
        document = configuration(proxy, KUBECONFIG)
        assert yaml.safe_load(as_yaml(document)) == document
    warnings(proxy)


@given(st.integers(0, 10**16))
def test_durations_are_written_as_they_are_read(nanoseconds: int) -> None:
    text = str(Duration(nanoseconds))
    assert read_duration(text) == nanoseconds
    assert str(Duration(read_duration(text) or 0)) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [("90s", "1m30s"), ("24h", "24h0m0s"), ("1.5h", "1h30m0s"), ("1500ms", "1.5s"), ("250us", "250µs"), ("0", "0s")],
)
def test_durations_have_go_s_form(text: str, written: str) -> None:
    assert str(Duration(read_duration(text) or 0)) == written


def test_our_own_ranges_are_always_excluded_and_once() -> None:
    proxy = parse_kube_proxy({**FULL, "kube_proxy_mode": "ipvs"})
    section = configuration(proxy, KUBECONFIG)["ipvs"]
    assert section["excludeCIDRs"] == ["198.18.0.0/24", "fd00:99::/112", "203.0.113.0/24"]


def test_pods_are_known_by_the_networks_of_both_families() -> None:
    assert configuration(parsed({}), KUBECONFIG)["clusterCIDR"] == "10.244.0.0/16"
    assert configuration(parse_kube_proxy(DUAL), KUBECONFIG)["clusterCIDR"] == "10.244.0.0/16,fd00:10:244::/56"


IPVS = {"kube_proxy_mode": "ipvs"}


@pytest.mark.parametrize(
    ("changes", "variable", "text"),
    [
        ({**IPVS, "kube_proxy_version": "1.40.0"}, "kube_proxy_mode", "set KubeProxyIPVS: true in kube_proxy_feature"),
        ({**IPVS, "kube_proxy_version": "1.43.0"}, "kube_proxy_mode", "it was removed in 1.43; use nftables"),
        (
            {**IPVS, "kube_proxy_version": "1.44.1", "kube_proxy_feature_gates": {"KubeProxyIPVS": True}},
            "kube_proxy_mode",
            "it was removed in 1.43",
        ),
        ({**IPVS, "kube_proxy_tcp_keepalive_time": 900}, "kube_proxy_tcp_keepalive_time", "not less than the 900"),
        (
            {**IPVS, "kube_proxy_tcp_keepalive_time": 7200, "kube_proxy_ipvs_tcp_timeout": "2h"},
            "kube_proxy_tcp_keepalive_time",
            "not less than the 7200",
        ),
        (
            {**IPVS, "kube_proxy_ipvs_tcp_timeout": "25h"},
            "kube_proxy_ipvs_tcp_timeout",
            "25h0m0s is more than kube_proxy_conntrack_tcp_established_timeout 24h0m0s",
        ),
        (
            {**IPVS, "kube_proxy_ipvs_udp_timeout": "5m", "kube_proxy_conntrack_udp_stream_timeout": "2m"},
            "kube_proxy_ipvs_udp_timeout",
            "more than kube_proxy_conntrack_udp_stream_timeout 2m0s",
        ),
        (
            {**IPVS, "cluster_metallb": True, "kube_proxy_ipvs_strict_arp": False},
            "kube_proxy_ipvs_strict_arp",
            "must be true with cluster_metallb",
        ),
        (
            {"kube_proxy_metrics_bind_address": "127.0.0.1:10256"},
            "kube_proxy_metrics_bind_address",
            "cannot be listened on beside kube_proxy_healthz_bind_address 0.0.0.0:10256",
        ),
        ({"kube_proxy_healthz_bind_address": "0.0.0.0:30500"}, "kube_proxy_healthz_bind_address", "30000 to 32767"),
        ({"kube_proxy_metrics_bind_address": "0.0.0.0:10250"}, "kube_proxy_metrics_bind_address", "that of kubelet"),
        (
            {"kube_proxy_detect_local_mode": "BridgeInterface"},
            "kube_proxy_detect_local_bridge_interface",
            "is required with kube_proxy_detect_local_mode BridgeInterface",
        ),
        (
            {"kube_proxy_detect_local_mode": "InterfaceNamePrefix"},
            "kube_proxy_detect_local_interface_name_prefix",
            "is required with kube_proxy_detect_local_mode InterfaceNamePrefix",
        ),
        ({"cluster_pod_cidr": None}, "cluster_pod_cidr", "is required with kube_proxy_detect_local_mode ClusterCIDR"),
        (
            {"cluster_pod_cidr6": "fd00::/56", "kube_proxy_node_port_addresses": ["192.0.2.0/24"]},
            "kube_proxy_node_port_addresses",
            "holds no IPv6 network",
        ),
        ({"cluster_pod_cidr": "fd00::/56"}, "cluster_pod_cidr", "must be an IPv4 network"),
        ({"cluster_pod_cidr6": "10.0.0.0/8"}, "cluster_pod_cidr6", "must be an IPv6 network"),
        (
            {"kube_proxy_log_format": "json", "kube_proxy_log_vmodule": {"x": 1}},
            "kube_proxy_log_vmodule",
            "is possible with kube_proxy_log_format text only",
        ),
        ({"cluster_api_server": None}, "cluster_api_server", "is not set"),
        ({"kube_proxy_ipvs_sheduler": "rr"}, "kube_proxy_ipvs_sheduler", "is not a variable of role kube_proxy"),
    ],
)
def test_contradiction_is_refused_by_the_variable_to_change(changes: dict[str, Any], variable: str, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(changes)
    assert caught.value.path == variable
    assert text in caught.value.problem


@pytest.mark.parametrize(
    "changes",
    [
        {**IPVS, "kube_proxy_version": "1.42.0", "kube_proxy_feature_gates": {"KubeProxyIPVS": True}},
        {**IPVS, "kube_proxy_tcp_keepalive_time": 7200, "kube_proxy_ipvs_tcp_timeout": "2h1s"},
        {**IPVS, "kube_proxy_tcp_keepalive_time": 0},
        {**IPVS, "kube_proxy_ipvs_tcp_timeout": "25h", "kube_proxy_conntrack_tcp_established_timeout": "0s"},
        {**IPVS, "cluster_metallb": True},
        {"kube_proxy_tcp_keepalive_time": 7200},
        {"kube_proxy_healthz_bind_address": "192.0.2.1:10256", "kube_proxy_metrics_bind_address": "127.0.0.1:10256"},
        {"kube_proxy_detect_local_mode": "NodeCIDR", "cluster_pod_cidr": None},
        {"kube_proxy_node_port_addresses": ["primary"], "cluster_pod_cidr6": "fd00::/56"},
        {"kube_proxy_iptables_min_sync_period": "30s"},
    ],
)
def test_what_only_looks_like_a_contradiction_is_accepted(changes: dict[str, Any]) -> None:
    parsed(changes)


def test_ipvs_is_warned_about_with_the_dates_where_it_is_deprecated() -> None:
    def said(**changes: str) -> str:
        return " ".join(map(str, warnings(problems_of({**SOUND, **changes})[0])))

    assert "deprecated since Kubernetes 1.35, off by default from 1.40 on and removed in 1.43" in said(**IPVS)
    assert said(**IPVS, kube_proxy_version="1.34.5") == ""
    assert said(kube_proxy_mode="nftables") == ""


def test_limit_that_is_not_kept_everywhere_is_warned_about() -> None:
    [warning] = warnings(parsed({"kube_proxy_conntrack_min": 2000000}))
    assert warning.path == "kube_proxy_conntrack_min" and "1048576" in warning.problem
    assert warnings(parsed({"kube_proxy_conntrack_min": 2000000, "kube_proxy_conntrack_max_per_core": 0})) == []


def test_node_ports_on_our_own_addresses_are_warned_about() -> None:
    ours = {**IPVS, "kube_proxy_version": "1.34.0", "cluster_virtual_cidrs": ["198.18.0.0/24"]}
    [warning] = warnings(parsed(ours))
    assert warning.path == "kube_proxy_node_port_addresses"
    assert warnings(parsed({**ours, "kube_proxy_node_port_addresses": ["primary"]})) == []


def test_metallb_makes_arp_strict_unless_said_otherwise() -> None:
    assert configuration(parsed({**IPVS, "cluster_metallb": "yes"}), KUBECONFIG)["ipvs"]["strictARP"] is True
    assert configuration(parsed(IPVS), KUBECONFIG)["ipvs"]["strictARP"] is False


def test_kernel_gets_what_the_mode_needs() -> None:
    ipvs = parsed({**IPVS, "kube_proxy_ipvs_scheduler": "sed", "cluster_metallb": True})
    assert set(kernel_modules(ipvs)) == {"nf_conntrack", "ip_set", "dummy", "ip_vs", "ip_vs_sed"}
    assert sysctls(ipvs) == {
        "net.ipv4.vs.conntrack": 1,
        "net.ipv4.vs.expire_nodest_conn": 1,
        "net.ipv4.vs.expire_quiescent_template": 1,
        "net.ipv4.conf.all.arp_ignore": 1,
        "net.ipv4.conf.all.arp_announce": 2,
        "net.ipv4.tcp_keepalive_time": 600,
    }
    assert "nf_tables" in kernel_modules(parsed({})) and sysctls(parsed({})) == {}
    assert optional_sysctls(parsed({"kube_proxy_conntrack_tcp_close_wait_timeout": "0s"})) == {
        "net.netfilter.nf_conntrack_tcp_timeout_established": 86400
    }


@pytest.mark.parametrize(
    ("addresses", "routed"), [([], True), (["127.0.0.0/8"], True), (["0.0.0.0/0"], True), (["192.0.2.0/24"], False)]
)
def test_loopback_is_routed_where_it_has_node_ports(addresses: list[str], routed: bool) -> None:
    proxy = parsed({"kube_proxy_mode": "iptables", "kube_proxy_node_port_addresses": addresses})
    assert ("net.ipv4.conf.all.route_localnet" in sysctls(proxy)) is routed
