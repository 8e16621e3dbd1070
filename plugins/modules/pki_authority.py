#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities and what they sign."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pki_authority
short_description: Certificate authorities, and signatures by them
version_added: 0.1.0
author: the Fairlead authors
description:
  - Runs on the one host that holds the keys of the authorities. Makes those that are missing and signs a list of
    requests, of any number of hosts, in one call.
  - What is certified is what the request declares. Of the CSR only the key is used, and the CSR has to be signed by
    that key. A node therefore cannot ask for a name or a usage that was not declared for it.
  - A second authority is never made without a word. When a key or certificate is missing here while some host trusts
    an authority of that name, or hosts could not be asked whether they do, the module refuses and says what to do. It
    also refuses to sign with another authority than the one that the hosts trust.
extends_documentation_fragment: fairlead.cluster.attributes
requirements:
  - cryptography >= 38 (python3-cryptography)
options:
  authorities:
    description: Names of the authorities that shall exist.
    type: list
    elements: str
    required: true
  cluster_name:
    description: Name of the cluster, for the names of new authorities.
    type: str
    required: true
  requests:
    description: What to sign.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The host that asks.
        type: str
        required: true
      name:
        description: Name of the certificate on that host.
        type: str
        required: true
      authority:
        description: Name of the authority that shall sign.
        type: str
        required: true
      common_name:
        description: Common name, at most 64 characters.
        type: str
        required: true
      dns_names:
        description: DNS names of the holder.
        type: list
        elements: str
        default: []
      addresses:
        description: IP addresses of the holder.
        type: list
        elements: str
        default: []
      usages:
        description: Which sides of a TLS connection it may be used for.
        type: list
        elements: str
        choices: [server, client]
        default: [client]
      csr:
        description: The signing request in PEM, for an ECDSA key on P-256.
        type: str
        required: true
      known_authority:
        description: SHA-256 of the authority's certificate that the host has so far.
        type: str
      reason:
        description: Why it is asked for, as M(fairlead.cluster.pki_certificate) returned it. Not looked at.
        type: str
      need:
        description:
          - V(now) when the host has no certificate to work with, V(soon) when the one it has ends soon.
          - V(replacement) is signed only where O(requests[].known_authority) is another authority than the one here.
        type: str
        choices: [now, soon, replacement]
        default: now
  trusted:
    description:
      - Authorities that hosts of the cluster trust already, as M(fairlead.cluster.pki_certificate) returns them, each
        with its host.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The host.
        type: str
        required: true
      name:
        description: Name of the authority.
        type: str
        required: true
      fingerprint:
        description: SHA-256 of its certificate there.
        type: str
        required: true
  unasked:
    description: Hosts of which it is not known what they trust. While there are any, no authority is made.
    type: list
    elements: str
    default: []
  new_authorities:
    description:
      - Make missing authorities even when others are trusted already or hosts could not be asked, and sign for hosts
        that trust others. Authorities that are here stay.
    type: bool
    default: false
  directory:
    description: Directory of the authorities' keys and certificates, F(<name>.key) and F(<name>.crt).
    type: path
    default: /etc/fairlead/pki/ca
  days:
    description: Days that a certificate is valid, but never longer than its authority. The module warns when it is cut.
    type: int
    default: 365
  authority_days:
    description: Days that a new authority is valid.
    type: int
    default: 3650
"""

EXAMPLES = r"""
- name: Make the authorities
  fairlead.cluster.pki_authority:
    cluster_name: lab
    authorities: [cluster, etcd, etcd-peer]

- name: Sign
  fairlead.cluster.pki_authority:
    cluster_name: lab
    authorities: [cluster, etcd, etcd-peer]
    requests:
      - host: w1
        name: etcd-client
        authority: etcd
        common_name: w1
        csr: "{{ csr }}"
  register: answer
"""

RETURN = r"""
signed:
  description: The signed certificates, in the order of O(requests).
  returned: success
  type: list
  elements: dict
  contains:
    host: {description: The host that asked., type: str}
    name: {description: Name of the certificate on that host., type: str}
    certificate: {description: The certificate in PEM., type: str}
    authority_certificate: {description: The authority's certificate in PEM., type: str}
authorities:
  description: The authorities.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: etcd, fingerprint: 5f1c8e, not_after: "2036-11-19T00:00:00+00:00"}
before:
  description: Key and certificate files of the authorities as found, without secrets.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each file written.
  returned: success
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {after: {certificate: 400}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._pki import authority

REQUEST_SPEC = {
    "host": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "authority": {"type": "str", "required": True},
    "common_name": {"type": "str", "required": True},
    "dns_names": {"type": "list", "elements": "str", "default": []},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "usages": {"type": "list", "elements": "str", "choices": ["server", "client"], "default": ["client"]},
    "csr": {"type": "str", "required": True},
    "known_authority": {"type": "str"},
    "reason": {"type": "str"},
    "need": {"type": "str", "choices": ["now", "soon", "replacement"], "default": "now"},
}
TRUST_SPEC = {
    "host": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "fingerprint": {"type": "str", "required": True},
}
ARGUMENT_SPEC = {
    "authorities": {"type": "list", "elements": "str", "required": True},
    "cluster_name": {"type": "str", "required": True},
    "requests": {"type": "list", "elements": "dict", "default": [], "options": REQUEST_SPEC},
    "trusted": {"type": "list", "elements": "dict", "default": [], "options": TRUST_SPEC},
    "unasked": {"type": "list", "elements": "str", "default": []},
    "new_authorities": {"type": "bool", "default": False},
    "directory": {"type": "path", "default": "/etc/fairlead/pki/ca"},
    "days": {"type": "int", "default": 365},
    "authority_days": {"type": "int", "default": 3650},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    signed = authority.converge(module.params, module.check_mode)
    for warning in signed.warnings:
        module.warn(warning)
    return {
        **result_of(module, signed.outcome, "certificate authorities"),
        "signed": signed.signed,
        "authorities": signed.authorities,
    }


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
