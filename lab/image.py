# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node image: a root tree like a minimal Debian server's, and an ext4 disk made from it.

The tree holds what such an installation has before any role ran, and nothing the roles install.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lab import cache, sources
from lab.errors import LabError, need, run

PACKAGES = (
    "systemd-sysv",
    "dbus",
    "udev",
    "openssh-server",
    "python3",
    "iproute2",
    "kmod",
    "procps",
    "ca-certificates",
    "iputils-ping",
    "python3-apt",
)
UML_MODULES = Path("/usr/lib/uml/modules")
#: Sparse; only what a node writes takes room, in its copy-on-write file.
DISK_SIZE = "8G"
#: First program of a User-mode Linux node: copies the node's own files from the host, once.
#: The kernel hands unknown parameters of its command line (fl_seed=DIR) to it as environment.
SEED_INIT = "/usr/local/sbin/lab-init"

_SETUP = r"""#!/bin/sh
set -eu
root=$1
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
      "$root"/etc/apt/apt.conf.d/99mmdebstrap
: > "$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"; : > "$root/etc/resolv.conf"
mkdir -p "$root/root/.ssh" "$root/etc/ssh/sshd_config.d" "$root/etc/systemd/network"
chmod 700 "$root/root/.ssh"
cat > "$root/etc/ssh/sshd_config.d/lab.conf" <<END
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxSessions 100
MaxStartups 100
END
cat > "$root/etc/apt/apt.conf.d/90lab" <<END
Acquire::Languages "none";
Acquire::Retries "3";
END
echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/lab"
echo 'root:*' | chroot "$root" chpasswd -e
system="$root/etc/systemd/system"
mkdir -p "$system/multi-user.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$system/multi-user.target.wants/"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
            e2scrub_reap.service systemd-networkd-wait-online.service getty@tty1.service \
            console-getty.service systemd-firstboot.service ldconfig.service; do
    ln -sf /dev/null "$system/$unit"
done
cat > "$root/usr/local/sbin/lab-init" <<'END'
#!/bin/sh
mount -t proc proc /proc
if [ ! -e /etc/lab-seeded ]; then
    mount -t hostfs none /mnt -o "$fl_seed" && cp -a /mnt/. / && umount /mnt
    : > /etc/lab-seeded
fi
exec /sbin/init
END
chmod 755 "$root/usr/local/sbin/lab-init"
"""

#: A User-mode Linux kernel has hundreds of terminals, and asking udev about each takes seconds of every boot.
_UML_UDEV = """[Service]
ExecStart=
ExecStart=udevadm trigger --type=subsystems --action=add
ExecStart=udevadm trigger --type=devices --action=add --subsystem-match=net --subsystem-match=block
"""
#: Two lower layers and no upper one: the tree with the additions for User-mode Linux, without copying it.
_DISK = r"""
set -eu
tree=$1 modules=$2 image=$3 size=$4 udev=$5
cd "$6"
mkdir -p all layer/usr/lib/modules layer/etc/systemd/system/systemd-udev-trigger.service.d
cp -a "$modules/." layer/usr/lib/modules/
printf %s "$udev" > layer/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf
mount -t overlay overlay -o "lowerdir=layer:$tree" all
mke2fs -q -t ext4 -F -L root -E lazy_itable_init=0,lazy_journal_init=0 -d all "$image" "$size"
"""


def root_tree() -> Path:
    """The cached root tree, built first when there is none."""
    return cache.built(f"root-{root_key()}", _build_root)


def root_key() -> str:
    return cache.key("root", sources.codename(), *PACKAGES, _SETUP)


def disk() -> Path:
    """The cached ext4 image of the root tree with the modules of User-mode Linux.

    The tree's /lib is a link to usr/lib, as in every Debian since 10.
    """
    need("linux.uml", "mke2fs", "unshare")
    tree = root_tree()
    recipe = (tree.name, DISK_SIZE, _DISK, _UML_UDEV, *uml_versions())
    name = f"disk-{cache.key('disk', *recipe)}.ext4"
    return cache.built(name, lambda target: _build_disk(tree, target))


def uml_versions() -> list[str]:
    """Kernel versions User-mode Linux modules are installed for."""
    return sorted(path.name for path in UML_MODULES.iterdir()) if UML_MODULES.is_dir() else []


def _build_root(target: Path) -> None:
    need("mmdebstrap", "apt-get", "apt-config")
    origin = sources.host()
    print(f"building the node image from {origin.suite} (once, half a minute) ...", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        setup, apt = Path(scratch, "setup"), Path(scratch, "sources.list")
        setup.write_text(_SETUP)
        setup.chmod(0o755)
        apt.write_text(origin.text())
        options = [f"--aptopt={line.rstrip(';')}" for line in sources.proxy_options()]
        run([
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
            "--aptopt=APT::Install-Recommends \"false\"", *options, f"--customize-hook={setup}",
            origin.suite, str(target), str(apt),
        ])  # fmt: skip


def _build_disk(tree: Path, target: Path) -> None:
    if not uml_versions():
        raise LabError(f"{UML_MODULES} has no kernel modules; reinstall the package user-mode-linux")
    print("building the disk of the User-mode Linux nodes (once, some seconds) ...", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = ["unshare", "--mount", "sh", "-c", _DISK, "sh"]
        run([*command, str(tree), str(UML_MODULES), str(target), DISK_SIZE, _UML_UDEV, scratch])
    _settle(target)


def _settle(path: Path) -> None:
    # A copy-on-write file names the time stamp of its image: it must never change again.
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    path.chmod(0o444)
