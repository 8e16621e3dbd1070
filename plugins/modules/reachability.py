#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Connectivity between pods and nodes, proven by packets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reachability
short_description: Prove connectivity between pods and nodes by packets
version_added: 0.1.0
author: the Fairlead authors
description:
  - With O(state=listening), responders answer on the node and in the network namespace of a pod, over TCP and UDP. They
    say which source address they saw and how many bytes came, so a probe rests on what arrived and not on what the
    sender believes.
  - With O(state=probed), each of O(targets) is asked over TCP and UDP, round trips are measured one after the other,
    and a datagram of the full MTU of the sender's interface is sent with "don't fragment". When it does not arrive,
    the largest size that does is searched for.
  - A pair fails when TCP or UDP is not answered, when the full MTU does not arrive, and between pods also when the
    other side sees another address than the pod's own.
  - Responders are transient services of systemd. They end after O(lifetime) at the latest, leave nothing on disk, and
    hold no privileges. They answer anybody who reaches their port, never with more bytes than they were sent.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  netns:
    description:
      - Network namespace of the pod, by its name under F(/run/netns) or by absolute path.
      - Without it there is no responder in a pod, and only probes of kind V(node-pod) are possible.
    type: str
  port:
    description: TCP and UDP port of the responders, the same everywhere.
    type: int
    default: 9931
  targets:
    description: What to probe with O(state=probed), in one call for all.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the target in results and messages.
        type: str
        required: true
      address:
        description: IP address of a responder.
        type: str
        required: true
      kind:
        description:
          - From where to where. The first word says whether the probe starts in O(netns) or on the node.
          - With V(pod-pod) the other side has to see the pod's own address.
        type: str
        choices: [pod-pod, pod-node, node-pod]
        required: true
      port:
        description: Port of this responder, when it differs from O(port).
        type: int
      expected_mtu:
        description:
          - Size in bytes, with IP header, that has to arrive unfragmented. Without it the MTU of the interface by which
            packets to the target leave, and for V(node-pod) that of the pod's interface where it is smaller.
        type: int
  source:
    description: Name of this node in results and messages.
    type: str
    default: this node
  count:
    description: Datagrams a target for the round trip. Their median is reported.
    type: int
    default: 5
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 1.0
  wait:
    description: Seconds during which targets that do not answer are asked again, for networks that just come up.
    type: float
    default: 0.0
  report_only:
    description: Whether failed pairs are only reported in RV(results) and RV(failures) instead of failing the task.
    type: bool
    default: false
  command:
    description: How the probe program is started.
    type: list
    elements: str
    default: [/opt/fairlead/current/bin/fairlead, probe]
  lifetime:
    description: Seconds after which responders end by themselves.
    type: int
    default: 900
  state:
    description:
      - V(listening) starts the responders, V(absent) ends them.
      - V(probed) sends probes, in check mode too, and changes nothing.
    type: str
    choices: [listening, probed, absent]
    required: true
seealso:
  - module: fairlead.cluster.cni_attachment
"""

EXAMPLES = r"""
- name: Answer probes
  fairlead.cluster.reachability:
    state: listening
    netns: probe-1

- name: Probe from the pod to another node's pod, and from this node to the same
  fairlead.cluster.reachability:
    state: probed
    netns: probe-1
    source: "{{ inventory_hostname }}"
    targets:
      - {name: w1, address: 10.244.4.2, kind: pod-pod}
      - {name: w1, address: 10.244.4.2, kind: node-pod}
  register: probes

- name: Answer no longer
  fairlead.cluster.reachability:
    state: absent
"""

RETURN = r"""
results:
  description: One entry for each target, in the order of O(targets).
  returned: with O(state=probed)
  type: list
  elements: dict
  contains:
    source: {description: O(source)., type: str}
    target: {description: Name of the target., type: str}
    kind: {description: Kind of the probe., type: str}
    address: {description: Address that was probed., type: str}
    ok: {description: Whether nothing is wrong with the pair., type: bool}
    error: {description: What is wrong with it. Empty when nothing is., type: str}
    reachable: {description: Whether TCP and UDP were answered., type: bool}
    rtt_ms: {description: Median round trip of small datagrams in milliseconds., type: float}
    seen_source: {description: Address that the other side saw., type: str}
    nat: {description: Whether that is not the sender's own address., type: bool}
    path_mtu: {description: Largest size in bytes that arrived unfragmented., type: int}
    expected_mtu: {description: The size that has to., type: int}
  sample:
    - source: cp1
      target: w1
      kind: pod-pod
      address: 10.244.4.2
      ok: true
      error: ""
      reachable: true
      rtt_ms: 0.412
      seen_source: 10.244.1.2
      nat: false
      path_mtu: 1450
      expected_mtu: 1450
failures:
  description: One line for each failed pair.
  returned: with O(state=probed)
  type: list
  elements: str
  sample: ["pod-pod cp1 -> w1 (10.244.4.2): TCP: no answer in time"]
before:
  description: Responders as found.
  returned: unless O(state=probed)
  type: list
  elements: dict
  sample: [{kind: probe_responder, unit: fairlead-probe-node.service, netns: "", port: 9931}]
after:
  description: Responders as they are now (check mode would be). Same shape as RV(before).
  returned: unless O(state=probed)
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: unless O(state=probed)
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {after: {probe_responder: 20}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired.reachability import converge, probe
from ..module_utils._model.reachability import DEFAULT_PORT, KINDS, failures_of
from ..module_utils._system.runner import module_runner

TARGET_SPEC = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": list(KINDS), "required": True},
    "port": {"type": "int"},
    "expected_mtu": {"type": "int"},
}
ARGUMENT_SPEC = {
    "netns": {"type": "str"},
    "port": {"type": "int", "default": DEFAULT_PORT},
    "targets": {"type": "list", "elements": "dict", "options": TARGET_SPEC, "default": []},
    "source": {"type": "str", "default": "this node"},
    "count": {"type": "int", "default": 5},
    "timeout": {"type": "float", "default": 1.0},
    "wait": {"type": "float", "default": 0.0},
    "report_only": {"type": "bool", "default": False},
    "command": {"type": "list", "elements": "str", "default": ["/opt/fairlead/current/bin/fairlead", "probe"]},
    "lifetime": {"type": "int", "default": 900},
    "state": {"type": "str", "choices": ["listening", "probed", "absent"], "required": True},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    runner = module_runner(module)
    if module.params["state"] != "probed":
        return result_of(module, converge(dict(module.params), module.check_mode, runner), "probe responders")
    results = probe(dict(module.params), runner)
    failures = failures_of(results)
    if failures and not module.params["report_only"]:
        module.fail_json(
            msg=f"{len(failures)} of {len(results)} probes failed: {'; '.join(failures)}",
            results=results,
            failures=failures,
        )
    return {"changed": False, "results": results, "failures": failures}


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
