# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Programs of other projects, built from the modules pinned here and kept in the lab's cache.

Each directory with a go.mod is one component. Nothing is built twice: the name in the cache is the hash of go.mod,
go.sum and the way of building. Modules come from where the environment's GOPROXY says.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab import cache

HERE = Path(__file__).resolve().parent
# A go.sum that does not cover a module is an error instead of being extended; no paths of this machine in the result.
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
# The Go that is here, never one that it fetches; no settings of a workspace around the checkout.
ENVIRONMENT = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}


class MissingError(Exception):
    """This machine cannot build: no Go, one that is too old, or no C compiler where one is needed."""


class BuildError(Exception):
    """Go is here and could not build; holds what it said."""


@dataclasses.dataclass(frozen=True)
class Component:
    """Programs by name and package, all from the module in directory ``name``."""

    name: str
    programs: tuple[tuple[str, str], ...]
    flags: tuple[str, ...] = ()
    cgo: bool = False

    @property
    def directory(self) -> Path:
        return HERE / self.name

    def go_needed(self) -> tuple[int, ...]:
        return _numbers(_text(self.name, "go.mod").split("\ngo ", 1)[1].split()[0])

    def key(self) -> str:
        pins = (_text(self.name, "go.mod"), _text(self.name, "go.sum"))
        return cache.key(*pins, repr(self.programs), repr(self.flags), str(self.cgo), *FLAGS)


def pinned(name: str, module: str) -> str:
    """Version of a module as a component pins it, such as v0.28.4."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", _text(name, "go.mod"), re.MULTILINE)
    if found is None:
        raise BuildError(f"{name}/go.mod does not pin {module}")
    return found[1]


def _text(name: str, file: str) -> str:
    return (HERE / name / file).read_text(encoding="utf-8")


_FLANNEL = "github.com/flannel-io/flannel"
FLANNEL_VERSION = pinned("flannel", _FLANNEL)
FLANNEL = Component(
    "flannel",
    (("flanneld", _FLANNEL),),
    # Its C part (backend udp) is linked in statically, as in flannel's own releases.
    (
        "-tags=osusergo,netgo",
        f"-ldflags=-s -w -extldflags=-static -X {_FLANNEL}/pkg/version.Version={FLANNEL_VERSION}",
    ),
    cgo=True,
)
ETCD_RELEASES = ("3.5", "3.6", "3.7")


def etcd(release: str) -> Component:
    """etcd, etcdctl and etcdutl of a release such as 3.7."""
    packages = (("etcd", "server"), ("etcdctl", "etcdctl"), ("etcdutl", "etcdutl"))
    programs = tuple((program, f"go.etcd.io/etcd/{package}/v3") for program, package in packages)
    return Component(f"etcd-{release}", programs, ("-ldflags=-s -w",))


_KUBERNETES = "k8s.io/kubernetes"
KUBERNETES_VERSION = pinned("kubernetes", _KUBERNETES)
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
# Without a version kube-apiserver does not know which features and API versions to serve.
_KUBERNETES_VARIABLES = (("gitVersion", KUBERNETES_VERSION), ("gitMajor", _MAJOR), ("gitMinor", _MINOR))
_KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-proxy")
KUBERNETES = Component(
    "kubernetes",
    tuple((program, f"{_KUBERNETES}/cmd/{program}") for program in _KUBERNETES_PROGRAMS),
    (
        "-ldflags=-s -w "
        + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _KUBERNETES_VARIABLES),
    ),
)

COMPONENTS = (FLANNEL, *map(etcd, ETCD_RELEASES), KUBERNETES)


def built(component: Component) -> Path:
    """Directory with the programs. Raises MissingError or BuildError."""
    return cache.built(f"upstream-{component.name}-{component.key()}", lambda target: _build(component, target))


def _build(component: Component, target: Path) -> None:
    _check_go(component)
    target.mkdir(parents=True)
    environment = {**os.environ, **ENVIRONMENT, "CGO_ENABLED": "1" if component.cgo else "0"}
    for program, package in component.programs:
        # The machine's other work comes first.
        command = ["nice", "go", "build", *FLAGS, *component.flags, "-o", str(target / program), package]
        done = subprocess.run(command, cwd=component.directory, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{component.name}: {' '.join(command)}: status {done.returncode}\n{done.stderr}")


def _check_go(component: Component) -> None:
    if shutil.which("go") is None:
        raise MissingError(f"{component.name} is built with Go, and command go is not in PATH")
    asked = subprocess.run(
        ["go", "env", "GOVERSION"], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=True
    )
    have = asked.stdout.strip().removeprefix("go")
    if _numbers(have) < component.go_needed():
        needed = ".".join(map(str, component.go_needed()))
        raise MissingError(f"{component.name} needs Go {needed} or newer, and this is {have}")
    if component.cgo and shutil.which(os.environ.get("CC", "gcc")) is None:
        raise MissingError(f"{component.name} has a part in C, and there is no C compiler (package gcc)")


def _numbers(version: str) -> tuple[int, ...]:
    """A release candidate counts as its release."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("rc")[0]))


def main() -> int:
    """Build all, so that the tests find them; what cannot be built here, they leave out with the same reason."""
    for component in COMPONENTS:
        try:
            # The first time takes minutes: what for is said before.
            print(f"{component.name}: ", end="", flush=True)
            print(built(component), flush=True)
        except (MissingError, PermissionError) as error:
            print(f"not built, {error}")
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
