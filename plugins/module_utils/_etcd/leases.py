# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Flannel's part of etcd: the network configuration and the subnet leases below one prefix.

Writes are transactions that only happen when nothing below the prefix has been written since it was listed. Whoever
loses such a race lists again. When all that changed is part of the same plan (another node at work with the same
declared data), the rest of it is tried again; otherwise LostRaceError asks for a new plan.

Etcd is asked once for some thousands of nodes that are listed, or a hundred that are written, not once for each. For
that the keys of nodes other than this one begin on one common etcd lease. Each node moves its key to an etcd lease of
its own when it first looks after it, and only such a one is ever extended. A lease that moves to another key, because
it gets or loses its IPv6 half, goes on with the etcd lease that it had.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from .._model.errors import ApplyError, FairleadError
from .._model.item import Item, State, state_of
from .._model.lease import ENDING, LEASED, PERMANENT, SHARED, FlannelConfig, Lease
from .._model.lease_codec import config_key, decode_config, decode_lease, encode_config, encode_lease, lease_key
from .._plan.lease_moves import in_batches
from .._plan.operation import ADD, DELETE, Operation, outcome_of
from .gateway import NOT_FOUND, Gateway, RefusedError, UndeterminedError, UnreachableError, decoded, encoded

# Etcd takes at most 128 operations in one transaction (--max-txn-ops).
BATCH = 100
# Keys in one answer: with their values less than the 4 MiB that a gRPC client takes by default.
PAGE = 5000
TRIES = 20
# Etcd leases that are revoked after one transaction, at most.
MOST_REVOKED = 10
# Seconds to wait after a lost race, at most; the wait is random so that equal nodes fall out of step.
LONGEST_PAUSE = 0.5


class LostRaceError(ApplyError):
    """Someone else wrote what the plan was about: the plan is out of date."""


