# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The flannel VXLAN datapath of this node: converged from a document with the parameters of module overlay_network."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, Optional

from .._engine import Adapter, Combined, Outcome
from .._engine import converge as engine_converge
from .._model.datapath import DeviceAddress, ForwardingEntry, Neighbor, Route, VxlanDevice
from .._model.errors import FairleadError, SpecError
from .._model.item import State, state_of
from .._model.overlay import (
    ENCAPSULATION,
    Overlay,
    Underlay,
    parse_backend,
    parse_overlay,
    parse_subnet_env,
    wanted_items,
)
from .._model.parse import Section
from .._netlink import nexthops
from .._netlink.links import accept_ra_writable
from .._netlink.overlay import KINDS, OverlayAdapter
from .._netlink.rtnetlink import Rtnetlink
from .._netlink.underlay import find_underlay, require_free
from .._plan.operation import outcome_of
from .._plan.overlay import Wanted, plan_overlay
from .._system.files import FileAdapter
from .._system.runner import Runner
from . import store

KIND = "overlay_network"
OVERRIDDEN, DELETED = "overridden", "deleted"
# IEEE 802.3's largest payload, bytes.
ETHERNET_MTU = 1500


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the datapath to the document; its ``state`` is "overridden" when it has none.

    What an earlier document made under another VNI is known from the saved one, and goes. State "deleted" takes away
    what the saved document names and nothing else; ``not_ours`` tells when that is not what was asked for.
    """
    content = {key: value for key, value in document.items() if key != "state"}
    if document.get("state", OVERRIDDEN) == DELETED:
        return _remove(check)
    overlay = parse_overlay(content)
    earlier = _earlier_document()
    devices = _devices(overlay.backend.device, earlier)
    with_accept_ra = accept_ra_writable()
    with Rtnetlink() as netlink:
        require_free(netlink, overlay.backend, devices)
        underlay = find_underlay(netlink, overlay)
        with_nexthops = _with_nexthops(netlink, overlay)
    want = state_of(wanted_items(overlay, underlay, 0 if with_accept_ra else None, with_nexthops))
    wanted = Wanted(want, overlay.network)
    keys = [key for key in want if key[0] in ("route", "nexthop")]
    adapter = _adapter(OverlayAdapter(devices, keys, with_accept_ra), _env_paths(overlay, earlier))
    return engine_converge(adapter, lambda have: plan_overlay(have, wanted), check)


def predict(document: Mapping[str, Any], runner: Runner) -> Outcome:
    """What ``converge`` would do on a node that has nothing of the overlay, told without pyroute2.

    For check mode before the runtime is there, which also means that no earlier run left anything.
    """
    overlay = parse_overlay(document)
    underlay = _guess_underlay(overlay, runner)
    with Rtnetlink() as netlink:
        with_nexthops = _with_nexthops(netlink, overlay)
    want = state_of(wanted_items(overlay, underlay, 0 if accept_ra_writable() else None, with_nexthops))
    operations = plan_overlay({}, Wanted(want, overlay.network))
    return Outcome({}, outcome_of({}, operations), operations)


def _with_nexthops(netlink: Rtnetlink, overlay: Overlay) -> bool:
    supported = nexthops.supported(netlink)
    if overlay.nexthop_objects and not supported:
        raise SpecError("nexthop_objects", "this node's kernel has none; Linux 5.3 is the first one with them")
    return supported if overlay.nexthop_objects is None else overlay.nexthop_objects


def _guess_underlay(overlay: Overlay, runner: Runner) -> Underlay:
    """The interface with the node's address as `ip` tells it, an Ethernet's MTU where nobody tells."""
    status, output, _error = runner(["ip", "-json", "-4", "address", "show"])
    for link in json.loads(output) if status == 0 else []:
        held = [entry.get("local") for entry in link.get("addr_info", [])]
        if link.get("ifname") == overlay.interface or (not overlay.interface and overlay.node.address in held):
            return Underlay(link["ifname"], link["mtu"])
    return Underlay(overlay.interface or "", ETHERNET_MTU)


def gather(document: Mapping[str, Any]) -> State:
    """What is there now on the document's device; nothing is changed."""
    section = Section(document)
    device = parse_backend(section.section("backend", {})).device
    return OverlayAdapter([device], [], accept_ra_writable()).read()


def described(state: State) -> Dict[str, Any]:
    """A datapath in the form of the module's parameters. Names, which the kernel does not know, are left out."""
    devices = [item for item in state.values() if isinstance(item, VxlanDevice)]
    own = [item.address for item in state.values() if isinstance(item, DeviceAddress)]
    if not devices:
        return {}
    device = devices[0]
    backend = {"type": "vxlan", "vni": device.vni, "port": device.port, "mtu": device.mtu + ENCAPSULATION}
    node = {"address": device.local, "mac": device.mac, "device_addresses": own}
    return {"interface": device.link, "backend": backend, "node": node, "peers": _described_peers(state)}


def _described_peers(state: State) -> List[Dict[str, Any]]:
    macs = {item.address: item.mac for item in state.values() if isinstance(item, Neighbor)}
    addresses = {item.mac: item.destination for item in state.values() if isinstance(item, ForwardingEntry)}
    routes = [(item.destination, macs.get(item.gateway)) for item in state.values() if isinstance(item, Route)]
    return [{"subnet": subnet, "mac": mac, "address": addresses.get(mac or "")} for subnet, mac in routes]


def device_mtu(outcome: Outcome) -> Optional[int]:
    """MTU of the device after the run, which is that of pods; None when there is no device."""
    return next((item.mtu for item in outcome.after.values() if isinstance(item, VxlanDevice)), None)


def not_ours(document: Mapping[str, Any]) -> Optional[str]:
    """What to tell a user who asks for the removal of a device that no saved document accounts for."""
    section = Section(document)
    device, earlier = parse_backend(section.section("backend", {})).device, _earlier_document()
    parse_subnet_env(section)
    if earlier is not None and earlier.backend.device == device:
        return None
    return (
        f"nothing saved on this node tells of {device}: a device of that name, and a subnet.env, if there, were not "
        "made from here and are left alone. Remove them by hand when nothing else needs them"
    )


def _remove(check: bool) -> Outcome:
    """Only what the saved document names is ours: a device that is called the same may be a running flanneld's."""
    earlier = _earlier_document()
    if earlier is None:
        return Outcome({}, {}, [])
    datapath = OverlayAdapter([earlier.backend.device], [], accept_ra_writable())
    paths = [earlier.subnet_env.path] if earlier.subnet_env is not None else []
    return engine_converge(_adapter(datapath, paths), lambda have: plan_overlay(have, Wanted({})), check)


def _adapter(datapath: OverlayAdapter, paths: Iterable[str]) -> Combined:
    adapters: Dict[str, Adapter] = dict.fromkeys(KINDS, datapath)
    return Combined({**adapters, "file": FileAdapter(paths)})


def _earlier_document() -> Optional[Overlay]:
    """What this node was last brought to; None when it was nothing, or nothing that is understood."""
    try:
        document = store.load(KIND)
        return parse_overlay(document) if document is not None else None
    except FairleadError:
        return None


def _devices(device: str, earlier: Optional[Overlay]) -> List[str]:
    """The device that is wanted, and the one that the earlier document made."""
    return [device, *([earlier.backend.device] if earlier is not None else [])]


def _env_paths(overlay: Overlay, earlier: Optional[Overlay]) -> List[str]:
    envs = [overlay.subnet_env, earlier.subnet_env if earlier is not None else None]
    return [env.path for env in envs if env is not None]
