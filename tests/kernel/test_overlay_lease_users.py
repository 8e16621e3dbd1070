# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases in an etcd that has authentication enabled: who gets in, and where the password is and is not."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.test_overlay_lease import NAMES, PREFIX, Runtime, Store, runtime, store, subnet_key

__all__ = ["runtime", "store"]

# As it looks in JSON it is another string, which nobody may see either.
PASSWORD = 'ten "green" bottles'
USER = {"username": "flannel", "password": PASSWORD}


class Guarded(Store):
    """A store that serves nobody but its users, and only with a certificate without a common name."""

    def arguments(self, node: str = "cp1", names: list[str] = NAMES, **changes: Any) -> dict[str, Any]:
        return super().arguments(node, names, **{**self.etcd.nameless, **changes})


@pytest.fixture
def guarded(store: Store) -> Guarded:
    store.etcd.enable_users("flannel", PASSWORD, f"{PREFIX}/")
    return Guarded(store.etcd, store.namespace, store._run_module)


def shows_password(result: dict[str, Any]) -> bool:
    return "bottles" in json.dumps(result)


def test_user_gets_and_gives_back_leases(guarded: Guarded) -> None:
    result = guarded.run("w1", **USER)
    assert guarded.etcd.contents(PREFIX)[subnet_key(3)] == guarded.value("w1", 2)
    assert 86390 <= result["own"]["ttl"] <= 86400
    assert not guarded.run("w1", **USER)["changed"]
    assert guarded.run("w1", state="absent", **USER)["changed"]
    assert subnet_key(3) not in guarded.etcd.contents(PREFIX)


def test_password_is_in_no_result(guarded: Guarded, run_module: RunModule) -> None:
    arguments = guarded.arguments("w1", **USER)
    done = run_module("overlay_lease", arguments, netns=guarded.namespace, diff=True)
    assert done["diff"]["after"] and not shows_password(done)
    wrong = guarded.run("w1", username="flannel", password="wrong bottles", fails=True)
    assert "does not let user flannel in: etcdserver: authentication failed" in wrong["msg"]
    assert not shows_password(wrong)
    half = guarded.run("w1", password=PASSWORD, fails=True)
    assert "username" in half["msg"] and not shows_password(half)


def test_nobody_and_others_are_kept_out(guarded: Guarded) -> None:
    failed = guarded.run("w1", fails=True)
    assert "give username and password" in failed["msg"]
    elsewhere = guarded.run("w1", prefix="/elsewhere", fails=True, **USER)
    assert "permission denied" in elsewhere["msg"]
    assert guarded.etcd.contents("/") == {}


def test_certificate_with_a_common_name_is_told_from_a_wrong_password(guarded: Guarded) -> None:
    failed = guarded.run("w1", fails=True, **USER, **guarded.etcd.tls)
    assert "takes no certificate with a common name" in failed["msg"]
    assert "give cert_file one without" in failed["msg"]


def test_user_is_no_obstacle_where_etcd_has_none(store: Store) -> None:
    assert store.run("w1", **USER)["own"]["subnet"] == "10.244.3.0/24"


def test_renewal_logs_in_with_what_was_saved(guarded: Guarded, runtime: Runtime, state_dir: Path) -> None:
    guarded.run("w1", **USER)
    saved = state_dir / guarded.namespace.name / "overlay_lease.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert json.loads(saved.read_text())["password"] == PASSWORD
    guarded.etcd.etcdctl("lease", "revoke", guarded.etcd.lease_of(subnet_key(3)))
    done = runtime.renew()
    assert (done.returncode, done.stderr) == (0, "") and "bottles" not in done.stdout
    assert guarded.etcd.contents(PREFIX)[subnet_key(3)] == guarded.value("w1", 2)
    guarded.etcd.etcdctl("user", "passwd", "--interactive=false", "flannel", data="other\n")
    failed = runtime.renew()
    assert failed.returncode == 1 and "bottles" not in failed.stderr
    assert "does not let user flannel in" in failed.stderr


def test_members_are_listed_for_root(guarded: Guarded, run_module: RunModule) -> None:
    asked: dict[str, Any] = {"members": guarded.etcd.members, "timeout": 2, **guarded.etcd.nameless}
    root = {"username": "root", "password": "for etcdctl"}
    found = run_module("etcd_member", {**asked, **root}, netns=guarded.namespace)
    assert [member["healthy"] for member in found["members"]] == [True]
    assert "for etcdctl" not in json.dumps(found)


PLAYBOOK = """
- hosts: all
  gather_facts: false
  vars_files: [{root}/roles/flannel/defaults/main.yml, {root}/roles/flannel/vars/main.yml]
  tasks:
    - fairlead.cluster.overlay_lease: "{{{{ __flannel_lease_parameters }}}}"
"""


@pytest.mark.parametrize("password", [PASSWORD, "wrong bottles"])
def test_role_hands_the_user_on_and_ansible_shows_no_password(
    guarded: Guarded, root_dir: Path, tmp_path: Path, password: str
) -> None:
    inputs = {
        "cluster_name": "lab",
        "cluster_pod_cidr": "10.244.0.0/16",
        "flannel_nodes": [{"name": "w1", "address": "192.0.2.11"}],
        "flannel_etcd_endpoints": guarded.etcd.endpoints,
        **{f"flannel_etcd_{name}": value for name, value in guarded.etcd.nameless.items()},
        "flannel_etcd_username": "flannel",
        "flannel_etcd_password": password,
    }
    (tmp_path / "play.yml").write_text(PLAYBOOK.format(root=root_dir))
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    python = f"ansible_python_interpreter={sys.executable}"
    done = guarded.namespace.run(
        [
            *("env", f"FAIRLEAD_STATE_DIR={tmp_path / 'desired'}", f"FAIRLEAD_RUN_DIR={tmp_path / 'run'}"),
            *(f"ANSIBLE_COLLECTIONS_PATH={root_dir / 'collections'}", f"ANSIBLE_LOG_PATH={tmp_path / 'log'}"),
            *(str(Path(sys.executable).parent / "ansible-playbook"), "-vvvvv", "--diff", "-i", "w1,", "-c", "local"),
            *("-e", python, "-e", f"@{tmp_path / 'inputs.json'}", str(tmp_path / "play.yml")),
        ],
        check=False,
    )
    assert (done.returncode == 0) is (password == PASSWORD), done.stdout + done.stderr
    assert "bottles" not in done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert bool(guarded.etcd.contents(PREFIX)) is (password == PASSWORD)
