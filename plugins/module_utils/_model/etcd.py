# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How etcd is reached, and what its members are, as declared and as they report themselves."""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import Any, ClassVar, Dict, Hashable, List, Mapping, Optional, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Section, unique
from .release import Product, Release

DEFAULT_TIMEOUT = 5
CLIENT_PORT, PEER_PORT = 2379, 2380
DATA_DIR, ENVIRONMENT_FILE, UNIT = "/var/lib/etcd", "/etc/etcd/etcd.env", "etcd.service"
# In every file that role etcd writes on a node: by this they are known to be ours.
BANNER = "Made by role fairlead.cluster.etcd"
# A unit file or a configuration as systemd or the running process has it; FOREIGN is that of an etcd that is not ours.
ABSENT, OUTDATED, CURRENT, FOREIGN = "absent", "outdated", "current", "foreign"


@dataclasses.dataclass(frozen=True)
class Access:
    """Client URLs in the order in which they are tried, the TLS files, and seconds to wait for one answer.

    ``username`` and ``password`` are of a user of etcd, None where it lets everybody in whom TLS lets in.
    """

    endpoints: Tuple[str, ...]
    ca_file: Optional[str] = None
    cert_file: Optional[str] = None
    key_file: Optional[str] = None
    timeout: int = DEFAULT_TIMEOUT
    username: Optional[str] = None
    password: Optional[str] = dataclasses.field(default=None, repr=False)

    def only(self, endpoint: str) -> Access:
        return dataclasses.replace(self, endpoints=(endpoint,))


def parse_access(document: Mapping[str, Any]) -> Access:
    """Shape: ``{endpoints: [URL], ca_file?, cert_file?, key_file?, timeout?, username?, password?}``.

    Other keys are left to others.
    """
    section = Section(document)
    endpoints = section.list("endpoints")
    if not endpoints:
        raise SpecError("endpoints", "is empty; name at least one client URL of etcd")
    for index, endpoint in enumerate(endpoints):
        _check_endpoint(endpoint, f"endpoints[{index}]")
    access = Access(
        endpoints=tuple(endpoint.rstrip("/") for endpoint in endpoints),
        ca_file=section.text("ca_file", None),
        cert_file=section.text("cert_file", None),
        key_file=section.text("key_file", None),
        timeout=section.integer("timeout", 1, 300, DEFAULT_TIMEOUT),
        username=section.text("username", None),
        password=_secret(section, "password"),
    )
    if (access.cert_file is None) != (access.key_file is None):
        raise SpecError("cert_file" if access.cert_file is None else "key_file", "is required with the other one")
    _check_user(access)
    return access


def _secret(section: Section, key: str) -> Optional[str]:
    """A string that no error may show."""
    value = section.get(key, None)
    if value is not None and not isinstance(value, str):
        raise SpecError(section.at(key), f"must be a string, not a value of type {type(value).__name__}")
    return value


def _check_user(access: Access) -> None:
    if access.username == "":
        raise SpecError("username", "is empty; name a user of etcd, or leave it and the password out")
    if access.username is None and access.password is not None:
        raise SpecError("username", "is required with password; name the user of etcd that it belongs to")
    if access.username is not None and not access.password:
        raise SpecError("password", f"is required with username; give that of user {access.username}")


def _check_endpoint(endpoint: Any, path: str) -> None:
    if not isinstance(endpoint, str) or not _is_client_url(endpoint):
        raise SpecError(path, f"must be a URL like https://192.0.2.11:2379, not {endpoint!r}")


