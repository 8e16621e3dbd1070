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
from .._model.errors import FairleadError, SpecError
from .._model.item import Item, State, state_of
from .._model.parse import Section
from .._model.pki import DIRECTORY, Certificate, PrivateKey, SigningRequest, checked_name, parse_requests
from .._plan.operation import Operation, difference, outcome_of
from .._plan.pki import UNREADABLE
from . import x509
from .files import PemFiles

DEFAULT_DAYS, DEFAULT_AUTHORITY_DAYS = 365, 3650
# Keys first: a key that was left alone by a kill can still get its certificate, but never the other way round.
_RANKS = {PrivateKey.kind: 0, Certificate.kind: 1}


class AuthorityError(FairleadError):
    """An authority cannot be made or must not sign."""


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
    for index, request in enumerate(requests):
        if request.authority not in settings.names:
            raise SpecError(f"requests[{index}].authority", f"{request.authority} is not among {settings.names}")
    if check and not x509.AVAILABLE and not any(os.path.exists(settings.key_path(name)) for name in settings.names):
        return _predicted(settings)
    x509.require()
    return _Run(settings, requests, now or datetime.datetime.now(datetime.timezone.utc)).signed(check)


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
    )


def _predicted(settings: _Settings) -> Signed:
    items: List[Item] = [PrivateKey(settings.key_path(name), "") for name in settings.names]
    items += [Certificate(settings.certificate_path(name), "") for name in settings.names]
    operations = difference({}, state_of(items), _RANKS)
    warning = "predicted without the Python package cryptography, which is not on this host yet"
    return Signed(Outcome({}, outcome_of({}, operations), operations), [], [], [warning])


class _Run:
    def __init__(self, settings: _Settings, requests: Sequence[SigningRequest], now: datetime.datetime) -> None:
        self.settings, self.requests, self.now = settings, requests, now
        self.files = PemFiles(
            map(settings.key_path, settings.names),
            map(settings.certificate_path, settings.names),
            private_directory=settings.directory,
        )
        self.made: Dict[str, List[Item]] = {}

    def signed(self, check: bool) -> Signed:
        outcome = engine_converge(self.files, self.plan, check)
        certificates = {name: self._certificate(name, outcome.after) for name in self.settings.names}
        signed = [self._sign(request, certificates[request.authority], outcome.after) for request in self.requests]
        authorities = [
            {"name": name, "fingerprint": certificate.fingerprint, "not_after": certificate.not_after}
            for name, certificate in certificates.items()
        ]
        return Signed(outcome, signed, authorities, self._warnings(certificates))

    def _warnings(self, certificates: Mapping[str, Certificate]) -> List[str]:
        end = self.now + datetime.timedelta(days=self.settings.days)
        return [
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
        if key is None and certificate is None:
            return self.made.get(name) or self._new(name)
        if not isinstance(key, PrivateKey) or not isinstance(certificate, Certificate):
            return self._completed(name, key)
        if key.public != certificate.public:
            raise AuthorityError(f"authority {name}: {key_path} does not hold the key of {certificate_path}")
        return [
            self.files.key(key_path, self.files.content(key)),
            self.files.certificate(certificate_path, self.files.content(certificate)),
        ]

    def _completed(self, name: str, key: Optional[Item]) -> List[Item]:
        """An authority of which only one file is there, as a kill leaves it, when nobody trusts it yet."""
        in_use = os.path.exists(self.settings.anchor_path(name)) or any(
            request.authority == name and request.known_authority is not None for request in self.requests
        )
        if in_use:
            missing = self.settings.key_path(name) if key is None else self.settings.certificate_path(name)
            raise AuthorityError(f"authority {name}: {missing} is missing beside the other file; restore it")
        if isinstance(key, PrivateKey) and key.public == UNREADABLE:
            raise AuthorityError(f"authority {name}: {key.path} holds no ECDSA key on P-256; restore or remove it")
        return self.made.get(name) or self._made(name, self.files.content(key) or x509.new_key())

    def _new(self, name: str) -> List[Item]:
        anchor = self.settings.anchor_path(name)
        if os.path.exists(anchor):
            raise AuthorityError(
                f"authority {name}: {anchor} shows that there was one already, but its key is not in "
                f"{self.settings.directory}. Restore that directory or set the host that has it as authority host; "
                f"a new authority would not be trusted by the other nodes"
            )
        return self._made(name, x509.new_key())

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
        if request.known_authority not in (None, authority.fingerprint):
            raise AuthorityError(
                f"{request}: that host trusts another authority {request.authority} (sha256 "
                f"{request.known_authority}) than the one here ({authority.fingerprint}). Sign on the host that has "
                f"its key, or remove the old certificates on all nodes to begin anew"
            )
        if authority.expires <= self.now:
            raise AuthorityError(
                f"authority {request.authority}: has expired on {authority.not_after} and signs nothing; remove the "
                f"certificates and authorities on all nodes to begin anew"
            )
        pem = self.files.content(authority)
        key = self.files.content(state[(PrivateKey.kind, self.settings.key_path(request.authority))])
        try:
            certificate = x509.sign(request.csr, request.subject, pem, key, self.now, self.settings.days)
        except x509.PemError as error:
            raise AuthorityError(f"{request}: the CSR {error}") from error
        return {"host": request.host, "name": request.name, "certificate": certificate, "authority_certificate": pem}
