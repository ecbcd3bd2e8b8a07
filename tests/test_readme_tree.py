"""The file tree in the README is the real one: every file once, each with a line that says what it is."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SUMMARISED = ("tests", "configs/accelerate", "benchmarks/results")  # folders shown as one line each
BLOCK = re.compile(r"## File tree\n.*?```text\n(.*?)```", re.DOTALL)


def real_files() -> list[str]:
    """Files that git knows or would add, empty ones left out, summarised folders as `folder/`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not in a git clone, so what belongs to the project is not known")
    present = [name for name in done.stdout.splitlines() if (ROOT / name).is_file() and (ROOT / name).stat().st_size]
    return sorted({summarised(name) for name in present})


def summarised(name: str) -> str:
    """`tests/data/test_order.py` -> `tests/data/`, `tests/parts.py` -> `tests/`; other files as they are."""
    if any(name.startswith(f"{folder}/") for folder in SUMMARISED):
        return f"{Path(name).parent}/"
    return name


def shown_files(tree: str) -> dict[str, str]:
    """Full names and descriptions of the lines of a tree: two spaces a level, folders end in `/`."""
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in tree.splitlines():
        name, _, description = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        full = "".join(folders[:depth]) + name
        folders[depth:] = [name] if name.endswith("/") else []
        assert full not in found, f"README.md shows {full} twice"
        found[full] = description.strip()
    return found


def docstring_line(name: str) -> str:
    """What a Python file says of itself, in one line."""
    path = ROOT / name
    if path.suffix != ".py":
        return "?"
    return (ast.get_docstring(ast.parse(path.read_text())) or "?").splitlines()[0].split(": ")[-1].rstrip(".")


def expected_tree(files: list[str], descriptions: dict[str, str]) -> str:
    """The tree of these files, with the descriptions that there are and the files' own words for the others."""
    entries: dict[str, str] = {}
    for name in files:
        parts = name.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth]) + "/"
            entries.setdefault(folder, descriptions.get(folder, ""))
        entries[name] = descriptions.get(name) or docstring_line(name)
    lines = []
    for name, description in sorted(entries.items(), key=lambda entry: order(entry[0])):
        depth = name.rstrip("/").count("/")
        label = "  " * depth + name.rstrip("/").split("/")[-1] + ("/" if name.endswith("/") else "")
        lines.append(f"{label:<26}  {description}".rstrip())
    return "\n".join(lines) + "\n"


def order(name: str) -> list[tuple[bool, str]]:
    """Sort key: in each folder the files first, then the folders, both by name."""
    parts = name.rstrip("/").split("/")
    return [(i + 1 < len(parts) or name.endswith("/"), part) for i, part in enumerate(parts)]


def test_the_tree_in_the_readme_is_the_real_one() -> None:
    block = BLOCK.search(README.read_text())
    assert block is not None, "README.md has no ```text block under '## File tree'"
    shown, files = shown_files(block[1]), real_files()
    expected = expected_tree(files, shown)
    names = set(shown_files(expected))
    missing, gone = sorted(names - set(shown)), sorted(set(shown) - names)
    message = f"in the repository only: {missing}\nin README.md only: {gone}\nthe tree as it should be:\n\n{expected}"
    assert not missing, message
    assert not gone, message


def test_every_line_of_the_tree_says_something() -> None:
    block = BLOCK.search(README.read_text())
    assert block is not None
    silent = [name for name, text in shown_files(block[1]).items() if not name.endswith("/") and text in ("", "?")]
    assert not silent, f"README.md says nothing about {', '.join(silent)}"


def test_trees_are_read_back_as_written() -> None:
    files = ["Makefile", "a/one.py", "a/b/two.py", "tests/", "tests/data/", "z.py"]
    words = dict.fromkeys([*files, "a/", "a/b/"], "some words: and more")
    tree = expected_tree(files, words)
    assert shown_files(tree) == words
    assert [line.split()[0] for line in tree.splitlines()] == [
        "Makefile",
        "z.py",
        "a/",
        "one.py",
        "b/",
        "two.py",
        "tests/",
        "data/",
    ]
    assert summarised("tests/data/test_order.py") == "tests/data/"
    assert summarised("tests/parts.py") == "tests/"
    assert summarised("vlp/data/order.py") == "vlp/data/order.py"


def test_the_readme_has_no_open_places() -> None:
    assert "@@" not in README.read_text(), "README.md has an open place, marked @@: fill in the measured figure"
