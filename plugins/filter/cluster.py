# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What playbooks hand to the roles about other hosts: taken from declared variables only, never from facts."""

from __future__ import annotations

import ipaddress
from typing import Any, Callable, Dict, Iterable, List, Mapping

from ansible.errors import AnsibleFilterError

# Where a node's address is declared, the first that is there counts.
ADDRESS_VARIABLES = ("cluster_node_address", "ansible_host")


def cluster_nodes(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> List[Dict[str, str]]:
    """``[{name, address}]`` in the order of ``hosts``. Raises AnsibleFilterError naming a host without address."""
    return [{"name": str(host), "address": _declared_address(str(host), hostvars[host])} for host in hosts]


def _declared_address(host: str, variables: Mapping[str, Any]) -> str:
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


class FilterModule:
    def filters(self) -> Dict[str, Callable[..., Any]]:
        return {"cluster_nodes": cluster_nodes}
