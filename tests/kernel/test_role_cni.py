# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Role cni where no package is installed: plugins from a release archive, and plugins that are there already.

The role runs on this machine, in namespaces where all places that it writes to are empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace, Namespaces
from tests.waiting import wait_until

PLUGINS = Path("/usr/lib/cni")
# What the role takes by default, and one that it does not.
RELEASED = ("bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "static", "tuning", "vlan")
VERSION, PORT = "9.9.9", 8090
# Where the role writes, or looks for plugins, without being told.
HIDDEN = ("/var/cache", "/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
PLAYBOOK = """
- hosts: all
  gather_facts: false
  roles:
    - role: fairlead.cluster.cni
"""


class Node:
    """Directories below ``top`` stand in the place of HIDDEN, each by its own path, and hold what the role makes."""

    def __init__(self, top: Path, root: Path, netns: Namespace) -> None:
        self.top, self.root, self.netns = top / "node", root, netns
        self.site = top / "site"
        self.tools = top / "tools"
        self.bin = self.top / "bin"
        for path in HIDDEN:
            (self.top / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self.tools.mkdir()
        for command in ("apt-get", "dpkg-query"):
            (self.tools / command).write_text(f"#!/bin/sh\necho {command} >> {self.site}/packages\nexit 1\n")
            (self.tools / command).chmod(0o755)
        (top / "play.yml").write_text(PLAYBOOK)
        self.playbook = top / "play.yml"

    def release(self, *plugins: str) -> str:
        """Serve an archive of the form that the plugins' authors have; gives its SHA-256."""
        path = self.site / f"v{VERSION}" / f"cni-plugins-linux-amd64-v{VERSION}.tgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.site / "README.md").write_text("about the plugins\n")
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(self.site / "README.md", "./README.md")
            for name in plugins or RELEASED:
                archive.add(PLUGINS / name, f"./{name}", filter=_by_builder)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def run(self, variables: dict[str, Any], *options: str, fails: bool = False) -> tuple[int, str]:
        """The number of changes, and all that Ansible said."""
        binds = [f"mount --bind {self.top}{path} {path}" for path in HIDDEN if os.path.isdir(path)]
        given = {
            "cluster_pod_cidr": "10.244.0.0/16", "cni_node_subnet": "10.244.1.0/24", "cni_bin_dir": str(self.bin),
            "cni_conf_path": f"{self.top}/net.d/10-fairlead.conflist", **variables,
        }  # fmt: skip
        play = [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", "node,", "-c", "local", str(self.playbook),
            "-e", json.dumps({"ansible_python_interpreter": sys.executable, **given}), *options,
        ]  # fmt: skip
        script = " && ".join([*binds, 'exec "$@"'])
        done = subprocess.run(
            self.netns.command(["unshare", "--mount", "sh", "-c", script, "sh", *play]),
            env={
                **os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_CONFIG": str(self.root / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default",
                "ANSIBLE_LOCAL_TEMP": str(self.site / "local"), "ANSIBLE_REMOTE_TEMP": str(self.site / "remote"),
                "FAIRLEAD_STATE_DIR": str(self.site / "desired"),
            },
            cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert bool(done.returncode) == fails, said
        (changed,) = re.findall(r"changed=(\d+)", done.stdout)
        return int(changed), said

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.top)): path.read_bytes() for path in self.top.rglob("*") if path.is_file()}

    def asked_for_packages(self) -> bool:
        return (self.site / "packages").exists()


def _by_builder(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Releases hold the ids of whoever built them."""
    entry.uid = entry.gid = 1001
    return entry


@pytest.fixture
def node(tmp_path: Path, root_dir: Path, netns: Namespaces) -> Iterator[Node]:
    if not (PLUGINS / "bridge").exists():
        pytest.skip("containernetworking-plugins is not installed")
    made = Node(tmp_path, root_dir, netns("node"))
    made.site.mkdir()
    server = made.netns.start([sys.executable, "-m", "http.server", str(PORT), "--directory", str(made.site)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_until(lambda: f":{PORT}" in made.netns.out("ss -ltn"), "the server listens")
        yield made
    finally:
        server.kill()
        server.wait()


def archive(checksum: str) -> dict[str, Any]:
    return {
        "cni_install_method": "archive",
        "cni_archive_mirror": f"http://127.0.0.1:{PORT}",
        "cni_archive_version": VERSION,
        "cni_archive_sha256": {"amd64": checksum},
    }


def test_archive(node: Node) -> None:
    """Check mode, for real, again, both; then another release under the same version."""
    variables = archive(node.release())
    assert node.run(variables, "--check", "--diff")[0] > 0
    assert node.files() == {}
    node.run(variables)
    files = node.files()
    for name in ("bridge", "host-local", "portmap", "loopback"):
        program = node.bin / name
        assert program.read_bytes() == (PLUGINS / name).read_bytes()
        assert (program.stat().st_mode & 0o7777, program.stat().st_uid) == (0o755, 0)
    assert not (node.bin / "README.md").exists() and not (node.bin / "vlan").exists()
    assert "net.d/10-fairlead.conflist" in files
    for options in ([], ["--check"]):
        assert node.run(variables, *options)[0] == 0
    assert node.files() == files
    assert not node.asked_for_packages()


@pytest.mark.parametrize("installed", [True, False])
def test_archive_with_another_checksum_changes_nothing(node: Node, installed: bool) -> None:
    checksum = node.release()
    if installed:
        node.run(archive(checksum))
    before = node.files()
    _changed, said = node.run(archive(checksum[::-1]), fails=True)
    assert "checksum" in said
    assert node.files() == before


def test_archive_that_lacks_a_plugin_changes_nothing(node: Node) -> None:
    checksum = node.release("bridge", "host-local", "loopback")
    _changed, said = node.run(archive(checksum), fails=True)
    assert "portmap" in said
    assert [path for path in node.files() if not path.startswith("var/cache/")] == []


def test_cut_off_unpacking_is_finished_by_the_next_run(node: Node) -> None:
    variables = archive(node.release())
    node.run(variables)
    program = node.bin / "bridge"
    program.write_bytes(program.read_bytes()[:1000])
    (node.bin / "portmap").unlink()
    assert node.run(variables)[0] > 0
    for name in ("bridge", "portmap"):
        assert (node.bin / name).read_bytes() == (PLUGINS / name).read_bytes()


@pytest.mark.parametrize("switch", [{"cni_install_method": "none"}, {"cluster_manage_packages": False}])
def test_missing_plugins_are_named(node: Node, switch: dict[str, Any]) -> None:
    _changed, said = node.run(switch, fails=True)
    assert (
        f"CNI plugins bridge, portmap, loopback, host-local: in none of {node.bin}, /opt/cni/bin, /usr/lib/cni" in said
    )
    assert node.files() == {} and not node.asked_for_packages()


def test_ipv6_subnet_of_the_node_comes_beside_the_other(node: Node) -> None:
    variables = {**archive(node.release()), "cni_mtu": 1430, "cluster_pod_cidr6": "fd00:10:244::/56"}
    node.run(variables)
    alone = json.loads(node.files()["net.d/10-fairlead.conflist"])["plugins"][0]["ipam"]
    assert alone["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert alone["routes"] == [{"dst": "10.244.0.0/16", "gw": "10.244.1.1"}]
    variables["cni_node_subnet6"] = "fd00:10:244:1::/64"
    assert node.run(variables)[0] == 1
    both = json.loads(node.files()["net.d/10-fairlead.conflist"])["plugins"][0]["ipam"]
    assert both["ranges"] == [*alone["ranges"], [{"subnet": "fd00:10:244:1::/64"}]]
    assert both["routes"] == [*alone["routes"], {"dst": "fd00:10:244::/56", "gw": "fd00:10:244:1::1"}]
    assert node.run(variables)[0] == 0


@pytest.mark.parametrize("directory", ["usr/lib/cni", "bin"])
def test_plugins_that_are_there_are_enough(node: Node, directory: str) -> None:
    (node.top / directory).mkdir(exist_ok=True)
    for name in ("bridge", "host-local", "portmap", "loopback"):
        shutil.copy(PLUGINS / name, node.top / directory)
    assert node.run({"cni_install_method": "none"})[0] == 1
    assert node.run({"cni_install_method": "none"})[0] == 0
    assert not node.asked_for_packages()
