#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy on a node: kernel, program, configuration and service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_proxy
short_description: Run kube-proxy as a service of this node
version_added: 0.1.0
author: the Fairlead authors
description:
  - Brings the kernel modules and sysctls of the mode, unpacks kube-proxy from a release archive when asked to, writes
    its C(KubeProxyConfiguration), kubeconfig and unit, starts it, restarts it where any of these has changed, and waits
    until it is healthy and its metrics say that it has programmed services. Sysctls of an earlier mode get their values
    from before not until then.
  - All variables are checked before anything is changed, and what contradicts each other is refused.
  - Another kube-proxy is refused and left alone. That is a service or a file in the place of ours without our mark, and
    a process of a program called kube-proxy in the same network namespace, as in a pod of kubeadm's DaemonSet.
  - When kube-proxy does not start, or does not become well, files and service are what they were before.
extends_documentation_fragment: fairlead.cluster.attributes
attributes:
  check_mode:
    description:
      - Reads and plans exactly as in a real run, refusals included, and changes nothing. Fetches nothing, and does not
        miss what earlier tasks of the same run would have brought.
    support: full
options:
  state:
    description:
      - V(present) ensures all of it.
      - V(absent) stops the service, removes what it made in the kernel as M(fairlead.cluster.kube_proxy_state) does,
        and files and releases as far as they are ours; sysctls get the values from before. Where another kube-proxy is
        in the place of ours, or runs beside it, no services in the kernel are touched.
    type: str
    choices: [present, absent]
    default: present
  variables:
    description:
      - Variables of role P(fairlead.cluster.kube_proxy#role) by their names, and those of the whole cluster that it
        takes. What is not given has the role's default.
      - Required with O(state=present). With V(absent), virtual services in the networks of C(cluster_virtual_cidrs) and
        C(kube_proxy_ipvs_exclude_cidrs) stay.
    type: dict
  release:
    description: A release archive of Kubernetes for nodes, unpacked to a directory of its own in O(release_directory).
    type: dict
    suboptions:
      version:
        description: Version, the first part of the directory's name.
        type: str
        required: true
      url:
        description: URL of the archive, which holds F(kubernetes/node/bin/kube-proxy).
        type: str
        required: true
      sha256:
        description: SHA-256 of the archive in hexadecimal digits. Its first 12 are the rest of the directory's name.
        type: str
        required: true
  release_directory:
    description: Where releases are unpacked. Removed with the last one when nothing else is in it.
    type: path
    default: /opt/kube-proxy
  program:
    description: A kube-proxy that is there already, when there is no O(release).
    type: path
  directory:
    description: Directory of configuration and kubeconfig.
    type: path
    default: /etc/fairlead/kube-proxy
  node_ports:
    description:
      - First and last port of those that the API server gives to services, by which virtual services on addresses of
        the node are told from others with O(state=absent). Otherwise they are only checked.
    type: str
    default: 30000-32767
  wait:
    description: Seconds in which it has to become well. 0 does not ask.
    type: int
    default: 60
seealso:
  - module: fairlead.cluster.kube_proxy_state
  - module: fairlead.cluster.kernel_settings
"""

EXAMPLES = r"""
- name: Run kube-proxy in mode nftables
  fairlead.cluster.kube_proxy:
    variables:
      kube_proxy_mode: nftables
      cluster_api_server: https://192.0.2.10:6443
      cluster_pod_cidr: 10.244.0.0/16
    release:
      version: 1.36.3
      url: https://mirror.example.org/v1.36.3/kubernetes-node-linux-amd64.tar.gz
      sha256: "{{ checksum }}"
"""

RETURN = r"""
left:
  description: Files in the place of ours, and processes of another kube-proxy, that are not ours and were left.
  returned: when O(state=absent)
  type: list
  elements: str
before:
  description: Kernel settings, files, release and service as found.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: success
  type: list
  elements: str
left_out:
  description: How many objects of which kind are not in which of the lists, which hold at most 100 of each kind.
  returned: when there are more
  type: dict
"""

from typing import IO, Any, ContextManager, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import kube_proxy
from ..module_utils._model.kube_proxy_checks import problems_of, warnings
from ..module_utils._system.runner import module_runner

# Seconds that a mirror may be silent.
FETCH_TIMEOUT = 30
RELEASE_SPEC = {
    "version": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "sha256": {"type": "str", "required": True},
}
ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "variables": {"type": "dict"},
    "release": {"type": "dict", "options": RELEASE_SPEC},
    "release_directory": {"type": "path", "default": "/opt/kube-proxy"},
    "program": {"type": "path"},
    "directory": {"type": "path", "default": "/etc/fairlead/kube-proxy"},
    "node_ports": {"type": "str", "default": "30000-32767"},
    "wait": {"type": "int", "default": 60},
}
HEADER = "kube-proxy"


def body(module: AnsibleModule) -> Dict[str, Any]:
    runner = module_runner(module)
    if module.params["state"] == "absent":
        outcome, left = kube_proxy.absent(module.params, module.check_mode, runner)
        return {**result_of(module, outcome, HEADER), "left": left}
    proxy, _problems = problems_of(module.params["variables"] or {})
    for warning in warnings(proxy):
        module.warn(str(warning))
    return result_of(module, kube_proxy.present(module.params, module.check_mode, runner, fetch), HEADER)


def fetch(url: str) -> ContextManager[IO[bytes]]:
    opened: ContextManager[IO[bytes]] = open_url(url, timeout=FETCH_TIMEOUT)
    return opened


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
