# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy on a node whose systemd is played: beside no other one, whole or not at all, restarted only when it has
to be."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import kube_proxy, kube_proxy_kernel, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import (
    ApplyError,
    PrerequisiteError,
    SpecError,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_checks import parse_kube_proxy
from ansible_collections.fairlead.cluster.plugins.module_utils._system import health, lock, processes, service
from tests.unit.model.test_kube_proxy_wrong import SOUND

PROGRAMMED = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
METRICS_URL = "http://127.0.0.1:10249/metrics"


def packed(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return stream.getvalue()


class Node:
    """A node's files below a directory, systemd and the process that it runs, and a mirror."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.unit = root, root / "units" / "kube-proxy.service"
        self.shown = {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": "", "MainPID": "0"}
        self.process: tuple[str, dict[str, str]] | None = None
        self.commands: list[str] = []
        self.fails, self.problem, self.nft = "", "", "nftables v1.0.6 (Lester Gooch #5)"
        self.kernel: list[Any] = []
        self.archive = packed("kubernetes/node/bin/kube-proxy", "kubernetes/node/bin/kubelet", "kubernetes/LICENSES")
        self.fetch: Callable[[str], Any] = lambda url: io.BytesIO(self.archive)
        self.variables: dict[str, Any] = dict(SOUND)
        for name in ("ca_file", "cert_file", "key_file"):
            (root / name).touch()
            self.variables[f"kube_proxy_{name}"] = str(root / name)
        monkeypatch.setattr(service, "UNIT_DIRECTORY", str(self.unit.parent))
        monkeypatch.setattr(service, "_process", lambda pid: self.process if pid else None)
        monkeypatch.setattr(store, "DIRECTORY", str(root / "desired"))
        monkeypatch.setattr(lock, "DIRECTORY", f"{root}-lock")
        monkeypatch.setattr(processes, "PROC", str(root / "proc"))
        (root / "proc" / "thread-self" / "ns").mkdir(parents=True)
        (root / "proc" / "thread-self" / "ns" / "net").symlink_to("net:[1]")
        monkeypatch.setattr(kube_proxy_kernel, "converge", self.converge_kernel)
        self.metrics = f'{PROGRAMMED}{{ip_family="IPv4"}} 1.7e+09\n'
        monkeypatch.setattr(health, "wait", self.ask)
        monkeypatch.setattr(health, "ask", lambda url, judge: judge(self.metrics if url == METRICS_URL else ""))
        self.held: list[dict[str, Any]] = []

    def converge_kernel(self, document: Any, check: bool, runner: Any) -> Outcome:
        if not check:
            self.kernel.append(document)
        return Outcome({}, {}, [])

    def ask(self, url: str, seconds: int, judge: Callable[[str], str]) -> str:
        self.hold()
        return self.problem or judge('{"healthy": true, "status": {"IPv4": {}, "IPv6": {}}}')

    def hold(self) -> None:
        """Note the sysctls that hold while kube-proxy starts and is asked."""
        if self.kernel:
            self.held.append({**self.kernel[-1].get("optional_sysctls", {}), **self.kernel[-1].get("sysctls", {})})

    def run(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        if args[0] == "systemctl":
            return self.systemctl(args[1:])
        if args[0] == "journalctl":
            return 0, "the end of the log\n", ""
        return (0, self.nft, "") if self.nft else (127, "", "not found")

    def systemctl(self, args: Sequence[str]) -> tuple[int, str, str]:
        verb = args[0]
        if verb == "show":
            return 0, "".join(f"{key}={value}\n" for key, value in self.shown.items()), ""
        self.commands.append(verb)
        if verb == self.fails:
            return 1, "", "Unit is masked."
        if verb == "daemon-reload":
            there = self.unit.exists()
            self.shown.update(
                NeedDaemonReload="no",
                LoadState="loaded" if there else "not-found",
                FragmentPath=str(self.unit) if there else "",
            )
        if verb in ("enable", "disable"):
            self.shown["UnitFileState"] = f"{verb}d"
        if verb in ("start", "restart"):
            self.hold()
            assignment = re.search(r"^Environment=(\w+)=(\w+)$", self.unit.read_text(), re.MULTILINE)
            assert assignment is not None
            self.shown.update(ActiveState="active", MainPID="7")
            self.process = ("/opt/kube-proxy", {assignment[1]: assignment[2]})
        if verb == "stop":
            self.shown.update(ActiveState="inactive", MainPID="0")
        return 0, "", ""

    def start(self, pid: int, program: str, parent: int = 1, network: int = 1) -> None:
        """A process of the node as /proc has it."""
        entry = self.root / "proc" / str(pid)
        (entry / "ns").mkdir(parents=True)
        (entry / "ns" / "net").symlink_to(f"net:[{network}]")
        (entry / "exe").symlink_to(program)
        (entry / "stat").write_text(f"{pid} (a (name) S 2) S {parent} {pid}\n")

    def document(self, **changes: Any) -> dict[str, Any]:
        release = {"version": "1.36.3", "url": "http://mirror/x", "sha256": hashlib.sha256(self.archive).hexdigest()}
        paths = {"directory": str(self.root / "etc"), "release_directory": str(self.root / "opt")}
        return {"variables": self.variables, "release": release, **paths, "wait": 5, **changes}

    def present(self, check: bool = False, **variables: Any) -> Outcome:
        document = self.document(variables={**self.variables, **variables})
        return kube_proxy.present(document, check, self.run, self.fetch)

    def absent(self, check: bool = False) -> tuple[Outcome, list[str]]:
        return kube_proxy.absent(self.document(), check, self.run)

    def tree(self) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def taken(self) -> list[str]:
        """systemctl's verbs since the last question."""
        self.commands, commands = [], self.commands
        return commands


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_program_files_and_service_come_together_and_once(node: Node) -> None:
    before = node.tree()
    assert len(node.present(check=True).operations) == 6
    assert (node.tree(), node.taken(), node.kernel) == (before, [], [])
    node.present()
    made = sorted(set(node.tree()) - set(before))
    program = f"opt/1.36.3-{hashlib.sha256(node.archive).hexdigest()[:12]}"
    assert made == [
        "desired/kube_proxy_kernel.json",
        "etc/config.yaml",
        "etc/kubeconfig",
        f"{program}/.fairlead.json",
        f"{program}/kube-proxy",
        "units/kube-proxy.service",
    ]
    assert (node.root / "etc" / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert node.taken() == ["daemon-reload", "enable", "start"]
    assert f"ExecStart={node.root}/{program}/kube-proxy --config={node.root}/etc/config.yaml" in node.unit.read_text()
    assert not node.present().changed and not node.present(check=True).changed
    assert node.taken() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kube_proxy_log_verbosity": 3},
        {"cluster_api_server": "https://192.0.2.99:6443"},
        {"kube_proxy_oom_score_adj": 0},
    ],
)
def test_change_of_any_file_restarts_once(node: Node, changes: dict[str, Any]) -> None:
    node.present()
    node.taken()
    node.shown["NeedDaemonReload"] = "yes"
    announced = node.present(check=True, **changes).operations
    assert node.taken() == []
    assert [str(each) for each in node.present(**changes).operations] == [str(each) for each in announced]
    assert node.taken() == ["daemon-reload", "restart"]
    assert not node.present(**changes).changed


