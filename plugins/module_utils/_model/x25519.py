# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The public key that belongs to a private one of WireGuard: X25519 of RFC 7748, section 5, with the base point 9.

The kernel would compute it for a device in a network namespace of its own, but the boot unit may make none. This runs
for a few milliseconds, on the node's own key only and never for somebody who could measure it, which is why it need not
take the same time for every key.
"""

from __future__ import annotations

from .secret import Secret
from .wireguard import clamped, shown

_PRIME = 2**255 - 19
_BASE_POINT = 9
# (486662 - 2) / 4, of the curve's equation.
_A24 = 121665
_BITS = 255


def public_key_of(private: Secret) -> str:
    """In base64, as everywhere in WireGuard."""
    scalar = int.from_bytes(clamped(private.value), "little")
    return shown(_multiplied(scalar, _BASE_POINT).to_bytes(32, "little"))


def _multiplied(scalar: int, point: int) -> int:
    """The Montgomery ladder: of two neighboring multiples, each as a fraction, the lower one is the result."""
    low, high = (1, 0), (point, 1)
    for position in reversed(range(_BITS)):
        if scalar >> position & 1:
            high, low = _step(high, low, point)
        else:
            low, high = _step(low, high, point)
    return low[0] * pow(low[1], _PRIME - 2, _PRIME) % _PRIME


def _step(doubled: tuple[int, int], other: tuple[int, int], point: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Twice the first one, and the sum of both, whose difference is the point."""
    plus, minus = (doubled[0] + doubled[1]) % _PRIME, (doubled[0] - doubled[1]) % _PRIME
    crossed = (other[0] - other[1]) * plus % _PRIME
    crossed_back = (other[0] + other[1]) * minus % _PRIME
    square, square_back = plus * plus % _PRIME, minus * minus % _PRIME
    rest = square - square_back
    twice = (square * square_back % _PRIME, rest * (square + _A24 * rest) % _PRIME)
    both = ((crossed + crossed_back) ** 2 % _PRIME, point * (crossed - crossed_back) ** 2 % _PRIME)
    return twice, both
