# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Every kind of virtual service and real server, as ipvsadm sees what the module made."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import ipvs_service
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_service import parse_services
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from tests.kernel.ipvs_nodes import (
    DELETED,
    SCHEDULERS,
    Args,
    addresses,
    apply_to,
    dummies,
    lone_node,
    operations,
    server,
    service,
    snapshot,
    table,
    web,
)
from tests.kernel.namespaces import Namespaces
from tests.kernel.test_overlay_undo import inside

pytestmark = pytest.mark.usefixtures("ipvs")

#: Lines of ipvsadm-save by what is declared for them.
KINDS: list[tuple[Args, list[str]]] = [
    (
        service("10.96.0.1", 80, server("10.244.1.1", 8080, weight=0), server("10.244.1.2", 8080, weight=65535)),
        [
            "-A -t 10.96.0.1:80 -s rr",
            "-a -t 10.96.0.1:80 -r 10.244.1.1:8080 -m -w 0",
            "-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 65535",
        ],
    ),
    (
        service("10.96.0.2", 53, server("10.244.1.1"), protocol="udp", scheduler="wlc"),
        ["-A -u 10.96.0.2:53 -s wlc", "-a -u 10.96.0.2:53 -r 10.244.1.1:53 -m -w 1"],
    ),
    (
        service("10.96.0.3", 99, server("10.244.1.1", 98), protocol="sctp"),
        ["-A --sctp-service 10.96.0.3:99 -s rr", "-a --sctp-service 10.96.0.3:99 -r 10.244.1.1:98 -m -w 1"],
    ),
    (
        service("fd00:96:0:0::1", 80, server("fd00:244::1", 8080), server("fd00:244:0::2", 8080)),
        [
            "-A -t [fd00:96::1]:80 -s rr",
            "-a -t [fd00:96::1]:80 -r [fd00:244::1]:8080 -m -w 1",
            "-a -t [fd00:96::1]:80 -r [fd00:244::2]:8080 -m -w 1",
        ],
    ),
    (
        service("fd00:96::1", 53, server("fd00:244::1"), protocol="udp", flags=["one-packet"]),
        ["-A -u [fd00:96::1]:53 -s rr -o", "-a -u [fd00:96::1]:53 -r [fd00:244::1]:53 -m -w 1"],
    ),
    (
        service("fd00:96::1", 99, server("fd00:244::1"), protocol="sctp"),
        ["-A --sctp-service [fd00:96::1]:99 -s rr", "-a --sctp-service [fd00:96::1]:99 -r [fd00:244::1]:99 -m -w 1"],
    ),
    (
        service(
            "10.96.0.4",
            80,
            server("10.244.1.1", forwarding="direct"),
            server("10.244.1.2", forwarding="tunnel"),
            server("10.244.1.3", forwarding="tunnel", tunnel={"type": "gue", "port": 6080}),
            server("10.244.1.4", forwarding="tunnel", tunnel={"type": "gue", "port": 6081, "checksum": "checksum"}),
            server("10.244.1.5", forwarding="tunnel", tunnel={"type": "gue", "port": 6082, "checksum": "remote"}),
            server("10.244.1.6", forwarding="tunnel", tunnel={"type": "gre"}),
            server("10.244.1.7", forwarding="tunnel", tunnel={"type": "gre", "checksum": "checksum"}),
            server("fd00:244::1", forwarding="tunnel"),
        ),
        [
            "-A -t 10.96.0.4:80 -s rr",
            "-a -t 10.96.0.4:80 -r 10.244.1.1:80 -g -w 1",
            "-a -t 10.96.0.4:80 -r 10.244.1.2:80 -i -w 1 --tun-type ipip",
            "-a -t 10.96.0.4:80 -r 10.244.1.3:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
            "-a -t 10.96.0.4:80 -r 10.244.1.4:80 -i -w 1 --tun-type gue --tun-port 6081 --tun-csum",
            "-a -t 10.96.0.4:80 -r 10.244.1.5:80 -i -w 1 --tun-type gue --tun-port 6082 --tun-remcsum",
            "-a -t 10.96.0.4:80 -r 10.244.1.6:80 -i -w 1 --tun-type gre --tun-nocsum",
            "-a -t 10.96.0.4:80 -r 10.244.1.7:80 -i -w 1 --tun-type gre --tun-csum",
            "-a -t 10.96.0.4:80 -r [fd00:244::1]:80 -i -w 1 --tun-type ipip",
        ],
    ),
    (
        service("10.96.0.5", 0, server("10.244.1.1"), persistence=300, persistence_netmask=20),
        ["-A -t 10.96.0.5:0 -s rr -p 300 -M 255.255.240.0", "-a -t 10.96.0.5:0 -r 10.244.1.1:0 -m -w 1"],
    ),
    (
        service("fd00:96::5", 443, server("fd00:244::1"), persistence=10800, persistence_netmask=56),
        ["-A -t [fd00:96::5]:443 -s rr -p 10800 -M 56", "-a -t [fd00:96::5]:443 -r [fd00:244::1]:443 -m -w 1"],
    ),
    (service("fd00:96::6", 443, persistence=60), ["-A -t [fd00:96::6]:443 -s rr -p 60"]),
    (
        service("10.96.0.6", 5060, protocol="udp", persistence=60, persistence_engine="sip", flags=["one-packet"]),
        ["-A -u 10.96.0.6:5060 -s rr -p 60 --pe sip -o"],
    ),
    (
        service("10.96.0.7", 80, scheduler="sh", flags=["port", "fallback"]),
        ["-A -t 10.96.0.7:80 -s sh -b sh-fallback,sh-port"],
    ),
    (service("fd00:96::7", 80, scheduler="mh", flags=["port"]), ["-A -t [fd00:96::7]:80 -s mh -b mh-port"]),
    (
        {"mark": 7, "servers": [server("10.244.1.1"), server("10.244.1.2", 80)]},
        ["-A -f 7 -s rr", "-a -f 7 -r 10.244.1.1:0 -m -w 1", "-a -f 7 -r 10.244.1.2:80 -m -w 1"],
    ),
    (
        {
            "mark": 7,
            "family": "ipv6",
            "scheduler": "mh",
            "flags": ["fallback"],
            "servers": [server("fd00:244::1", forwarding="direct")],
        },
        ["-A -f 7 -6 -s mh -b mh-fallback", "-a -f 7 -6 -r [fd00:244::1]:0 -g -w 1"],
    ),
    (
        {"mark": 2**31 - 1, "flags": ["one-packet"], "persistence": 31 * 86400, "persistence_netmask": 1},
        ["-A -f 2147483647 -s rr -p 2678400 -M 128.0.0.0 -o"],
    ),
    *(
        (
            service(f"10.97.0.{number}", 80, "10.244.1.1", scheduler=name),
            [
                f"-A -t 10.97.0.{number}:80 -s {name}",
                f"-a -t 10.97.0.{number}:80 -r 10.244.1.1:8080 -m -w 1",
            ],
        )
        for number, name in enumerate(SCHEDULERS)
    ),
    *(
        (service(f"fd00:97::{number + 1:x}", 80, scheduler=name), [f"-A -t [fd00:97::{number + 1:x}]:80 -s {name}"])
        for number, name in enumerate(SCHEDULERS)
    ),
]
ALL: Args = {"services": [declared for declared, _lines in KINDS]}
LINES = sorted(line for _declared, lines in KINDS for line in lines)