def test_process_that_runs_with_older_files_is_restarted(node: Node) -> None:
    """As after a run that was cut off between writing and restarting."""
    node.present()
    node.taken()
    node.process = ("/opt/kube-proxy", {kube_proxy.MARK: "older"})
    node.present()
    assert node.taken() == ["restart"]
    node.process = ("/opt/kube-proxy (deleted)", {kube_proxy.MARK: node.process[1][kube_proxy.MARK]})
    node.present()
    assert node.taken() == ["restart"]


@pytest.mark.parametrize("failure", ["start", "unwell"])
def test_first_start_that_fails_leaves_nothing(node: Node, failure: str) -> None:
    before = node.tree()
    node.fails, node.problem = (failure, "") if failure == "start" else ("", "connection refused")
    with pytest.raises(ApplyError) as caught:
        node.present()
    assert ("masked" if failure == "start" else "The end of its log:\nthe end of the log") in str(caught.value)
    assert {path: digest for path, digest in node.tree().items() if not path.startswith("desired")} == before
    assert node.shown["ActiveState"] == "inactive" and node.shown["UnitFileState"] != "enabled"
    assert node.kernel[-1] == kube_proxy_kernel.FILES


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ("", "has not programmed services of IPv4 and IPv6 yet"),
        (f'{PROGRAMMED}{{ip_family="IPv4"}} 1.7e+09\n', "has not programmed services of IPv6 yet"),
        (f'{PROGRAMMED}{{ip_family="IPv4"}} 1.7e+09\n{PROGRAMMED}{{ip_family="IPv6"}} 1.7e+09\n', ""),
        (f"{PROGRAMMED} 0\n", "has not programmed services of IPv4 and IPv6 yet"),
        (f"{PROGRAMMED} 1.7e+09\n", ""),
    ],
)
def test_it_works_once_it_has_programmed_services_of_all_ip_versions(node: Node, metrics: str, problem: str) -> None:
    """It calls itself healthy, and names IP versions, before it has programmed anything."""
    node.metrics = metrics
    if problem:
        with pytest.raises(ApplyError, match=f"{METRICS_URL}: {problem}"):
            node.present(cluster_pod_cidr6="fd00::/56")
    else:
        assert node.present(cluster_pod_cidr6="fd00::/56").changed


