# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Declared virtual services: what is refused and by which words, and canonical form."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model import cluster_service, kube_proxy_state
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import SCHEDULERS
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_service import (
    DEVICES_OF_OTHERS,
    Declared,
    described,
    parse_services,
    service_addresses,
)
from tests.corrupted import NO_NETWORK, NO_NETWORK6, NO_TEXT, Document, copying, corrupted, integer, mistakes, setting

# The same ones in every run, and more of them than of other properties.
MANY = settings(max_examples=400, derandomize=True, database=None)
BASE: Document = {
    "services": [
        {
            "protocol": "tcp",
            "address": "10.96.0.1",
            "port": 80,
            "scheduler": "sh",
            "flags": ["fallback", "port"],
            "persistence": 60,
            "persistence_netmask": 24,
            "servers": [
                {
                    "address": "10.244.1.1",
                    "port": 8080,
                    "forwarding": "masquerade",
                    "weight": 3,
                    "connections_max": 9,
                    "connections_min": 4,
                },
                {
                    "address": "10.244.1.2",
                    "port": 80,
                    "forwarding": "tunnel",
                    "tunnel": {"type": "gue", "port": 6080, "checksum": "remote"},
                },
            ],
        },
        {
            "protocol": "udp",
            "address": "fd00:96::1",
            "port": 5060,
            "scheduler": "rr",
            "flags": ["one-packet"],
            "persistence": 60,
            "persistence_netmask": 64,
            "persistence_engine": "sip",
            "servers": [{"address": "fd00:244::1", "port": 5060, "forwarding": "direct"}],
        },
        {"mark": 7, "family": "ipv6", "scheduler": "wlc", "servers": [{"address": "fd00:244::1"}]},
    ],
    "scope": [{"network": "10.96.0.0/12", "ports": "1-1024"}, {"network": "fd00:96::/64"}, {"marks": "1-9"}],
    "device": "fairlead-ipvs",
    "timeouts": {"tcp": 900, "tcp_fin": 120, "udp": 300},
    "drain_seconds": 30,
}
NO_HOST = (*NO_TEXT, "", "host", "10.96.0", "10.96.0.256", "10.96.0.1/32", "10.96.0.01", "0.0.0.0", "224.0.0.5")
NO_HOST4 = (*NO_HOST, "255.255.255.255", "fd00::1")
NO_VIRTUAL4 = NO_HOST4[:-1]
NO_HOST6 = (*NO_HOST, "fe80::1", "fe80::1%eth0", "ff02::1", "::", "::ffff:10.96.0.1", "fd00::g", "10.96.0.1")
NO_VIRTUAL6 = NO_HOST6[:-1]
#: Networks of either IP version are fine in a scope.
EITHER = ("fd00::/48", "10.244.0.0/16")
NO_CHOICE = (*NO_TEXT, "", "RR", "rr ", "other")
NO_AREA = tuple(each for each in (*NO_TEXT, "", *NO_NETWORK, *NO_NETWORK6) if each not in EITHER)
NO_SPAN = ("", "x", "1-", "-1", "9-1", "1-99999", "1,2", "1 - 2", 1.5, [], {})
SERVICE, SERVER = "services[0]", "services[0].servers[0]"
TUNNEL = "services[0].servers[1].tunnel"
LEAVES: dict[str, Any] = {
    "services": "list",
    SERVICE: "section",
    f"{SERVICE}.protocol": (*NO_CHOICE, "icmp", "TCP"),
    f"{SERVICE}.address": NO_VIRTUAL4,
    f"{SERVICE}.port": integer(0, 65535),
    f"{SERVICE}.scheduler": NO_CHOICE,
    f"{SERVICE}.flags": (7, True, "x", {}),
    f"{SERVICE}.flags[0]": (*NO_TEXT[:-3], "", "flag-3", "sh-port", "Port"),
    f"{SERVICE}.persistence": integer(0, 31 * 86400),
    f"{SERVICE}.persistence_netmask": (-1, 33, 2**40, "24", 1.5, True, []),
    f"{SERVICE}.servers": "list",
    SERVER: "section",
    f"{SERVER}.address": NO_HOST4,
    f"{SERVER}.port": integer(0, 65535),
    f"{SERVER}.forwarding": (*NO_CHOICE, "local", "bypass", "masq"),
    f"{SERVER}.weight": integer(0, 65535),
    f"{SERVER}.connections_max": integer(0, 2**31 - 1),
    f"{SERVER}.connections_min": (*integer(0, 2**31 - 1), 10),
    TUNNEL: "section",
    f"{TUNNEL}.type": (*NO_CHOICE, "vxlan"),
    f"{TUNNEL}.port": (-1, 65536, "6080", 1.5, True, []),
    f"{TUNNEL}.checksum": (*NO_CHOICE, "yes"),
    "services[1].address": NO_VIRTUAL6,
    "services[1].persistence_netmask": (-1, 129, "64"),
    "services[1].persistence_engine": (*NO_TEXT, "http"),
    "services[1].servers[0].address": NO_HOST6,
    "services[1].servers[0].port": (5061, 0),
    "services[2].mark": integer(1, 2**32 - 1),
    "services[2].family": NO_CHOICE,
    "services[2].protocol": ("tcp", "udp"),
    "services[2].address": ("10.96.0.1",),
    "services[2].port": (0, 80),
    "scope": "list",
    "scope[0]": "section",
    "scope[0].network": NO_AREA,
    "scope[0].ports": NO_SPAN,
    "scope[1].network": NO_AREA,
    "scope[2].marks": (*NO_SPAN[:5], *NO_SPAN[6:], "0", "0-9", "1-4294967296"),
    "device": (*NO_TEXT, "x" * 16, "a/b", "a b", "a:b", "kube-ipvs0", "fairlead-svc"),
    "timeouts": "section",
    **{f"timeouts.{name}": integer(0, 31 * 86400) for name in ("tcp", "tcp_fin", "udp")},
    "drain_seconds": integer(0, 3600),
}
REQUIRED = (f"{SERVICE}.address", f"{SERVICE}.port", f"{SERVER}.address", "scope[0].network")
SECTIONS = ("", SERVICE, SERVER, TUNNEL, "services[2]", "scope[0]", "scope[2]", "timeouts")
#: Where two values do not go together: what is set, and where the error is to be seen.
COMBINATIONS = [
    setting(f"{SERVICE}.persistence", 0, f"{SERVICE}.persistence_netmask"),
    setting(f"{SERVICE}.persistence_engine", "sip"),
    setting(f"{SERVICE}.scheduler", "rr", f"{SERVICE}.flags[0]"),
    setting(f"{SERVICE}.flags[0]", "one-packet"),
    setting(f"{SERVICE}.family", "ipv4"),
    setting(f"{SERVER}.forwarding", "direct", f"{SERVER}.port"),
    setting(f"{SERVER}.tunnel", {"type": "ipip"}),
    setting(f"{TUNNEL}.type", "gre", f"{TUNNEL}.port"),
    setting(f"{TUNNEL}.port", None),
    setting("services[2].flags", ["port"], "services[2].flags[0]"),
    setting("services[2].servers[0].address", "10.244.1.1"),
    setting("scope[2].network", "10.0.0.0/8", "scope[2].marks"),
    setting("scope[2].ports", "1-2", "scope[2].marks"),
]


