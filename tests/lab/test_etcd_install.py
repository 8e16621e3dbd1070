# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Role etcd on a real node: beside an etcd of somebody else, from a release archive, with a program brought by hand.

The tests share one lab and run in the order of the file. The archive has the shape of a release, with Debian's programs
in it, and comes from the lab's own HTTP server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernel.etcd_server import programs
from tests.lab.cluster import TOP, Cluster, Run

pytestmark = [pytest.mark.lab, pytest.mark.slow]

NODE = "e1"
UNIT, DATA = "/etc/systemd/system/etcd.service", "/var/lib/etcd/member"
FOREIGN_UNIT = """[Service]
Type=notify
User=etcd
ExecStart=/usr/bin/etcd --name other --data-dir /var/lib/etcd --listen-peer-urls http://127.0.0.1:12380
[Install]
WantedBy=multi-user.target
"""
MIRROR = "http://192.0.2.1/files"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("etcd")
    shared = yaml.safe_load((TOP / "inventories" / "lab" / "group_vars" / "all" / "lab.yml").read_text())
    variables = {key: value for key, value in shared.items() if not key.startswith("ansible_ssh")}
    variables |= {"cluster_name": "lab", "ansible_user": "root", "reset_confirmed": True}
    variables |= {"cluster_pod_cidr": "10.244.0.0/16", "etcd_wait": 60}
    hosts = {NODE: {"ansible_host": "192.0.2.11"}}
    groups = {"etcd": {"hosts": hosts}, "nodes": {"children": {"control_plane": {}, "worker": {}}}}
    inventory = directory / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": variables, "children": groups}}))
    with Cluster("test-etcd", directory, str(inventory)) as lab:
        yield lab


def shell(cluster: Cluster, script: str, expect: int | None = 0) -> str:
    return cluster.run(NODE, "sh", "-c", script, expect=expect)


def install(cluster: Cluster, expect: int = 0, **variables: Any) -> Run:
    """What site.yml does about etcd: the program, certificates, and the member."""
    given = ("-e", json.dumps(variables))
    run = cluster.playbook("pki", *given, expect=expect)
    return run if expect else cluster.playbook("etcd", *given)


def state(cluster: Cluster) -> dict[str, str]:
    """All of etcd on the node that a refused run must not touch."""
    return {
        "files": shell(cluster, f"cat {UNIT} /etc/etcd/etcd.env /usr/local/bin/fairlead-etcdctl 2>/dev/null; true"),
        "data": shell(cluster, "find /var/lib/etcd -type d 2>/dev/null | sort; true"),
        "programs": shell(cluster, "find /opt -path '/opt/etcd*' 2>/dev/null | sort; true"),
        "service": shell(cluster, "systemctl show -p MainPID,ActiveState,UnitFileState,NRestarts etcd.service"),
    }


def test_etcd_of_somebody_else_goes_on_and_is_named(cluster: Cluster) -> None:
    shell(cluster, "apt-get -qq update && apt-get -qq -y install etcd-server etcd-client; systemctl stop etcd.service")
    shell(cluster, f"printf %s '{FOREIGN_UNIT}' >{UNIT} && rm -rf /var/lib/etcd/default && systemctl daemon-reload")
    shell(cluster, "systemctl enable --now etcd.service && ETCDCTL_API=3 etcdctl put theirs kept")
    before = state(cluster)
    for arguments in ({}, {"etcd_install_method": "archive", "etcd_archive_checksum": "0" * 64}):
        output = install(cluster, expect=2, **arguments).output
        assert "another etcd is on this node, and nothing of it was changed" in output
        for part in (UNIT, "systemctl disable --now etcd.service", DATA):
            assert part in output
        assert state(cluster) == before
    reset = cluster.playbook("reset")
    assert "Not ours, and left as it is" in reset.output
    assert state(cluster) == before
    assert "kept" in shell(cluster, "ETCDCTL_API=3 etcdctl get theirs")


def test_data_of_somebody_else_is_refused_before_anything_is_written(cluster: Cluster) -> None:
    shell(cluster, f"systemctl disable --now etcd.service; rm {UNIT}; systemctl daemon-reload")
    before = state(cluster)
    assert f"{DATA} holds data of an etcd that was not started from here" in install(cluster, expect=2).output
    assert state(cluster) == before
    shell(cluster, "apt-get -qq -y purge etcd-server etcd-client; rm -rf /var/lib/etcd; systemctl daemon-reload")


