#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pki_certificate
short_description: Keys and certificates of this node
version_added: 0.1.0
author: the Fairlead authors
description:
  - Makes the keys of a list of certificates on the node that uses them, where they stay, and returns signing requests
    for the certificates that need a signature. These are signed by M(fairlead.cluster.pki_authority) on another host,
    and a second call with O(signed) puts them in place.
  - A certificate needs a signature when it is missing or unreadable, is for another key, is not signed by the authority
    in its file, says something else than declared, is not valid yet, or expires within O(renew_before_days). Otherwise
    there is nothing to do at all.
  - A certificate that ends with its authority is not renewed before its end; within O(renew_before_days) the module
    warns of it.
  - Keys are ECDSA on P-256 and are kept when a certificate is renewed. Files are written by rename. A signed
    certificate is checked against key, authority and declaration before it is put in place.
extends_documentation_fragment: fairlead.cluster.attributes
requirements:
  - cryptography >= 38 (python3-cryptography)
options:
  certificates:
    description: The certificates that this node shall have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the certificate, unique on the node. Files are named after it.
        type: str
        required: true
      authority:
        description: Name of the authority that signs it.
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
      owner:
        description: Owner of the key file, which only the owner can read.
        type: str
        default: root
      group:
        description: Group of the key file.
        type: str
        default: root
      certificate_path:
        description: File of the certificate. Default is the name with F(.crt) in O(directory).
        type: path
      key_path:
        description: File of the key. Default is the name with F(.key) in O(directory).
        type: path
      authority_path:
        description: File of the authority's certificate. Default is its name with F(-ca.crt) in O(directory).
        type: path
  signed:
    description: Certificates to put in place, as M(fairlead.cluster.pki_authority) returned them for this host.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The host it was signed for, as returned there. Not looked at.
        type: str
      name:
        description: Name of the certificate.
        type: str
        required: true
      certificate:
        description: The certificate in PEM.
        type: str
        required: true
      authority_certificate:
        description: The authority's certificate in PEM.
        type: str
        required: true
  directory:
    description: Directory of the files.
    type: path
    default: /etc/fairlead/pki
  renew_before_days:
    description:
      - Days before its end from which on a certificate is renewed. Has to be less than the days that certificates are
        signed for.
    type: int
    default: 30
  new_authorities:
    description:
      - Return a request for every certificate. What is not due is signed only where the authority has been replaced by
        a new one.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make keys, and requests for what is due
  fairlead.cluster.pki_certificate:
    certificates:
      - name: etcd-client
        authority: etcd
        common_name: "{{ inventory_hostname }}"
  register: due

- name: Put signed certificates in place
  fairlead.cluster.pki_certificate:
    certificates:
      - name: etcd-client
        authority: etcd
        common_name: "{{ inventory_hostname }}"
    signed: "{{ answer.signed | selectattr('host', 'eq', inventory_hostname) | list }}"
  when: due.requests | length > 0
"""

RETURN = r"""
requests:
  description: What needs a signature. Empty when nothing is due.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the certificate., type: str}
    csr: {description: The signing request in PEM., type: str}
    reason: {description: Why it is due., type: str}
    need:
      description:
        - V(now) when there is no valid certificate as declared; V(soon) when there is one, but it ends soon;
          V(replacement) when it is only asked for because of O(new_authorities).
      type: str
    known_authority: {description: SHA-256 of the authority's certificate on this node; null for none., type: str}
  sample:
    - name: etcd-client
      csr: "-----BEGIN CERTIFICATE REQUEST-----..."
      reason: there is no certificate
      need: now
      known_authority: null
trusted:
  description: Authorities whose certificates are on this node.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the authority., type: str}
    fingerprint: {description: SHA-256 of its certificate., type: str}
before:
  description: Key and certificate files as found, without secrets.
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
  sample: {after: {certificate: 20}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._pki import certificates

CERTIFICATE_SPEC = {
    "name": {"type": "str", "required": True},
    "authority": {"type": "str", "required": True},
    "common_name": {"type": "str", "required": True},
    "dns_names": {"type": "list", "elements": "str", "default": []},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "usages": {"type": "list", "elements": "str", "choices": ["server", "client"], "default": ["client"]},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "certificate_path": {"type": "path"},
    "key_path": {"type": "path", "no_log": False},
    "authority_path": {"type": "path"},
}
SIGNED_SPEC = {
    "host": {"type": "str"},
    "name": {"type": "str", "required": True},
    "certificate": {"type": "str", "required": True},
    "authority_certificate": {"type": "str", "required": True},
}
ARGUMENT_SPEC = {
    "certificates": {"type": "list", "elements": "dict", "required": True, "options": CERTIFICATE_SPEC},
    "signed": {"type": "list", "elements": "dict", "default": [], "options": SIGNED_SPEC},
    "directory": {"type": "path", "default": "/etc/fairlead/pki"},
    "renew_before_days": {"type": "int", "default": 30},
    "new_authorities": {"type": "bool", "default": False},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    certified = certificates.converge(module.params, module.check_mode)
    for warning in certified.warnings:
        module.warn(warning)
    return {
        **result_of(module, certified.outcome, "keys and certificates"),
        "requests": certified.requests,
        "trusted": certified.trusted,
    }


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
