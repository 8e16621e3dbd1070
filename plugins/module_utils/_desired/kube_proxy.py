# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy on this node: kernel, program, files and service. A service that does not start leaves the node with the
files, and the service, that it had before."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from typing import Any, List, Mapping, Optional, Tuple

from .._engine import Adapter, Combined, Outcome, take_back, together
from .._engine import converge as engine_converge
from .._model.errors import ApplyError, FairleadError, PrerequisiteError
from .._model.files import File
from .._model.item import Item, State, state_of
from .._model.kube_proxy import BANNER, DIRECTORY, PRODUCT, as_yaml, configuration, kubeconfig, unit_text
from .._model.kube_proxy_checks import parse_kube_proxy
from .._model.kube_proxy_options import IPTABLES, IPVS, NFTABLES, KubeProxy, read_values
from .._model.kube_proxy_state import NONE
from .._model.parse import Section
from .._model.release import parse_release
from .._model.service import ABSENT, CURRENT, FOREIGN, OUTDATED, Service
from .._model.service_node import NODE_PORTS
from .._plan.operation import REPLACE, Operation, difference
from .._system import health, processes, releases
from .._system.files import FileAdapter, remove_directory
from .._system.runner import Runner
from .._system.service import ServiceAdapter, is_ours, unit_path
from . import kube_proxy_kernel, kube_proxy_state, store

UNIT = "kube-proxy.service"
RELEASES = "/opt/kube-proxy"
# In the environment of every kube-proxy that runs from our files: digest of all of them.
MARK = "FAIRLEAD_KUBE_PROXY"
PROGRAM = "kube-proxy"
# Upstream's own: nft 1.0.1 and Linux 5.13 (KEP-3866).
_OLDEST_KERNEL, _OLDEST_NFT = (5, 13), (1, 0, 1)
# A transaction that leaves nothing behind but, with iptables-nft, an empty table.
_PROBE = "*nat\n:FAIRLEAD-PROBE - [0:0]\n-F FAIRLEAD-PROBE\n-X FAIRLEAD-PROBE\nCOMMIT\n"
# When it was through with all rules, the first time once it knew all services and endpoints (pkg/proxy/metrics).
_PROGRAMMED = re.compile(
    r'^kubeproxy_sync_proxy_rules_last_timestamp_seconds(?:{ip_family="(\w+)"})? [1-9]', re.MULTILINE
)
# Commands that it calls, by mode, with the package that has them.
_COMMANDS = {
    NFTABLES: {"nft": "nftables"},
    IPVS: {"ipset": "ipset", "iptables": "iptables"},
    IPTABLES: {"iptables": "iptables"},
}


class ForeignError(FairleadError):
    """Another kube-proxy is where ours would be."""


