# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A network namespace attached to a CNI network, as a container runtime would attach it.

Not part of what is brought back at boot: namespaces end with the kernel that holds them.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.cni import ConfList
from .._model.cni_attachment import Attachment, Namespace, Wish, parse_wish
from .._model.errors import PrerequisiteError, VerifyError
from .._model.item import State
from .._plan.operation import ADD, DELETE, REPLACE, Operation
from .._system.cni_attachments import AttachmentAdapter, find_conflist
from .._system.runner import Runner


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``parse_wish``. State "checked" changes nothing and raises VerifyError when CHECK fails."""
    wish = parse_wish(document)
    conflist = find_conflist(wish.network, wish.conf_dir)
    if conflist is None and (wish.state == "present" or wish.network.startswith("/")):
        raise PrerequisiteError(_missing(wish))
    network = conflist.name if conflist is not None else wish.network
    adapter = AttachmentAdapter(wish, network, conflist, runner)
    if wish.state == "checked":
        return _checked(adapter, wish, network)
    if wish.state == "absent" or conflist is None:
        return engine_converge(adapter, plan_absent, check)
    want = _wanted(wish, conflist)
    return engine_converge(adapter, lambda have: plan_present(have, want, wish.namespace), check)


def _missing(wish: Wish) -> str:
    if wish.network.startswith("/"):
        return f"network: file {wish.network} is not there"
    return (
        f"network: no file in {wish.conf_dir} is about a network {wish.network!r}; "
        f"write one with module fairlead.cluster.cni_network"
    )


def _wanted(wish: Wish, conflist: ConfList) -> Attachment:
    return Attachment(
        conflist.name, wish.container_id, wish.ifname, wish.netns, conflist.text, wish.capability_args
    )  # fmt: skip


def plan_present(have: State, want: Attachment, namespace: str) -> List[Operation]:
    """The namespace when it is given by name and missing, then the attachment unless CHECK accepts it as it is."""
    operations = []
    if namespace and not any(isinstance(item, Namespace) for item in have.values()):
        operations.append(Operation(ADD, Namespace(namespace, ours=True)))
    found = attachment_in(have)
    if found is None:
        operations.append(Operation(ADD, want))
    elif operations or not found.same_as(want):
        operations.append(Operation(REPLACE, want, found))
    return operations


def plan_absent(have: State) -> List[Operation]:
    """The attachment first: DEL needs the namespace to leave nothing behind."""
    found = attachment_in(have)
    operations = [Operation(DELETE, found)] if found is not None else []
    ours = [item for item in have.values() if isinstance(item, Namespace) and item.ours]
    return operations + [Operation(DELETE, item) for item in ours]


def attachment_in(state: State) -> Optional[Attachment]:
    return next((item for item in state.values() if isinstance(item, Attachment)), None)


def _checked(adapter: AttachmentAdapter, wish: Wish, network: str) -> Outcome:
    state = adapter.read()
    found = attachment_in(state)
    if found is None:
        raise VerifyError(f"{wish.netns}: {wish.container_id} {wish.ifname} is not attached to network {network}")
    if found.problem:
        raise VerifyError(str(found))
    return Outcome(state, state, [])
