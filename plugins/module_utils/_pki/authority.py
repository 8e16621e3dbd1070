# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The authorities' side, on the one host that holds their keys: authorities made once, requests signed as declared."""

from __future__ import annotations

import dataclasses
import datetime
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import SpecError
from .._model.item import Item, State, state_of
from .._model.parse import Section
from .._model.pki import (
    DIRECTORY,
    REPLACEMENT,
    Certificate,
    PrivateKey,
    SigningRequest,
    Trust,
    checked_name,
    parse_requests,
    parse_trusted,
)
from .._plan.operation import Operation, difference, outcome_of
from .._plan.pki import UNREADABLE
from . import x509
from .files import PemFiles
from .guard import AuthorityError, Guard

DEFAULT_DAYS, DEFAULT_AUTHORITY_DAYS = 365, 3650
# Keys first: a key that was left alone by a kill can still get its certificate, but never the other way round.
_RANKS = {PrivateKey.kind: 0, Certificate.kind: 1}


@dataclasses.dataclass(frozen=True)
class Signed:
    """``signed``: ``[{host, name, certificate, authority_certificate}]``; ``authorities``: ``[{name, fingerprint,
    not_after}]``. Both are empty where check mode had nothing to sign with."""

    outcome: Outcome
    signed: List[Dict[str, str]]
    authorities: List[Dict[str, str]]
    warnings: List[str]


@dataclasses.dataclass(frozen=True)
class _Settings:
    names: Sequence[str]
    cluster: str
    directory: str
    days: int
    authority_days: int
    # Hosts that were not asked whom they trust, and whether new authorities may be made whoever trusts others.
    unasked: Sequence[str]
    anew: bool

    def key_path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.key")

    def certificate_path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.crt")

    def anchor_path(self, name: str) -> str:
        """Where this host, as any other, keeps the authority's certificate for its own use."""
        return os.path.join(os.path.dirname(self.directory), f"{name}-ca.crt")


def converge(document: Mapping[str, Any], check: bool, now: Optional[datetime.datetime] = None) -> Signed:
    """Document: the parameters of module ``pki_authority``. Raises SpecError, AuthorityError."""
    settings = _parse_settings(Section(document))
    requests = parse_requests(document.get("requests") or [])
    trusted = parse_trusted(document.get("trusted") or [])
    for index, request in enumerate(requests):
        if request.authority not in settings.names:
            raise SpecError(f"requests[{index}].authority", f"{request.authority} is not among {settings.names}")
    if check and not x509.AVAILABLE and not any(os.path.exists(settings.key_path(name)) for name in settings.names):
        return _predicted(settings)
    x509.require()
    return _Run(settings, requests, trusted, now or datetime.datetime.now(datetime.timezone.utc)).signed(check)


def _parse_settings(section: Section) -> _Settings:
    names = section.list("authorities")
    for index, name in enumerate(names):
        checked_name(name, f"authorities[{index}]")
    return _Settings(
        names=names,
        cluster=section.text("cluster_name"),
        directory=section.text("directory", os.path.join(DIRECTORY, "ca")),
        days=section.integer("days", 1, 3650, DEFAULT_DAYS),
        authority_days=section.integer("authority_days", 1, 36500, DEFAULT_AUTHORITY_DAYS),
        unasked=section.list("unasked", []),
        anew=section.boolean("new_authorities", False),
    )


def _predicted(settings: _Settings) -> Signed:
    items: List[Item] = [PrivateKey(settings.key_path(name), "") for name in settings.names]
    items += [Certificate(settings.certificate_path(name), "") for name in settings.names]
    operations = difference({}, state_of(items), _RANKS)
    warning = "predicted without the Python package cryptography, which is not on this host yet"
    return Signed(Outcome({}, outcome_of({}, operations), operations), [], [], [warning])


def _trusted_here(path: str, name: str) -> List[Trust]:
    """What the host that signs trusts itself, which is of use when it is not among the hosts that were asked."""
    found = PemFiles([], [path]).read().values()
    return [Trust(f"{path} here", name, item.fingerprint) for item in found if isinstance(item, Certificate)]


