# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Names and values of sysctls in canonical form, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kernel import (
    canonical_name,
    canonical_value,
    parse_kernel_settings,
    proc_path,
)

PORTS = "net.ipv4.ip_local_reserved_ports"
FILES = {"modules_file": "/m", "sysctl_file": "/s", "found_file": "/f"}


def parse(**document: Any) -> Any:
    return parse_kernel_settings({**FILES, **document})


@pytest.mark.parametrize(
    ("written", "canonical", "path"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net.ipv4.conf.flannel/1.rp_filter", None, "/proc/sys/net/ipv4/conf/flannel.1/rp_filter"),
        ("net/ipv4/conf/flannel.1/rp_filter", None, "/proc/sys/net/ipv4/conf/flannel.1/rp_filter"),
    ],
)
def test_sysctl_names_as_in_sysctl_d(written: str, canonical: str | None, path: str) -> None:
    assert proc_path(canonical_name(written)) == path
    assert canonical_name(written) == (canonical or "net.ipv4.conf.flannel/1.rp_filter")


def test_values_are_compared_by_their_fields() -> None:
    assert canonical_value("net.ipv4.tcp_rmem", " 4096\t131072  6291456\n") == "4096 131072 6291456"


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=8))
def test_port_lists_are_sorted_ranges_of_the_same_ports(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{low}-{low + more}" if more else str(low) for low, more in ranges)
    wanted = {port for low, more in ranges for port in range(low, low + more + 1)}
    canonical = canonical_value(PORTS, text)
    bounds = [[int(bound) for bound in part.split("-")] for part in canonical.split(",")]
    assert {port for part in bounds for port in range(part[0], part[-1] + 1)} == wanted
    assert all(left[-1] + 1 < right[0] for left, right in zip(bounds, bounds[1:], strict=False))


def test_only_lists_of_ports_are_merged() -> None:
    assert canonical_value("net.ipv4.ip_local_port_range", "32768 60999") == "32768 60999"
    assert canonical_value("kernel.core_pattern", "2,1") == "2,1"


def test_forwarding_is_set_first_because_it_resets_others() -> None:
    settings = parse(sysctls={"net.ipv4.conf.all.accept_redirects": 0, "net.ipv4.ip_forward": 1})
    assert list(settings.sysctls) == ["net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects"]


def test_module_names_with_dashes_are_the_same_module() -> None:
    assert parse(modules=["br-netfilter"]).modules == ("br_netfilter",)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"modules": "vxlan"}, "modules"),
        ({"modules": ["vxlan", "../x"]}, "modules[1]"),
        ({"modules": ["ip_vs", "ip-vs"]}, "modules[1]"),
        ({"sysctls": {"net.ipv4.ip_forward": True}}, "sysctls.net.ipv4.ip_forward"),
        ({"sysctls": {"net.ipv4.ip_forward": ""}}, "sysctls.net.ipv4.ip_forward"),
        ({"sysctls": {"net.ipv4.conf.*.rp_filter": 2}}, "sysctls.net.ipv4.conf.*.rp_filter"),
        ({"sysctls": {"net/../../etc/passwd": 2}}, "sysctls.net/../../etc/passwd"),
        ({"sysctls": {"net.ipv4.ip_forward": 1, "net/ipv4/ip_forward": 0}}, "sysctls.net/ipv4/ip_forward"),
        (
            {"sysctls": {"net.ipv4.ip_forward": 1}, "optional_sysctls": {"net.ipv4.ip_forward": 1}},
            "optional_sysctls.net.ipv4.ip_forward",
        ),
        ({"sysctl": {}}, "sysctl"),
    ],
)
def test_refusals_name_the_entry(document: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(**document)
    assert refused.value.path == path
