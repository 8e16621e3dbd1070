# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""CNI configuration lists: what is composed, what is refused and with which words, what runtimes' files are read as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni import (
    bridge_plugins,
    load_conflist,
    loopback_list,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni_options import parse_conflist
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import Section

RANGE = {"subnet": "10.244.1.0/24"}


def short(**changes: Any) -> list[dict[str, Any]]:
    return bridge_plugins(Section({"subnets": ["10.244.1.0/24"], **changes}, "bridge"))


def conflist(*plugins: dict[str, Any], **changes: Any) -> Any:
    return parse_conflist({"name": "net", "plugins": list(plugins), **changes})


def bridge(**changes: Any) -> dict[str, Any]:
    return {"type": "bridge", "ipam": {"type": "host-local", "ranges": [[RANGE]]}, **changes}


def host_local(**changes: Any) -> dict[str, Any]:
    return {"type": "bridge", "ipam": {"type": "host-local", "ranges": [[RANGE]], **changes}}


def test_short_form_is_what_flannels_plugin_would_delegate() -> None:
    plugin, portmap = short(mtu=1450, routes=["10.244.0.0/16"])
    assert plugin == {
        "type": "bridge",
        "bridge": "cni0",
        "mtu": 1450,
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.1.0/24"}]],
            "routes": [{"dst": "10.244.0.0/16", "gw": "10.244.1.1"}],
        },
    }
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}


def test_short_form_without_portmap_and_mtu() -> None:
    [plugin] = short(portmap=False, mtu=0)
    assert "mtu" not in plugin