def _is_client_url(endpoint: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(endpoint)
        # The port is not looked at before it is asked for.
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not parts.path.strip("/")


@dataclasses.dataclass(frozen=True)
class DeclaredMember:
    """A member as declared; the URLs follow from the address and the ports."""

    name: str
    peer_url: str
    client_url: str


@dataclasses.dataclass(frozen=True)
class MemberStatus:
    """A member as the cluster lists it, and what it says of itself; ``problem`` tells why it does not answer."""

    name: str
    id: str
    peer_urls: Tuple[str, ...]
    client_urls: Tuple[str, ...]
    learner: bool
    leader: bool = False
    healthy: bool = False
    version: Optional[str] = None
    db_bytes: Optional[int] = None
    problem: Optional[str] = None

    def to_dict(self) -> Dict[str, Any]:
        return {**dataclasses.asdict(self), "peer_urls": list(self.peer_urls), "client_urls": list(self.client_urls)}


@dataclasses.dataclass(frozen=True)
class EtcdService(BaseItem):
    """The service of the member on this node.

    ``unit_file``: whether systemd has read the present one (ABSENT, OUTDATED, CURRENT), FOREIGN for one that is not
    ours. ``configuration``: whether the process runs with the present one (OUTDATED, CURRENT, FOREIGN).
    """

    kind: ClassVar[str] = "etcd_service"
    unit: str
    unit_file: str
    enabled: bool
    running: bool
    configuration: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.unit,)

    def __str__(self) -> str:
        enabled = "enabled" if self.enabled else "disabled"
        running = f"running with {self.configuration} configuration" if self.running else "not running"
        return f"etcd_service {self.unit} ({self.unit_file} unit file) {enabled} {running}"


@dataclasses.dataclass(frozen=True)
class EtcdData(BaseItem):
    """A member's log and database: a directory that etcd has made in its data directory."""

    kind: ClassVar[str] = "etcd_data"
    path: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def __str__(self) -> str:
        return f"etcd_data {self.path}"


@dataclasses.dataclass(frozen=True)
class EtcdRelease(Release):
    """A release of etcd."""

    kind: ClassVar[str] = "etcd_release"


PRODUCT = Product(
    item=EtcdRelease,
    role="etcd",
    directory=(None,),
    needed=("etcd", "etcdctl"),
    programs=("etcd", "etcdctl", "etcdutl"),
    trial=("etcdctl", "version"),
    example="3.6.14",
)


@dataclasses.dataclass(frozen=True)
class MemberSpec:
    """The member on this node, and the cluster it belongs to."""

    name: str
    members: Tuple[DeclaredMember, ...]
    token: str
    data_dir: str
    environment_file: str
    unit: str
    wait: int

    @property
    def own(self) -> DeclaredMember:
        return next(member for member in self.members if member.name == self.name)

    @property
    def others(self) -> Tuple[DeclaredMember, ...]:
        return tuple(member for member in self.members if member.name != self.name)


def parse_member_spec(document: Mapping[str, Any]) -> MemberSpec:
    """Shape: ``{name, token, data_dir?, environment_file?, unit?, wait?}`` and what ``parse_members`` takes."""
    section = Section(document)
    members = tuple(parse_members(document))
    name = section.node_name("name")
    if name not in {member.name for member in members}:
        raise SpecError("name", f"{name} is not among the names in members; declare it there too")
    return MemberSpec(
        name=name,
        members=members,
        token=section.text("token"),
        data_dir=section.text("data_dir", DATA_DIR),
        environment_file=section.text("environment_file", ENVIRONMENT_FILE),
        unit=section.text("unit", UNIT),
        wait=section.integer("wait", 0, 3600, 120),
    )


def parse_members(document: Mapping[str, Any]) -> List[DeclaredMember]:
    """Shape: ``{members: [{name, address}], client_port?, peer_port?}``; other keys are left to others."""
    section = Section(document)
    client_port = section.integer("client_port", 1, 65535, CLIENT_PORT)
    peer_port = section.integer("peer_port", 1, 65535, PEER_PORT)
    entries = section.sections("members")
    if not entries:
        raise SpecError("members", "is empty; name every member of the etcd cluster")
    members = [_parse_member(entry, client_port, peer_port) for entry in entries]
    for field in ("name", "peer_url"):
        unique({f"members[{index}].{field}": getattr(member, field) for index, member in enumerate(members)}, field)
    return members


def _parse_member(section: Section, client_port: int, peer_port: int) -> DeclaredMember:
    name, address = section.node_name("name"), section.address("address")
    section.finish()
    host = f"[{address}]" if address.version == 6 else str(address)
    return DeclaredMember(name, f"https://{host}:{peer_port}", f"https://{host}:{client_port}")


def quorum(members: int) -> int:
    """How many members must be up for the cluster to work."""
    return members // 2 + 1
