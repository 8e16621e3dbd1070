# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a cluster from a second set of authorities: who trusts one already, and who was not asked."""

from __future__ import annotations

from typing import Iterable, Sequence

from .._model.errors import FairleadError
from .._model.pki import SigningRequest, Trust

_SHOWN = 3
_ANEW = (
    "To begin anew all the same, where all certificates are signed again by new authorities: new_authorities, in role "
    "pki pki_new_authorities=true"
)


class AuthorityError(FairleadError):
    """An authority cannot be made or must not sign."""


class Guard:
    """``trusted``: what hosts trust so far; ``unasked``: hosts of which that is not known."""

    def __init__(self, directory: str, trusted: Iterable[Trust], unasked: Sequence[str]) -> None:
        self.directory = directory
        self.trusted = list(dict.fromkeys(trusted))
        self.unasked = unasked

    def check_missing(self, name: str, lost: Sequence[str]) -> None:
        """Refuse to make an authority, or the ``lost`` file of one, where that could be a second one."""
        missing = f"authority {name}: {' and '.join(lost)} {'is' if len(lost) == 1 else 'are'} missing"
        restore = (
            f"Restore what is missing from a backup of {self.directory}, or set pki_authority_host to the host that "
            f"has it. {_ANEW}"
        )
        trusts = [trust for trust in self.trusted if trust.authority == name]
        if trusts:
            raise AuthorityError(
                f"{missing}, but an authority of that name is trusted already by {_shown(trusts)}. A new one would "
                f"split the cluster in two. {restore}"
            )
        # A kill leaves keys without certificates only, as all keys are written before the first certificate.
        if len(lost) == 1 and lost[0].endswith(".key"):
            raise AuthorityError(f"{missing} beside its certificate, so there was one already. {restore}")
        if self.unasked:
            raise AuthorityError(
                f"{missing}, and {_shown(self.unasked)} could not be asked for the authorities trusted there. Run for "
                f"all hosts of the cluster, with all of them reachable. {restore}"
            )

    def check_request(self, request: SigningRequest, fingerprint: str) -> None:
        """Refuse to sign with an authority of the same name that is not the one of the cluster."""
        known = request.known_authority
        others = [trust for trust in self.trusted if trust.authority == request.authority]
        if known is None and any(trust.fingerprint == fingerprint for trust in others):
            return
        if known is not None:
            others = [Trust(request.host, request.authority, known)]
        if others and known != fingerprint:
            raise AuthorityError(
                f"{request}: another authority {request.authority} than the one here (sha256 {fingerprint}) is trusted "
                f"by {_shown(others)}. Sign on the host that has its key: set pki_authority_host. {_ANEW}"
            )


def _shown(entries: Sequence[object]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(map(str, entries[:_SHOWN])) + more
