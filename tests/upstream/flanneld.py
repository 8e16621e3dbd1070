# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real flanneld as a process in a namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.upstream.lan import Lan, end
from tests.waiting import wait_until

END_SECONDS = 30

# Without the module br_netfilter flanneld ends (main.go), although it never reads more than the names of these files.
# Where the kernel lacks it, they are put into what this process sees of /proc/sys/net, in its own mount namespace:
# `ip netns exec` has made one already.
WITH_BRIDGE_FILES = """
set -eu
mount -t tmpfs none "$1"
mkdir "$1/real" "$1/net" "$1/net/bridge"
mount --bind /proc/sys/net "$1/real"
for entry in "$1"/real/*; do
    [ "${entry##*/}" != bridge ] || continue
    mkdir "$1/net/${entry##*/}"
    mount --bind "$entry" "$1/net/${entry##*/}"
done
echo 1 >"$1/net/bridge/bridge-nf-call-iptables"
echo 1 >"$1/net/bridge/bridge-nf-call-ip6tables"
mount --rbind "$1/net" /proc/sys/net
shift
exec "$@"
"""


class Flanneld:
    """flanneld of one node; ``start`` returns when it serves its node, which is when it has written subnet.env."""

    def __init__(self, program: Path, lan: Lan, number: int) -> None:
        self.program, self.lan = program, lan
        self.node, self.directory = lan.node(number), lan.directory / f"n{number}"
        self.process: subprocess.Popen[str] | None = None
        self.directory.mkdir()

    @property
    def subnet_env(self) -> Path:
        return self.directory / "subnet.env"

    @property
    def wireguard_key(self) -> Path:
        """It makes one where there is none. Nodes of these tests share /run, where it would be otherwise."""
        return self.directory / "wgkey"

    @property
    def log(self) -> Path:
        return self.directory / "flanneld.log"

    @property
    def subnet(self) -> str:
        """Address and prefix length of the node's gateway, such as 10.244.1.1/24."""
        return dict(line.split("=", 1) for line in self.subnet_env.read_text().splitlines())["FLANNEL_SUBNET"]

    def start(self) -> None:
        before = self.subnet_env.stat().st_ino if self.subnet_env.exists() else None
        self.launch("-ip-masq")
        # It is written anew, and by renaming.
        wait_until(lambda: self._serves(before), f"flanneld has written {self.subnet_env}")

    def launch(self, *options: str) -> subprocess.Popen[str]:
        """Start it and wait for nothing."""
        tls = self.lan.etcd.tls
        command = [
            "env",
            f"WIREGUARD_KEY_FILE={self.wireguard_key}",
            str(self.program),
            f"-etcd-endpoints={','.join(self.lan.etcd.endpoints)}",
            f"-etcd-cafile={tls['ca_file']}",
            f"-etcd-certfile={tls['cert_file']}",
            f"-etcd-keyfile={tls['key_file']}",
            "-iface=eth0",
            f"-subnet-file={self.subnet_env}",
            *options,
        ]
        with self.log.open("a") as log:
            self.process = self.node.start([*self._wrapper(), *command], stdout=log, stderr=log)
        return self.process

    def _wrapper(self) -> list[str]:
        if self.node.run("test -e /proc/sys/net/bridge/bridge-nf-call-iptables", check=False).returncode == 0:
            return []
        place = self.directory / "proc"
        place.mkdir(exist_ok=True)
        return ["sh", "-c", WITH_BRIDGE_FILES, "sh", str(place)]

    def _serves(self, before: int | None) -> bool:
        assert self.process is not None and self.process.poll() is None, f"flanneld ended:\n{self.words()}"
        return self.subnet_env.exists() and self.subnet_env.stat().st_ino != before

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-3000:]

    def stop(self) -> None:
        """Without a trace but for what flanneld leaves in the kernel and in etcd."""
        if self.process is not None:
            end(self.process)
            self.process = None

    def wait_for_its_end(self) -> None:
        assert self.process is not None
        self.process.wait(END_SECONDS)
        self.process = None