WRONG = [*mistakes(LEAVES, SECTIONS, REQUIRED), *COMBINATIONS]


def test_base_is_right() -> None:
    parse_services(BASE)
    assert len(WRONG) > 300


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_one_mistake_is_named(number: int) -> None:
    document, mistake = copy.deepcopy(BASE), WRONG[number]
    mistake.make(document)
    with pytest.raises(SpecError) as refused:
        parse_services(document)
    assert refused.value.path == mistake.path or refused.value.path.startswith(mistake.path + "["), str(refused.value)
    assert len(refused.value.problem) > 8


@MANY
@given(corrupted(BASE, [*WRONG, copying(SERVICE, "services[1]"), copying(SERVER, "services[0].servers[1]")]))
def test_corrupted_documents_are_refused_by_a_mistake_that_was_made(made: tuple[Document, set[str]]) -> None:
    document, paths = made
    with pytest.raises(SpecError) as refused:
        parse_services(document)
    path = refused.value.path
    # Other values than that of the mistake may no longer fit together with it.
    assert any(path == each or path.startswith(each) or each.rpartition(".")[0] in path for each in paths), path


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{SERVICE}.scheduler", "wrong", f"must be one of {', '.join(SCHEDULERS)}, not 'wrong'"),
        (f"{SERVER}.weight", 65536, "must be 0 to 65535, not 65536"),
        (f"{SERVER}.connections_min", 10, "must be at most connections_max, 9"),
        (f"{SERVER}.address", "fd00::1", "must be an IPv4 address as the service's, not fd00::1"),
        (f"{SERVER}.address", "224.0.0.1", "224.0.0.1 cannot be that of a real server"),
        (f"{TUNNEL}.type", "ipip", "is required with type gue, and goes with no other"),
    ],
)
def test_words(path: str, value: Any, words: str) -> None:
    document = copy.deepcopy(BASE)
    setting(path, value).make(document)
    with pytest.raises(SpecError) as refused:
        parse_services(document)
    assert refused.value.problem == words


