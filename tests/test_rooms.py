"""Who may import whom: arrows between the rooms go down only."""
import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Room -> the rooms that it may import. Of model, common takes the root of all errors only.
ARROWS = {
    "model": set(),
    "common": {"model"},
    "graph": {"model", "common"},
    "data": {"model", "common"},
    "machines": {"model", "common"},
    "engines": {"model", "common", "graph", "machines"},
    "training": {"common", "engines"},
    "runs": {"model", "common", "graph", "data", "machines", "engines", "training"},
    "reporting": {"model", "common", "graph", "data", "engines", "training", "runs"},
    "explain": {"model", "common", "data", "engines", "runs"},
    "exporting": {"common", "graph", "data", "engines", "runs"},
}
# Who stands outside the rooms: no room imports from there.
OUTSIDE = {"benchmarks", "tools", "tests"}
# What training may know of an engine, and common of the definitions.
PARTS = {("training", "engines"): {"engines.interface", "engines.workers"},
         ("common", "model"): {"model.registry"}}
_MOST_LINES = 200    # of a script


def _files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard",
                             "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in map(Path, listed.split()) if (ROOT / path).is_file()]


FILES = _files()
SCRIPTS = {path.stem for path in FILES if len(path.parts) == 1}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def _imports(path, as_command=True):
    """Modules that a file imports, within functions, too; submodules where they are meant.

    Without `as_command`, not those that it imports only where it is the command itself.
    """
    package = ".".join(path.parts[:-1])
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if not as_command:
        module.body = [node for node in module.body
                       if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *([node.module] * bool(node.module))])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in MODULES else base


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_go_down_only(room):
    for path in (path for path in FILES if path.parts[0] == room):
        for module in _imports(path):
            other = module.split(".")[0]
            assert other not in OUTSIDE, f"{path} imports {module}"
            if other in ARROWS and other != room:
                assert other in ARROWS[room], f"{path} imports {module}"
                assert module in PARTS.get((room, other), {module}), f"{path} imports {module}"


@pytest.mark.parametrize("room", ["training", "common"])
def test_what_is_not_mxnet_s_knows_no_engine(room):
    for path in (path for path in FILES if path.parts[0] == room):
        assert not {module.split(".")[0] for module in _imports(path)} & {"mxnet", "torch"}, path


def test_nothing_but_a_test_imports_a_script():
    for path in (path for path in FILES if path.parts[0] != "tests"):
        assert not SCRIPTS & {module.split(".")[0] for module in _imports(path)}, path


def test_scripts_import_rooms_only():
    for path in (path for path in FILES if len(path.parts) == 1):
        assert not OUTSIDE & {module.split(".")[0] for module in _imports(path)}, path


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_has_no_cycles(room):
    graph = {}
    for path in (path for path in FILES if path.parts[0] == room and path.stem != "__init__"):
        name = ".".join(path.with_suffix("").parts)
        # What a module does as the command is done by nobody who imports it.
        graph[name] = {module for module in _imports(path, as_command=False)
                       if module.startswith(f"{room}.")}
    done = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for module in sorted(graph.get(name, ())):
                visit(module, [*above, name])
            done.add(name)
    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_is_a_page(script):
    assert len((ROOT / f"{script}.py").read_text(encoding="utf-8").splitlines()) <= _MOST_LINES
