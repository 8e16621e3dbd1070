# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node's side: keys made here and never sent anywhere, requests for what is due, certificates put in place."""

from __future__ import annotations

import dataclasses
import datetime
import glob
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, SpecError
from .._model.item import Item, State, state_of
from .._model.parse import Section
from .._model.pki import (
    ANCHOR,
    DIRECTORY,
    NOW,
    REPLACEMENT,
    SOON,
    Certificate,
    PrivateKey,
    WantedCertificate,
    is_name,
    parse_signed,
    parse_wanted,
)
from .._plan.operation import Operation, difference, outcome_of
from .._plan.pki import UNREADABLE, due, is_last
from . import x509
from .files import PemFiles

DEFAULT_WINDOW_DAYS = 30


class CertificateError(FairleadError):
    """A signed certificate is not what was asked for."""


@dataclasses.dataclass(frozen=True)
class Certified:
    """``requests``: ``[{name, csr, reason, need, known_authority}]`` for what still has to be signed; ``trusted``:
    ``[{name, fingerprint}]``, the authorities whose certificates are on this node."""

    outcome: Outcome
    requests: List[Dict[str, Any]]
    trusted: List[Dict[str, str]]
    warnings: List[str]


def converge(document: Mapping[str, Any], check: bool, now: Optional[datetime.datetime] = None) -> Certified:
    """Document: the parameters of module ``pki_certificate``. Raises SpecError, CertificateError."""
    section = Section(document)
    directory = section.text("directory", DIRECTORY)
    wanted = parse_wanted(document.get("certificates"), directory)
    signed = parse_signed(document.get("signed") or [])
    days = section.integer("renew_before_days", 1, 3650, DEFAULT_WINDOW_DAYS)
    unknown = sorted(set(signed) - {entry.name for entry in wanted})
    if unknown:
        raise SpecError("signed", f"{unknown[0]} is not among the names in certificates")
    anchors = _anchors(wanted, directory)
    if check and not x509.AVAILABLE and not any(map(os.path.exists, [*_paths(wanted), *anchors])):
        return _predicted(wanted)
    x509.require()
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    anew = section.boolean("new_authorities", False)
    return _Run(wanted, signed, check, moment, datetime.timedelta(days=days), anchors, anew, directory).certified()


def _paths(wanted: Sequence[WantedCertificate]) -> List[str]:
    return [path for entry in wanted for path in (entry.key_path, entry.certificate_path)]


def _anchors(wanted: Sequence[WantedCertificate], directory: str) -> Dict[str, str]:
    """Where certificates of authorities are, and whose: those in use, and others that lie beside them."""
    found: Dict[str, str] = {}
    for path in glob.glob(os.path.join(glob.escape(directory), f"*{ANCHOR}")):
        name = os.path.basename(path)[: -len(ANCHOR)]
        if is_name(name) and os.path.isfile(path) and not os.path.islink(path):
            found[path] = name
    return {**found, **{entry.authority_path: entry.authority for entry in wanted}}


def _predicted(wanted: Sequence[WantedCertificate]) -> Certified:
    """For check mode on a node that has nothing yet, not even the package to make keys with."""
    items: List[Item] = [PrivateKey(entry.key_path, "", owner=entry.owner, group=entry.group) for entry in wanted]
    items += [Certificate(entry.certificate_path, "", subject=entry.subject) for entry in wanted]
    operations = difference({}, state_of(items))
    warning = "predicted without the Python package cryptography, which is not on this node yet"
    return Certified(Outcome({}, outcome_of({}, operations), operations), [], [], [warning])


