# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The flannel datapath of this node: converged from a document with the parameters of module overlay_network."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ContextManager, Dict, Iterable, List, Mapping, Optional, Sequence

from .._engine import Adapter, Combined, Outcome
from .._engine import converge as engine_converge
from .._model.backend import HOST_GW, IPIP, WIREGUARD, Backend, parse_backend
from .._model.datapath import IpipDevice, Route, VxlanDevice, device_version
from .._model.errors import FairleadError, SpecError
from .._model.ip_version import IPV4, IPV6, IpVersion
from .._model.item import Key, State, state_of
from .._model.overlay import (
    Family,
    Overlay,
    direct_keys,
    parse_overlay,
    parse_subnet_env,
    pods_mtu,
    refuse_to_cover,
    wanted_items,
)
from .._model.parse import Section
from .._model.secret import NO_SECRET, Secret
from .._model.underlay import Underlay
from .._model.wireguard import WIREGUARD_DEVICE6, WireguardDevice
from .._netlink import nexthops
from .._netlink.links import accept_ra_writable
from .._netlink.overlay import KINDS, OverlayAdapter
from .._netlink.rtnetlink import Rtnetlink
from .._netlink.underlay import find_interface, find_underlay, require_free, require_free_address, require_kind
from .._plan.operation import outcome_of
from .._plan.overlay import Wanted, plan_overlay
from .._system.controller import controller_address
from .._system.files import FileAdapter
from .._system.lock import exclusive
from .._system.runner import Runner
from . import store
from .wireguard import declared_endpoints, private_key

if TYPE_CHECKING:
    from .._netlink.wireguard_adapter import WireguardAdapter

KIND = "overlay_network"
OVERRIDDEN, DELETED = "overridden", "deleted"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the datapath to the document; its ``state`` is "overridden" when it has none.

    What an earlier document made with another backend is known from the saved one, and goes; so does what a run made
    that was killed. State "deleted" takes away what these documents name and nothing else; ``not_ours`` tells when that
    is not what was asked for.
    """
    content = {key: value for key, value in document.items() if key != "state"}
    with exclusive(KIND, check):
        return _remove(check) if document.get("state", OVERRIDDEN) == DELETED else _converge(content, check)


def _converge(content: Mapping[str, Any], check: bool) -> Outcome:
    overlay = parse_overlay(content)
    refuse_to_cover(overlay, controller_address())
    earlier = _earlier_overlays(content, overlay)
    devices = _devices([overlay, *earlier])
    with_accept_ra = accept_ra_writable()
    with Rtnetlink() as netlink:
        underlays = [_underlay(netlink, overlay.backend, family, devices) for family in overlay.families]
        with_nexthops = _with_nexthops(netlink, overlay)
    secret = private_key(overlay, check)
    wanted = _wanted(overlay, underlays, earlier, 0 if with_accept_ra else None, with_nexthops, secret)
    datapath = OverlayAdapter(devices, wanted.keys, with_accept_ra)
    adapter = _adapter(datapath, _env_paths([overlay, *earlier]), [overlay, *earlier])

    def around() -> ContextManager[None]:
        # At boot the next run knows it without a note: writing thousands of peers takes as long as reading them did.
        return contextlib.nullcontext() if overlay in earlier else store.noted(KIND, content)

    return engine_converge(adapter, lambda have: plan_overlay(have, wanted), check, around)


def _underlay(netlink: Rtnetlink, backend: Backend, family: Family, devices: List[str]) -> Underlay:
    require_free(netlink, backend, family, devices)
    underlay = find_underlay(netlink, backend, family, devices)
    if backend.type == IPIP:
        require_free_address(netlink, underlay, devices)
    return underlay


def predict(document: Mapping[str, Any]) -> Outcome:
    """What ``converge`` would do on a node that has nothing of the overlay, told without pyroute2.

    For check mode before the runtime is there, which also means that no earlier run left anything.
    """
    overlay = parse_overlay(document)
    with Rtnetlink() as netlink:
        require_kind(netlink, overlay.backend)
        underlays = [find_underlay(netlink, overlay.backend, family) for family in overlay.families]
        with_nexthops = _with_nexthops(netlink, overlay)
    wanted = _wanted(overlay, underlays, [], 0 if accept_ra_writable() else None, with_nexthops)
    operations = plan_overlay({}, wanted)
    return Outcome({}, outcome_of({}, operations), operations)


def _wanted(
    overlay: Overlay,
    underlays: Sequence[Underlay],
    earlier: Sequence[Overlay],
    accept_ra: Optional[int],
    with_nexthops: bool,
    secret: Secret = NO_SECRET,
) -> Wanted:
    items = state_of(wanted_items(overlay, underlays, accept_ra, with_nexthops, secret))
    gateways = frozenset(peer.address for family in overlay.families for peer in family.peers)
    return Wanted(items, overlay.networks, _direct(earlier), gateways)


def _direct(earlier: Iterable[Overlay]) -> Dict[Key, str]:
    keys: Dict[Key, str] = {}
    for overlay in earlier:
        keys.update(direct_keys(overlay))
    return keys


def _with_nexthops(netlink: Rtnetlink, overlay: Overlay) -> bool:
    supported = nexthops.supported(netlink)
    if overlay.nexthop_objects and not supported:
        raise SpecError("nexthop_objects", "this node's kernel has none; Linux 5.3 is the first one with them")
    return supported if overlay.nexthop_objects is None else overlay.nexthop_objects


def gather(document: Mapping[str, Any]) -> State:
    """What is there now of the document's backend, or of the saved one's when it names none; nothing is changed."""
    backend, earlier = _declared_backend(document), _earlier_overlays()
    if earlier and backend == Backend():
        backend = earlier[-1].backend
    keys = _direct(overlay for overlay in earlier if overlay.backend.type == backend.type)
    datapath = OverlayAdapter(backend.devices, keys, accept_ra_writable())
    found = (
        {**datapath.read(), **_wireguard(backend.devices, []).read()} if backend.type == WIREGUARD else datapath.read()
    )
    return {key: item for key, item in found.items() if key not in keys or _is_as_made(item, keys[key], backend)}


def _is_as_made(item: Any, gateway: str, backend: Backend) -> bool:
    return bool(item.device in backend.devices or item.gateway == gateway)


def _declared_backend(document: Mapping[str, Any]) -> Backend:
    return parse_backend(Section(document).section("backend", {}))


def about(document: Mapping[str, Any], outcome: Outcome) -> Dict[str, Any]:
    """The names of the devices, and the largest packet that pods can send, after the run; None where there is none.

    Backend host-gw has no device: pods send what the underlay's interface carries.
    """
    backend = _declared_backend(document)
    kinds = (VxlanDevice, IpipDevice, WireguardDevice)
    devices = [item for item in outcome.after.values() if isinstance(item, kinds)]
    if devices:
        names = {_version_of(device): device.name for device in devices}
        return _named(names.get(IPV4), names.get(IPV6), min(device.mtu for device in devices))
    if backend.type != HOST_GW or document.get("node") is None:
        has_routes = any(isinstance(item, Route) for item in outcome.after.values())
        return _named(None if has_routes else backend.device(IPV4) or None)
    overlay = parse_overlay(document)
    with Rtnetlink() as netlink:
        interfaces = [find_interface(netlink, family)[0] for family in overlay.families]
    underlays = [Underlay(interface.name, interface.mtu) for interface in interfaces]
    return _named(mtu=pods_mtu(backend, overlay.families, underlays))


def _version_of(device: Any) -> IpVersion:
    if isinstance(device, WireguardDevice):
        return IPV6 if device.name == WIREGUARD_DEVICE6 else IPV4
    return device_version(device)


def _named(device: Optional[str] = None, device6: Optional[str] = None, mtu: Optional[int] = None) -> Dict[str, Any]:
    return {"device": device, "device6": device6, "mtu": mtu}


def not_ours(document: Mapping[str, Any]) -> Optional[str]:
    """What to tell a user who asks for the removal of a device that no saved document accounts for."""
    section = Section(document)
    devices = _declared_backend(document).devices
    parse_subnet_env(section)
    if any(earlier.backend.devices == devices for earlier in _earlier_overlays()):
        return None
    what = " or ".join(devices) or "routes of backend host-gw"
    return (
        f"nothing saved on this node tells of {what}: a device of that name, and a "
        "subnet.env, if there, were not made from here and are left alone. Remove them by hand when nothing else needs "
        "them"
    )


def _remove(check: bool) -> Outcome:
    """Only what earlier documents name is ours: a device that is called the same may be a running flanneld's."""
    earlier = _earlier_overlays()
    if not earlier:
        return Outcome({}, {}, [])
    wanted = Wanted({}, earlier=_direct(earlier))
    datapath = OverlayAdapter(_devices(earlier), wanted.earlier, accept_ra_writable())
    adapter = _adapter(datapath, _env_paths(earlier), earlier)
    return engine_converge(adapter, lambda have: plan_overlay(have, wanted), check)


