"""The rules of the room plan: who may import whom, what a file may be called, what the board can import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ARROWS = {
    "train": {"quantize", "deploy"},
    "gui": {"deploy"},
    "benchmarks": {"deploy"},
    "quantize": set(),
    "deploy": set(),
}
FOLDERS = set(ARROWS)
FRONT_DOOR = "rsedge"

HOST_ONLY = {"torch", "torchvision", "onnx", "onnxscript", "rknn", "tensorboard", "matplotlib"}
LAZY_ON_BOARD = {"onnxruntime", "faster_coco_eval", "rknnlite", "rasterio", "pyogrio", "ray"}
AGPL = {"ultralytics", "albumentationsx"}
PYDANTIC_BORDERS = {"deploy/manifest.py", "train/recipe.py", "train/recipe_quantize.py", "train/recipe_section.py"}

BAD_NAMES = {"util", "utils", "common", "misc", "helper", "helpers"}
LIBRARIES = (
    HOST_ONLY | LAZY_ON_BOARD | AGPL | {"numpy", "cv2", "opencv", "pydantic", "typer", "rich", "pycocotools", "yolo"}
)
MAX_LINES = 400
# The front door is one list of verbs and their options; in two files nobody would find half of them.
MAX_LINES_FRONT_DOOR = 800


@dataclass(frozen=True)
class Import:
    """One imported module. lazy: inside a function. typing_only: under `if TYPE_CHECKING`. up: leading dots."""

    module: str
    line: int
    up: int
    lazy: bool
    typing_only: bool
    names: tuple[str, ...] = ()


def imports_of(tree: ast.Module) -> list[Import]:
    """Return every import of a file, wherever it stands, `import_module("...")` with a literal included."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(a.name, node.lineno, 0, lazy, typing_only) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(a.name for a in node.names)
            found.append(Import(node.module or "", node.lineno, node.level, lazy, typing_only, names))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                found.append(Import(node.args[0].value, node.lineno, 0, lazy, typing_only))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                visit(child, lazy or inside, True)
            for child in node.orelse:
                visit(child, lazy or inside, typing_only)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or inside, typing_only)

    visit(tree, False, False)
    return found


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (path relative to root with slashes, path) of the project's own Python files, tests left out."""
    for folder in sorted(FOLDERS):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), path
    if (root / f"{FRONT_DOOR}.py").is_file():
        yield f"{FRONT_DOOR}.py", root / f"{FRONT_DOOR}.py"


def check_import(file: str, found: Import) -> Iterator[str]:
    """Yield what is wrong with one import of one file."""
    parts = file.split("/")
    home = parts[0] if len(parts) > 1 else FRONT_DOOR
    where = f"{file}:{found.line}"
    if found.up:
        if found.up > len(parts) - 1:
            yield f"{where}: a relative import leaves {home}/; across folders write the absolute name"
        return
    top = found.module.split(".")[0]
    if top in AGPL:
        yield f"{where}: {top} is AGPL"
    if home == FRONT_DOOR:
        if not found.lazy and (top in FOLDERS or top in HOST_ONLY | LAZY_ON_BOARD | {"numpy", "cv2", "pydantic"}):
            yield f"{where}: the front door imports {top} only inside a verb"
        return
    if top == home:
        yield f"{where}: inside {home}/ write a relative import, not {found.module}"
    elif top in FOLDERS and top not in ARROWS[home]:
        yield f"{where}: {home} -> {top} is not an allowed arrow"
    elif top == FRONT_DOOR and parts[-1] != "__main__.py":
        yield f"{where}: only __main__.py may call the front door"
    if top == "pydantic" and file not in PYDANTIC_BORDERS:
        yield f"{where}: pydantic stays at the two borders, {' and '.join(sorted(PYDANTIC_BORDERS))}"
    if home == "deploy" and parts[1] != "convert":
        if top in HOST_ONLY:
            yield f"{where}: {top} is not on the board; only deploy/convert may import it"
        if top in LAZY_ON_BOARD and not found.lazy:
            yield f"{where}: {top} may be imported only inside the function that needs it"
    if home == "quantize" and top in {"onnx", "onnxruntime", "rknn", "cv2"}:
        yield f"{where}: quantize/ knows torch only, not {top}"


@dataclass(frozen=True)
class Source:
    """One Python file, read once: its path relative to the root with slashes, its text, tree and imports."""

    file: str
    text: str
    tree: ast.Module
    imports: list[Import]


def read_sources(root: Path) -> list[Source]:
    """Return the project's own Python files, each parsed."""
    found = []
    for file, path in sources(root):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=file)
        found.append(Source(file, text, tree, imports_of(tree)))
    return found