def test_devices_of_others_are_theirs() -> None:
    assert set(DEVICES_OF_OTHERS) == {kube_proxy_state.DEVICE, cluster_service.DEVICE}
    with pytest.raises(SpecError, match="device: kube-ipvs0 is the device of kube-proxy; name another one"):
        parse_services({"device": "kube-ipvs0"})


def test_gre_has_no_remote_checksum() -> None:
    document = copy.deepcopy(BASE)
    document["services"][0]["servers"][1]["tunnel"] = {"type": "gre", "checksum": "remote"}
    with pytest.raises(SpecError, match=r"tunnel\.checksum: remote is for type gue, and this is gre"):
        parse_services(document)


def test_all_ports_take_persistence() -> None:
    service = {"address": "10.96.0.1", "port": 0}
    with pytest.raises(SpecError, match=r"services\[0\]\.port: 0 stands for all ports, which takes persistence"):
        parse_services({"services": [service]})
    parse_services({"services": [{**service, "persistence": 1}]})


def test_service_and_server_must_not_be_there_twice() -> None:
    service = {"address": "fd00:96::1", "port": 80}
    other = {**service, "address": "fd00:96:0:0::1", "protocol": "tcp"}
    with pytest.raises(SpecError, match=r"services\[1\]: service tcp \[fd00:96::1\]:80 is also that of services\[0\]"):
        parse_services({"services": [service, other]})
    servers = [{"address": "fd00::1"}, {"address": "fd00:0::1", "port": 80}]
    with pytest.raises(
        SpecError, match=r"servers\[1\]: real server \[fd00::1\]:80 is also that of services\[0\]\.serv"
    ):
        parse_services({"services": [{**service, "servers": servers}]})


HOSTS = {
    4: st.integers(1 << 24, (224 << 24) - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
    6: st.integers(1 << 64, (1 << 96) - 1).map(lambda number: str(ipaddress.IPv6Address((0xFD << 120) | number))),
}


@st.composite
def tunnels(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["ipip", "gue", "gre"]))
    checksums = {"ipip": ["none"], "gre": ["none", "checksum"], "gue": ["none", "checksum", "remote"]}[kind]
    port = {"port": draw(st.integers(1, 65535))} if kind == "gue" else {}
    return {"type": kind, "checksum": draw(st.sampled_from(checksums)), **port}