def test_without_a_time_to_wait_nobody_is_asked(node: Node) -> None:
    node.problem = "connection refused"
    kube_proxy.present(node.document(wait=0), False, node.run, node.fetch)
    assert node.shown["ActiveState"] == "active"


def test_change_that_fails_runs_from_the_files_before_again(node: Node) -> None:
    node.present()
    before, mark = node.tree(), node.process
    node.problem = "status 503"
    node.shown["NeedDaemonReload"] = "yes"
    with pytest.raises(ApplyError, match="status 503"):
        node.present(kube_proxy_mode="iptables")
    assert node.tree() == before and node.process == mark
    assert node.taken()[-2:] == ["daemon-reload", "restart"]
    assert node.kernel[-1]["modules"] == ["nf_conntrack", "nf_tables"]
    node.problem = ""
    assert not node.present().changed


IPVS_SYSCTLS = {
    "net.ipv4.vs.conntrack": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    "net.ipv4.vs.expire_quiescent_template": "1",
    "net.ipv4.conf.all.arp_ignore": "1",
    "net.ipv4.conf.all.arp_announce": "2",
    "net.ipv4.tcp_keepalive_time": "600",
}


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_settings_of_the_mode_before_hold_until_the_new_one_serves(
    node: Node, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections through IPVS are masqueraded only where it has connection tracking."""
    monkeypatch.setattr(kube_proxy_kernel, "is_there", lambda module: True)
    node.present(kube_proxy_mode="ipvs", kube_proxy_ipvs_strict_arp=True)
    node.held.clear()
    node.present(kube_proxy_mode=mode)
    assert len(node.held) == 2 and all(IPVS_SYSCTLS.items() <= sysctls.items() for sysctls in node.held)
    document = kube_proxy_kernel.document_of(parse_kube_proxy({**node.variables, "kube_proxy_mode": mode}))
    assert node.kernel[-1] == document == store.load(kube_proxy_kernel.KIND)
    assert not set(IPVS_SYSCTLS) & {*document["sysctls"], *document["optional_sysctls"]}
    assert not node.present(kube_proxy_mode=mode).changed and node.kernel[-1] == document


def test_settings_of_the_mode_before_hold_after_a_run_that_was_cut_off_too(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_proxy_kernel, "is_there", lambda module: True)
    node.present(kube_proxy_mode="ipvs", kube_proxy_ipvs_strict_arp=True)
    earlier = store.load(kube_proxy_kernel.KIND)
    settings = kube_proxy_kernel.document_of(parse_kube_proxy(node.variables))
    store.save(kube_proxy_kernel.KIND, kube_proxy_kernel.with_earlier(settings, earlier), False)
    node.held.clear()
    node.present()
    assert node.held and all(IPVS_SYSCTLS.items() <= sysctls.items() for sysctls in node.held)
    assert node.kernel[-1] == settings == store.load(kube_proxy_kernel.KIND)


def test_settings_of_the_mode_before_that_the_node_declares_by_now_are_the_node_s(node: Node) -> None:
    node.present(kube_proxy_mode="ipvs")
    settings = {"sysctls": {"net.ipv4.tcp_keepalive_time": 300}, "modules_file": "/m", "sysctl_file": "/s"}
    store.save("kernel_settings", {**settings, "found_file": "/f"}, False)
    node.held.clear()
    node.present()
    assert node.held and all("net.ipv4.tcp_keepalive_time" not in sysctls for sysctls in node.held)


@pytest.mark.parametrize("where", ["unit", "file"])
def test_another_kube_proxy_is_refused_and_left(node: Node, where: str) -> None:
    path = node.unit if where == "unit" else node.root / "etc" / "config.yaml"
    path.parent.mkdir()
    path.write_text("kind: KubeProxyConfiguration\n")
    before = node.tree()
    with pytest.raises(kube_proxy.ForeignError, match=re.escape(str(path))):
        node.present()
    outcome, left = node.absent()
    assert left == [str(path)] and not outcome.changed
    assert node.tree() == before and node.taken() == []


def test_running_service_of_others_is_refused(node: Node) -> None:
    foreign = node.root / "foreign.service"
    foreign.write_text("[Service]\n")
    node.shown.update(LoadState="loaded", ActiveState="active", MainPID="9", FragmentPath=str(foreign))
    with pytest.raises(kube_proxy.ForeignError, match="kube-proxy.service is not ours"):
        node.present()
    assert node.absent()[0].changed is False and node.taken() == []


def test_another_kube_proxy_s_process_is_refused_whoever_runs_it(node: Node) -> None:
    """As one in a pod, which has neither a unit nor files on the node."""
    node.start(4711, "/usr/local/bin/kube-proxy")
    before = node.tree()
    for check in (True, False):
        with pytest.raises(kube_proxy.ForeignError) as caught:
            node.present(check=check)
        assert "process 4711 (/usr/local/bin/kube-proxy) runs here" in str(caught.value)
        assert "kubectl -n kube-system delete daemonset kube-proxy" in str(caught.value)
    assert (node.tree(), node.taken(), node.kernel) == (before, [], [])


def test_processes_that_are_no_other_kube_proxy_are_none_of_its_business(node: Node) -> None:
    """Its own, one that is about to become a command that it calls, one with another network, and other programs."""
    node.present()
    node.start(7, "/opt/kube-proxy/1.36.3/kube-proxy (deleted)")
    node.start(8, "/opt/kube-proxy/1.36.3/kube-proxy", parent=7)
    node.start(9, "/usr/local/bin/kube-proxy", network=2)
    node.start(10, "/usr/bin/kubelet")
    assert not node.present().changed


def test_absent_leaves_the_kernel_to_another_kube_proxy_s_process(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    removals: list[Any] = []
    plain = kube_proxy.kube_proxy_state.converge
    monkeypatch.setattr(kube_proxy.kube_proxy_state, "converge", lambda *given: removals.append(given) or plain(*given))
    node.present()
    node.start(4711, "/usr/local/bin/kube-proxy")
    assert node.absent()[1] == ["process 4711 (/usr/local/bin/kube-proxy)"] and removals == []
    assert not node.unit.exists() and not node.absent()[0].changed


def test_absent_takes_all_of_ours(node: Node) -> None:
    before = node.tree()
    node.present()
    (node.root / "opt" / ".fairlead-half").mkdir()
    node.taken()
    assert node.absent(check=True)[0].changed and node.taken() == []
    node.absent()
    assert node.tree() == before
    assert not (node.root / "opt").exists() and not (node.root / "etc").exists()
    assert node.taken() == ["disable", "stop", "daemon-reload"]
    assert node.kernel[-1] == kube_proxy_kernel.FILES
    assert not node.absent()[0].changed


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (packed("kubernetes/node/bin/kubelet"), "holds no kube-proxy inside of kubernetes/node/bin"),
        (packed("kubernetes/server/bin/kube-proxy"), "holds no kube-proxy"),
        (packed("kubernetes/node/bin/../../kube-proxy"), "holds no kube-proxy"),
    ],
    ids=["another program", "another directory", "a way out"],
)
def test_archive_without_the_program_is_refused(node: Node, archive: bytes, text: str) -> None:
    node.archive = archive
    with pytest.raises(ApplyError, match=text):
        node.present()
    assert not (node.root / "opt").exists() and not node.unit.exists()


def test_archive_with_another_checksum_is_thrown_away(node: Node) -> None:
    node.fetch = lambda url: io.BytesIO(packed("other"))
    with pytest.raises(ApplyError, match="it was thrown away"):
        node.present()
    assert not (node.root / "opt").exists() and not node.unit.exists()


@pytest.mark.parametrize(
    ("nft", "text"), [("", "needs command nft: install package nftables"), ("nftables v1.0.0", "needs nft 1.0.1")]
)
def test_missing_command_is_named_and_nothing_changed(node: Node, nft: str, text: str) -> None:
    before = node.tree()
    node.nft = nft
    with pytest.raises(PrerequisiteError, match=text):
        node.present()
    assert (node.tree(), node.taken(), node.kernel) == (before, [], [])
    if not nft:
        assert node.present(check=True).changed, "an earlier task of the run brings it"


def test_wrong_range_of_node_ports_is_refused_before_anything_is_changed(node: Node) -> None:
    before = node.tree()
    with pytest.raises(SpecError, match="^node_ports: must be a range of ports like 30000-32767, not '30000'"):
        kube_proxy.present(node.document(node_ports="30000"), False, node.run, node.fetch)
    assert node.tree() == before and not node.commands


def test_old_kernel_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_proxy.os, "uname", lambda: type("Uname", (), {"release": "5.10.0-8-amd64"}))
    with pytest.raises(PrerequisiteError, match="nftables needs Linux 5.13 or newer, and this is 5.10.0-8-amd64"):
        node.present()
    assert node.present(kube_proxy_mode="iptables").changed


def test_missing_certificate_is_named(node: Node) -> None:
    (node.root / "cert_file").unlink()
    with pytest.raises(PrerequisiteError, match=r"kube_proxy_cert_file: .* is not there; run playbook pki.yml"):
        node.present()
    assert node.present(check=True).changed


def test_program_brought_by_others_is_used_or_missed(node: Node) -> None:
    program = node.root / "kube-proxy"
    document = node.document(release=None, program=str(program))
    with pytest.raises(PrerequisiteError, match="kube_proxy_install_method: none"):
        kube_proxy.present(document, False, node.run, node.fetch)
    program.touch(0o755)
    kube_proxy.present(document, False, node.run, node.fetch)
    assert f"ExecStart={program} --config=" in node.unit.read_text()


def test_wrong_variable_is_refused_before_anything_is_asked(node: Node) -> None:
    with pytest.raises(SpecError, match="kube_proxy_ipvs_scheduler: must be one of"):
        node.present(kube_proxy_ipvs_scheduler="best")
    assert (node.taken(), node.kernel) == ([], [])


def test_settings_that_the_node_declares_otherwise_are_refused(node: Node) -> None:
    path = node.root / "desired" / "kernel_settings.json"
    path.parent.mkdir()
    settings = {"sysctls": {"net.ipv4.tcp_keepalive_time": 300}, "modules_file": "/m", "sysctl_file": "/s"}
    path.write_text(json.dumps({**settings, "found_file": "/f"}))
    with pytest.raises(
        SpecError, match="tcp_keepalive_time: is 300 among the node's sysctls, and kube-proxy is told to"
    ):
        node.present(kube_proxy_mode="ipvs")
    assert node.kernel == []
    node.present(kube_proxy_mode="ipvs", kube_proxy_tcp_keepalive_time=300)
    assert "net.ipv4.tcp_keepalive_time" not in node.kernel[-1]["sysctls"]