def check_file(source: Source) -> Iterator[str]:
    """Yield what is wrong with one file's name, length, docstring and contents."""
    file, tree = source.file, source.tree
    for part in [*Path(file).parent.parts, Path(file).stem]:
        if part.lower() in BAD_NAMES:
            yield f"{file}: the name {part!r} says nothing; name the one duty"
        if part.lower() in LIBRARIES or (part in sys.stdlib_module_names and not part.startswith("__")):
            yield f"{file}: {part!r} is the name of a library"
    lines = source.text.count("\n") + 1
    most = MAX_LINES_FRONT_DOOR if file == f"{FRONT_DOOR}.py" else MAX_LINES
    if lines > most:
        yield f"{file}: {lines} lines, at most {most}; split it by duty"
    if not ast.get_docstring(tree):
        yield f"{file}: no module docstring"
    if Path(file).name == "__init__.py" and len(tree.body) > 1:
        yield f"{file}: an __init__.py holds a docstring and nothing else (no re-exports)"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in FOLDERS:
            yield f"{file}:{node.lineno}: the function {node.name} bears a folder's name"
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id in {"Exception", "BaseException"}:
                yield f"{file}:{node.lineno}: raise ValueError or OSError, not {raised.id}"
    for found in source.imports:
        yield from check_import(file, found)


def module_graph(read: list[Source]) -> dict[str, set[str]]:
    """Return module -> project modules that it imports while it is itself being imported."""
    names = {s.file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): s for s in read}
    graph: dict[str, set[str]] = {}
    for module, source in names.items():
        package = source.file.split("/")[:-1]
        edges = graph.setdefault(module, set())
        for found in source.imports:
            if found.lazy or found.typing_only:
                continue
            base = ".".join([*package[: len(package) - found.up + 1], found.module]) if found.up else found.module
            base = base.rstrip(".")
            # `from .boxes import iou` imports train.boxes; `from . import boxes` imports train.boxes as well.
            targets = {f"{base}.{name}" for name in found.names} | {base}
            edges |= {t for t in targets if t in names and t != module}
    return graph


def ways_from(graph: dict[str, set[str]], start: str) -> dict[str, str]:
    """Return reachable module -> the module before it on a shortest way from start; start itself if on a circle."""
    before: dict[str, str] = {}
    queue = [start]
    for module in queue:  # grows while it is walked: breadth first
        for target in sorted(graph.get(module, ())):
            if target not in before:
                before[target] = module
                queue.append(target)
    return before


def check_circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Yield one shortest circle of module-level imports for each set of modules that all reach each other."""
    # A package's __init__.py holds only its docstring, so an edge to it can close no circle.
    before = {module: ways_from(graph, module) for module in graph}
    told: set[str] = set()
    for start in sorted(graph):
        if start in told or start not in before[start]:
            continue
        told |= {module for module in before[start] if start in before[module]}
        circle = [start, before[start][start]]
        while circle[-1] != start:
            circle.append(before[start][circle[-1]])
        yield "circular import: " + " -> ".join(reversed(circle))


def violations(root: Path) -> list[str]:
    """Return everything in a tree that breaks the room plan, as lines `file:line: rule`."""
    read = read_sources(root)
    return [line for source in read for line in check_file(source)] + list(check_circles(module_graph(read)))


def test_the_tree_keeps_the_rules() -> None:
    assert violations(ROOT) == []


IMPORT_BLOCKED = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} does not exist on the board")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, ROOT)
for module in MODULES:
    try:
        importlib.import_module(module)
    except BaseException as error:
        print(f"{module}: {type(error).__name__}: {error}")
"""


def import_without(root: Path, blocked: set[str], modules: list[str]) -> list[str]:
    """Import modules in a fresh interpreter where some packages cannot be found. Returns one line per failure."""
    head = f"BLOCKED = {sorted(blocked)!r}\nROOT = {str(root)!r}\nMODULES = {modules!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", head + IMPORT_BLOCKED],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def board_modules(root: Path) -> list[str]:
    """Return the modules that a board imports: deploy/ without convert/ and without `__main__`, which runs."""
    files = [file for file, _ in sources(root) if file.startswith("deploy/") and not file.startswith("deploy/convert/")]
    return [f.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for f in files if "__main__" not in f]


def test_board_modules_import_without_the_host() -> None:
    modules = board_modules(ROOT)
    assert {"deploy.detections", "deploy.letterbox", "deploy.manifest"} <= set(modules)
    blocked = HOST_ONLY | LAZY_ON_BOARD | {"train", "quantize", "gui", "benchmarks", "scipy", "psutil"}
    assert import_without(ROOT, blocked, modules) == []


