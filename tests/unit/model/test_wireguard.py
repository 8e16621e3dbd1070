# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Backend wireguard as declared: peers, leases, commands; and that nothing shows a secret key."""

from __future__ import annotations

import base64
import ipaddress
import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import DeviceAddress
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import Lease, parse_lease_spec
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import (
    backend_data,
    decode_config,
    decode_lease,
    encode_config,
    encode_lease,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import (
    parse_overlay,
    refuse_to_cover,
    wanted_items,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay_forms import commands
from ansible_collections.fairlead.cluster.plugins.module_utils._model.secret import Secret
from ansible_collections.fairlead.cluster.plugins.module_utils._model.underlay import Underlay
from ansible_collections.fairlead.cluster.plugins.module_utils._model.wireguard import (
    NO_KEY,
    WireguardDevice,
    WireguardPeer,
    clamped,
    fingerprint,
    preferred_version,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import DELETE
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay


def key(number: int) -> str:
    return base64.b64encode(bytes([number] * 32)).decode()


PSK, PRIVATE = key(7), Secret(bytes([8] * 32))


def member(number: int, dual: bool = False, **changes: Any) -> dict[str, Any]:
    half6 = {"address6": f"2001:db8::{number}", "subnet6": f"fd00:0:0:{number}::/64"} if dual else {}
    half = {"address": f"192.0.2.{number}", "subnet": f"10.244.{number}.0/24"}
    return {"name": f"n{number}", "public_key": key(number), **half, **half6, **changes}


def document(dual: bool = False, peers: list[dict[str, Any]] | None = None, **backend: Any) -> dict[str, Any]:
    networks = {"network": "10.244.0.0/16", **({"network6": "fd00::/48"} if dual else {})}
    others = [member(2, dual), member(3, dual)] if peers is None else peers
    return {**networks, "backend": {"type": "wireguard", **backend}, "node": member(1, dual), "peers": others}


def items(declared: dict[str, Any]) -> list[Item]:
    overlay = parse_overlay(declared)
    underlays = [Underlay("eth0", 1500) for _family in overlay.families]
    return list(wanted_items(overlay, underlays, 0, True, PRIVATE))


def lines(found: list[Item]) -> list[str]:
    return [str(item) for item in found]


def test_one_route_and_a_peer_for_each_node() -> None:
    assert lines(items(document(keepalive=25))) == [
        "address 10.244.1.0/32 dev flannel-wg",
        "link flannel-wg up",
        "route 10.244.0.0/16 dev flannel-wg scope 253",
        f"wireguard flannel-wg public key {key(1)} listen port 51820 mtu 1420",
        f"wireguard_peer {key(2)} dev flannel-wg endpoint 192.0.2.2:51820 allowed ips 10.244.2.0/24 keepalive 25",
        f"wireguard_peer {key(3)} dev flannel-wg endpoint 192.0.2.3:51820 allowed ips 10.244.3.0/24 keepalive 25",
    ]


@pytest.mark.parametrize(
    ("mode", "endpoint"), [("auto", "192.0.2.2:51820"), ("ipv4", "192.0.2.2:51820"), ("ipv6", "[2001:db8::2]:51820")]
)
def test_one_device_for_both_versions(mode: str, endpoint: str) -> None:
    found = items(document(True, mode=mode, peers=[member(2, True)]))
    assert [item.name for item in found if isinstance(item, WireguardDevice)] == ["flannel-wg"]
    peers = [item for item in found if isinstance(item, WireguardPeer)]
    assert [(peer.endpoint, peer.allowed_ips) for peer in peers] == [(endpoint, ("10.244.2.0/24", "fd00:0:0:2::/64"))]


def test_a_device_for_each_version_and_the_ports_that_peers_tell() -> None:
    found = items(document(True, peers=[member(2, True, listen_port=1, listen_port6=2)]))
    peers = [(item.device, item.endpoint) for item in found if isinstance(item, WireguardPeer)]
    assert peers == [("flannel-wg", "192.0.2.2:1"), ("flannel-wg-v6", "[2001:db8::2]:2")]
    ports = {item.name: item.listen_port for item in found if isinstance(item, WireguardDevice)}
    assert ports == {"flannel-wg": 51820, "flannel-wg-v6": 51821}


PUBLIC, LOCAL, PUBLIC6, LOCAL6 = "192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1"


@pytest.mark.parametrize(
    ("own", "peer", "version"),
    [
        ({4: LOCAL, 6: PUBLIC6}, {4: PUBLIC, 6: PUBLIC6}, 4),
        ({6: PUBLIC6}, {4: PUBLIC, 6: PUBLIC6}, 6),
        ({4: LOCAL, 6: PUBLIC6}, {4: LOCAL, 6: PUBLIC6}, 6),
        ({4: LOCAL, 6: LOCAL6}, {4: LOCAL, 6: PUBLIC6}, 4),
        ({4: LOCAL, 6: PUBLIC6}, {4: LOCAL, 6: LOCAL6}, 4),
    ],
)
def test_auto_chooses_as_flannel_does(own: dict[int, str], peer: dict[int, str], version: int) -> None:
    assert preferred_version(own, peer, "auto") == version


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psk": "secret"}, "backend.psk: must be a WireGuard key: 32 bytes in base64"),
        ({"psk": 5}, "backend.psk: must be a WireGuard key"),
        ({"mode": "both"}, "backend.mode: must be one of separate, auto, ipv4, ipv6, not 'both'"),
        ({"listen_port": 0}, "backend.listen_port: must be 1 to 65535, not 0"),
        ({"listen_port6": 51820}, "backend.listen_port6: must not be 51820, which is the port of the other device"),
        ({"keepalive": 65536}, "backend.keepalive: must be 0 to 65535"),
        ({"key_file": "key"}, "backend.key_file: must be absolute, not 'key'"),
        ({"vni": 1}, "backend.vni: is no option of backend wireguard"),
        ({"type": "vxlan", "psk": PSK}, "backend.psk: is no option of backend vxlan"),
    ],
)
def test_refusals_name_the_option_and_no_secret(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_overlay(document(True, **changes))
    assert str(refused.value).startswith(message)
    assert PSK not in str(refused.value) and "'secret'" not in str(refused.value)


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"public_key": None}, "peers[0].public_key: is required"),
        ({"public_key": key(0)}, "peers[0].public_key: is all zeros"),
        ({"public_key": "AAAA"}, "peers[0].public_key: must be a WireGuard key"),
        ({"public_key": key(1)}, f"peers[0].public_key: public key {key(1)} is also that of node.public_key"),
        ({"listen_port": 65536}, "peers[0].listen_port: must be 0 to 65535"),
    ],
)
def test_refusals_name_the_peer(peer: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_overlay(document(peers=[member(2, **peer)]))
    assert str(refused.value).startswith(message)


def test_no_text_shows_a_secret() -> None:
    found = items(document(psk=PSK))
    texts = [*lines(found), *(repr(item) for item in found), *(json.dumps(item.to_dict()) for item in found)]
    texts += [line for item in found for line in commands(item, "/etc/fairlead/wireguard.key")]
    private = base64.b64encode(PRIVATE.value).decode()
    assert not [text for text in texts if PSK in text or private in text or "\\x08\\x08" in text]
    assert any("preshared key sha256:" in text for text in texts)
    assert f"wg set flannel-wg peer {key(2)} allowed-ips 10.244.2.0/24 endpoint 192.0.2.2:51820 " in "\n".join(texts)
    assert "wg set flannel-wg listen-port 51820 private-key /etc/fairlead/wireguard.key" in texts
    assert "ip route replace 10.244.0.0/16 dev flannel-wg proto boot scope link" in texts


def test_peer_with_a_new_key_comes_before_the_old_one_goes() -> None:
    have = state_of(items(document()))
    want = state_of(items(document(peers=[member(2), member(3, public_key=key(9))])))
    operations = plan_overlay(have, Wanted(want))
    assert [(operation.action, operation.item.key[2]) for operation in operations] == [
        ("add", key(9)),
        (DELETE, key(3)),
    ]


def test_device_changes_in_place() -> None:
    have, want = state_of(items(document())), state_of(items(document(listen_port=1, mtu=1400)))
    kinds = [(operation.action, operation.item.kind) for operation in plan_overlay(have, Wanted(want))]
    assert ("replace", "wireguard") in kinds and "delete" not in {action for action, _kind in kinds}


def test_addresses_of_others_outside_of_the_networks_stay() -> None:
    networks, want = parse_overlay(document(dual=True)).networks, state_of(items(document(dual=True)))
    declared = {"flannel-wg": "203.0.113.9/32", "flannel-wg-v6": "2001:db8::9/128"}
    others = state_of(DeviceAddress(device, address) for device, address in declared.items())
    leftover = state_of([DeviceAddress("flannel-wg", "10.244.9.0/32")])
    plan = plan_overlay({**want, **others, **leftover}, Wanted(want, networks))
    assert [str(operation) for operation in plan] == ["- address 10.244.9.0/32 dev flannel-wg"]


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        ("10.244.200.5", "network: 10.244.0.0/16 holds 10.244.200.5, from where this connection comes"),
        ("fd00:0:0:99::5", "network6: fd00::/48 holds fd00:0:0:99::5, from where this connection comes"),
        ("10.244.2.5", "peers: n2: its subnet 10.244.2.0/24 holds 10.244.2.5"),
    ],
)
def test_route_over_the_controller_s_address_is_refused(controller: str, message: str) -> None:
    overlay = parse_overlay(document(dual=True))
    with pytest.raises(SpecError) as refused:
        refuse_to_cover(overlay, ipaddress.ip_address(controller))
    assert str(refused.value).startswith(message)
    for harmless in ("192.0.2.100", "10.244.1.5"):
        refuse_to_cover(overlay, ipaddress.ip_address(harmless))


