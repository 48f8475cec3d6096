"""Which part may import which, read from the sources; and what works without the optional ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import perceptual

ROOT = Path(perceptual.__file__).parent
AT_THE_ROOT = 7  # files

# room: the rooms that it may import; images → features → distance → preference → score
ROOMS = {
    "version": set(),
    "names": set(),
    "chance": set(),
    "features": {"names", "files"},
    "files": set(),
    "data": {"files"},
    "ranking": set(),
    "distance": {"features", "names", "version", "files"},
    "metrics": {"chance"},
    "metrics.distance": {"distance"},
    "metrics.diversity": {"distance", "metrics.distance"},
    "training": {"files", "features", "data", "distance", "ranking", "metrics"},
    "evaluation": {
        *(
            "chance",
            "names",
            "features",
            "data",
            "files",
            "distance",
            "ranking",
            "metrics",
            "training",
        ),
    },
    "collect": {"chance", "data", "files", "distance", "metrics", "evaluation", "version"},
}
# a package's own file may gather what its parts may not import from each other
GATHERS = {"perceptual.metrics": {"metrics.distance", "metrics.diversity"}}
# these stand on top and may import what they like; no room above imports them
TOP = {"", "config", "publish", "cli"}


def room(module):
    """The room that a module of ours belongs to: its first name, but a file where ROOMS names one."""
    inner = module.split(".")[1:]
    return ".".join(inner[:2]) if ".".join(inner[:2]) in ROOMS else (inner or [""])[0]


def runtime_imports(tree):
    """Modules that a source file names in its imports, outside `if TYPE_CHECKING:`."""
    types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # `from perceptual import ranking` names a module by its last part
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        names = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), ast.parse(path.read_text())


def test_arrows_point_one_way():
    seen = set()
    for module, tree in sources():
        own = room(module)
        seen.add(own)
        if own in TOP:
            continue
        assert own in ROOMS, f"{module} is in no room: which may it import?"
        ours = {room(name) for name in runtime_imports(tree) if name.split(".")[0] == "perceptual"}
        more = ours - {own} - ROOMS[own] - GATHERS.get(module, set())
        assert not more, f"{module} must not import {more}"
    assert seen == {*ROOMS, *TOP}


def test_the_rooms_have_no_circle():
    resolved = set()
    while len(resolved) < len(ROOMS):
        ready = {name for name, uses in ROOMS.items() if uses <= resolved} - resolved
        assert ready, f"circle among {set(ROOMS) - resolved}"
        resolved |= ready


def test_no_file_imports_itself_by_way_of_others():
    """Imports within functions count: what waits for a call is an arrow too."""
    trees = dict(sources())
    uses = {module: set() for module in trees}
    for module, tree in trees.items():
        for name in runtime_imports(tree):
            while name and name not in trees:
                name = name.rpartition(".")[0]
            # a package's own file only gathers: it is an arrow to nothing
            if name and name != module and not any(other.startswith(f"{name}.") for other in trees):
                uses[module].add(name)
    resolved = set()
    while len(resolved) < len(uses):
        ready = {module for module, others in uses.items() if others <= resolved} - resolved
        assert ready, f"circle among {sorted(set(uses) - resolved)}"
        resolved |= ready


def test_the_root_is_seen_at_a_glance():
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= AT_THE_ROOT


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from perceptual import ranking", {"ranking"}),
        ("import perceptual.data.images", {"data"}),
        ("from perceptual.metrics.distance import X", {"metrics.distance"}),
        ("def f():\n    from perceptual.training.module import X", {"training"}),
        ("if TYPE_CHECKING:\n    from perceptual.data import X", set()),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from perceptual.data import X", {"data"}),
    ],
)
def test_imports_are_read_as_they_run(source, found):
    assert {room(name) for name in runtime_imports(ast.parse(source))} == found


def test_wandb_is_imported_only_where_it_is_used():
    apps = [*ROOT.parent.glob("*.py"), *ROOT.parent.glob("callbacks/*.py")]
    for module, tree in [*sources(), *((path.name, ast.parse(path.read_text())) for path in apps)]:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.body = []  # what is imported there waits for a call
        names = {name.split(".")[0] for name in runtime_imports(tree)}
        assert "wandb" not in names, f"{module} imports wandb when it is imported"


@pytest.mark.slow  # the test above reads the imports of every file
def test_everything_is_importable_without_wandb():
    modules = [name for name, _ in sources() if not name.endswith("__main__")]
    code = "import sys; sys.modules['wandb'] = None\n" + "\n".join(f"import {name}" for name in modules)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_alone_is_light():
    code = "import sys, perceptual; sys.exit(bool({'torch', 'timm', 'pytorch_lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
