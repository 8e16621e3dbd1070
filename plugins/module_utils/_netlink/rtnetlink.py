# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A rtnetlink socket: requests, dumps, acknowledgments and their errors. Knows nothing of what messages are about.

pyroute2's own sockets bring asyncio, which is two thirds of the time that importing them takes (0.10 s of which 0.035 s
remain for the message classes used here), and they do not notice an interrupted dump. The wire protocol is small
(linux/netlink.h, RFC 3549), so this file speaks it on an ordinary socket of the current network namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from types import TracebackType
from typing import Iterator, List, Optional, Sequence, Tuple, Type, Union

from .._model.errors import FairleadError, ReadError

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LENGTH = struct.Struct("=I")
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")
# linux/netlink.h
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
_DUMP_INTERRUPTED, _ACK_TLVS = 0x10, 0x200
_TYPE_ERROR, _TYPE_DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_ERROR_ATTRIBUTE_TEXT = 1
_TYPE_MASK = 0x3FFF

# The kernel fills at most 32 KiB in one read of a dump.
_RECEIVE_SIZE = 1 << 16
_RECEIVE_BUFFER = 1 << 20
# Bytes of one send of many messages. The answers to one, errors all, must fit into the receive buffer.
_SEND_SIZE = 30_000
_ANSWER_SECONDS = 30
# Objects asked for in one send. The kernel answers each on its own, and all answers must fit into the receive buffer.
_QUESTIONS = 100
# A dump is interrupted when its table changes meanwhile; on a busy node that may happen again at once.
_DUMP_ATTEMPTS = 10


#: Kind, flags and body of a message.
Message = Tuple[int, int, bytes]


class RefusedError(FairleadError):
    """The kernel answered a request with an error. ``code`` is the errno."""

    def __init__(self, code: int, text: str = "") -> None:
        reason = os.strerror(code)
        super().__init__(f"{reason} ({text})" if text else reason)
        self.code = code