PLANTED = [
    ("deploy/nms.py", "import torch", "torch is not on the board"),
    ("deploy/nms.py", "def f():\n    import torch.nn as nn", "torch is not on the board"),
    (
        "deploy/nms.py",
        "def f():\n    import importlib\n    importlib.import_module('onnx')",
        "onnx is not on the board",
    ),
    ("deploy/backends/x.py", "import onnxruntime", "only inside the function"),
    ("deploy/nms.py", "from train.loss import f", "deploy -> train is not an allowed arrow"),
    ("deploy/convert/x.py", "from ...train import loss", "relative import leaves deploy/"),
    ("quantize/fold.py", "from deploy.nms import f", "quantize -> deploy is not an allowed arrow"),
    ("quantize/fold.py", "import onnx", "knows torch only"),
    ("gui/view.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import train.loss", "gui -> train"),
    ("train/loss.py", "from train.boxes import iou", "write a relative import"),
    ("train/loss.py", "import pydantic", "two borders"),
    ("train/loss.py", "import rsedge", "only __main__.py"),
    ("train/loss.py", "import ultralytics", "AGPL"),
    ("train/utils.py", "", "says nothing"),
    ("train/torch.py", "", "name of a library"),
    ("deploy/queue.py", "", "name of a library"),
    ("train/__init__.py", "from .loss import f", "no re-exports"),
    ("train/loss.py", "x = 1\n" * 400, "at most 400"),
    ("train/loss.py", "def quantize(): ...", "bears a folder's name"),
    ("train/loss.py", "raise Exception('x')", "not Exception"),
    ("rsedge.py", "import train.walk", "only inside a verb"),
]


def plant(root: Path, file: str, body: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""A planted file."""\n{body}\n', encoding="utf-8")


@pytest.mark.parametrize(("file", "body", "expected"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, body: str, expected: str) -> None:
    plant(tmp_path, file, body)
    found = violations(tmp_path)
    assert len(found) == 1
    assert expected in found[0]
    assert file in found[0]


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/nms.py").write_text("x = 1\n")
    assert violations(tmp_path) == ["deploy/nms.py: no module docstring"]


def test_a_circle_is_found_once(tmp_path: Path) -> None:
    plant(tmp_path, "train/a.py", "from .b import x")
    plant(tmp_path, "train/b.py", "from . import c")
    plant(tmp_path, "train/c.py", "from .a import y")
    assert violations(tmp_path) == ["circular import: train.a -> train.b -> train.c -> train.a"]


def test_every_knot_of_imports_is_found_and_a_dense_tree_takes_no_time() -> None:
    # 2 ** 148 ways lead from the last to the first.
    layers = {f"m{i:03}": {f"m{j:03}" for j in range(i)} for i in range(150)}
    assert list(check_circles(layers)) == []
    knots = {**layers, "m000": {"m001"}, "m140": {"z"}, "z": {"y"}, "y": {"x", "z"}, "x": {"z"}}
    assert list(check_circles(knots)) == ["circular import: m000 -> m001 -> m000", "circular import: x -> z -> y -> x"]


def test_what_the_rules_allow_passes(tmp_path: Path) -> None:
    plant(
        tmp_path, "train/a.py", "import torch\nfrom deploy.nms import f\nfrom quantize.fold import g\nfrom .b import h"
    )
    plant(tmp_path, "train/b.py", "def h():\n    from .a import f")  # lazy: closes no circle
    plant(tmp_path, "deploy/convert/x.py", "import torch\nfrom ..nms import f")
    plant(tmp_path, "deploy/nms.py", "import cv2\ndef f():\n    import onnxruntime")
    plant(tmp_path, "train/__main__.py", "from rsedge import main")
    plant(tmp_path, "rsedge.py", "def verb():\n    import train.a")
    assert violations(tmp_path) == []


def test_a_blocked_import_is_noticed(tmp_path: Path) -> None:
    plant(tmp_path, "deploy/__init__.py", "")
    plant(tmp_path, "deploy/bad.py", "__import__('to' + 'rch')")  # invisible to the reading of the source
    plant(tmp_path, "deploy/good.py", "import json")
    modules = board_modules(tmp_path)
    assert modules == ["deploy", "deploy.bad", "deploy.good"]
    assert import_without(tmp_path, {"torch"}, modules) == [
        "deploy.bad: ImportError: torch does not exist on the board"
    ]
