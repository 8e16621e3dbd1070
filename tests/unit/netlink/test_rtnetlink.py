# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The netlink socket against scripted answers of a kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ReadError
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink import rtnetlink
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.rtnetlink import RefusedError, Rtnetlink

INTERRUPTED, TLVS, CAPPED = 0x10, 0x200, 0x100
ERROR, DONE, OBJECT = 2, 3, 20
LOST = b""


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    return rtnetlink.HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def error(code: int, sequence: int, text: str = "") -> bytes:
    words = rtnetlink.attribute(1, text.encode() + b"\0") if text else b""
    body = struct.pack("=i", -code) + bytes(16) + words
    return message(ERROR, sequence, body, (TLVS if text else 0) | CAPPED)


class FakeSocket:
    """Answers the n-th request with what ``script`` gives for its (first) sequence number and n; ``LOST`` is an answer
    that did not fit into the receive buffer."""

    def __init__(self, script: Callable[[int, int], list[bytes]]) -> None:
        self.script = script
        self.requests = 0
        self.waiting: list[bytes] = []
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        sequence = rtnetlink.HEADER.unpack_from(data)[3]
        self.sent.append(data)
        self.waiting = self.script(sequence, self.requests)
        self.requests += 1

    def recv(self, _size: int) -> bytes:
        if not self.waiting:
            raise TimeoutError
        answer = self.waiting.pop(0)
        if not answer:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return answer


@pytest.fixture
def kernel() -> Iterator[Callable[[Callable[[int, int], list[bytes]]], tuple[Rtnetlink, FakeSocket]]]:
    opened: list[socket.socket] = []

    def connect(script: Callable[[int, int], list[bytes]]) -> tuple[Rtnetlink, FakeSocket]:
        netlink, fake = Rtnetlink(), FakeSocket(script)
        opened.append(netlink._socket)
        netlink._socket = fake  # type: ignore[assignment]
        return netlink, fake

    yield connect
    for each in opened:
        each.close()


Connect = Callable[[Callable[[int, int], list[bytes]]], tuple[Rtnetlink, FakeSocket]]


@pytest.mark.parametrize("place", ["object", "end"])
def test_interrupted_dump_is_taken_again(kernel: Connect, place: str) -> None:
    def script(sequence: int, attempt: int) -> list[bytes]:
        flags = INTERRUPTED if attempt < 2 else 0
        first = message(OBJECT, sequence, b"old!" if flags else b"new!", flags if place == "object" else 0)
        return [first, message(DONE, sequence, bytes(4), flags if place == "end" else 0)]

    netlink, fake = kernel(script)
    assert [found[16:] for found in netlink.dump(22, b"")] == [b"new!"]
    assert fake.requests == 3


def test_dump_that_is_always_interrupted_ends_in_an_error(kernel: Connect) -> None:
    netlink, fake = kernel(lambda sequence, _attempt: [message(DONE, sequence, bytes(4), INTERRUPTED)])
    with pytest.raises(ReadError, match="changed during each of 10 attempts"):
        netlink.dump(22, b"")
    assert fake.requests == 10


def test_dump_over_several_reads_is_one_list(kernel: Connect) -> None:
    netlink, _fake = kernel(
        lambda sequence, _attempt: [
            message(OBJECT, sequence, b"one!") + message(OBJECT, sequence, b"two!"),
            message(OBJECT, sequence, b"last"),
            message(DONE, sequence, bytes(4)),
        ]
    )
    assert [found[16:] for found in netlink.dump(22, b"")] == [b"one!", b"two!", b"last"]


def test_dump_refused_at_its_end_is_an_error(kernel: Connect) -> None:
    netlink, _fake = kernel(lambda sequence, _attempt: [message(DONE, sequence, struct.pack("=i", -errno.EINVAL))])
    with pytest.raises(RefusedError, match="Invalid argument"):
        netlink.dump(22, b"")


def test_refusal_carries_the_words_of_the_kernel(kernel: Connect) -> None:
    netlink, _fake = kernel(lambda sequence, _attempt: [error(errno.EINVAL, sequence, "Nexthop has invalid gateway")])
    with pytest.raises(RefusedError) as refusal:
        netlink.change(24, 0, b"")
    assert str(refusal.value) == "Invalid argument (Nexthop has invalid gateway)"
    assert refusal.value.code == errno.EINVAL


def test_answer_to_an_earlier_request_is_not_taken_for_ours(kernel: Connect) -> None:
    netlink, _fake = kernel(
        lambda sequence, _attempt: [error(errno.EPERM, sequence - 1), error(0, sequence)],
    )
    netlink.change(24, 0, b"")


def test_silent_kernel_is_an_error(kernel: Connect) -> None:
    netlink, _fake = kernel(lambda _sequence, _attempt: [])
    with pytest.raises(ReadError, match="no answer"):
        netlink.change(24, 0, b"")


def test_dump_of_which_a_part_was_lost_is_taken_again(kernel: Connect) -> None:
    def script(sequence: int, attempt: int) -> list[bytes]:
        if attempt == 0:
            return [message(OBJECT, sequence, b"one!"), LOST]
        stale = message(OBJECT, sequence - 1, b"old!")
        return [stale, message(OBJECT, sequence, b"new!"), message(DONE, sequence, bytes(4))]

    netlink, _fake = kernel(script)
    assert [found[16:] for found in netlink.dump(22, b"")] == [b"new!"]


def flags_of(data: bytes) -> list[int]:
    """Flags of each message of a send."""
    found, start = [], 0
    while start < len(data):
        length, _kind, flags, _sequence, _port = rtnetlink.HEADER.unpack_from(data, start)
        found.append(flags)
        start += (length + 3) & ~3
    return found


def test_only_the_last_message_of_a_send_is_acknowledged_and_refusals_find_theirs(kernel: Connect) -> None:
    def script(sequence: int, _attempt: int) -> list[bytes]:
        return [error(errno.EINVAL, sequence + 1, "wrong") + error(errno.ESRCH, sequence + 3), error(0, sequence + 4)]

    netlink, fake = kernel(script)
    [answers] = netlink.change_many([(24, 0x400, b"body5")] * 5)
    assert [answer and answer.code for answer in answers] == [None, errno.EINVAL, None, errno.ESRCH, None]
    assert str(answers[1]) == "Invalid argument (wrong)"
    assert flags_of(fake.sent[0]) == [0x401] * 4 + [0x405]


def test_many_messages_are_sent_in_chunks_that_fit(kernel: Connect) -> None:
    counts: list[int] = []

    def script(sequence: int, _attempt: int) -> list[bytes]:
        counts.append(len(flags_of(fake.sent[-1])))
        return [error(0, sequence + counts[-1] - 1)]

    netlink, fake = kernel(script)
    chunks = list(netlink.change_many([(24, 0, bytes(48))] * 2000))
    assert [len(chunk) for chunk in chunks] == counts and sum(counts) == 2000
    assert len(chunks) == 5 and max(len(data) for data in fake.sent) <= 30_000


def test_answers_that_were_lost_are_asked_for_again_one_by_one(kernel: Connect) -> None:
    def script(sequence: int, attempt: int) -> list[bytes]:
        if attempt == 0:
            return [LOST]
        stale = error(errno.EPERM, 1)
        return [stale, error(errno.EINVAL if attempt == 2 else 0, sequence)]

    netlink, fake = kernel(script)
    [answers] = netlink.change_many([(24, 0, b"")] * 3)
    assert [answer and answer.code for answer in answers] == [None, errno.EINVAL, None]
    assert fake.requests == 4
