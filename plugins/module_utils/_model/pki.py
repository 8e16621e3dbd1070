# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Certificates as declared and as found: what shall be certified, and key and certificate files without secrets."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from typing import Any, ClassVar, Dict, Hashable, List, Optional, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Section, parse_address, unique

SERVER, CLIENT = "server", "client"
# How much a request is needed: there is no certificate to work with; the one in place is good but ends soon; or all is
# well, and a signature is of use only where new authorities take the place of those trusted so far.
NOW, SOON, REPLACEMENT = "now", "soon", "replacement"
NEEDS = (NOW, SOON, REPLACEMENT)
# X.520 (ub-common-name) allows no longer ones.
LONGEST_COMMON_NAME = 64
DIRECTORY = "/etc/fairlead/pki"
# An authority's certificate on the hosts that trust it is in a file of its name and this.
ANCHOR = "-ca.crt"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a certificate says of its holder. ``dns_names``, ``addresses`` and ``usages`` are sorted."""

    common_name: str
    dns_names: Tuple[str, ...] = ()
    addresses: Tuple[str, ...] = ()
    usages: Tuple[str, ...] = (CLIENT,)

    def __str__(self) -> str:
        names = ",".join((*self.dns_names, *self.addresses)) or "-"
        return f"CN={self.common_name} names {names} for {'+'.join(self.usages) or '-'}"


@dataclasses.dataclass(frozen=True)
class WantedCertificate:
    """A certificate that this node shall have: from which authority, about what, and in which files."""

    name: str
    authority: str
    subject: Subject
    certificate_path: str
    key_path: str
    authority_path: str
    owner: str = "root"
    group: str = "root"


@dataclasses.dataclass(frozen=True)
class PrivateKey(BaseItem):
    """A key file. ``public`` is the SHA-256 of the public key, ``unreadable`` for a file that holds no such key."""

    kind: ClassVar[str] = "private_key"
    path: str
    public: str
    mode: str = "0600"
    owner: str = "root"
    group: str = "root"

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def __str__(self) -> str:
        return f"private_key {self.path} {self.mode} {self.owner}:{self.group} public {self.public[:12] or '(new)'}"


@dataclasses.dataclass(frozen=True)
class Certificate(BaseItem):
    """A certificate file. ``fingerprint`` is the SHA-256 of the certificate; ``not_before`` and ``not_after`` are
    ISO 8601 in UTC.

    ``subject`` is None for a file that holds no certificate.
    """

    kind: ClassVar[str] = "certificate"
    path: str
    fingerprint: str
    public: str = ""
    subject: Optional[Subject] = None
    not_before: str = ""
    not_after: str = ""
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    @property
    def begins(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self.not_before)

    @property
    def expires(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self.not_after)

    def __str__(self) -> str:
        what = f"{self.subject} until {self.not_after or '(new)'}" if self.subject else "unreadable"
        digest = self.fingerprint[:12] or "(new)"
        return f"certificate {self.path} {self.mode} {self.owner}:{self.group} {what} sha256 {digest}"


@dataclasses.dataclass(frozen=True)
class SigningRequest:
    """What the authority is asked to certify: declared facts about a host, and its CSR as proof of the key.

    ``known_authority`` is the fingerprint of the authority's certificate that the host trusts so far; ``need`` is one
    of ``NEEDS``.
    """

    host: str
    name: str
    authority: str
    subject: Subject
    csr: str
    known_authority: Optional[str] = None
    need: str = NOW

    def __str__(self) -> str:
        return f"certificate {self.name} of {self.host}"


@dataclasses.dataclass(frozen=True)
class Trust:
    """An authority that a host trusts already, by the SHA-256 of its certificate."""

    host: str
    authority: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.host} (sha256 {self.fingerprint})"


def parse_wanted(data: Any, directory: str = DIRECTORY, path: str = "certificates") -> List[WantedCertificate]:
    """Shape: ``[{name, authority, common_name, dns_names?, addresses?, usages?, owner?, group?, certificate_path?,
    key_path?, authority_path?}]``. Paths default to ``<directory>/<name>.crt``, ``.key`` and ``<authority>-ca.crt``.
    """
    wanted = [_parse_wanted(section, directory) for section in Section({path: data}).sections(path)]
    for field in ("name", "certificate_path", "key_path"):
        unique({f"{path}[{index}].{field}": getattr(entry, field) for index, entry in enumerate(wanted)}, field)
    return wanted


def _parse_wanted(section: Section, directory: str) -> WantedCertificate:
    name, authority = parse_name(section, "name"), parse_name(section, "authority")
    wanted = WantedCertificate(
        name=name,
        authority=authority,
        subject=_parse_subject(section),
        certificate_path=_path(section, "certificate_path", os.path.join(directory, f"{name}.crt")),
        key_path=_path(section, "key_path", os.path.join(directory, f"{name}.key")),
        authority_path=_path(section, "authority_path", os.path.join(directory, f"{authority}{ANCHOR}")),
        owner=section.text("owner", "root"),
        group=section.text("group", "root"),
    )
    section.finish()
    return wanted


def parse_requests(data: Any, path: str = "requests") -> List[SigningRequest]:
    """Shape: ``[{host, name, authority, common_name, dns_names?, addresses?, usages?, csr, known_authority?, reason?,
    need?}]``."""
    requests = [_parse_request(section) for section in Section({path: data}).sections(path)]
    unique({f"{path}[{index}]": str(request) for index, request in enumerate(requests)}, "request for")
    return requests


def _parse_request(section: Section) -> SigningRequest:
    request = SigningRequest(
        host=section.text("host"),
        name=parse_name(section, "name"),
        authority=parse_name(section, "authority"),
        subject=_parse_subject(section),
        csr=section.text("csr"),
        known_authority=section.text("known_authority", None),
        need=section.text("need", NOW, NEEDS),
    )
    # Why it is asked for is there for people.
    section.get("reason", None)
    section.finish()
    return request


def parse_trusted(data: Any, path: str = "trusted") -> List[Trust]:
    """Shape: ``[{host, name, fingerprint}]``, where ``name`` is that of the authority."""
    trusted = []
    for section in Section({path: data}).sections(path):
        trusted.append(Trust(section.text("host"), parse_name(section, "name"), section.text("fingerprint")))
        section.finish()
    return trusted


def parse_name(section: Section, key: str) -> str:
    """A name that may be part of a file name."""
    return checked_name(section.text(key), section.at(key))


def is_name(value: str) -> bool:
    """Whether it may be the name of a certificate or authority."""
    return _NAME.fullmatch(value) is not None


def checked_name(value: str, path: str) -> str:
    if not is_name(value):
        raise SpecError(path, f"must be lower-case letters, digits and '-', not {value!r}")
    return value


def _parse_subject(section: Section) -> Subject:
    common_name = section.text("common_name")
    if not 0 < len(common_name) <= LONGEST_COMMON_NAME:
        raise SpecError(section.at("common_name"), f"must have 1 to {LONGEST_COMMON_NAME} characters")
    usages = section.list("usages", [CLIENT])
    for index, usage in enumerate(usages):
        if usage not in (SERVER, CLIENT):
            raise SpecError(f"{section.at('usages')}[{index}]", f"must be {SERVER} or {CLIENT}, not {usage!r}")
    dns_names = [
        _dns_name(value, f"{section.at('dns_names')}[{index}]")
        for index, value in enumerate(section.list("dns_names", []))
    ]
    addresses = [
        str(parse_address(value, f"{section.at('addresses')}[{index}]"))
        for index, value in enumerate(section.list("addresses", []))
    ]
    return Subject(common_name, _sorted(dns_names), _sorted(addresses), _sorted(usages))


def _sorted(values: List[str]) -> Tuple[str, ...]:
    return tuple(sorted(set(values)))


def _dns_name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _DNS_NAME.fullmatch(value.lower()):
        raise SpecError(path, f"must be a DNS name, not {value!r}")
    return value.lower()


def _path(section: Section, key: str, default: str) -> str:
    value: str = section.text(key, default)
    if not value.startswith("/"):
        raise SpecError(section.at(key), f"must be absolute, not {value!r}")
    return value


def parse_signed(data: Any, path: str = "signed") -> Dict[str, Tuple[str, str]]:
    """Shape: ``[{name, certificate, authority_certificate}]`` in PEM; gives the two texts by name."""
    signed: Dict[str, Tuple[str, str]] = {}
    for section in Section({path: data}).sections(path):
        name = parse_name(section, "name")
        if name in signed:
            raise SpecError(section.at("name"), f"{name} is in the list twice")
        signed[name] = (section.text("certificate"), section.text("authority_certificate"))
    return signed
