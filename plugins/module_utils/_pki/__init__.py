# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters for keys and certificates. Needs the ``cryptography`` package, 38 (Debian 12) or newer."""