class Node:
    """What is wanted on the node, and who brings it about. ``program``: path of a kube-proxy that is there already."""

    def __init__(self, document: Mapping[str, Any], runner: Runner, fetch: releases.Fetch) -> None:
        section = Section(document)
        self.runner = runner
        self.directory = section.text("directory", DIRECTORY)
        self.proxy = parse_kube_proxy(section.section("variables").data)
        release, url = self._release(section)
        self.program = os.path.join(release.path, PROGRAM) if release else section.text("program")
        self.releases = releases.ReleaseAdapter(
            PRODUCT, section.text("release_directory", RELEASES), [release.path] if release else [], runner, fetch, url
        )
        self.seconds = section.integer("wait", 0, 3600, 60)
        self.files, self.digest = self._files()
        self.unit_file = self.files[-1]
        self.wanted: List[Item] = [*([release] if release else []), *self.files]
        self.service = ServiceAdapter(UNIT, BANNER, MARK, self.digest, runner)

    def _release(self, section: Section) -> Tuple[Any, str]:
        if not section.get("release", None):
            return None, ""
        return parse_release(section, PRODUCT, section.text("release_directory", RELEASES))

    def _files(self) -> Tuple[List[File], str]:
        config, access = (os.path.join(self.directory, name) for name in ("config.yaml", "kubeconfig"))
        texts = [as_yaml(configuration(self.proxy, access)), as_yaml(kubeconfig(self.proxy))]
        command = f"{self.program} --config={config}"
        unit = unit_text(self.proxy, command, f"{MARK}=DIGEST")
        digest = hashlib.sha256("\0".join([*texts, unit]).encode()).hexdigest()[:16]
        files = [
            File(config, texts[0]),
            File(access, texts[1], "0600"),
            File(unit_path(UNIT), unit.replace("DIGEST", digest)),
        ]
        return files, digest

    @property
    def adapter(self) -> Adapter:
        return Combined({PRODUCT.item.kind: self.releases, File.kind: FileAdapter(file.path for file in self.files)})

    def plan(self, have: State) -> List[Operation]:
        return difference(have, state_of(self.wanted), {PRODUCT.item.kind: 0, File.kind: 1})

    def wait(self) -> None:
        """Raises ApplyError with the end of the log unless kube-proxy says that it works. 0 seconds: not asked."""
        if not self.seconds:
            return
        url = self._url("healthz_bind_address", "livez")
        problem = health.wait(url, self.seconds, self._unfinished)
        if problem or not self.service.main_pid():
            _status, log, _error = self.runner(["journalctl", "--unit", UNIT, "--lines", "12", "--output", "cat"])
            server, name = self.proxy.values["cluster_api_server"], self.proxy["hostname_override"]
            text = f"does not work after {self.seconds} seconds ({url}: {problem or 'answered by another process'})"
            hint = f"Is {server} there, and has it a Node {name or 'of this host'} with an address?"
            raise ApplyError(UNIT, f"{text}, so all is as before. {hint} The end of its log:\n{log.strip()}")

    def _url(self, name: str, path: str) -> str:
        where = self.proxy[name]
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.address, where.address)
        return f"http://{dataclasses.replace(where, address=address)}/{path}"

    def _unfinished(self, _text: str) -> str:
        """It says that it is well from its start on. What it has programmed is only told by its metrics."""
        url = self._url("metrics_bind_address", "metrics")
        problem = health.ask(url, self._unprogrammed)
        return f"{url}: {problem}" if problem else ""

    def _unprogrammed(self, metrics: str) -> str:
        """Older releases say of no IP version when they were through with all rules."""
        done = set(_PROGRAMMED.findall(metrics))
        wanted = ["IPv4", *(["IPv6"] if self.proxy.values["cluster_pod_cidr6"] else [])]
        missing = [family for family in wanted if not done & {family, ""}]
        return f"has not programmed services of {' and '.join(missing)} yet" if missing else ""

    def refuse_foreign(self) -> None:
        problems = [f"{file.path} is there" for file in self.files if not is_ours(file.path, BANNER)]
        service = self.service.read()[(Service.kind, UNIT)]
        assert isinstance(service, Service)
        if FOREIGN in (service.unit_file, service.configuration if service.running else CURRENT):
            problems.append(f"{UNIT} is not ours; to give it up: systemctl disable --now {UNIT}")
        strangers = _strangers(self.service)
        if strangers:
            hint = (
                "if it is of kubeadm's DaemonSet, to give that up: kubectl -n kube-system delete daemonset kube-proxy"
            )
            problems.append(f"{' and '.join(map(str, strangers))} runs here; {hint}")
        if problems:
            text = "another kube-proxy is on this node, and nothing of it was changed"
            raise ForeignError(f"{text}: {'. '.join(dict.fromkeys(problems))}. Move it away")


def _strangers(service: ServiceAdapter) -> List[processes.Process]:
    """Other processes of a kube-proxy than those of the service, as in a pod: it would answer in the place of ours when
    that is asked whether it works, and what it has made would be taken for leavings of ours."""
    found = processes.of_program(PROGRAM)
    # Until it has become a command that it calls, a process of the service is one more kube-proxy.
    main = service.main_pid() or None
    return [each for each in found if main not in (each.pid, each.parent) and processes.is_there(each)]


