# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The part of etcd's JSON gateway that leases need, in memory, with a clock that tests turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import (
    NOT_FOUND,
    RefusedError,
    UndeterminedError,
    UnreachableError,
    decoded,
    encoded,
)


@dataclasses.dataclass
class Entry:
    value: str
    mod_revision: int
    lease: int


class FakeEtcd:
    """Stands in for Gateway. ``before[path]`` is called once in front of the next call of that path."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[str, Entry] = {}
        # Seconds granted and the time of expiry of each etcd lease.
        self.leases: dict[int, tuple[int, int]] = {}
        self.now = 0
        self.before: dict[str, Callable[[], None]] = {}
        self.lose_answer_of: str | None = None
        # A call that is carried out while its answer reaches nobody.
        self.silent_after: str | None = None
        self.calls: list[str] = []
        # Of each transaction what it did to which key.
        self.told: list[list[tuple[str, str]]] = []

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(path)
        hook = self.before.pop(path, None)
        if hook is not None:
            hook()
        answer = getattr(self, "_" + path.replace("/", "_"))(body)
        if path == self.lose_answer_of:
            self.lose_answer_of = None
            # What the gateway does when an answer is lost: ask the next endpoint the same.
            answer = getattr(self, "_" + path.replace("/", "_"))(body)
        if path == self.silent_after:
            self.silent_after = None
            raise UndeterminedError("no etcd endpoint answers: https://192.0.2.11:2379: no answer in time")
        return {"header": {"revision": str(self.revision)}, **answer}

    def close(self) -> None:
        pass

    def put(self, key: str, value: str, lease: int = 0) -> None:
        self.revision += 1
        self.entries[key] = Entry(value, self.revision, lease)

    def delete(self, key: str) -> None:
        self.revision += 1
        del self.entries[key]

    def advance(self, seconds: int) -> None:
        self.now += seconds
        for lease in [lease for lease, (_ttl, end) in self.leases.items() if end <= self.now]:
            self._drop(lease)

    def unattached(self) -> set[int]:
        return set(self.leases) - {entry.lease for entry in self.entries.values()}

    def _drop(self, lease: int) -> None:
        del self.leases[lease]
        for key in [key for key, entry in self.entries.items() if entry.lease == lease]:
            self.delete(key)

    def _range(self, body: dict[str, Any]) -> dict[str, Entry]:
        low, high = decoded(body["key"]), decoded(body["range_end"])
        return {key: entry for key, entry in sorted(self.entries.items()) if low <= key < high}

    def _kv_range(self, body: dict[str, Any]) -> dict[str, Any]:
        assert int(body.get("revision", self.revision)) == self.revision, "the past is not kept here"
        everything = self._range(body)
        found = dict(list(everything.items())[: int(body["limit"])])
        kvs = [
            {"key": encoded(key), "value": encoded(entry.value), **({"lease": str(entry.lease)} if entry.lease else {})}
            for key, entry in found.items()
        ]
        more = {"more": True} if len(found) < len(everything) else {}
        return {"kvs": kvs, "count": str(len(everything)), **more} if kvs else {}

    def _kv_txn(self, body: dict[str, Any]) -> dict[str, Any]:
        for guard in body["compare"]:
            assert (guard["target"], guard["result"]) == ("MOD", "LESS")
            if any(entry.mod_revision >= int(guard["mod_revision"]) for entry in self._range(guard).values()):
                return {}
        assert len(body["success"]) <= 128
        puts = [request["request_put"] for request in body["success"] if "request_put" in request]
        for put in puts:
            if int(put.get("lease", 0)) not in {0, *self.leases}:
                raise RefusedError("/v3/kv/txn", NOT_FOUND, "etcdserver: requested lease not found")
        keys = [decoded(next(iter(request.values()))["key"]) for request in body["success"]]
        assert len(set(keys)) == len(keys), "etcdserver: duplicate key given in txn request"
        self.revision += 1
        for request, key in zip(body["success"], keys, strict=True):
            if "request_put" in request:
                put = request["request_put"]
                lease = self.entries[key].lease if put.get("ignore_lease") else int(put.get("lease", 0))
                self.entries[key] = Entry(decoded(put["value"]), self.revision, lease)
            else:
                self.entries.pop(key, None)
        # What those who watch are told, in this order.
        self.told.append([(next(iter(request)), key) for request, key in zip(body["success"], keys, strict=True)])
        return {"succeeded": True}

    def _lease_grant(self, body: dict[str, Any]) -> dict[str, Any]:
        lease = 1000 + len(self.calls)
        self.leases[lease] = (int(body["TTL"]), self.now + int(body["TTL"]))
        return {"ID": str(lease), "TTL": body["TTL"]}

    def _lease_revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        if int(body["ID"]) not in self.leases:
            raise RefusedError("/v3/lease/revoke", NOT_FOUND, "etcdserver: requested lease not found")
        self._drop(int(body["ID"]))
        return {}

    def _lease_timetolive(self, body: dict[str, Any]) -> dict[str, Any]:
        if int(body["ID"]) not in self.leases:
            return {"ID": body["ID"], "TTL": "-1"}
        granted, end = self.leases[int(body["ID"])]
        keys = [encoded(key) for key, entry in self.entries.items() if entry.lease == int(body["ID"])]
        asked = {"keys": keys} if body.get("keys") and keys else {}
        return {"ID": body["ID"], "TTL": str(end - self.now), "grantedTTL": str(granted), **asked}

    def _lease_keepalive(self, body: dict[str, Any]) -> dict[str, Any]:
        if int(body["ID"]) not in self.leases:
            return {"result": {"ID": body["ID"]}}
        granted = self.leases[int(body["ID"])][0]
        self.leases[int(body["ID"])] = (granted, self.now + granted)
        return {"result": {"ID": body["ID"], "TTL": str(granted)}}


class Unreachable:
    """A gateway of which no endpoint answers."""

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        raise UnreachableError("no etcd endpoint answers: https://192.0.2.11:2379: Connection refused")

    def close(self) -> None:
        pass
