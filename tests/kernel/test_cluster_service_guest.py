# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services of a cluster: where this kernel has no IPVS, their tests run in two guests with different packet filters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kernel import guest
from tests.kernel.conftest import RunModule
from tests.kernel.guest import Kernel
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespaces

#: Kernel modules of the guests.
_NETWORK = ("veth", "bridge", "dummy", "sctp", "ip_vs", "ip_vs_rr")
_SETS = ("ip_set", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet")
_MATCHES = (
    "xt_set",
    "xt_mark",
    "xt_conntrack",
    "xt_comment",
    "xt_tcpudp",
    "xt_MASQUERADE",
    "ipt_REJECT",
    "ip6t_REJECT",
)
_LEGACY = ("iptable_nat", "ip6table_nat", "iptable_filter", "ip6table_filter")
_NFT = ("nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_reject_ipv4", "nft_reject_ipv6", "nft_compat")
# Asked for by the name of an algorithm, not of a module.
_CHECKSUMS = "crc32c_generic"
FILES = ("packets", "states", "safety", "many")
#: Of each guest, tests that run there and how many they are at least. An emulated processor takes its time, so it has
#: only those in which nftables makes a difference.
_OF_DEBIAN = (
    "(nftables and (every_kind or nothing_but or marks or our_mark or announced or drift or boot or process or many))"
    " or (iptables-nft and (every_kind or our_mark)) or change_of_backend"
)
GUESTS: dict[str, tuple[type[Kernel], tuple[str, ...], str, int]] = {
    "User-mode Linux": (UserModeLinux, ("ipv6", *_NETWORK, *_SETS, *_MATCHES, *_LEGACY), "iptables-legacy", 18),
    "Debian": (DebianKernel, (_CHECKSUMS, *_NETWORK, *_SETS, *_MATCHES, *_NFT), _OF_DEBIAN, 10),
}
#: More than enough on a busy machine, where namespaces and commands take a guest seconds.
SECONDS = 3600
HAS_IPVS = Path("/proc/net/ip_vs").exists()


@pytest.mark.guest
@pytest.mark.skipif(HAS_IPVS, reason="the tests run in this kernel, which has IPVS")
@pytest.mark.parametrize("name", GUESTS)
def test_in_a_kernel_with_ipvs(name: str, tmp_path: Path) -> None:
    kernel, modules, chosen, count = GUESTS[name]
    files = [f"tests/kernel/test_cluster_service_{each}.py" for each in FILES]
    output = guest.run_tests(kernel(), [*files, "-k", chosen], modules, tmp_path, SECONDS)
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None and int(passed[1]) >= count, output


@pytest.mark.skipif(HAS_IPVS, reason="this kernel has IPVS")
def test_without_ipvs_what_else_was_left_goes(netns: Namespaces, run_module: RunModule, tmp_path: Path) -> None:
    """As where the kernel module was taken away by hand."""
    node = netns("node")
    node.run("nft -f -", data="table ip fairlead-services { chain output { type nat hook output priority 0; }; }")
    told = tmp_path / "run" / "health_checks.json"
    told.parent.mkdir(exist_ok=True)
    told.write_text('{"checks": []}')
    announced = run_module("cluster_service", {"state": "absent"}, netns=node, check=True)
    assert "fairlead-services" in node.out("nft list tables") and told.exists()
    removed = run_module("cluster_service", {"state": "absent"}, netns=node)
    assert removed["changed"] and removed["operations"] == announced["operations"]
    assert "fairlead-services" not in node.out("nft list tables") and not told.exists()
    assert not run_module("cluster_service", {"state": "absent"}, netns=node)["changed"]
