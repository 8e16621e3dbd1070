# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services in the words of ipvsadm. tests/kernel/test_ipvsadm_lines.py asks the kernel about the same ones."""

from __future__ import annotations

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import BYPASS, RealServer
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from tests.ipvs_example import FIRST, SAVED, SERVERS, SERVICES


def test_lines_are_those_of_ipvsadm() -> None:
    assert ipvsadm_lines(SERVICES, SERVERS) == SAVED
    assert ipvsadm_lines(reversed(SERVICES), reversed(SERVERS)) == SAVED


def test_limits_on_connections_are_there_although_ipvsadm_forgets_them() -> None:
    lines = ipvsadm_lines(SERVICES[:1], [RealServer(FIRST, "10.0.0.2:80", upper=10, lower=5)])
    assert lines[1] == f"-a -t {FIRST[4:]} -r 10.0.0.2:80 -m -w 1 -x 10 -y 5"


def test_what_ipvsadm_has_no_word_for_is_refused() -> None:
    with pytest.raises(SpecError, match=r"tcp 10\.96\.0\.1:443: ipvsadm has no option for forwarding bypass"):
        ipvsadm_lines(SERVICES[:1], [RealServer(FIRST, "10.0.0.2:80", BYPASS)])