def test_program_that_nobody_brought_is_named(cluster: Cluster) -> None:
    before = state(cluster)
    output = install(cluster, expect=2, etcd_install_method="none").output
    assert "/usr/bin/etcd is missing" in output and "etcd_bin_dir" in output
    assert state(cluster) == before


def archive(cluster: Cluster, version: str, *names: str) -> dict[str, Any]:
    """A release on the lab's mirror; gives the variables that lead to it."""
    top = f"etcd-v{version}-linux-amd64"
    path = TOP / "build" / "lab" / cluster.name / "files" / f"v{version}" / f"{top}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    (text := cluster.directory / "README.md").write_text(f"# etcd {version}\n")
    with tarfile.open(path, "w:gz") as made:
        for name in names or ("etcd", "etcdctl"):
            made.add(programs() / name, f"{top}/{name}")
        made.add(text, f"{top}/README.md")
        made.add(text, f"{top}/Documentation/README.md")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "etcd_install_method": "archive",
        "etcd_version": version,
        "etcd_archive_mirror": MIRROR,
        "etcd_archive_checksum": checksum,
    }


def path_of(release: dict[str, Any]) -> str:
    return f"/opt/etcd/{release['etcd_version']}-{release['etcd_archive_checksum'][:12]}"


def refuse_broken(cluster: Cluster, release: dict[str, Any]) -> None:
    before = state(cluster)
    wrong = {**release, "etcd_archive_checksum": "f" * 64}
    assert "has the SHA-256" in install(cluster, expect=2, **wrong).output
    assert state(cluster) == before
    dead = {**release, "etcd_archive_mirror": "http://192.0.2.1:81/files"}
    assert "cannot be fetched" in install(cluster, expect=2, **dead).output
    assert state(cluster) == before


def exe(cluster: Cluster) -> str:
    return shell(cluster, "readlink /proc/$(systemctl show -P MainPID etcd.service)/exe").strip()


def test_archive_becomes_a_running_member(cluster: Cluster) -> None:
    release = archive(cluster, "3.4.90")
    refuse_broken(cluster, release)
    assert "64 hexadecimal digits" in install(cluster, expect=2, **{**release, "etcd_archive_checksum": ""}).output
    # What a careful site has as root's umask; etcd runs under an account that must get at everything all the same.
    shell(cluster, "install -d -m 0755 /etc/fairlead /etc/fairlead/pki")
    with umask(cluster, "077"):
        install(cluster, **release)
    assert exe(cluster) == f"{path_of(release)}/etcd"
    assert shell(cluster, "find /opt/etcd -type f | sort").split() == [
        f"{path_of(release)}/{name}" for name in (".fairlead.json", "etcd", "etcdctl")
    ]
    paths = f"/opt/etcd {path_of(release)} {path_of(release)}/etcd /etc/etcd /etc/etcd/etcd.env"
    assert shell(cluster, f"stat -c %a {paths}").split() == ["755", "755", "755", "755", "644"]
    assert "OK" in shell(cluster, "fairlead-etcdctl put ours here")
    assert install(cluster, **release).total("changed") == 0
    assert cluster.playbook("pki", "-e", json.dumps(release)).total("changed") == 0
    assert cluster.playbook("etcd", "--check", "-e", json.dumps(release)).total("changed") == 0


@contextlib.contextmanager
def umask(cluster: Cluster, mask: str) -> Iterator[None]:
    """Root's umask for what is run over SSH, by sshd's PAM session and by its shells."""
    drop_in, shells = "/etc/systemd/system/ssh.service.d", "/root/.bashrc"
    restart = "systemctl daemon-reload; systemctl restart ssh"
    shell(cluster, f"mkdir -p {drop_in}; printf '[Service]\\nUMask={mask}\\n' >{drop_in}/umask.conf; {restart}")
    shell(cluster, f"cp -a {shells} {shells}.old; (echo umask {mask}; cat {shells}.old) >{shells}")
    try:
        assert shell(cluster, "umask").strip().endswith(mask)
        yield
    finally:
        shell(cluster, f"mv {shells}.old {shells}; rm -r {drop_in}; {restart}")