class _Run:
    def __init__(
        self,
        settings: _Settings,
        requests: Sequence[SigningRequest],
        trusted: Sequence[Trust],
        now: datetime.datetime,
    ) -> None:
        self.settings, self.requests, self.now = settings, requests, now
        known = [Trust(one.host, one.authority, one.known_authority) for one in requests if one.known_authority]
        told = {(one.authority, one.fingerprint) for one in (*trusted, *known)}
        here = [trust for name in settings.names for trust in _trusted_here(settings.anchor_path(name), name)]
        news = [trust for trust in here if (trust.authority, trust.fingerprint) not in told]
        self.guard = Guard(settings.directory, [*trusted, *known, *news], settings.unasked)
        self.files = PemFiles(
            map(settings.key_path, settings.names),
            map(settings.certificate_path, settings.names),
            settings.directory,
            directory_mode=0o700,
        )
        self.made: Dict[str, List[Item]] = {}
        self.completed: List[str] = []

    def signed(self, check: bool) -> Signed:
        outcome = engine_converge(self.files, self.plan, check)
        certificates = {name: self._certificate(name, outcome.after) for name in self.settings.names}
        signed = [
            self._sign(request, certificates[request.authority], outcome.after)
            for request in self.requests
            if request.need != REPLACEMENT or request.known_authority != certificates[request.authority].fingerprint
        ]
        authorities = [
            {"name": name, "fingerprint": certificate.fingerprint, "not_after": certificate.not_after}
            for name, certificate in certificates.items()
        ]
        return Signed(outcome, signed, authorities, self._warnings(certificates))

    def _warnings(self, certificates: Mapping[str, Certificate]) -> List[str]:
        end = self.now + datetime.timedelta(days=self.settings.days)
        completed = [
            f"authority {name} had a key without a certificate, as an interrupted run leaves it, and no host trusts "
            f"one of that name yet: {self.settings.certificate_path(name)} was made for that key"
            for name in self.completed
        ]
        return completed + [
            f"authority {name} ends on {certificates[name].not_after}, and what it signs now ends with it"
            for name in sorted({request.authority for request in self.requests})
            if certificates[name].expires < end
        ]

    def plan(self, have: State) -> List[Operation]:
        items = [item for name in self.settings.names for item in self._authority(name, have)]
        return difference(have, {**have, **state_of(items)}, _RANKS)

    def _authority(self, name: str, have: State) -> List[Item]:
        key_path, certificate_path = self.settings.key_path(name), self.settings.certificate_path(name)
        key = have.get((PrivateKey.kind, key_path))
        certificate = have.get((Certificate.kind, certificate_path))
        if key is None or certificate is None:
            return self.made.get(name) or self._missing(name, key, certificate)
        assert isinstance(key, PrivateKey) and isinstance(certificate, Certificate)
        if key.public != certificate.public:
            raise AuthorityError(f"authority {name}: {key_path} does not hold the key of {certificate_path}")
        return [
            self.files.key(key_path, self.files.content(key)),
            self.files.certificate(certificate_path, self.files.content(certificate)),
        ]

    def _missing(self, name: str, key: Optional[Item], certificate: Optional[Item]) -> List[Item]:
        """An authority of which a file is not there, or none at all."""
        lost = [self.settings.key_path(name)] if key is None else []
        lost += [self.settings.certificate_path(name)] if certificate is None else []
        if not self.settings.anew:
            self.guard.check_missing(name, lost)
        if isinstance(key, PrivateKey) and key.public == UNREADABLE:
            raise AuthorityError(f"authority {name}: {key.path} holds no ECDSA key on P-256; restore or remove it")
        self.completed += [name] if key is not None else []
        return self._made(name, self.files.content(key) or x509.new_key())

    def _made(self, name: str, key: str) -> List[Item]:
        certificate = x509.new_authority(key, f"{self.settings.cluster} {name}", self.now, self.settings.authority_days)
        self.made[name] = [
            self.files.key(self.settings.key_path(name), key),
            self.files.certificate(self.settings.certificate_path(name), certificate),
        ]
        return self.made[name]

    def _certificate(self, name: str, state: State) -> Certificate:
        certificate = state[(Certificate.kind, self.settings.certificate_path(name))]
        assert isinstance(certificate, Certificate)
        return certificate

    def _sign(self, request: SigningRequest, authority: Certificate, state: State) -> Dict[str, str]:
        if not self.settings.anew:
            self.guard.check_request(request, authority.fingerprint)
        if authority.expires <= self.now:
            raise AuthorityError(
                f"authority {request.authority}: has expired on {authority.not_after} and signs nothing. To begin "
                f"anew, move {self.settings.directory} away and run with new_authorities, in role pki "
                f"pki_new_authorities=true"
            )
        pem = self.files.content(authority)
        key = self.files.content(state[(PrivateKey.kind, self.settings.key_path(request.authority))])
        try:
            certificate = x509.sign(request.csr, request.subject, pem, key, self.now, self.settings.days)
        except x509.PemError as error:
            raise AuthorityError(f"{request}: the CSR {error}") from error
        return {"host": request.host, "name": request.name, "certificate": certificate, "authority_certificate": pem}
