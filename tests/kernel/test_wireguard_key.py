# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module wireguard_key. Where this kernel has no WireGuard, test_overlay_wireguard runs these tests in a guest."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import wireguard_key
from ansible_collections.fairlead.cluster.plugins.module_utils._desired.wireguard_key import converge, stand_in
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError, ReadError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File
from ansible_collections.fairlead.cluster.plugins.module_utils._model.wireguard import shown
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.kernel.test_overlay_wireguard import has_wireguard, wireguard

MODULE = "wireguard_key"
__all__ = ["wireguard"]


def public_key_in(path: Path) -> str:
    return subprocess.run(["wg", "pubkey"], input=path.read_text(), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the test are in our directory."""
    monkeypatch.setattr(wireguard_key, "DIRECTORY", f"{tmp_path}/")


@pytest.mark.usefixtures("wireguard", "own")
def test_key_is_made_once_and_kept(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    made = run_module(MODULE, {"path": str(path)}, diff=True)
    assert made["changed"] and not made["predicted"]
    assert made["public_key"] == public_key_in(path).strip()
    assert path.stat().st_mode & 0o777 == 0o400
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)
    assert path.read_text().strip() not in json.dumps(made)
    text = path.read_text()
    again, public_key = converge(str(path), True, False)
    assert not again.changed and public_key == made["public_key"]
    path.chmod(0o644)
    repaired, public_key = converge(str(path), True, False)
    assert repaired.changed and public_key == made["public_key"]
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o400, text)


@pytest.mark.parametrize("present", [True, False])
def test_key_of_the_operator_is_left_alone(present: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file may be read by others than us, and may be the key of another tunnel too."""
    monkeypatch.setattr(wireguard_key, "public_key_of", lambda secret: shown(bytes(32)))
    path = tmp_path / "key"
    path.write_text(shown(bytes([8] * 32)) + "\n")
    path.chmod(0o640)
    outcome, _public_key = converge(str(path), present, False)
    assert not outcome.changed
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o640, shown(bytes([8] * 32)) + "\n")


@pytest.mark.usefixtures("wireguard", "own")
def test_check_mode_makes_nothing_and_says_so(run_module: RunModule, tmp_path: Path) -> None:
    path = tmp_path / "key"
    predicted = run_module(MODULE, {"path": str(path)}, check=True)
    assert predicted["changed"] and predicted["predicted"] and len(predicted["public_key"]) == 44
    assert not path.exists()
    converge(str(path), True, False)
    removal, public_key = converge(str(path), False, True)
    assert removal.changed and path.exists() and public_key is None
    assert converge(str(path), False, False)[0].changed and not path.exists()
    assert not converge(str(path), False, False)[0].changed


def test_stand_ins_differ_between_machines_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases refuse two nodes with one key, in check mode too."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert stand_in("/key") == stand_in("/key") != stand_in("/other")
    before = stand_in("/key")
    monkeypatch.setattr(wireguard_key, "read_file", lambda path: File(path, boot[::-1]))
    assert stand_in("/key") != before


@pytest.mark.usefixtures("wireguard")
def test_no_device_is_seen_and_no_namespace_is_left(tmp_path: Path) -> None:
    links = os.listdir("/sys/class/net")
    converge(str(tmp_path / "key"), True, False)
    assert os.listdir("/sys/class/net") == links


@pytest.mark.parametrize("content", ["", "no key\n", "AAAA\n"])
def test_file_with_something_else_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(ReadError, match="key: holds no private key of WireGuard; restore it from a backup"):
        converge(str(path), True, False)
    assert path.read_text() == content


def test_kernel_without_wireguard_gets_no_key_and_check_mode_says_so(
    netns: Namespaces, tmp_path: Path, run_module: RunModule
) -> None:
    if has_wireguard(netns("probe")):
        pytest.skip("this kernel has WireGuard")
    path = tmp_path / "keys" / "key"
    with pytest.raises(PrerequisiteError, match="this node's kernel has no wireguard"):
        converge(str(path), True, False)
    told = [run_module(MODULE, {"path": str(path)}, check=check, fails=True)["msg"] for check in (True, False)]
    assert "this node's kernel has no wireguard" in told[0] and told[0] == told[1]
    assert not path.parent.exists()
    assert not converge(str(path), False, True)[0].changed, "to have no key takes no WireGuard"
