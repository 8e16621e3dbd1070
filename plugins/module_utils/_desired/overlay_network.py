# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The flannel datapath of this node: converged from a document with the parameters of module overlay_network."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from .._engine import Adapter, Combined, Outcome
from .._engine import converge as engine_converge
from .._model.backend import HOST_GW, IPIP, OVERHEADS, Backend, parse_backend
from .._model.datapath import (
    DeviceAddress,
    ForwardingEntry,
    IpipDevice,
    Neighbor,
    Route,
    VxlanDevice,
)
from .._model.errors import FairleadError, SpecError
from .._model.item import Key, State, state_of
from .._model.overlay import Overlay, device_mtu, direct_keys, parse_overlay, parse_subnet_env, wanted_items
from .._model.parse import Section
from .._model.underlay import Underlay
from .._netlink import nexthops
from .._netlink.links import accept_ra_writable
from .._netlink.overlay import KINDS, OverlayAdapter
from .._netlink.rtnetlink import Rtnetlink
from .._netlink.underlay import find_interface, find_underlay, require_free, require_free_address, require_ipip
from .._plan.operation import outcome_of
from .._plan.overlay import Wanted, plan_overlay
from .._system.files import FileAdapter
from .._system.runner import Runner
from . import store

KIND = "overlay_network"
OVERRIDDEN, DELETED = "overridden", "deleted"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the datapath to the document; its ``state`` is "overridden" when it has none.

    What an earlier document made with another backend is known from the saved one, and goes. State "deleted" takes away
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
        underlay = find_underlay(netlink, overlay, devices)
        if overlay.backend.type == IPIP:
            require_free_address(netlink, underlay, devices)
        with_nexthops = _with_nexthops(netlink, overlay)
    wanted = _wanted(overlay, underlay, earlier, 0 if with_accept_ra else None, with_nexthops)
    keys = [key for key in wanted.items if key[0] in ("route", "nexthop")]
    adapter = _adapter(OverlayAdapter(devices, [*keys, *wanted.earlier], with_accept_ra), _env_paths(overlay, earlier))
    return engine_converge(adapter, lambda have: plan_overlay(have, wanted), check)


def predict(document: Mapping[str, Any]) -> Outcome:
    """What ``converge`` would do on a node that has nothing of the overlay, told without pyroute2.

    For check mode before the runtime is there, which also means that no earlier run left anything.
    """
    overlay = parse_overlay(document)
    with Rtnetlink() as netlink:
        if overlay.backend.type == IPIP:
            require_ipip(netlink)
        underlay = find_underlay(netlink, overlay)
        with_nexthops = _with_nexthops(netlink, overlay)
    wanted = _wanted(overlay, underlay, None, 0 if accept_ra_writable() else None, with_nexthops)
    operations = plan_overlay({}, wanted)
    return Outcome({}, outcome_of({}, operations), operations)


def _wanted(
    overlay: Overlay, underlay: Underlay, earlier: Optional[Overlay], accept_ra: Optional[int], with_nexthops: bool
) -> Wanted:
    items = state_of(wanted_items(overlay, underlay, accept_ra, with_nexthops))
    gateways = frozenset(peer.address for peer in overlay.peers)
    return Wanted(items, overlay.network, _direct(earlier), gateways)


def _direct(earlier: Optional[Overlay]) -> Dict[Key, str]:
    return direct_keys(earlier) if earlier is not None else {}


def _with_nexthops(netlink: Rtnetlink, overlay: Overlay) -> bool:
    supported = nexthops.supported(netlink)
    if overlay.nexthop_objects and not supported:
        raise SpecError("nexthop_objects", "this node's kernel has none; Linux 5.3 is the first one with them")
    return supported if overlay.nexthop_objects is None else overlay.nexthop_objects


def gather(document: Mapping[str, Any]) -> State:
    """What is there now of the document's backend, or of the saved one's when it names none; nothing is changed."""
    backend, earlier = _declared_backend(document), _earlier_document()
    if earlier is not None and backend == Backend():
        backend = earlier.backend
    keys = _direct(earlier) if earlier is not None and earlier.backend.type == backend.type else {}
    found = OverlayAdapter([backend.device], keys, accept_ra_writable()).read()
    return {key: item for key, item in found.items() if key not in keys or _is_as_made(item, keys[key], backend)}