class Rtnetlink:
    """Use as a context manager. Not to be shared between threads or over a fork. ``bus`` is the protocol number of
    another of the kernel's netlink services."""

    def __init__(self, bus: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, bus)
        try:
            self._prepare()
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._socket.close()

    def _prepare(self) -> None:
        self._socket.settimeout(_ANSWER_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            # Kernels before 4.20 lack strict checking: they ignore the filters of a dump, so callers filter too.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

    def change(self, kind: int, flags: int, body: bytes) -> None:
        """Send one message and wait for its acknowledgment. Raises RefusedError."""
        sequence = self._send(kind, REQUEST | ACK | flags, body)
        for message_kind, message_flags, message in self._receive(sequence):
            if message_kind == _TYPE_ERROR:
                _raise_error(message, message_flags)
                return

    def change_many(self, messages: Sequence[Message]) -> Iterator[List[Optional[RefusedError]]]:
        """Send messages in chunks; for each chunk what the kernel said to each message of it, None for yes.

        Only the last message of a chunk asks for an acknowledgment. The kernel answers the others when it refuses them,
        with their sequence number, and works on all of them in order: so that answer ends the chunk.
        """
        start = 0
        while start < len(messages):
            end = _chunk_end(messages, start)
            yield self._change_chunk(messages[start:end])
            start = end

    def _change_chunk(self, messages: Sequence[Message]) -> List[Optional[RefusedError]]:
        first = self._sequence + 1
        self._sequence += len(messages)
        last = self._sequence
        pack, size = HEADER.pack, HEADER.size
        parts: List[bytes] = []
        for sequence, (kind, flags, body) in enumerate(messages, first):
            wanted = REQUEST | ACK | flags if sequence == last else REQUEST | flags
            parts += (pack(size + len(body), kind, wanted, sequence, 0), body, _PADDING[-len(body) & 3])
        try:
            self._socket.send(b"".join(parts))
            return self._answers(first, last)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # Answers were lost. Each message leads to the same state when it is sent twice.
            return [self._change_one(message) for message in messages]

    def _answers(self, first: int, last: int) -> List[Optional[RefusedError]]:
        answers: List[Optional[RefusedError]] = [None] * (last - first + 1)
        for sequence, kind, flags, message in self._messages():
            if kind == _TYPE_ERROR and first <= sequence <= last:
                answers[sequence - first] = _error_in(message, flags)
                if sequence == last:
                    break
        return answers

    def _change_one(self, message: Message) -> Optional[RefusedError]:
        try:
            self.change(*message)
        except RefusedError as error:
            return error
        return None

    def get(self, kind: int, body: bytes) -> bytes:
        """Ask for one object; its message with the header. Raises RefusedError."""
        sequence = self._send(kind, REQUEST, body)
        for message_kind, message_flags, message in self._receive(sequence):
            if message_kind == _TYPE_ERROR:
                _raise_error(message, message_flags)
            return message
        raise AssertionError("an answer ends the loop")

    def get_many(self, kind: int, bodies: Sequence[bytes]) -> Iterator[Union[bytes, RefusedError]]:
        """Ask for one object after another; for each its message with the header, or why there is none."""
        for start in range(0, len(bodies), _QUESTIONS):
            yield from self._get_chunk(kind, bodies[start : start + _QUESTIONS])

    def _get_chunk(self, kind: int, bodies: Sequence[bytes]) -> List[Union[bytes, RefusedError]]:
        first = self._sequence + 1
        self._sequence += len(bodies)
        head = HEADER.pack
        parts = [head(HEADER.size + len(body), kind, REQUEST, n, 0) + body for n, body in enumerate(bodies, first)]
        self._socket.send(b"".join(parts))
        answers: List[Union[bytes, RefusedError]] = []
        for answered, message_kind, flags, message in self._messages():
            if answered == first + len(answers):
                error = _error_in(message, flags) if message_kind == _TYPE_ERROR else None
                answers.append(error or message)
                if len(answers) == len(bodies):
                    break
        return answers

    def dump(self, kind: int, body: bytes) -> List[bytes]:
        """All objects of a kind as messages with header. Raises RefusedError, and ReadError for a restless table."""
        chunks = self.dump_chunks(kind, body)
        return [chunk[start : start + length] for chunk in chunks for start, length in _bounds(chunk)]

    def dump_chunks(self, kind: int, body: bytes) -> List[bytes]:
        """The same as they come from the kernel: many messages a chunk, the closing one left out."""
        for _attempt in range(_DUMP_ATTEMPTS):
            try:
                messages = self._dump_once(kind, body)
            except OSError as error:
                # Part of the answer was lost. What is left of it has an old number, and is passed over.
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            if messages is not None:
                return messages
        raise ReadError(
            f"the kernel's table (request {kind}) changed during each of {_DUMP_ATTEMPTS} attempts to read it"
        )

    def _dump_once(self, kind: int, body: bytes) -> Optional[List[bytes]]:
        """None when the table changed while it was read."""
        sequence = self._send(kind, REQUEST | DUMP, body)
        chunks: List[bytes] = []
        interrupted = False
        while True:
            data = self._receive_data()
            _length, _kind, flags, answered, _port = HEADER.unpack_from(data)
            if answered != sequence:
                continue
            # The kernel looks for changes once for each chunk it fills, and marks the first message after one.
            interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
            last = _last_message(data)
            _length, kind_of_last, flags, _sequence, _port = HEADER.unpack_from(data, last)
            if kind_of_last in (_TYPE_ERROR, _TYPE_DONE):
                _raise_error(data[last:], flags)
                chunks.append(data[:last])
                return None if interrupted or flags & _DUMP_INTERRUPTED else chunks
            chunks.append(data)

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        return self._sequence

    def _receive(self, sequence: int) -> Iterator[Tuple[int, int, bytes]]:
        """Kind, flags and bytes of each message that answers a request; answers to earlier requests are dropped."""
        for answered, kind, flags, message in self._messages():
            if answered == sequence:
                yield kind, flags, message

    def _messages(self) -> Iterator[Tuple[int, int, int, bytes]]:
        """Sequence number, kind, flags and bytes of whatever comes in."""
        while True:
            data = self._receive_data()
            for start, length in _bounds(data):
                _length, kind, flags, answered, _port = HEADER.unpack_from(data, start)
                yield answered, kind, flags, data[start : start + length]

    def _receive_data(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except socket.timeout:
            raise ReadError(f"the kernel gave no answer on netlink for {_ANSWER_SECONDS} seconds") from None


def _bounds(data: bytes) -> Iterator[Tuple[int, int]]:
    """Where each message begins, and how long it is."""
    start = 0
    while start + HEADER.size <= len(data):
        length = _LENGTH.unpack_from(data, start)[0]
        yield start, length
        start += _aligned(length)


def _last_message(data: bytes) -> int:
    """Where it begins. A dump's closing message may follow objects in one chunk."""
    unpack, size = _LENGTH.unpack_from, len(data)
    start = last = 0
    while start < size:
        last = start
        start += (unpack(data, start)[0] + 3) & ~3
    return last


def _chunk_end(messages: Sequence[Message], start: int) -> int:
    size = 0
    for index in range(start, len(messages)):
        size += HEADER.size + _aligned(len(messages[index][2]))
        if size > _SEND_SIZE and index > start:
            return index
    return len(messages)


def interface_index(name: str) -> int:
    """Raises RefusedError with ENODEV for an interface that is not there."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise RefusedError(errno.ENODEV, name) from None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def attributes(data: bytes, offset: int) -> Iterator[Tuple[int, bytes]]:
    """Type and value of each attribute from ``offset`` on."""
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


def _raise_error(message: bytes, flags: int) -> None:
    error = _error_in(message, flags)
    if error is not None:
        raise error


def _error_in(message: bytes, flags: int) -> Optional[RefusedError]:
    """What an error or done message tells; zero, and a done message without a code, mean success."""
    if len(message) < HEADER.size + 4:
        return None
    code = -struct.unpack_from("=i", message, HEADER.size)[0]
    return RefusedError(code, _error_text(message, flags)) if code > 0 else None


def _error_text(message: bytes, flags: int) -> str:
    """The kernel's own words. With NETLINK_CAP_ACK they follow the code and the header of the request."""
    if not flags & _ACK_TLVS:
        return ""
    start = HEADER.size + 4 + (HEADER.size if HEADER.unpack_from(message)[1] == _TYPE_ERROR else 0)
    texts = [value for kind, value in attributes(message, start) if kind == _ERROR_ATTRIBUTE_TEXT]
    return texts[0].rstrip(b"\0").decode(errors="replace") if texts else ""


def _aligned(length: int) -> int:
    return (length + 3) & ~3


# What deleting an object answers that is not there (any more).
ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