def test_private_keys_are_clamped() -> None:
    made = clamped(bytes([255] * 32))
    assert (made[0] & 7, made[31] >> 6) == (0, 1)


def lease_document(dual: bool = True, **backend: Any) -> dict[str, Any]:
    networks = {"network": "10.244.0.0/16", **({"network6": "fd00::/48"} if dual else {})}
    node = {"name": "n1", "address": "192.0.2.1", "address6": "2001:db8::1", "public_key": key(1)}
    return {
        "config": {**networks, "backend": {"type": "wireguard", **backend}},
        "cluster_name": "lab",
        "nodes": [node],
        "node": "n1",
    }


def test_configuration_has_flannels_names_and_shows_no_key() -> None:
    config = parse_lease_spec(lease_document(psk=PSK, keepalive=25, mode="auto")).config
    assert json.loads(encode_config(config))["Backend"] == {
        "Type": "wireguard",
        "PSK": PSK,
        "ListenPort": 51820,
        "ListenPortV6": 51821,
        "PersistentKeepaliveInterval": 25,
        "Mode": "auto",
    }
    assert PSK not in str(config) and PSK not in json.dumps(config.to_dict()) and "sha256:" in str(config)


def test_a_preshared_key_has_one_fingerprint_wherever_it_is_shown() -> None:
    of_peer = {str(item.preshared_key) for item in items(document(psk=PSK)) if isinstance(item, WireguardPeer)}
    config = parse_lease_spec(lease_document(psk=PSK)).config
    assert of_peer == {json.loads(config.to_dict()["backend"])["PSK"]} == {fingerprint(PSK)}
    assert f'"PSK":"{fingerprint(PSK)}"' in str(config)
    assert fingerprint(PSK) != fingerprint(key(8)) and fingerprint("") == ""