def present(document: Mapping[str, Any], check: bool, runner: Runner, fetch: releases.Fetch) -> Outcome:
    """Shape: ``{variables: {NAME: VALUE}, release?: {version, url, sha256}, program?, directory?,
    release_directory?, node_ports?, wait?}``. Raises SpecError, PrerequisiteError or ForeignError with nothing changed;
    any other error after the way back, but for one about settings of an earlier mode, which the next run takes back.
    """
    node = Node(document, runner, fetch)
    # When it comes to removing what other modes have left, it is too late to refuse them.
    Section(document).ports("node_ports", NODE_PORTS)
    _require(node, check)
    node.refuse_foreign()
    settings = kube_proxy_kernel.document_of(node.proxy)
    earlier = store.load(kube_proxy_kernel.KIND)
    # Until the new mode serves, the mode before does.
    meanwhile = settings if check else kube_proxy_kernel.with_earlier(settings, earlier)
    kernel = _kernel(meanwhile, check, runner)
    try:
        files = engine_converge(node.adapter, node.plan, check)
        served = _served(node, files, check)
    except BaseException:
        if kernel.changed and not check:
            _kernel(earlier, check, runner)
        raise
    if meanwhile != settings:
        kernel = _altogether(kernel, _kernel(settings, check, runner))
    return together(kernel, files, served)


def _kernel(document: Optional[Mapping[str, Any]], check: bool, runner: Runner) -> Outcome:
    """Settings of the kernel, remembered; none for no document."""
    with store.alone(kube_proxy_kernel.KIND, document is not None, check):
        outcome = kube_proxy_kernel.converge(document or kube_proxy_kernel.FILES, check, runner)
        return together(outcome, store.remember(kube_proxy_kernel.KIND, document, check))


def _altogether(first: Outcome, last: Outcome) -> Outcome:
    """Two runs about the same objects as one, without what was there in between only."""
    keys = {operation.item.key for operation in (*first.operations, *last.operations)}
    before, after = ({key: state[key] for key in keys if key in state} for state in (first.before, last.after))
    return Outcome(first.before, last.after, difference(before, after))


def _served(node: Node, files: Outcome, check: bool) -> Outcome:
    """The service runs with the files as they are, and is well; when it cannot, all is what it was."""
    renewed = any(operation.item.key == node.unit_file.key for operation in files.operations)
    done = Outcome({}, {}, [])

    def plan(have: State) -> List[Operation]:
        wanted = Service(UNIT, CURRENT, True, True, CURRENT)
        found = have[wanted.key]
        assert isinstance(found, Service)
        if check and renewed:
            found = _outdated(found)
        return [] if found == wanted else [Operation(REPLACE, wanted, found)]

    try:
        done = engine_converge(node.service, plan, check)
        if not check:
            node.wait()
        return done
    except BaseException as error:
        take_back(node.service, done, error)
        take_back(node.adapter, files, error)
        if renewed:
            _go_back(node, done)
        raise


def _outdated(service: Service) -> Service:
    """What a service becomes by files that are not written yet."""
    unit_file = ABSENT if service.unit_file == ABSENT else OUTDATED
    configuration = OUTDATED if service.running else CURRENT
    return dataclasses.replace(service, unit_file=unit_file, configuration=configuration)


def _go_back(node: Node, done: Outcome) -> None:
    """Have systemd read the files from before, and a process that ran from them run from them again."""
    node.runner(["systemctl", "daemon-reload"])
    if any(isinstance(item, Service) and item.running for item in done.before.values()):
        node.runner(["systemctl", "restart", UNIT])


def _require(node: Node, check: bool) -> None:
    """Raises PrerequisiteError for what the node lacks for the mode. What earlier tasks of a run bring is not looked
    for in check mode."""
    mode, kernel = node.proxy.mode, os.uname().release
    if mode == NFTABLES and _numbers(kernel) < _OLDEST_KERNEL:
        text = f"kube_proxy_mode nftables needs Linux 5.13 or newer, and this is {kernel}"
        raise PrerequisiteError(f"{text}; use another mode on this node")
    for command, package in _COMMANDS[mode].items():
        status, output, _error = node.runner([command, "--version"])
        if status != 0 and not check:
            raise PrerequisiteError(f"kube_proxy_mode {mode} needs command {command}: install package {package}")
        if status == 0 and command == "nft" and _numbers(output) < _OLDEST_NFT:
            raise PrerequisiteError(f"kube_proxy_mode nftables needs nft 1.0.1 or newer, and this is {output.strip()}")
    if not check:
        if mode != NFTABLES:
            _require_iptables(node)
        _require_files(node)


