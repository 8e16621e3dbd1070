# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module cni_network: the files as a runtime finds them, with the real plugins of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces

BRIDGE = {"subnets": ["10.244.1.0/24"], "routes": ["10.244.0.0/16"], "mtu": 1450}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "net.d" / "10-fairlead.conflist"


def arguments(conf: Path, **changes: Any) -> dict[str, Any]:
    return {"path": str(conf), "cache_dir": str(conf.parent.parent / "cni"), **changes}


def present(conf: Path, **changes: Any) -> dict[str, Any]:
    return arguments(conf, bridge={**BRIDGE, **changes})


def fake_plugin(directory: Path, name: str, answer: str) -> None:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")
    program.chmod(0o755)


def test_network_is_written_changed_and_removed(run_module: RunModule, conf: Path) -> None:
    """Create, modify and delete, each in check mode, for real, and again."""

    def content() -> Any:
        return json.loads(conf.read_text()) if conf.exists() else None

    assert run_module("cni_network", present(conf), check=True)["changed"] and content() is None
    assert run_module("cni_network", present(conf))["changed"]
    first = content()
    assert (first["name"], first["cniVersion"], first["plugins"][0]["mtu"]) == ("fairlead", "1.0.0", 1450)
    assert conf.stat().st_mode & 0o777 == 0o644
    assert not run_module("cni_network", present(conf))["changed"]
    assert not run_module("cni_network", present(conf), check=True)["changed"]

    assert run_module("cni_network", present(conf, mtu=1400), check=True)["changed"] and content() == first
    assert run_module("cni_network", present(conf, mtu=1400))["changed"]
    assert content()["plugins"][0]["mtu"] == 1400
    assert not run_module("cni_network", present(conf, mtu=1400))["changed"]

    absent = arguments(conf, state="absent")
    assert run_module("cni_network", absent, check=True)["changed"] and content() is not None
    assert run_module("cni_network", absent)["changed"]
    assert not conf.parent.exists(), "the directory is empty, so it goes too"
    assert not run_module("cni_network", absent)["changed"]
    assert not run_module("cni_network", absent, check=True)["changed"]


def test_loopback_is_kept_beside_it_and_a_foreign_one_survives(run_module: RunModule, conf: Path) -> None:
    loopback = conf.parent / "99-loopback.conflist"
    run_module("cni_network", present(conf))
    assert json.loads(loopback.read_text())["plugins"] == [{"type": "loopback"}]
    loopback.write_text(json.dumps({"name": "lo", "cniVersion": "1.0.0", "plugins": [{"type": "loopback"}]}))
    run_module("cni_network", arguments(conf, state="absent"))
    assert not conf.exists() and loopback.exists()


def test_diff_shows_the_configuration(run_module: RunModule, conf: Path) -> None:
    diff = run_module("cni_network", present(conf), check=True, diff=True)["diff"]
    assert diff[0]["before"] == "" and '"subnet": "10.244.1.0/24"' in diff[0]["after"]


