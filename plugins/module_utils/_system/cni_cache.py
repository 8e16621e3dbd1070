# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Results of ADD kept as libcni keeps them (kind cniCacheV1), so that a runtime can detach what was attached here."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import tempfile
from typing import Any, Dict, List, Optional

from .._model.cni_attachment import Attachment
from .._model.errors import ReadError
from .files import make_directories

_KIND = "cniCacheV1"


class ResultCache:
    """The directory ``results`` under the cache directory (libcni's default: /var/lib/cni)."""

    def __init__(self, cache_dir: str) -> None:
        self.directory = os.path.join(cache_dir, "results")

    def load(self, network: str, container_id: str, ifname: str) -> Optional[Attachment]:
        """The attachment as remembered. Raises ReadError when the file is not what libcni writes."""
        return self._read(f"{network}-{container_id}-{ifname}")

    def of_network(self, network: str) -> List[Attachment]:
        """All attachments remembered for a network. Raises ReadError."""
        found = (self._read(name) for name in self._names() if name.startswith(f"{network}-"))
        return [attachment for attachment in found if attachment is not None and attachment.network == network]

    def _names(self) -> List[str]:
        try:
            return sorted(name for name in os.listdir(self.directory) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def _read(self, name: str) -> Optional[Attachment]:
        path = os.path.join(self.directory, name)
        try:
            with open(path, encoding="utf-8") as stream:
                data = json.load(stream)
            if not isinstance(data, dict) or data.get("kind") != _KIND:
                raise ValueError(f"kind is not {_KIND}")
            return Attachment(
                str(data["networkName"]),
                str(data["containerId"]),
                str(data["ifName"]),
                # libcni before 1.2 does not record the namespace.
                netns=str(data.get("netns") or ""),
                config=base64.b64decode(data["config"] or "", validate=True).decode(),
                capability_args=json.dumps(data.get("capabilityArgs") or {}, sort_keys=True),
                result=json.dumps(data.get("result") or {}, sort_keys=True),
            )
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError, binascii.Error) as error:
            raise ReadError(f"{path}: no cached CNI result ({error}); move it away and run again") from error

    def speaks_for(self, container_id: str, ifname: str) -> bool:
        """Whether a result of any network is kept for the interface."""
        return any(name.endswith(f"-{container_id}-{ifname}") for name in self._names())

    def save(self, attachment: Attachment) -> None:
        make_directories(self.directory, 0o700)
        handle, temporary = tempfile.mkstemp(prefix=".fairlead-", dir=self.directory)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(_entry(attachment), stream, separators=(",", ":"))
            os.rename(temporary, os.path.join(self.directory, attachment.file_name))
        except BaseException:
            os.unlink(temporary)
            raise

    def forget(self, attachment: Attachment) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, attachment.file_name))


def _entry(attachment: Attachment) -> Dict[str, Any]:
    entry = {
        "kind": _KIND,
        "containerId": attachment.container_id,
        "config": base64.b64encode(attachment.config.encode()).decode(),
        "ifName": attachment.ifname,
        "networkName": attachment.network,
        "netns": attachment.netns,
    }
    capability_args = json.loads(attachment.capability_args)
    if capability_args:
        entry["capabilityArgs"] = capability_args
    entry["result"] = json.loads(attachment.result)
    return entry