def test_short_form_of_both_families_has_a_gateway_for_each() -> None:
    [plugin, _portmap] = short(subnets=["10.244.1.0/24", "fd00:1::/64"], routes=["10.244.0.0/16", "fd00::/48"])
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]]
    assert [route["gw"] for route in plugin["ipam"]["routes"]] == ["10.244.1.1", "fd00:1::1"]


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"subnets": []}, "bridge.subnets", "must hold the node's pod subnet"),
        ({"subnets": ["10.244.1.5/24"]}, "bridge.subnets[0]", "host bits set; the network is 10.244.1.0/24"),
        ({"subnets": ["10.244.1.0/31"]}, "bridge.subnets[0]", "too small"),
        ({"subnets": ["10.244.1.0/24", "10.245.0.0/24"]}, "bridge.subnets", "one network of each address family"),
        ({"routes": ["fd00::/48"]}, "bridge.routes", "address family that subnets does not have"),
        ({"routes": ["10.244.0.1/16"]}, "bridge.routes[0]", "host bits"),
        ({"mtu": 67}, "bridge.mtu", "68 to 65535"),
        ({"mtu": 65536}, "bridge.mtu", "0 to 65535"),
        ({"mtu": "1450"}, "bridge.mtu", "whole number"),
        ({"name": "a-name-too-long-for-linux"}, "bridge.name", "1 to 15 characters"),
        ({"hairpinMode": True}, "bridge.hairpinMode", "is unknown here"),
    ],
)
def test_short_form_refuses(changes: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        short(**changes)
    assert refused.value.path == path and words in refused.value.problem


@pytest.mark.parametrize(
    ("plugin", "path", "words"),
    [
        ({"typ": "bridge"}, "plugins[0].type", "is required"),
        ({"type": "../bridge"}, "plugins[0].type", "name of a program"),
        (bridge(hairpin=True), "plugins[0].hairpin", "is unknown here"),
        (bridge(isGateway="yes"), "plugins[0].isGateway", "true or false"),
        (bridge(hairpinMode=True, promiscMode=True), "plugins[0].promiscMode", "excludes hairpinMode"),
        (bridge(mtu=20), "plugins[0].mtu", "68 to 65535"),
        (bridge(vlan=4095), "plugins[0].vlan", "0 to 4094"),
        (bridge(vlan=5, vlanTrunk=[{"id": 6}]), "plugins[0].vlanTrunk", "excludes vlan"),
        (bridge(vlanTrunk=[{"minID": 9, "maxID": 3}]), "plugins[0].vlanTrunk[0].minID", "above maxID"),
        (bridge(vlanTrunk=[{}]), "plugins[0].vlanTrunk[0]", "must hold id"),
        (bridge(ipMasqBackend="pf"), "plugins[0].ipMasqBackend", "iptables, nftables"),
        (bridge(runtimeConfig={}), "plugins[0].runtimeConfig", "filled in by the runtime"),
        ({"type": "tuning", "cni.dev/valid-attachments": []}, "plugins[0].cni.dev/valid-attachments", "filled in"),
        (bridge(capabilities={"mac": 1}), "plugins[0].capabilities.mac", "true or false"),
        (host_local(ranges=[]), "plugins[0].ipam", "needs ranges"),
        (host_local(ranges=[RANGE]), "plugins[0].ipam.ranges[0]", "list of lists"),
        (host_local(ranges=[[{"subnet": "10.244.1.1/24"}]]), "plugins[0].ipam.ranges[0][0].subnet", "host bits"),
        (host_local(ranges=[[{**RANGE, "gateway": "10.9.9.9"}]]), "plugins[0].ipam.ranges[0][0].gateway", "outside"),
        (
            host_local(ranges=[[{**RANGE, "rangeStart": "10.244.1.9", "rangeEnd": "10.244.1.3"}]]),
            "plugins[0].ipam.ranges[0][0].rangeStart",
            "above rangeEnd",
        ),
        (host_local(ranges=[[{**RANGE, "gatewey": "10.244.1.1"}]]), "plugins[0].ipam.ranges[0][0].gatewey", "unknown"),
        (host_local(ranges=[[RANGE], [RANGE]]), "plugins[0].ipam.ranges[1][0].subnet", "overlaps 10.244.1.0/24 of"),
        (host_local(ranges=[[RANGE, {"subnet": "fd00::/64"}]]), "plugins[0].ipam.ranges[0]", "one address family"),
        (host_local(routes=[{"dst": "0.0.0.0/0", "gw": "fd00::1"}]), "plugins[0].ipam.routes[0].gw", "another address"),
        (host_local(routes=[{"dst": "default"}]), "plugins[0].ipam.routes[0].dst", "must be a network"),
        (host_local(dataDir="var/lib"), "plugins[0].ipam.dataDir", "must be absolute"),
        ({"type": "portmap", "snatt": True}, "plugins[0].snatt", "is unknown here"),
        ({"type": "portmap", "markMasqBit": 32}, "plugins[0].markMasqBit", "0 to 31"),
        ({"type": "portmap", "conditionsV4": "x"}, "plugins[0].conditionsV4", "must be a list"),
        (
            {"type": "portmap", "markMasqBit": 3, "externalSetMarkChain": "X"},
            "plugins[0].externalSetMarkChain",
            "excludes markMasqBit",
        ),
        ({"type": "loopback", "mtu": 1}, "plugins[0].mtu", "is unknown here"),
        ({"type": "macvlan", "ipam": {"type": "host-local"}}, "plugins[0].ipam", "needs ranges"),
    ],
)
def test_list_refuses_and_names_the_option(plugin: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        conflist(plugin)
    assert refused.value.path == path and words in refused.value.problem


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "-net"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"cni_version": "0.2.0"}, "cni_version"),
        ({"plugins": []}, "plugins"),
        ({"disable_check": "no"}, "disable_check"),
    ],
)
def test_list_refuses_what_holds_for_all_plugins(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as refused:
        conflist(bridge(), **changes)
    assert refused.value.path == path


def test_options_of_plugins_we_do_not_know_are_passed_on() -> None:
    plugin = {"type": "sbr", "anything": [1, {"two": 3}]}
    assert conflist(plugin).plugins == (plugin,)


def test_text_is_a_file_of_the_specification() -> None:
    data = json.loads(conflist(bridge(), cni_version="0.4.0", disable_check=True).text)
    assert data == {"cniVersion": "0.4.0", "name": "net", "disableCheck": True, "plugins": [bridge()]}


def test_written_list_reads_as_itself() -> None:
    written = conflist(*short(mtu=1400, routes=["10.244.0.0/16"]))
    assert load_conflist(written.text, "file") == written


def test_all_programs_are_known_address_management_included() -> None:
    assert conflist(*short()).programs == ["bridge", "portmap", "host-local"]
    assert loopback_list("1.0.0").programs == ["loopback"]


def test_foreign_list_is_read_leniently() -> None:
    foreign = load_conflist('{"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"x": 1}}]}', "f")
    assert foreign.name == "cbr0" and not foreign.knows_check


@pytest.mark.parametrize(
    "ipam",
    [
        "host-local",
        ["host-local"],
        {"ranges": [{"subnet": "10.1.0.0/24"}]},
        {"ranges": 7},
        {"ranges": [["10.1.0.0/24", None]]},
        {"ranges": [None, 7], "subnet": 7},
    ],
)
def test_foreign_address_management_of_another_shape_is_passed_over(ipam: Any) -> None:
    plugins = [{"type": "bridge", "ipam": ipam}, {"type": "x", "ipam": {"ranges": [[{"subnet": "10.2.0.0/24"}]]}}]
    foreign = load_conflist(json.dumps({"name": "cbr0", "plugins": plugins}), "f")
    assert list(map(str, foreign.subnets())) == ["10.2.0.0/24"]
    assert foreign.reservation_directories() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ('{"name": "x", "type": "bridge"}', "has no list 'plugins'"),
        ('{"name": "x", "plugins": []}', "must not be empty"),
        ('{"name": "x y", "plugins": [{"type": "bridge"}]}', "f.name"),
    ],
)
def test_broken_file_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=".") as refused:
        load_conflist(text, "f")
    assert words in str(refused.value) and str(refused.value).startswith("f")
