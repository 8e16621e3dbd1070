# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What playbooks hand to the roles about other hosts: taken from declared variables only, never from facts."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import yaml
from ansible.errors import AnsibleFilterError
from jinja2 import Undefined

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster_wireguard import PRESHARED_KEY
from ansible_collections.fairlead.cluster.plugins.module_utils._model.wireguard import fingerprint

try:
    # Where a value was declared; ansible-core keeps it to itself, so messages do without when it moves.
    from ansible._internal._datatag._tags import Origin
except ImportError:
    Origin = None

# Where a node's address is declared, the first that is there counts.
ADDRESS_VARIABLES = ("cluster_node_address", "ansible_host")
ADDRESS6_VARIABLE, POD_CIDR6 = "cluster_node_address6", "cluster_pod_cidr6"
CLUSTER_PREFIX = "cluster_"
ROLES = Path(__file__).resolve().parents[2] / "roles"

HostVars = Mapping[str, Mapping[str, Any]]
# A declaration, without the hosts that have it: name, value as text, place, reason for having no value.
Declaration = Tuple[str, str, str, str]


def cluster_nodes(
    hosts: Iterable[str], hostvars: HostVars, first: str = "", first6: Optional[str] = None, key: str = ""
) -> List[Dict[str, str]]:
    """``[{name, address}]`` in the order of ``hosts``. ``first`` is a variable that counts before the usual ones, where
    it is not empty. With ``first6``, the same for IPv6, hosts of a dual-stack cluster have ``address6`` too. ``key`` is
    a variable with the public key, which hosts have that told it in this run. Raises AnsibleFilterError naming a host
    without address."""
    nodes = [_node(str(host), hostvars[host], first, first6) for host in hosts]
    if not key:
        return nodes
    keys = [hostvars[node["name"]].get(key) for node in nodes]
    return [{**node, **({"public_key": str(found)} if found else {})} for node, found in zip(nodes, keys)]


def _node(host: str, variables: Mapping[str, Any], first: str, first6: Optional[str]) -> Dict[str, str]:
    node = {"name": host, "address": _declared_address(host, variables, first)}
    if first6 is not None and variables.get(POD_CIDR6):
        node["address6"] = _declared_address6(host, variables, first6)
    return node


def _declared_address6(host: str, variables: Mapping[str, Any], first: str) -> str:
    for name in (first, ADDRESS6_VARIABLE):
        if name and variables.get(name):
            return str(variables[name])
    raise AnsibleFilterError(f"hosts.{host}: has no declared IPv6 address; set {ADDRESS6_VARIABLE} in the inventory")


def _declared_address(host: str, variables: Mapping[str, Any], first: str) -> str:
    if first and variables.get(first):
        return str(variables[first])
    for name in ADDRESS_VARIABLES:
        value = variables.get(name)
        if value is not None:
            return str(value)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise AnsibleFilterError(
            f"hosts.{host}: has no declared address; set ansible_host or cluster_node_address in the inventory"
        ) from None


def etcd_endpoints(members: Iterable[Mapping[str, str]], port: int = 2379) -> List[str]:
    """``["https://192.0.2.11:2379"]``, one a member in the order given; IPv6 addresses get their brackets."""
    hosts = [f"[{member['address']}]" if ":" in member["address"] else member["address"] for member in members]
    return [f"https://{host}:{port}" for host in hosts]


def cluster_declaration(groups: Mapping[str, Sequence[str]], hostvars: HostVars) -> Dict[str, Any]:
    """Everything that was declared for the collection's roles, as module ``cluster_preflight`` takes it.

    Fails for nothing that a user can get wrong: a value that cannot be computed yet is passed on as such.
    """
    options = _known_options(ROLES)
    prefixes = (CLUSTER_PREFIX, *sorted(f"{path.name}_" for path in ROLES.iterdir() if path.is_dir()))
    names = (*prefixes, *ADDRESS_VARIABLES)
    hosts = [str(host) for host in groups["all"]]
    return {
        "groups": {str(name): [str(host) for host in members] for name, members in groups.items()},
        "settings": list(_settings(hosts, hostvars, names, options)),
        "options": {name: {key: option[key] for key in ("type", "choices")} for name, option in options.items()},
        "prefixes": list(prefixes),
    }


def _known_options(roles: Path) -> Dict[str, Dict[str, Any]]:
    """Name to type, choices and no_log of every variable that some role takes."""
    options: Dict[str, Dict[str, Any]] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        for spec in specs.values():
            for name, option in (spec.get("options") or {}).items():
                options.setdefault(name, _option(option))
    return options


def _option(option: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "type": option.get("type", "str"),
        "choices": [str(choice) for choice in option.get("choices") or []],
        "no_log": bool(option.get("no_log", False)),
    }


def _settings(
    hosts: List[str], hostvars: HostVars, names: Tuple[str, ...], options: Mapping[str, Mapping[str, Any]]
) -> Iterator[Dict[str, Any]]:
    """Equal declarations of several hosts become one entry; without ``hosts`` it holds for all."""
    found: Dict[Declaration, Tuple[Any, List[str]]] = {}
    for host in hosts:
        variables = hostvars[host]
        for name in variables:
            if str(name).startswith(names) and not _is_internal(name):
                value, reason = _value(variables, name, options)
                key = (str(name), f"{type(value).__name__} {value!r}", _place(name), reason)
                found.setdefault(key, (value, []))[1].append(host)
    for (name, _text, place, reason), (value, having) in found.items():
        entry = {"name": name, "value": value, "where": place, "unresolved": reason}
        yield entry if len(having) == len(hosts) > 1 else {**entry, "hosts": having}


def _value(variables: Mapping[str, Any], name: str, options: Mapping[str, Mapping[str, Any]]) -> Tuple[Any, str]:
    """The value as plain data, and why there is none: a secret, or a template that cannot be resolved yet. Of a secret
    that nodes must share there is a fingerprint."""
    is_shared = name == PRESHARED_KEY
    if options.get(name, {}).get("no_log") and not is_shared:
        return None, "a secret"
    try:
        value = _plain(variables[name])
        return (fingerprint(value) if is_shared and value is not None else value), ""
    except Exception as error:  # any plugin or test a template names may raise whatever it likes
        # Not the reason: it may tell of the secret.
        return None, "a secret" if is_shared else str(error).splitlines()[0]


def _plain(value: Any) -> Any:
    if isinstance(value, Undefined):
        raise ValueError(value._undefined_message)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, float)):
        return value
    return int(value) if isinstance(value, int) else str(value)


def _origin(name: str) -> Optional[Any]:
    return Origin.get_tag(name) if Origin is not None else None


def _is_internal(name: str) -> bool:
    """Whether one of our own roles set the variable (a fact of an earlier play), not a user."""
    path = getattr(_origin(name), "path", None)
    return path is not None and ROLES in Path(path).resolve().parents


def _place(name: str) -> str:
    """File and line of a declaration, as short as it can be; empty when not known."""
    origin = _origin(name)
    if origin is None or not origin.path:
        return str(origin or "")
    path = os.path.relpath(origin.path)
    shown = origin.path if path.startswith(os.pardir) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)


class FilterModule:
    def filters(self) -> Dict[str, Callable[..., Any]]:
        return {
            "cluster_nodes": cluster_nodes,
            "etcd_endpoints": etcd_endpoints,
            "cluster_declaration": cluster_declaration,
        }