class LeaseAdapter:
    """``owned`` tells which leases are kept alive from this node: only for these the remaining time is asked.

    With ``only`` the adapter speaks for the key of that name instead of everything below the prefix, which spares etcd
    listing thousands of leases for each node that looks after its own.
    """

    def __init__(
        self, gateway: Gateway, prefix: str, ttl: int, owned: Callable[[Lease], bool], only: Optional[str] = None
    ) -> None:
        self.gateway, self.prefix, self.ttl, self.owned, self.only = gateway, prefix, ttl, owned, only
        # Seconds left and seconds granted, by etcd lease, of those that were asked for.
        self.remaining: Dict[int, int] = {}
        self._granted: Dict[int, int] = {}
        # What is known of the store: its revision, its items, and the etcd lease of each key (0: none).
        self._revision = 0
        self._state: State = {}
        self._attached: Dict[str, int] = {}
        # Keys where leases are that are none of flannel's.
        self.strange: List[str] = []
        # Etcd leases that more than one key hangs on.
        self._shared: Set[int] = set()
        # The etcd lease that keys of other nodes begin on in this call; 0 before there is one.
        self._common = 0
        self._goal: State = {}

    def read(self) -> State:
        entries = self._entries()
        self._attached = {decoded(entry["key"]): int(entry.get("lease", 0)) for entry in entries}
        counts = collections.Counter(self._attached.values())
        self._shared = {lease_id for lease_id, count in counts.items() if count > 1}
        self.remaining, self._granted, self.strange = {}, {}, []
        items = (self._item(entry) for entry in entries)
        self._state = state_of(item for item in items if item is not None)
        return self._state

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        self._goal = outcome_of(self._state, operations)
        self._common = 0
        writes = [operation for operation in operations if not _only_life(operation)]
        for batch in in_batches(writes, BATCH):
            yield from self._write(batch)
        # Last, for these do not look at what others write meanwhile.
        for operation in operations:
            if _only_life(operation):
                yield from self._extend(operation)

    def seconds_left(self, lease: Lease) -> Optional[int]:
        """0 for a permanent lease, None for one that was not asked for."""
        attached = self._attached.get(self._key(lease), 0)
        return self.remaining.get(attached) if attached else 0

    def ask_time(self, leases: Iterable[Lease]) -> None:
        """Ask how long these have left, as far as that is not known."""
        for lease_id in sorted({self._attached.get(self._key(lease), 0) for lease in leases} - {0, *self.remaining}):
            self._ask_time(lease_id)

    def _entries(self) -> List[Dict[str, Any]]:
        """All keys with their values as of one revision, a page at a time."""
        entries: List[Dict[str, Any]] = []
        asked = {**self._range(), "limit": str(PAGE)}
        while True:
            answer = self.gateway.post("kv/range", asked)
            entries += answer.get("kvs", [])
            if "revision" not in asked:
                self._revision = int(answer["header"]["revision"])
            if not answer.get("more"):
                return entries
            following = encoded(decoded(entries[-1]["key"]) + "\0")
            asked = {**asked, "key": following, "revision": str(self._revision)}

    def _range(self) -> Dict[str, str]:
        if self.only is not None:
            return _only(f"{self.prefix}/subnets/{self.only}")
        # Everything below "prefix/": '0' is the character after the slash.
        return {"key": encoded(f"{self.prefix}/"), "range_end": encoded(f"{self.prefix}0")}

    def _item(self, entry: Dict[str, Any]) -> Optional[Item]:
        key, value = decoded(entry["key"]), decoded(entry.get("value", ""))
        if key == config_key(self.prefix):
            return decode_config(value, key)
        start = f"{self.prefix}/subnets/"
        if not key.startswith(start):
            return None
        lease = decode_lease(key[len(start) :], value, LEASED if self._attached[key] else PERMANENT)
        if lease is None:
            self.strange.append(key)
        elif lease.life == LEASED and self.owned(lease):
            return dataclasses.replace(lease, life=self._life_of(self._attached[key]))
        return lease

    def _life_of(self, lease_id: int) -> str:
        if lease_id not in self.remaining:
            self._ask_time(lease_id)
        if lease_id in self._shared:
            return SHARED
        return ENDING if self.remaining[lease_id] * 2 < self.ttl else LEASED

    def _ask_time(self, lease_id: int) -> None:
        # Where all keys are listed, it is known already which of them hang on one etcd lease.
        answer = self.gateway.post("lease/timetolive", {"ID": str(lease_id), "keys": self.only is not None})
        # An expired lease is answered with -1 until its keys are gone.
        self.remaining[lease_id] = max(0, int(answer.get("TTL", 0)))
        self._granted[lease_id] = int(answer.get("grantedTTL", 0))
        if len(answer.get("keys", [])) > 1:
            self._shared.add(lease_id)

    def _extend(self, operation: Operation) -> Iterator[Operation]:
        """Extend the etcd lease itself: nothing is written, so no peer is woken up.

        One that is not this key's alone, or was granted another time, is replaced.
        """
        lease_id = self._attached[self._key(operation.item)]
        if _life(operation.item) != LEASED:
            # Taking an extension back is neither possible nor of use.
            yield operation
        elif lease_id in self._shared or self._granted[lease_id] != self.ttl:
            yield from self._write([operation])
        else:
            answer = self.gateway.post("lease/keepalive", {"ID": str(lease_id)})
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                raise LostRaceError(operation.item, "expired while it was being renewed")
            yield operation

    def _write(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        # Others may have done these while earlier ones were under way.
        operations = [operation for operation in operations if not self._is_done(operation)]
        if not operations:
            return
        given: Dict[str, int] = {}
        moved = self._moved(operations)
        try:
            for operation in operations:
                if _needs_grant(operation) and self._key(operation.item) not in moved:
                    given[self._key(operation.item)] = self._granted_to(operation.item)
            yield from self._transact(operations, given)
        except UnreachableError:
            # A transaction may have happened, or may yet happen: revoking would delete the keys that hang on these
            # etcd leases. Those without a key run out by themselves.
            raise
        except FairleadError:
            self._revoke_unused(given)
            raise
        self._revoke_unused(given)

    def _moved(self, operations: Iterable[Operation]) -> Dict[str, int]:
        """By key the etcd leases that new keys inherit from those that give up their IPv4 subnet at the same time."""
        left = {
            each.item.subnet: each.item
            for each in operations
            if each.action == DELETE and isinstance(each.item, Lease) and each.item.life != PERMANENT
        }
        moved: Dict[str, int] = {}
        for action, item, _previous in operations:
            if action == ADD and isinstance(item, Lease) and item.life != PERMANENT and item.subnet in left:
                before = left[item.subnet]
                # What is about to end, or is not its alone, is not what this key shall go on with.
                if item.life != LEASED or before.life == LEASED:
                    moved[self._key(item)] = self._attached[self._key(before)]
        return moved

    def _granted_to(self, item: Item) -> int:
        if isinstance(item, Lease) and self.owned(item):
            return self._grant()
        self._common = self._common or self._grant()
        return self._common

    def _grant(self) -> int:
        return int(self.gateway.post("lease/grant", {"TTL": str(self.ttl)})["ID"])

    def _transact(self, operations: Sequence[Operation], given: Dict[str, int]) -> Iterator[Operation]:
        """Leaves in ``given`` the etcd leases that no key hangs on."""
        for _attempt in range(TRIES):
            try:
                if self._commit(operations, given):
                    yield from operations
                    return
            except UndeterminedError as error:
                self._refuse_undone(operations, error)
                yield from operations
                return
            time.sleep(random.uniform(0, LONGEST_PAUSE))
            self._catch_up(operations)
            # A key on a lease that we granted: the transaction did happen, only its answer was lost.
            ours = [operation for operation in operations if self._hangs_on(operation, given)]
            for operation in ours:
                del given[self._key(operation.item)]
            yield from ours
            operations = [operation for operation in operations if not self._is_done(operation)]
            if not operations:
                return
        raise LostRaceError(operations[0].item, f"others wrote below {self.prefix} at each of {TRIES} attempts")

    def _commit(self, operations: Sequence[Operation], given: Dict[str, int]) -> bool:
        # Whose time a node looks after is nobody else's business, and that of thousands must not get into their way.
        alone = len(operations) == 1 and _only_life(operations[0])
        guarded = _only(self._key(operations[0].item)) if alone else self._range()
        guard = {**guarded, "target": "MOD", "result": "LESS", "mod_revision": str(self._revision + 1)}
        put_on = {**self._moved(operations), **given}
        requests = [self._request_of(operation, put_on) for operation in operations]
        try:
            answer = self.gateway.post("kv/txn", {"compare": [guard], "success": requests})
        except RefusedError as error:
            if error.code == NOT_FOUND:
                raise LostRaceError(operations[0].item, "an etcd lease expired meanwhile") from error
            raise ApplyError(operations[0].item, str(error)) from error
        if not answer.get("succeeded"):
            return False
        if not alone:
            self._revision = int(answer["header"]["revision"])
        self._state = outcome_of(self._state, operations)
        self._give_back(self._reattach(operations, put_on))
        for operation in operations:
            given.pop(self._key(operation.item), None)
        return True

    def _refuse_undone(self, operations: Sequence[Operation], error: UndeterminedError) -> None:
        """Ask etcd, by a linearizable read, what became of the transaction. That it is not there yet is no answer."""
        try:
            self.read()
        except FairleadError:
            raise error from None
        if not all(self._is_done(operation) for operation in operations):
            raise error

    def _request_of(self, operation: Operation, put_on: Mapping[str, int]) -> Dict[str, Any]:
        item, key = operation.item, self._key(operation.item)
        if operation.action == DELETE:
            return {"request_delete_range": {"key": encoded(key)}}
        put: Dict[str, Any] = {"key": encoded(key), "value": encoded(_value_of(item))}
        if key in put_on:
            put["lease"] = str(put_on[key])
        elif _life(item) != PERMANENT:
            if operation.action == ADD:
                raise LostRaceError(item, "the key whose place it takes went meanwhile")
            put["ignore_lease"] = True
        return {"request_put": put}

    def _reattach(self, operations: Iterable[Operation], put_on: Mapping[str, int]) -> List[int]:
        """Note the new etcd lease of each written key; gives the old ones."""
        old: List[int] = []
        for operation in operations:
            key = self._key(operation.item)
            keeps = operation.action != DELETE and key not in put_on and _life(operation.item) != PERMANENT
            if not keeps:
                old.append(self._attached.pop(key, 0))
                self._attached[key] = put_on.get(key, 0)
        return [lease_id for lease_id in old if lease_id]

    def _catch_up(self, operations: Sequence[Operation]) -> None:
        """List again; raises LostRaceError when something changed that is not part of the plan."""
        known = self._state
        now = self.read()
        for key in {**known, **now}:
            if now.get(key) not in (known.get(key), self._goal.get(key)):
                raise LostRaceError(now.get(key) or known[key], f"changed while {operations[0]} was under way")

    def _hangs_on(self, operation: Operation, given: Dict[str, int]) -> bool:
        key = self._key(operation.item)
        return key in given and self._attached.get(key) == given[key]

    def _is_done(self, operation: Operation) -> bool:
        return self._state.get(operation.item.key) == self._goal.get(operation.item.key)

    def _revoke_unused(self, given: Mapping[str, int]) -> None:
        for lease_id in set(given.values()) - set(self._attached.values()):
            self._revoke(lease_id)
        if self._common not in self._attached.values():
            self._common = 0

    def _give_back(self, lease_ids: Iterable[int]) -> None:
        """Revoke etcd leases that keys were taken off, unless another key hangs on them, which would go with them.

        A few are: what nothing hangs on costs etcd next to nothing until it runs out, and asking for many takes long.
        """
        for lease_id in sorted(set(lease_ids) - set(self._attached.values()))[:MOST_REVOKED]:
            try:
                answer = self.gateway.post("lease/timetolive", {"ID": str(lease_id), "keys": True})
            except FairleadError:
                continue
            if not answer.get("keys"):
                self._revoke(lease_id)

    def _revoke(self, lease_id: int) -> None:
        """One that cannot be revoked now runs out by itself: no reason to fail."""
        with contextlib.suppress(FairleadError):
            self.gateway.post("lease/revoke", {"ID": str(lease_id)})

    def _key(self, item: Item) -> str:
        return lease_key(self.prefix, item) if isinstance(item, Lease) else config_key(self.prefix)


def _only(key: str) -> Dict[str, str]:
    """The range of one key."""
    return {"key": encoded(key), "range_end": encoded(f"{key}\0")}


def _value_of(item: Item) -> str:
    if isinstance(item, Lease):
        return encode_lease(item)
    assert isinstance(item, FlannelConfig)
    return encode_config(item)


def _life(item: Optional[Item]) -> str:
    return item.life if isinstance(item, Lease) else PERMANENT


def _only_life(operation: Operation) -> bool:
    """Whether a lease only gets, or gives back, more time: both versions hang on an etcd lease and say the same."""
    item, previous = operation.item, operation.previous
    if not isinstance(item, Lease) or not isinstance(previous, Lease) or PERMANENT in (item.life, previous.life):
        return False
    return dataclasses.replace(item, life=previous.life) == previous


def _needs_grant(operation: Operation) -> bool:
    if operation.action == DELETE or _life(operation.item) == PERMANENT:
        return False
    return operation.previous is None or (_life(operation.item) == LEASED and _life(operation.previous) != LEASED)
