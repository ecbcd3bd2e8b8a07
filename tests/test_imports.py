"""The house's laws that no tool checks: imports run one way, files and functions stay small, nothing is unpickled."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("vlp", "pretrain", "finetune", "configs", "data_tools", "benchmarks")

# From the ground up: a file imports from its own floor and those below, never from above.
FLOORS = (
    ("vlp.types", "vlp.config", "vlp.layers"),
    ("vlp.vision", "vlp.text", "vlp.fusion", "vlp.pooling", "vlp.reasoning", "vlp.data", "vlp.engine"),
    ("vlp.similarity",),
    ("vlp.model",),
    ("vlp.view",),
    ("vlp.teacher", "vlp.gradient_cache"),
    ("vlp.objectives",),
    ("vlp.task",),
    ("vlp.loading", "vlp.trial", "vlp.weights"),
    ("vlp.retrieval",),
    ("vlp.training",),
    ("vlp.interop",),
    (
        "vlp",
        "vlp.cli",
        "vlp.show_config",
        "vlp.systems",
        "vlp.matching",
        "pretrain",
        "finetune",
        "configs",
        "data_tools",
        "benchmarks",
    ),
)

# Optional or slow, so imported only inside the function that needs them.
LAZY = {"deepspeed", "wandb", "tensorboard", "matplotlib", "transformers", "faiss", "onnx", "onnxruntime", "open_clip"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "torch.save", "np.save", "np.load", "numpy.load", "eval", "exec"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 80


def files(*folders: str) -> list[Path]:
    """Python files below folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """`vlp/data/order.py` -> `vlp.data.order`, `vlp/__init__.py` -> `vlp`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {path: ast.parse(path.read_text()) for path in files(*CODE)}
NAMES = {name_of(path) for path in TREES}
each_file = pytest.mark.parametrize("path", [pytest.param(p, id=name_of(p)) for p in TREES])


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """Nodes that run: without `if TYPE_CHECKING`, and without function bodies unless asked for."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if not into_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from walk(child, into_functions)


def imported(tree: ast.AST, into_functions: bool) -> set[str]:
    """Full names of the modules that a file imports; `from a import b` names `a.b` where that is a module."""
    found = set()
    for node in walk(tree, into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in NAMES else module for a in node.names}
    return found


def floor_of(name: str) -> int:
    """The floor of a module: that of its longest listed prefix."""
    prefixes = [
        (len(prefix), i) for i, floor in enumerate(FLOORS) for prefix in floor if f"{name}.".startswith(f"{prefix}.")
    ]
    length, floor = max(prefixes)
    assert length > len("vlp") or name == "vlp", f"{name} stands on no floor; say in FLOORS on which"
    return floor


def own_imports(path: Path, into_functions: bool = True) -> set[str]:
    return {name for name in imported(TREES[path], into_functions) if name.split(".")[0] in CODE}


@each_file
def test_imports_run_one_way(path: Path) -> None:
    if path == ROOT / "vlp" / "__init__.py":  # `vlp.load`: the one door that opens upwards, inside a function
        assert own_imports(path, into_functions=False) == set()
        return
    floor = floor_of(name_of(path))
    above = {name for name in own_imports(path) if floor_of(name) > floor and name != "vlp"}
    assert not above, f"{name_of(path)} (floor {floor}) imports from above: {', '.join(sorted(above))}"


def test_there_are_no_circles() -> None:
    edges = {name_of(path): own_imports(path, into_functions=False) for path in TREES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@each_file
def test_optional_libraries_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {name for name in imported(TREES[path], into_functions=False) if name.split(".")[0] in LAZY}
    assert not heavy, f"{name_of(path)} imports {', '.join(sorted(heavy))} at its top; import it inside the function"


def unsafe_call(call: ast.Call) -> str:
    """The name of a call that can run code from a file, else nothing. NumPy's are safe with `allow_pickle=False`."""
    name = ast.unparse(call.func)
    told = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in call.keywords)
    return name if name in UNSAFE_CALLS and not (name.startswith("n") and told) else ""


@each_file
def test_nothing_is_unpickled(path: Path) -> None:
    unsafe = {name for name in imported(TREES[path], into_functions=True) if name.split(".")[0] in UNSAFE_MODULES}
    unsafe |= {name for call in ast.walk(TREES[path]) if isinstance(call, ast.Call) and (name := unsafe_call(call))}
    assert not unsafe, f"{name_of(path)} uses {', '.join(sorted(unsafe))}: a file from elsewhere could run code"


@pytest.mark.parametrize("path", [pytest.param(p, id=name_of(p)) for p in files(*CODE, "tests")])
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines; split it by what it does"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=name_of(p)) for p in files(*CODE, "tests") if p.stem == "__init__"]
)
def test_init_files_are_empty(path: Path) -> None:
    if path != ROOT / "vlp" / "__init__.py":
        assert path.read_text() == "", (
            f"{path.relative_to(ROOT)} is not empty; things are imported from where they live"
        )


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public classes and functions of a module, and public methods of those classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))


@each_file
def test_everything_public_says_what_it_is(path: Path) -> None:
    silent = [node.name for node in public(TREES[path]) if not ast.get_docstring(node)]
    if TREES[path].body and not ast.get_docstring(TREES[path]):
        silent.append("the file itself")
    assert not silent, f"{name_of(path)}: no docstring on {', '.join(silent)}"


def test_importing_vlp_imports_nothing_heavy() -> None:
    code = "import sys, vlp; print([m for m in ('torch', 'numpy', 'PIL', 'timm') if m in sys.modules], vlp.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("[] ")


@pytest.mark.parametrize(
    "command",
    [
        *("export", "search", "evaluate", "config", "systems", "data synthesize", "data karpathy", "data regions"),
        *("data check", "data pack", "data index", "data albef", "data table", "data huggingface", "data stats"),
        *("data overlap", "checkpoint average", "runs plot"),
    ],
)
def test_help_of_every_command_is_light(command: str) -> None:
    code = f"""
import sys
from vlp import cli
try:
    cli.main({[*command.split(), "--help"]!r})
except SystemExit as stop:
    print("\\nRESULT", stop.code, [m for m in ("torch", "timm", "transformers", "accelerate") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "RESULT 0 []"