def _adapter(datapath: OverlayAdapter, paths: Iterable[str], overlays: Sequence[Overlay]) -> Combined:
    """``overlays`` are the wanted one and the earlier ones."""
    adapters: Dict[str, Adapter] = dict.fromkeys(KINDS, datapath)
    encrypted = [overlay for overlay in overlays if overlay.backend.type == WIREGUARD]
    if encrypted:
        wireguard = _wireguard(_devices(encrypted), encrypted)
        adapters.update(dict.fromkeys(wireguard.KINDS, wireguard))
    return Combined({**adapters, "file": FileAdapter(paths)})


def _wireguard(devices: Iterable[str], overlays: Sequence[Overlay]) -> WireguardAdapter:
    # Only where it is needed: start-up is part of what a run costs.
    from .._netlink.wireguard_adapter import WireguardAdapter

    return WireguardAdapter(devices, declared_endpoints(overlays))


def _earlier_overlays(content: Optional[Mapping[str, Any]] = None, overlay: Optional[Overlay] = None) -> List[Overlay]:
    """What this node was last brought to, and after it what killed runs were about to bring it to. Left out is what is
    not understood.

    ``overlay`` is taken for a document that is ``content``, as at boot: thousands of peers are not parsed twice.
    """
    found = []
    for document in store.earlier(KIND):
        with contextlib.suppress(FairleadError):
            found.append(overlay if overlay is not None and document == content else parse_overlay(document))
    return found


def _devices(overlays: Iterable[Overlay]) -> List[str]:
    return [family.device for overlay in overlays for family in overlay.families]


def _env_paths(overlays: Iterable[Overlay]) -> List[str]:
    return [overlay.subnet_env.path for overlay in overlays if overlay.subnet_env is not None]
