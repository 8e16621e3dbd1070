# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The distribution's stock kernel as a guest, in QEMU, which boots it in ten seconds without KVM.

The kernel comes from its package, which is taken apart into the cache and not installed. Its first file system has a
shell and what it takes to mount this machine's own files, which are its root.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from lab import cache
from lab.errors import LabError, run
from tests.kernel.guest import MEMORY_MIB, with_needed

PROGRAM, PACKAGE, SHELL = "qemu-system-x86_64", "linux-image-amd64", "busybox-static"
_TAG, _INIT_VARIABLE = "host", "guest_init"
_BOOT_MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p")
#: What is kept of the kernel's modules, most of which drive hardware that no guest has.
_KEPT_MODULES = ("arch", "crypto", "drivers/net", "drivers/virtio", "fs", "lib", "net")
#: Bytes of one message between the guest and the files here: with the usual 128 KiB reading takes longer.
_MESSAGE_SIZE = 256 * 1024
# The kernel hands words that it does not know to this program as variables.
_FIRST_INIT = """#!/bin/busybox sh
for module in {modules}; do busybox insmod /modules/$module; done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize={size},cache=loose,ro {tag} /root &&
busybox mount -t devtmpfs dev /root/dev &&
exec busybox switch_root /root "${variable}"
busybox poweroff -f
"""


class DebianKernel:
    """Always emulated: KVM inside of a virtual machine may be there and fail."""

    def __init__(self, memory: int = MEMORY_MIB) -> None:
        """``memory`` in MiB."""
        self.memory = memory

    def modules(self) -> Path:
        return self._entry() / "lib/modules"

    def command(self, init: Path, directory: Path, tap: str = "") -> list[str]:
        entry = self._entry()
        machine = ["-M", "pc", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2"]
        plain = ["-m", f"{self.memory}M", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        # Nobody attacks a guest from within: it need not pay for the kernel's countermeasures. On a busy machine it
        # gets too few ticks at first to believe that its timer works, and gives up.
        words = f"console=ttyS0 quiet mitigations=off no_timer_check panic=-1 {_INIT_VARIABLE}={init}"
        boot = ["-kernel", str(entry / "vmlinuz"), "-initrd", str(entry / "initrd"), "-append", words]
        files = f"local,id={_TAG},path=/,security_model=none,readonly=on,multidevs=remap"
        share = ["-fsdev", files, "-device", f"virtio-9p-pci,fsdev={_TAG},mount_tag={_TAG}"]
        return [PROGRAM, *machine, *plain, *boot, *share, *(_network(tap) if tap else []), "-serial", "stdio"]

    def _entry(self) -> Path:
        if shutil.which(PROGRAM) is None:
            pytest.skip(f"needs {PROGRAM}, of package qemu-system-x86")
        try:
            return cache.built(f"guest-{cache.key(Path(__file__).read_text())}", build)
        except LabError as error:
            pytest.skip(f"needs the packages {PACKAGE} and {SHELL}: {error}")


def _network(tap: str) -> list[str]:
    # The device is there and up, and the guest does not boot from it.
    return [
        *("-netdev", f"tap,id={tap},ifname={tap},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev={tap},romfile="),
    ]


def build(target: Path) -> None:
    """vmlinuz, initrd, and lib/modules/RELEASE with modules.dep. Raises LabError where the packages cannot be had."""
    work = target / "work"
    work.mkdir(parents=True)
    names = [*_depends_of(PACKAGE), SHELL]
    run(["sh", "-c", 'cd "$0" && apt-get -qq -o APT::Sandbox::User=root download "$@"', str(work), *names])
    for package in sorted(work.glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(work / "tree")])
    tree = work / "tree"
    release = next((tree / "lib/modules").iterdir()).name
    keep_modules(tree / "lib/modules" / release)
    # The package's own scripts would do this when it is installed.
    run([str(tree / "bin/busybox"), "depmod", "-b", str(tree), release])
    first_files(tree, work / "first", tree / "lib/modules" / release)
    shell = f"cd {work}/first && find . | {tree}/bin/busybox cpio -o -H newc > {work}/initrd"
    run(["sh", "-c", shell])
    (target / "initrd").write_bytes(gzip.compress((work / "initrd").read_bytes(), 1))
    (tree / "boot" / f"vmlinuz-{release}").rename(target / "vmlinuz")
    (target / "lib").mkdir()
    (tree / "lib/modules").rename(target / "lib/modules")
    shutil.rmtree(work)


def _depends_of(package: str) -> list[str]:
    """The packages of one that has no files of its own."""
    lines = run(["apt-cache", "depends", "--no-recommends", "--no-suggests", package]).splitlines()
    found = [line.split()[-1] for line in lines if "Depends:" in line]
    if not found:
        raise LabError(f"apt knows no {package}; run: apt-get update")
    return found


def keep_modules(directory: Path) -> None:
    everything = directory / "kernel"
    everything.rename(directory / "all")
    for name in _KEPT_MODULES:
        (everything / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "all" / name).rename(everything / name)
    shutil.rmtree(directory / "all")


def first_files(tree: Path, target: Path, modules: Path) -> None:
    for name in ("bin", "modules", "root"):
        (target / name).mkdir(parents=True)
    shutil.copy(tree / "bin/busybox", target / "bin")
    paths = with_needed(_BOOT_MODULES, modules)
    for path in paths:
        shutil.copy(modules / path, target / "modules")
    init = target / "init"
    words = {"size": _MESSAGE_SIZE, "tag": _TAG, "variable": _INIT_VARIABLE}
    init.write_text(_FIRST_INIT.format(modules=" ".join(Path(path).name for path in paths), **words))
    init.chmod(0o755)
