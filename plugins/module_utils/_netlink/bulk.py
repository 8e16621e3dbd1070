# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Many operations as unacknowledged messages, where a refusal still names its object."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, List, Optional, Tuple

from .._model.errors import ApplyError
from .._plan.operation import DELETE, Operation
from .rtnetlink import ABSENT, Message, RefusedError, Rtnetlink

#: The message of an operation. Raises RefusedError with ENODEV when the object's device is not there.
Encode = Callable[[Operation], Message]
#: Whether a refused operation needs no more, or no longer.
Settled = Callable[[Rtnetlink, Operation, Message, RefusedError], bool]


def _is_gone(_netlink: Rtnetlink, operation: Operation, _message: Message, refusal: RefusedError) -> bool:
    return operation.action == DELETE and absent(refusal)


def apply_many(
    netlink: Rtnetlink, operations: Iterable[Operation], encode: Encode, is_settled: Settled = _is_gone
) -> Iterator[Operation]:
    """Each operation when it is known to have happened. Raises ApplyError at the first refusal."""
    sent: List[Operation] = []
    messages: List[Message] = []
    refused: Optional[Tuple[Operation, Exception]] = None
    for operation in operations:
        try:
            messages.append(encode(operation))
            sent.append(operation)
        except (RefusedError, OSError) as error:
            if operation.action != DELETE or not absent(error):
                refused = (operation, error)
                break
            # What hung on a device that is gone went with it.
            yield operation
    position = 0
    for answers in netlink.change_many(messages):
        failed: Optional[Tuple[Operation, Exception]] = None
        for number, answer in enumerate(answers, position):
            operation = sent[number]
            if answer is None or is_settled(netlink, operation, messages[number], answer):
                yield operation
            elif failed is None:
                failed = (operation, answer)
        position += len(answers)
        if failed is not None:
            raise refusal(*failed) from failed[1]
    if refused is not None:
        raise refusal(*refused) from refused[1]


def absent(error: Exception) -> bool:
    """Whether deleting failed because there is nothing to delete."""
    return (error.code if isinstance(error, RefusedError) else getattr(error, "errno", None)) in ABSENT


def refusal(operation: Operation, error: Exception, hint: str = "") -> ApplyError:
    """``hint`` follows the kernel's reason."""
    reason = getattr(error, "strerror", None) or str(error)
    return ApplyError(operation.item, f"cannot {operation.action}: {reason}{hint}")