def _require_iptables(node: Node) -> None:
    """kube-proxy says that it is well even where the variant of iptables is one that the kernel does not take."""
    commands = ["iptables-restore", *(["ip6tables-restore"] if node.proxy.values["cluster_pod_cidr6"] else [])]
    for command in commands:
        status, _output, error = node.runner([command, "--noflush", "--wait"], _PROBE)
        if status != 0:
            text = f"{command} cannot make a chain in table nat ({error.strip() or f'status {status}'})"
            hint = "choose the other variant, as by update-alternatives --set iptables /usr/sbin/iptables-legacy"
            raise PrerequisiteError(f"kube_proxy_mode {node.proxy.mode} needs iptables, and {text}; {hint}")


def _require_files(node: Node) -> None:
    if not node.releases.url and not os.access(node.program, os.X_OK):
        text = f"{node.program} is missing, and role kube_proxy is told not to install it"
        raise PrerequisiteError(f"{text} (kube_proxy_install_method: none)")
    for name in ("ca_file", "cert_file", "key_file"):
        if not os.path.isfile(node.proxy[name]):
            text = f"{node.proxy[name]} is not there; run playbook pki.yml, or put it there"
            raise PrerequisiteError(f"kube_proxy_{name}: {text}")


def _numbers(text: str) -> Tuple[int, ...]:
    found = re.search(r"[0-9]+(\.[0-9]+)+", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def absent(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Outcome, List[str]]:
    """Service, what it made in the kernel, files and releases of ours are gone, and sysctls have the values from
    before. Gives what is not ours and was left, too: with another kube-proxy here, nothing in the kernel is touched."""
    section = Section(document)
    directory, unpacked = section.text("directory", DIRECTORY), section.text("release_directory", RELEASES)
    paths = [*(os.path.join(directory, name) for name in ("config.yaml", "kubeconfig")), unit_path(UNIT)]
    left = [path for path in paths if not is_ours(path, BANNER)]
    here = store.load(kube_proxy_kernel.KIND) is not None or any(map(os.path.exists, paths))
    ours = ServiceAdapter(UNIT, BANNER, MARK, "", runner)
    service = engine_converge(ours, _stopped, check)
    others = [*left, *(map(str, _strangers(ours)) if here else [])]
    # Before the files, by which a run that is cut off here knows that there is something to do.
    kernel = _removed_from_kernel(section, check, runner) if here and not others else Outcome({}, {}, [])
    files = FileAdapter(path for path in paths if path not in left)
    programs = releases.ReleaseAdapter(PRODUCT, unpacked, releases.releases(unpacked), runner)
    removed = [engine_converge(adapter, lambda have: difference(have, {}), check) for adapter in (files, programs)]
    if not check:
        releases.remove_unfinished(unpacked)
        remove_directory(directory)
        _forget_unit(runner, removed[0])
    return together(service, kernel, *removed, _kernel(None, check, runner)), others


def _removed_from_kernel(section: Section, check: bool, runner: Runner) -> Outcome:
    values, problems = read_values(section.section("variables", {}).data)
    for problem in problems:
        raise problem
    proxy = KubeProxy(values)
    wish = {"keep": NONE, "exclude_cidrs": proxy.exclude_cidrs, "node_ports": section.text("node_ports", NODE_PORTS)}
    return kube_proxy_state.converge(wish, check, runner)[0]


def _stopped(have: State) -> List[Operation]:
    service = next(iter(have.values()))
    assert isinstance(service, Service)
    if FOREIGN in (service.unit_file, service.configuration) or not (service.enabled or service.running):
        return []
    gone = Service(UNIT, service.unit_file, False, False, CURRENT)
    return [Operation(REPLACE, gone, service)]


def _forget_unit(runner: Runner, files: Outcome) -> None:
    if files.changed:
        status, output, error = runner(["systemctl", "daemon-reload"])
        if status != 0:
            raise ApplyError(UNIT, f"systemctl daemon-reload: {error.strip() or output.strip() or f'status {status}'}")
