# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the authority is asked to sign: the declaration comes from the controller, only the CSR from the node."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping

from ansible.errors import AnsibleFilterError

DECLARED = ("authority", "common_name", "dns_names", "addresses", "usages")
ANSWERED = ("csr", "reason", "need", "known_authority")


def signing_requests(
    requests: Iterable[Mapping[str, Any]], certificates: Iterable[Mapping[str, Any]], host: str
) -> List[Dict[str, Any]]:
    """Requests as module pki_certificate returned them on ``host``, as module pki_authority takes them."""
    declared = {entry["name"]: entry for entry in certificates}
    return [_request(request, declared, host) for request in requests]


def _request(request: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], host: str) -> Dict[str, Any]:
    name = request["name"]
    if name not in declared:
        raise AnsibleFilterError(f"{host} asks for a certificate {name}, which was not declared for it")
    return {
        "host": str(host),
        "name": name,
        **{key: declared[name][key] for key in DECLARED if key in declared[name]},
        **{key: request[key] for key in ANSWERED},
    }


class FilterModule:
    def filters(self) -> Dict[str, Callable[..., Any]]:
        return {"signing_requests": signing_requests}