@st.composite
def servers(draw: st.DrawFn, version: int, port: int) -> dict[str, Any]:
    made: dict[str, Any] = {"weight": draw(st.integers(0, 65535))}
    made["forwarding"] = draw(st.sampled_from(["masquerade", "direct", "tunnel"]))
    made["address"] = draw(HOSTS[version])
    if made["forwarding"] == "masquerade":
        made["port"] = draw(st.integers(0, 65535))
    if made["forwarding"] == "tunnel":
        made["address"] = draw(HOSTS[draw(st.sampled_from([4, 6]))])
        made["tunnel"] = draw(tunnels())
    upper = draw(st.integers(0, 2**31 - 1))
    return {**made, "connections_max": upper, "connections_min": draw(st.integers(0, upper))}


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    version = draw(st.sampled_from([4, 6]))
    made: dict[str, Any] = {"scheduler": draw(st.sampled_from(SCHEDULERS)), "flags": []}
    made["persistence"] = draw(st.sampled_from([0, 1, 10800]))
    port = 0
    if draw(st.booleans()):
        made.update(mark=draw(st.integers(1, 2**32 - 1)), family=f"ipv{version}")
    else:
        port = draw(st.integers(0 if made["persistence"] else 1, 65535))
        made.update(address=draw(HOSTS[version]), port=port, protocol=draw(st.sampled_from(["tcp", "udp", "sctp"])))
    if made["persistence"]:
        made["persistence_netmask"] = draw(st.integers(1, 32 if version == 4 else 128))
        if made.get("protocol") == "udp" and draw(st.booleans()):
            made["persistence_engine"] = "sip"
    allowed = ["one-packet"] if made.get("protocol", "udp") == "udp" else []
    allowed += ["fallback", "port"] if made["scheduler"] in ("sh", "mh") else []
    made["flags"] = [name for name in allowed if draw(st.booleans())]
    several = st.lists(servers(version, port), max_size=3, unique_by=lambda each: each["address"])
    return {**made, "servers": draw(several)}


DOCUMENTS = st.fixed_dictionaries(
    {
        "services": st.lists(services(), max_size=4, unique_by=lambda each: (each.get("mark"), each.get("address"))),
        "scope": st.lists(
            st.sampled_from([{"network": "10.0.0.0/8", "ports": "80"}, {"network": "fd00::/8"}, {"marks": "1-7"}])
        ),
        "device": st.sampled_from(["", "fairlead-ipvs", "x" * 15]),
        "drain_seconds": st.integers(0, 3600),
    },
    optional={"timeouts": st.fixed_dictionaries({"tcp": st.integers(0, 31 * 86400)})},
)


@settings(max_examples=300)
@given(DOCUMENTS)
def test_described_is_the_same_again(document: Document) -> None:
    declared = parse_services(document)
    shown = described(declared)
    assert parse_services(shown) == declared
    assert described(parse_services(shown)) == shown


def test_addresses_are_named_once_and_not_for_marks() -> None:
    declared: Declared = parse_services(BASE)
    twice = (*declared.services, declared.services[0]._replace(service="tcp 10.96.0.1:81"))
    assert service_addresses(twice) == ["10.96.0.1/32", "fd00:96::1/128"]


@pytest.mark.parametrize(
    ("area", "covered", "others"),
    [
        ({"network": "10.96.0.0/12"}, ["tcp 10.96.0.1:80", "udp 10.111.255.255:0"], ["tcp 10.112.0.1:80", "mark 7"]),
        ({"network": "10.0.0.0/8", "ports": "80"}, ["tcp 10.1.1.1:80"], ["tcp 10.1.1.1:81", "tcp [fd00::1]:80"]),
        ({"network": "::/0", "ports": "1-9"}, ["sctp [fd00::1]:9"], ["sctp [fd00::1]:10", "tcp 10.1.1.1:5", "mark6 7"]),
        ({"marks": "5-7"}, ["mark 7", "mark6 5"], ["mark 8", "tcp 10.1.1.1:6"]),
    ],
)
def test_scope(area: dict[str, str], covered: list[str], others: list[str]) -> None:
    scope = parse_services({"scope": [area]}).scope
    assert all(scope.covers(name) for name in covered)
    assert not any(scope.covers(name) for name in others)
