# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The file that role kube_proxy writes, read by a real kube-proxy: accepted, and every value as it was given."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy import as_yaml, configuration
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_checks import (
    parse_kube_proxy,
    problems_of,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_options import (
    MODES,
    OPTIONS,
    SCHEDULERS,
)
from tests.unit.model.test_kube_proxy import DUAL, FULL, SOUND
from tests.upstream import builds
from tests.upstream.conftest import Programs

KUBECONFIG = "/etc/fairlead/kube-proxy/kubeconfig"
SWITCH = st.booleans()
BIT = st.integers(0, 31).filter(lambda bit: bit not in (12, 13))
# Kept apart, so that no least interval is more than the one it belongs to.
SYNC, MIN_SYNC = st.sampled_from(["30s", "90s", "1h1m1s"]), st.sampled_from(["1ms", "1500ms", "29.5s", "30s"])
TIMEOUT = st.sampled_from(["0s", "1s", "90s", "15m", "24h", "2147483s"])
NETWORKS = st.lists(st.sampled_from(["203.0.113.0/24", "198.18.0.0/15", "fd00:99::/64", "192.0.2.7/32"]), unique=True)
OPTIONAL = {
    "kube_proxy_bind_address": st.sampled_from(["0.0.0.0", "192.0.2.11"]),
    "kube_proxy_bind_address_hard_fail": SWITCH,
    "kube_proxy_healthz_bind_address": st.sampled_from(["0.0.0.0:10256", "[::]:11256", "192.0.2.11:1"]),
    "kube_proxy_metrics_bind_address": st.sampled_from(["127.0.0.1:10249", "[::1]:10249", "0.0.0.0:65535"]),
    "kube_proxy_enable_profiling": SWITCH,
    "kube_proxy_show_hidden_metrics_for_version": st.sampled_from(["", "1.35"]),
    "kube_proxy_hostname_override": st.sampled_from(["", "n1", "a.b-c"]),
    "kube_proxy_oom_score_adj": st.integers(-1000, 1000),
    "kube_proxy_config_sync_period": SYNC,
    "kube_proxy_client_qps": st.sampled_from([0.25, 5, 7.5, 10000]),
    "kube_proxy_client_burst": st.integers(1, 100000),
    "kube_proxy_client_content_type": st.sampled_from(["application/vnd.kubernetes.protobuf", "application/json"]),
    "kube_proxy_log_format": st.sampled_from(["text", "json"]),
    "kube_proxy_log_verbosity": st.integers(0, 10),
    "kube_proxy_log_flush_frequency": st.sampled_from(["1ms", "5s", "24h"]),
    "kube_proxy_detect_local_mode": st.sampled_from(
        ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
    ),
    "kube_proxy_detect_local_bridge_interface": st.just("cni0"),
    "kube_proxy_detect_local_interface_name_prefix": st.just("veth"),
    "kube_proxy_node_port_addresses": st.sampled_from([[], ["primary"], ["192.0.2.0/24", "2001:db8::/64"]]),
    **{f"kube_proxy_{mode}_sync_period": SYNC for mode in MODES},
    **{f"kube_proxy_{mode}_min_sync_period": MIN_SYNC for mode in MODES},
    **{f"kube_proxy_{mode}_masquerade_bit": BIT for mode in ("iptables", "nftables")},
    **{f"kube_proxy_{mode}_masquerade_all": SWITCH for mode in ("iptables", "nftables")},
    "kube_proxy_iptables_localhost_node_ports": SWITCH,
    "kube_proxy_ipvs_scheduler": st.sampled_from(SCHEDULERS),
    "kube_proxy_ipvs_strict_arp": SWITCH,
    "kube_proxy_ipvs_exclude_cidrs": NETWORKS,
    "kube_proxy_ipvs_tcp_fin_timeout": TIMEOUT,
    "kube_proxy_ipvs_udp_timeout": TIMEOUT,
    "kube_proxy_conntrack_max_per_core": st.integers(0, 2**31 - 1),
    "kube_proxy_conntrack_min": st.integers(0, 2**31 - 1),
    "kube_proxy_conntrack_tcp_established_timeout": TIMEOUT,
    "kube_proxy_conntrack_tcp_close_wait_timeout": TIMEOUT,
    "kube_proxy_conntrack_tcp_be_liberal": SWITCH,
    "kube_proxy_conntrack_udp_timeout": TIMEOUT,
}


@pytest.fixture(scope="module")
def program(programs: Programs) -> Path:
    return programs(builds.KUBERNETES) / "kube-proxy"


def read_back(program: Path, directory: Path, text: str) -> dict[str, Any]:
    """What kube-proxy makes of a file. Fails with what it says when it refuses it."""
    given, found = directory / "config.yaml", directory / "found.yaml"
    given.write_text(text, encoding="utf-8")
    found.unlink(missing_ok=True)
    done = subprocess.run(
        [str(program), f"--config={given}", f"--write-config-to={found}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{text}"
    document: dict[str, Any] = yaml.safe_load(found.read_text(encoding="utf-8"))
    return document


def differences(given: Any, found: Any, path: str = "") -> list[str]:
    """Where what was given is not what was found; what kube-proxy adds by itself does not count."""
    if isinstance(given, dict):
        inner = found if isinstance(found, dict) else {}
        return [text for key, value in given.items() for text in differences(value, inner.get(key), f"{path}.{key}")]
    # kube-proxy leaves out what is empty.
    return [] if given == found or (not given and found is None) else [f"{path}: given {given!r}, found {found!r}"]


def assert_as_given(program: Path, directory: Path, document: dict[str, Any]) -> None:
    wanted = configuration(parse_kube_proxy(document), KUBECONFIG)
    found = read_back(program, directory, as_yaml(wanted))
    assert differences(wanted, found) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base", [SOUND, DUAL, FULL], ids=["defaults", "dual", "full"])
def test_configuration_is_accepted_with_all_values_as_given(
    program: Path, tmp_path: Path, mode: str, base: dict[str, Any]
) -> None:
    assert_as_given(program, tmp_path, {**base, "kube_proxy_mode": mode})


@settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(mode=st.sampled_from(MODES), changes=st.fixed_dictionaries({}, optional=OPTIONAL))
def test_drawn_configurations_are_accepted_with_all_values_as_given(
    program: Path, tmp_path: Path, mode: str, changes: dict[str, Any]
) -> None:
    # With both IP versions no drawn network is of the wrong one.
    document = {**DUAL, "kube_proxy_mode": mode, **changes}
    assume(not problems_of(document)[1])
    assert_as_given(program, tmp_path, document)


def test_every_option_is_drawn() -> None:
    """But for those that are no part of the file, and those that other tests give."""
    beside = {"version", "ca_file", "cert_file", "key_file", "tcp_keepalive_time"}
    given = {"mode", "feature_gates", "log_vmodule", "ipvs_tcp_timeout", "conntrack_udp_stream_timeout"}
    assert {name.removeprefix("kube_proxy_") for name in OPTIONAL} == set(OPTIONS) - beside - given
    assert {f"kube_proxy_{name}" for name in given - {"mode"}} <= set(FULL)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("iptables.masqueradeBit", 32, "MasqueradeBit"),
        ("oomScoreAdj", 1001, "OOMScoreAdj"),
        ("ipvs.syncPeriod", "-1s", "SyncPeriod"),
        ("metricsBindAddress", "localhost:10249", "MetricsBindAddress"),
        ("detectLocalMode", "Nodes", "DetectLocalMode"),
        ("showHiddenMetricsForVersion", "1.34", "ShowHiddenMetricsForVersion"),
        ("nodePortAddresses", ["192.0.2.0"], "NodePortAddresses"),
        ("featureGates", {"KubeProxyIPVS": True}, "unrecognized feature gate: KubeProxyIPVS"),
    ],
)
def test_kube_proxy_would_notice_a_wrong_value(
    program: Path, tmp_path: Path, path: str, value: Any, reason: str
) -> None:
    """Else its acceptance would be worth nothing."""
    document = configuration(parse_kube_proxy({**SOUND, "kube_proxy_mode": "ipvs"}), KUBECONFIG)
    *sections, last = path.split(".")
    section = document
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(AssertionError, match=reason):
        read_back(program, tmp_path, as_yaml(document))


def test_differences_are_found() -> None:
    given = {"a": {"b": 1, "c": []}, "d": "30s"}
    assert differences(given, {"a": {"b": 1}, "d": "30s", "e": 5}) == []
    changed = [{"a": {"b": 2}, "d": "30s"}, {"a": {"b": 1}, "d": "31s"}, {"a": {}, "d": "30s"}, {}]
    assert all(itertools.starmap(differences, ((given, found) for found in changed)))