def _is_as_made(item: Any, gateway: str, backend: Backend) -> bool:
    return bool(item.device == backend.device or item.gateway == gateway)


def _declared_backend(document: Mapping[str, Any]) -> Backend:
    return parse_backend(Section(document).section("backend", {}))


def described(state: State) -> Dict[str, Any]:
    """A datapath in the form of the module's parameters. Names, which the kernel does not know, are left out."""
    device = next((item for item in state.values() if isinstance(item, (VxlanDevice, IpipDevice))), None)
    routes = [item for item in state.values() if isinstance(item, Route)]
    if device is None:
        if not routes:
            return {}
        return {"interface": routes[0].device, "backend": {"type": HOST_GW}, "peers": _described_peers(state, "")}
    own = [item.address for item in state.values() if isinstance(item, DeviceAddress)]
    node, peers = {"address": device.local, "device_addresses": own}, _described_peers(state, device.name)
    backend: Dict[str, Any] = {"type": device.kind, "mtu": device.mtu + OVERHEADS[device.kind]}
    if any(route.device != device.name for route in routes):
        backend["direct_routing"] = True
    if isinstance(device, IpipDevice):
        return {"backend": backend, "node": node, "peers": peers}
    backend.update(vni=device.vni, port=device.port)
    backend.update({name: True for name in ("gbp", "learning") if getattr(device, name)})
    return {"interface": device.link, "backend": backend, "node": {**node, "mac": device.mac}, "peers": peers}


def _described_peers(state: State, device: str) -> List[Dict[str, Any]]:
    macs = {item.address: item.mac for item in state.values() if isinstance(item, Neighbor)}
    addresses = {item.mac: item.destination for item in state.values() if isinstance(item, ForwardingEntry)}
    peers: List[Dict[str, Any]] = []
    for item in state.values():
        if isinstance(item, Route):
            mac = macs.get(item.gateway) if item.device == device else None
            overlaid = item.device == device and (VxlanDevice.kind, device) in state
            address = addresses.get(mac or "") if overlaid else item.gateway
            peers.append({"subnet": item.destination, "mac": mac, "address": address})
    return peers


def about(document: Mapping[str, Any], outcome: Outcome) -> Tuple[Optional[str], Optional[int]]:
    """The name of the device and the largest packet that pods can send, after the run; None where there is none.

    Backend host-gw has no device: pods send what the underlay's interface carries.
    """
    backend = _declared_backend(document)
    device = next((item for item in outcome.after.values() if isinstance(item, (VxlanDevice, IpipDevice))), None)
    if device is not None:
        return device.name, device.mtu
    if backend.type != HOST_GW or document.get("node") is None:
        has_routes = any(isinstance(item, Route) for item in outcome.after.values())
        return None if has_routes else backend.device or None, None
    overlay = parse_overlay(document)
    with Rtnetlink() as netlink:
        interface, _address = find_interface(netlink, overlay)
    return None, device_mtu(backend, Underlay(interface.name, interface.mtu))


def not_ours(document: Mapping[str, Any]) -> Optional[str]:
    """What to tell a user who asks for the removal of a device that no saved document accounts for."""
    section = Section(document)
    device, earlier = _declared_backend(document).device, _earlier_document()
    parse_subnet_env(section)
    if earlier is not None and earlier.backend.device == device:
        return None
    return (
        f"nothing saved on this node tells of {device or 'routes of backend host-gw'}: a device of that name, and a "
        "subnet.env, if there, were not made from here and are left alone. Remove them by hand when nothing else needs "
        "them"
    )


def _remove(check: bool) -> Outcome:
    """Only what the saved document names is ours: a device that is called the same may be a running flanneld's."""
    earlier = _earlier_document()
    if earlier is None:
        return Outcome({}, {}, [])
    wanted = Wanted({}, earlier=_direct(earlier))
    datapath = OverlayAdapter([earlier.backend.device], wanted.earlier, accept_ra_writable())
    paths = [earlier.subnet_env.path] if earlier.subnet_env is not None else []
    return engine_converge(_adapter(datapath, paths), lambda have: plan_overlay(have, wanted), check)


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