def test_failed_download_of_another_release_leaves_the_running_member_alone(cluster: Cluster) -> None:
    """Unit and programs are as before, so the member also comes back after a power loss."""
    release = archive(cluster, "3.4.91")
    refuse_broken(cluster, release)
    half = archive(cluster, "3.4.92", "etcd")
    before = state(cluster)
    assert "holds no etcdctl" in install(cluster, expect=2, **half).output
    assert state(cluster) == before
    cluster.lab("kill", NODE)
    cluster.lab("up", NODE)
    shell(cluster, "systemctl is-system-running --wait; systemctl is-active etcd.service")
    assert "here" in shell(cluster, "fairlead-etcdctl get ours")


def test_another_release_is_switched_to_and_a_damaged_one_repaired(cluster: Cluster) -> None:
    release = archive(cluster, "3.4.91")
    install(cluster, **release)
    assert exe(cluster) == f"{path_of(release)}/etcd"
    shell(cluster, f": >{path_of(release)}/etcdctl")
    install(cluster, **release)
    assert exe(cluster) == f"{path_of(release)}/etcd"
    assert install(cluster, **release).total("changed") == 0
    assert "here" in shell(cluster, "fairlead-etcdctl get ours")


def test_switch_to_a_package_that_cannot_be_had_leaves_the_running_member_alone(cluster: Cluster) -> None:
    before = state(cluster)
    install(cluster, expect=2, etcd_install_method="package", etcd_packages=["etcd-server", "no-such-package"])
    assert state(cluster) == before


def test_reset_takes_the_data_and_the_releases_and_nothing_else(cluster: Cluster) -> None:
    shell(cluster, "mkdir /opt/etcd/mine && touch /opt/etcd/mine/file /var/lib/etcd/file")
    cluster.playbook("reset")
    left = "/opt/etcd /var/lib/etcd /etc/etcd /etc/systemd/system/etcd.service /var/lib/fairlead /usr/local/bin"
    assert shell(cluster, f"find {left} -type f 2>/dev/null | sort; true").split() == [
        "/opt/etcd/mine/file", "/var/lib/etcd/file",
    ]  # fmt: skip
    assert cluster.playbook("reset").total("changed") == 0


def test_interrupted_reset_is_finished_by_the_next_one(cluster: Cluster) -> None:
    """The module is killed while it removes the data: it finds a file in the way that takes as long as we like."""
    release = archive(cluster, "3.4.90")
    install(cluster, **release)
    shell(cluster, f"chattr +i {DATA}/snap/db 2>/dev/null || mount --bind {DATA}/snap {DATA}/snap")
    cluster.playbook("reset", expect=2)
    assert shell(cluster, f"test -e {DATA} && cat /var/lib/fairlead/etcd_member.json")
    shell(cluster, f"chattr -i {DATA}/snap/db 2>/dev/null; umount {DATA}/snap 2>/dev/null; true")
    cluster.playbook("reset")
    shell(cluster, f"test ! -e {DATA} && test ! -e /var/lib/fairlead")


def test_proof_names_data_that_is_left_and_nobody_else_s(cluster: Cluster) -> None:
    shell(cluster, f"mkdir -p {DATA}")
    assert DATA in cluster.playbook("reset", expect=2).output
    shell(cluster, f"rmdir {DATA}")


def test_program_brought_by_other_means_becomes_a_member(cluster: Cluster) -> None:
    files = TOP / "build" / "lab" / cluster.name / "files"
    for name in ("etcd", "etcdctl"):
        (files / name).write_bytes(Path(programs() / name).read_bytes())
        fetch = f"import urllib.request as r; open('{name}', 'wb').write(r.urlopen('{MIRROR}/{name}').read())"
        shell(cluster, f'cd /usr/local/bin && python3 -c "{fetch}" && chmod 755 {name}')
    brought = {"etcd_install_method": "none", "etcd_bin_dir": "/usr/local/bin"}
    install(cluster, **brought)
    assert exe(cluster) == "/usr/local/bin/etcd"
    assert install(cluster, **brought).total("changed") == 0
    cluster.playbook("reset")
    assert shell(cluster, "ls /usr/local/bin").split() == ["etcd", "etcdctl"]
