# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The distribution's package sources, as this host is configured to reach them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError, need, run

_ORIGINS = ("Debian", "Ubuntu")
_FORMAT = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)|$(SIGNED_BY)"
_KEYRINGS = {
    "Debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "Ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}


@dataclass(frozen=True)
class Sources:
    """suite is the release's code name; lines are one-line apt sources."""

    suite: str
    lines: tuple[str, ...]

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def host() -> Sources:
    """Sources of the host's own distribution; third-party ones are left out."""
    need("apt-get")
    return parse(run(["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"]), codename())


def parse(targets: str, suite: str) -> Sources:
    """Pick what the distribution itself publishes for this suite, its updates and its security fixes."""
    components: dict[tuple[str, str, str], list[str]] = {}
    for line in targets.splitlines():
        origin, name, uri, component, key = line.split("|")
        if origin not in _ORIGINS or not (name == suite or name.startswith(f"{suite}-")):
            continue
        # apt leaves the variable's name where a source has no such field.
        key = _KEYRINGS[origin] if key.startswith("$") or not key else key
        known = components.setdefault((uri, name, key), [])
        if component not in known:
            known.append(component)
    if not any(name == suite for _, name, _ in components):
        raise LabError(f"this host has no package index of {suite}; run: apt-get update")
    lines = [f"deb [signed-by={key}] {uri} {name} {' '.join(names)}" for (uri, name, key), names in components.items()]
    return Sources(suite, tuple(lines))


def proxy_options() -> list[str]:
    """The host's apt settings for reaching a mirror (proxies, certificates) as configuration lines."""
    dump = run(["apt-config", "dump"])
    wanted = ("acquire::http::", "acquire::https::")
    return [line for line in dump.splitlines() if line.lower().startswith(wanted) and '""' not in line]


def codename() -> str:
    """VERSION_CODENAME of the host."""
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise LabError("/etc/os-release has no VERSION_CODENAME; the lab needs a Debian or Ubuntu host")