class _Run:
    """One run over a list of certificates."""

    def __init__(
        self,
        wanted: Sequence[WantedCertificate],
        signed: Mapping[str, Tuple[str, str]],
        check: bool,
        now: datetime.datetime,
        window: datetime.timedelta,
        anchors: Mapping[str, str],
        anew: bool,
        directory: str,
    ) -> None:
        self.wanted, self.signed, self.check, self.now, self.window = wanted, signed, check, now, window
        self.anchors, self.anew = anchors, anew
        self.files = PemFiles(
            [entry.key_path for entry in wanted],
            [path for entry in wanted for path in (entry.certificate_path, entry.authority_path)],
            directory,
        )
        self.new_keys: Dict[str, str] = {}

    def certified(self) -> Certified:
        outcome = engine_converge(self.files, self.plan, self.check)
        requests = [self._request(entry, outcome.after) for entry in self.wanted if entry.name not in self.signed]
        asked = [request for request in requests if request is not None]
        settled = [entry for entry in self.wanted if entry.name not in {request["name"] for request in asked}]
        warnings = [self._warning(entry, outcome.after) for entry in settled]
        return Certified(outcome, asked, self._trusted(), [warning for warning in warnings if warning is not None])

    def _trusted(self) -> List[Dict[str, str]]:
        state = PemFiles([], self.anchors).read()
        found = {
            (self.anchors[item.path], item.fingerprint) for item in state.values() if isinstance(item, Certificate)
        }
        return [{"name": name, "fingerprint": fingerprint} for name, fingerprint in sorted(found)]

    def plan(self, have: State) -> List[Operation]:
        items: List[Item] = []
        # Signed ones last: they bring the authority's certificate, which others may share.
        for entry in sorted(self.wanted, key=lambda entry: entry.name in self.signed):
            key = self._key(entry, have)
            items += [key, *self._certificates(entry, key, have)]
        return difference(have, {**have, **state_of(items)})

    def _key(self, entry: WantedCertificate, have: State) -> PrivateKey:
        present = have.get((PrivateKey.kind, entry.key_path))
        if isinstance(present, PrivateKey) and present.public != UNREADABLE:
            content = self.files.content(present)
        else:
            content = self.new_keys.setdefault(entry.key_path, x509.new_key())
        return self.files.key(entry.key_path, content, entry.owner, entry.group)

    def _certificates(self, entry: WantedCertificate, key: PrivateKey, have: State) -> List[Item]:
        if entry.name in self.signed:
            return self._signed(entry, key)
        paths = (entry.certificate_path, entry.authority_path)
        present = [(path, have.get((Certificate.kind, path))) for path in paths]
        # What is there keeps its content but gets its rights back.
        return [self.files.certificate(path, self.files.content(item)) for path, item in present if item is not None]

    def _signed(self, entry: WantedCertificate, key: PrivateKey) -> List[Item]:
        """The files of a signed certificate. Refuses one that the next run would ask to have signed again."""
        certificate, authority = (
            self.files.certificate(path, content)
            for path, content in zip((entry.certificate_path, entry.authority_path), self.signed[entry.name])
        )
        if self.check and entry.key_path in self.new_keys:
            # A key that is only imagined was another one when the request was made.
            key = dataclasses.replace(key, public=certificate.public)
        trusted = _is_trusted(self.files.content(certificate), self.files.content(authority))
        state = state_of([key, certificate, authority])
        reason = due(entry, state, trusted, self.now, self.window)
        if reason is None:
            return [certificate, authority]
        if due(entry, state, trusted, self.now, datetime.timedelta(0)) is None:
            raise SpecError(
                "renew_before_days",
                f"must be less than the days that certificates are signed for, not {self.window.days}: signed "
                f"certificate {entry.name} is valid until {certificate.not_after} only and was not installed; the "
                f"clock of this node says {self.now.isoformat(timespec='seconds')}",
            )
        raise CertificateError(f"signed certificate {entry.name}: {reason}; it was not installed")

    def _warning(self, entry: WantedCertificate, after: State) -> Optional[str]:
        certificate = after.get((Certificate.kind, entry.certificate_path))
        authority = after.get((Certificate.kind, entry.authority_path))
        if not isinstance(certificate, Certificate) or not isinstance(authority, Certificate):
            return None
        if self.now < certificate.expires - self.window or not is_last(certificate, authority, self.now):
            return None
        return (
            f"certificate {entry.name} ends on {certificate.not_after} with its authority {entry.authority}, and "
            f"cannot be renewed for longer: begin anew with new authorities before"
        )

    def _request(self, entry: WantedCertificate, after: State) -> Optional[Dict[str, Any]]:
        authority = after.get((Certificate.kind, entry.authority_path))
        need, reason = self._need(entry, after)
        if reason is None:
            return None
        key = after[(PrivateKey.kind, entry.key_path)]
        return {
            "name": entry.name,
            "csr": x509.new_request(self.files.content(key), entry.subject),
            "reason": reason,
            "need": need,
            "known_authority": authority.fingerprint if isinstance(authority, Certificate) else None,
        }

    def _need(self, entry: WantedCertificate, after: State) -> Tuple[str, Optional[str]]:
        """How much a signature is needed, and why; no reason where none is."""
        certificate = after.get((Certificate.kind, entry.certificate_path))
        authority = after.get((Certificate.kind, entry.authority_path))
        trusted = _is_trusted(self.files.content(certificate), self.files.content(authority))
        invalid = due(entry, after, trusted, self.now, datetime.timedelta(0))
        if invalid is not None:
            return NOW, invalid
        reason = due(entry, after, trusted, self.now, self.window)
        if reason is not None or not self.anew:
            return SOON, reason
        return REPLACEMENT, "its authority may have been replaced by a new one"


def _is_trusted(certificate: str, authority: str) -> bool:
    try:
        return bool(certificate and authority) and x509.is_signed_by(certificate, authority)
    except x509.PemError:
        return False
