# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""When a certificate needs to be signed anew, and why."""

from __future__ import annotations

import datetime
from typing import Optional

from .._model.item import State
from .._model.pki import Certificate, PrivateKey, WantedCertificate

UNREADABLE = "unreadable"


def due(
    wanted: WantedCertificate, have: State, is_trusted: bool, now: datetime.datetime, window: datetime.timedelta
) -> Optional[str]:
    """The reason to ask for a signature; None while there is none.

    ``is_trusted`` says whether the certificate was signed by the authority whose certificate is on this node. One that
    ends with its authority is not due before its end, as no other would be valid for longer.
    """
    key = have.get((PrivateKey.kind, wanted.key_path))
    certificate = have.get((Certificate.kind, wanted.certificate_path))
    authority = have.get((Certificate.kind, wanted.authority_path))
    if not isinstance(key, PrivateKey) or key.public == UNREADABLE:
        return "there is no key"
    if not isinstance(certificate, Certificate):
        return "there is no certificate"
    if certificate.subject is None:
        return "the certificate is unreadable"
    if certificate.public != key.public:
        return "the certificate is for another key"
    if not isinstance(authority, Certificate) or not is_trusted:
        return f"it is not signed by the authority in {wanted.authority_path}"
    if certificate.subject != wanted.subject:
        return f"it says {certificate.subject} instead of {wanted.subject}"
    return _untimely(certificate, authority, now, window)


def _untimely(
    certificate: Certificate, authority: Certificate, now: datetime.datetime, window: datetime.timedelta
) -> Optional[str]:
    begin = max(certificate.begins, authority.begins)
    if now < begin:
        clock = now.isoformat(timespec="seconds")
        return f"it is not valid before {begin.isoformat()}; the clock of this node says {clock}"
    if certificate.expires - window <= now and not is_last(certificate, authority, now):
        return f"it is valid until {certificate.not_after} only"
    return None


def is_last(certificate: Certificate, authority: Certificate, now: datetime.datetime) -> bool:
    """Whether the certificate is still valid and ends with its authority, so that renewing it is of no use."""
    return now < certificate.expires and authority.expires <= certificate.expires