def test_networks_in_other_files_are_remembered_too(run_module: RunModule, conf: Path, state_dir: Path) -> None:
    other = conf.parent / "20-other.conflist"
    run_module("cni_network", present(conf))
    run_module("cni_network", {**present(other), "name": "other"})
    saved = json.loads((state_dir / "cni_network.json").read_text())["networks"]
    assert [network["path"] for network in saved] == [str(conf), str(other)]
    run_module("cni_network", arguments(conf, state="absent", loopback=False))
    saved = json.loads((state_dir / "cni_network.json").read_text())["networks"]
    assert [network["name"] for network in saved] == ["other"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bridge": {**BRIDGE, "subnets": ["10.244.1.7/24"]}}, "bridge.subnets[0]: 10.244.1.7/24 has host bits set"),
        ({"bridge": {**BRIDGE, "subnets": ["10.244.1.0"]}}, "bridge.subnets[0]: must be a network"),
        ({"bridge": {**BRIDGE, "mtu": 70000}}, "bridge.mtu: must be 0 to 65535"),
        ({"bridge": {**BRIDGE, "name": "far-too-long-bridge"}}, "bridge.name: must be an interface name"),
        ({"bridge": BRIDGE, "name": "no spaces"}, "name: must start with a letter or digit"),
        ({"bridge": BRIDGE, "name": "loopback"}, "name: must not be 'loopback'"),
        ({"bridge": BRIDGE, "path": "/etc/cni/net.d/10-fairlead.conf"}, "path: must be absolute and end in .conflist"),
        ({"plugins": [{"type": "bridge", "brigde": "cni0"}]}, "plugins[0].brigde: is unknown here"),
        ({"plugins": [{"type": "bridge"}, {"type": "portmap", "snat": 1}]}, "plugins[1].snat: must be true or false"),
        ({"plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}, "plugins[0].ipam: needs ranges"),
        ({"plugins": [{"type": "bridge", "prevResult": {}}]}, "plugins[0].prevResult: is filled in by the runtime"),
        ({"plugins": [{"bridge": "cni0"}]}, "plugins[0].type: is required"),
        ({"plugins": []}, "plugins: must not be empty"),
        ({"plugins": [{"type": "nonesuch"}]}, "CNI plugins nonesuch: in none of /usr/lib/cni, /opt/cni/bin"),
        ({"plugins": [{"type": "bridge"}], "bridge": BRIDGE}, "mutually exclusive"),
        ({}, "state is present but any of the following are missing: plugins, bridge"),
    ],
)
def test_broken_network_is_refused_before_any_change(
    run_module: RunModule, conf: Path, changes: dict[str, Any], message: str
) -> None:
    result = run_module("cni_network", arguments(conf, **changes), fails=True)
    assert message in result["msg"]
    assert not conf.parent.exists()


def test_plugin_that_does_not_support_the_version_is_refused(run_module: RunModule, conf: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    fake_plugin(programs, "old", '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}')
    fake_plugin(programs, "loopback", '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}')
    wanted = arguments(conf, plugins=[{"type": "old"}], plugin_dirs=[str(programs)])
    result = run_module("cni_network", wanted, fails=True)
    assert "CNI plugin old does not support cniVersion 1.0.0; it has 0.3.1, 0.4.0" in result["msg"]
    run_module("cni_network", {**wanted, "cni_version": "0.4.0"})
    assert json.loads(conf.read_text())["cniVersion"] == "0.4.0"


def test_missing_plugins_are_a_warning_in_check_mode(run_module: RunModule, conf: Path, tmp_path: Path) -> None:
    wanted = {**present(conf), "plugin_dirs": [str(tmp_path / "nothing")]}
    result = run_module("cni_network", wanted, check=True)
    assert result["changed"]
    assert "CNI plugins bridge, portmap, loopback, host-local: in none of" in str(result["warnings"])
    run_module("cni_network", wanted, fails=True)


def test_configuration_that_runtimes_would_prefer_is_a_warning(run_module: RunModule, conf: Path) -> None:
    conf.parent.mkdir()
    (conf.parent / "05-calico.conflist").write_text("{}")
    (conf.parent / "90-other.conflist").write_text("{}")
    warnings = str(run_module("cni_network", present(conf))["warnings"])
    assert "05-calico.conflist" in warnings and "90-other" not in warnings


def test_foreign_bridge_of_the_same_name_survives(run_module: RunModule, netns: Namespaces, conf: Path) -> None:
    node = netns("node")
    node.run("ip link add cni0 type bridge")
    node.run("ip address add 203.0.113.1/24 dev cni0")
    run_module("cni_network", present(conf), netns=node)
    run_module("cni_network", arguments(conf, state="absent"), netns=node)
    assert [link["ifname"] for link in node.json("ip -j link show type bridge")] == ["cni0"]