def test_what_is_no_key_has_no_fingerprint() -> None:
    """A password could be found by it."""
    assert fingerprint("hunter2") == fingerprint("hunter3") == NO_KEY == fingerprint(5)
    config = decode_config('{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard","PSK":"hunter2"}}', "config")
    assert json.loads(config.to_dict()["backend"])["PSK"] == NO_KEY


@pytest.mark.parametrize(
    "backend", [{"listen_port6": 51820}, {"listen_port": 51821}, {"mode": "separate", "listen_port6": 51820}]
)
def test_leases_of_two_devices_with_one_port_are_refused(backend: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="^config.backend.listen_port6: must not be 5182[01], which is the port of the"):
        parse_lease_spec(lease_document(**backend))


@pytest.mark.parametrize(("dual", "mode"), [(False, "separate"), (True, "auto"), (True, "ipv6")])
def test_one_device_may_have_any_port(dual: bool, mode: str) -> None:
    assert parse_lease_spec(lease_document(dual, mode=mode, listen_port6=51820)).config.backend_type == "wireguard"


@pytest.mark.parametrize(("mode", "port6"), [("separate", 51821), ("auto", 51820)])
def test_lease_is_what_flannel_writes(mode: str, port6: int) -> None:
    spec = parse_lease_spec(lease_document(mode=mode))
    data, data6 = (backend_data(spec.config, half) for half in spec.own.halves)
    lease = Lease("10.244.1.0/24", "192.0.2.1", "wireguard", data, "leased", "fd00:0:0:1::/64", "2001:db8::1", data6)
    value = encode_lease(lease)
    assert value == (
        '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{key(1)}","Port":51820}},'
        f'"BackendV6Data":{{"PublicKey":"{key(1)}","Port":{port6}}}}}'
    )
    read = decode_lease("10.244.1.0-24&fd00:0:0:1::-64", value, "leased")
    assert read == lease
    assert [(half.public_key, half.listen_port) for half in lease.halves] == [(key(1), 51820), (key(1), port6)]
