# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for Python code: layers, what runs on nodes, sizes, headers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "plugins" / "module_utils"
MODULES = ROOT / "plugins" / "modules"
RUNTIME = ROOT / "runtime"

# Height of each part of the library. A file may import from its own part and from lower ones.
LAYERS = {
    "_model": 0,
    "_plan": 1,
    "_engine": 2,
    "_netlink": 3,
    "_system": 3,
    "_etcd": 4,
    "_pki": 4,
    "_desired": 5,
    "_ansible": 6,
    "_deps": 6,
}
# Where packages from outside the standard library may be imported, beside `if TYPE_CHECKING`.
OUTSIDERS = {
    "ansible": {"_ansible"},
    "cryptography": {"_pki"},
    "pyroute2": {"_netlink", "_deps"},
}
# Processes are started by AnsibleModule.run_command, results are returned, failures are raised.
FORBIDDEN_IMPORTS = {"subprocess", "pty", "multiprocessing"}
FORBIDDEN_CALLS = {"print", "sys.exit", "os._exit", "os.system", "os.popen", "exit", "quit"}
FORBIDDEN_PREFIXES = ("os.spawn", "os.exec", "os.posix_spawn")
NODE_PYTHON = (3, 9)
# Arguments that came with 3.10, by the function that takes them.
NEWER_ARGUMENTS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only", "match_args"}, "field": {"kw_only"}}
LONGEST_FILE, LONGEST_MODULE = 500, 350
SOURCES = ("lab", "molecule", "plugins", "runtime", "scripts", "tests", "vagrant")
HEADER = ["# Copyright the Fairlead authors", "# SPDX-License-Identifier: Apache-2.0"]


def python_files(*directories: Path) -> list[Path]:
    return sorted(path for directory in directories for path in directory.rglob("*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


EVERYWHERE = python_files(*(ROOT / name for name in SOURCES))
ON_NODES = python_files(LIBRARY, MODULES, RUNTIME)
IN_MODULES = python_files(LIBRARY, MODULES)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def walk_at_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from walk_at_runtime(child)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each import of a file as (number of leading dots, dotted name)."""
    for node in walk_at_runtime(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def parts_imported(path: Path) -> Iterator[str]:
    package = list(path.relative_to(LIBRARY).parts[:-1])
    for level, name in imports(path):
        if level:
            yield [*package[: len(package) - level + 1], *name.split(".")][0]


def test_there_is_code_to_check() -> None:
    assert len(ON_NODES) > 30
    assert len(EVERYWHERE) > 60


@pytest.mark.parametrize("path", python_files(LIBRARY), ids=shown)
def test_library_imports_point_down(path: Path) -> None:
    assert part_of(path) in LAYERS, "a new part of the library needs a place in LAYERS"
    upward = [part for part in parts_imported(path) if LAYERS[part] > LAYERS[part_of(path)]]
    assert upward == []


@pytest.mark.parametrize("path", python_files(LIBRARY), ids=shown)
def test_outsiders_are_imported_in_their_place_only(path: Path) -> None:
    wrong = [
        name
        for level, name in imports(path)
        if level == 0 and part_of(path) not in OUTSIDERS.get(name.split(".")[0], {part_of(path)})
    ]
    assert wrong == []


@pytest.mark.parametrize("path", IN_MODULES, ids=shown)
def test_no_processes_no_output_no_exit(path: Path) -> None:
    assert not FORBIDDEN_IMPORTS & {name.split(".")[0] for level, name in imports(path) if level == 0}
    calls = {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}
    assert not calls & FORBIDDEN_CALLS
    assert not [call for call in calls if call.startswith(FORBIDDEN_PREFIXES)]


@pytest.mark.parametrize("path", ON_NODES, ids=shown)
def test_code_for_nodes_is_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=NODE_PYTHON)
    futures = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    hints = any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree))
    assert "annotations" in futures or not hints
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            newer = NEWER_ARGUMENTS.get(ast.unparse(node.func).split(".")[-1], set())
            assert not newer & {keyword.arg for keyword in node.keywords}, f"line {node.lineno}"


@pytest.mark.parametrize("path", EVERYWHERE, ids=shown)
def test_file_has_the_header_and_is_no_longer_than_a_file_should_be(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = 1 if lines and lines[0].startswith("#!") else 0
    assert lines[first : first + 2] == HEADER
    assert len(lines) <= (LONGEST_MODULE if path.parent == MODULES else LONGEST_FILE)


@pytest.mark.parametrize("path", python_files(LIBRARY, RUNTIME), ids=shown)
def test_library_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path))