def test_every_kind_is_as_ipvsadm_would_make_it(netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    bare = snapshot(node)
    made = apply_to(tmp_path, node, ALL)
    assert made.changed and table(node) == LINES
    wanted = {each["address"] for each in ALL["services"] if "address" in each}
    assert len(addresses(node)) == len({address.replace(":0:0::", "::") for address in wanted})
    assert "10.96.0.1/32" in addresses(node) and "fd00:96::1/128" in addresses(node)
    assert not apply_to(tmp_path, node, ALL).changed
    apply_to(tmp_path, node, DELETED)
    assert snapshot(node) == bare


def test_every_kind_is_changed_in_place(netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    places = ("address", "port", "protocol", "mark", "family")
    plain = [{key: each[key] for key in places if key in each} for each in ALL["services"]]
    apply_to(tmp_path, node, {"services": [{**each, "scheduler": "wrr", "persistence": 77} for each in plain]})
    bare = table(node)
    assert len(bare) == len(KINDS) and all(" -s wrr -p 77" in line for line in bare)
    changed = apply_to(tmp_path, node, ALL)
    assert table(node) == LINES
    assert [line for line in operations(changed) if line[0] == "-"] == []
    again = apply_to(tmp_path, node, {"services": [{**each, "scheduler": "wrr", "persistence": 77} for each in plain]})
    assert table(node) == bare
    assert [line for line in operations(again) if line.startswith(("- virtual", "+ virtual"))] == []


def test_rendered_lines_make_the_same_table_elsewhere(netns: Namespaces, tmp_path: Path) -> None:
    """Thresholds too, which ipvsadm-save leaves out."""
    servers = server("10.244.1.1", connections_max=9, connections_min=4), server("10.244.1.2", connections_max=7)
    limited = service("10.96.0.80", 80, *servers)
    document = {"services": [*ALL["services"], limited]}
    node, other = lone_node(netns), lone_node(netns)
    apply_to(tmp_path, node, {**document, "device": ""})
    declared = parse_services(document)
    lines = ipvsadm_lines(declared.services, declared.servers)
    other.run("ipvsadm -R", data="".join(f"{line}\n" for line in lines))
    assert snapshot(other) == snapshot(node)
    assert sorted(line.replace(" -x 9 -y 4", "").replace(" -x 7", "") for line in lines) == table(node)


def test_gathered_is_what_is_declared(netns: Namespaces, tmp_path: Path) -> None:
    node, other = lone_node(netns), lone_node(netns)
    apply_to(tmp_path, node, ALL)
    with inside(node):
        found = ipvs_service.gather()
    apply_to(tmp_path, other, found)
    assert table(other) == LINES


def limits(*servers: Args) -> Args:
    return {"services": [service("10.96.0.80", 80, *servers)]}


def test_thresholds(netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    apply_to(tmp_path, node, limits(server("10.244.1.1", connections_max=2**31 - 1, connections_min=5)))
    shown = node.out("ipvsadm -Ln --thresholds").splitlines()[-1].split()
    assert shown[1:4] == ["10.244.1.1:80", "2147483647", "5"]
    changed = apply_to(tmp_path, node, limits(server("10.244.1.1", connections_max=9)))
    assert operations(changed) == [
        "~ real server 10.244.1.1:80 of tcp 10.96.0.80:80 masquerade weight 1 connections 0-9 "
        "(was real server 10.244.1.1:80 of tcp 10.96.0.80:80 masquerade weight 1 connections 5-2147483647)"
    ]
    assert node.out("ipvsadm -Ln --thresholds").splitlines()[-1].split()[1:4] == ["10.244.1.1:80", "9", "0"]
    apply_to(tmp_path, node, limits(server("10.244.1.1")))
    assert node.out("ipvsadm -Ln --thresholds").splitlines()[-1].split()[1:4] == ["10.244.1.1:80", "0", "0"]


def test_time_outs(netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    assert "900 120 300" in node.out("ipvsadm -Ln --timeout")
    first = apply_to(tmp_path, node, {"timeouts": {"tcp": 1800, "udp": 31 * 86400}})
    assert operations(first) == [
        "~ IPVS time-outs tcp 1800 tcp-fin 120 udp 2678400 (was IPVS time-outs tcp 900 tcp-fin 120 udp 300)"
    ]
    assert "1800 120 2678400" in node.out("ipvsadm -Ln --timeout")
    assert not apply_to(tmp_path, node, {"timeouts": {"tcp": 1800, "udp": 31 * 86400}}).changed
    apply_to(tmp_path, node, {"timeouts": {"udp": 31 * 86400}})
    assert "900 120 2678400" in node.out("ipvsadm -Ln --timeout")
    apply_to(tmp_path, node, DELETED)
    assert "900 120 300" in node.out("ipvsadm -Ln --timeout")


def test_scheduler_that_this_kernel_lacks_is_named_before_anything_is_done(netns: Namespaces, tmp_path: Path) -> None:
    node = lone_node(netns)
    before = snapshot(node)
    with pytest.raises(SpecError, match=r"^services\[1\]\.scheduler: kernel module ip_vs_twos, which is needed for"):
        apply_to(tmp_path, node, {"services": [web(1), service("10.96.0.81", 80, scheduler="twos")]})
    assert snapshot(node) == before and dummies(node) == ["eth0"]
