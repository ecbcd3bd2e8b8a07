"""The command line: instant help, clean errors, exit codes, one code path for `vlp` and `python -m`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlp import cli

CONFIG = """
from dataclasses import dataclass, field


@dataclass
class Optim:
    lr: float = 1e-4


@dataclass
class Config:
    optim: Optim = field(default_factory=Optim)
    init: str | None = None


def config():
    return Config()
"""


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return str(path)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["pretrain", "--help"], ["finetune", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from vlp import cli
try:
    cli.main({arguments!r})
except SystemExit as stop:
    heavy = [m for m in ("torch", "numpy", "transformers", "timm", "accelerate", "webdataset") if m in sys.modules]
    print("\\nRESULT", stop.code, heavy)
"""
    assert run_python(code).splitlines()[-1] == "RESULT 0 []"


def test_help_names_every_command_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in text
        assert command.help.split()[0] in text


def test_a_commands_help_has_options_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    text = capsys.readouterr().out
    for part in ("CONFIG", "a.b=value", "--resume", "--dry-run", "accelerate launch -m pretrain configs/debug.py"):
        assert part in text


@pytest.mark.parametrize("words", [["pretrian"], ["data", "cocoa"], []])
def test_unknown_commands_end_with_2_and_the_choices(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], "ConfigError: optim has no field 'lrr'; did you mean 'lr'? (fields: lr)"),
        (["optim.lr=fast"], "ConfigError: optim.lr='fast' is a str; float is needed"),
        (["optim.lr"], "ConfigError: 'optim.lr' is not an override; write it as field=value"),
    ],
)
def test_config_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", config_file, *arguments]) == 2
    assert capsys.readouterr().err == message + "\n"


def test_a_missing_config_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "nowhere/none.py"]) == 2
    assert "nowhere/none.py does not exist" in capsys.readouterr().err


def test_finetune_without_a_checkpoint_says_what_to_add(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", config_file]) == 2
    assert "add init=runs/NAME/step-" in capsys.readouterr().err


def test_config_prints_the_resolved_json(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", config_file, "optim.lr=3"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["optim"]["lr"] == 3.0
    assert record["init"] is None


def test_options_may_stand_between_config_and_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    import pretrain.__main__ as pretrain

    seen = []
    monkeypatch.setattr(pretrain, "main", lambda args: seen.append(args) or 0)
    assert cli.main(["pretrain", "c.py", "--resume", "a.b=1", "--dry-run", "c=2"]) == 0
    (args,) = seen
    assert (args.config, args.overrides, args.resume, args.dry_run) == ("c.py", ["a.b=1", "c=2"], True, True)


def raising(error: BaseException) -> object:
    class Module:
        @staticmethod
        def add_arguments(parser: object) -> None:
            pass

        @staticmethod
        def main(args: object) -> int:
            raise error

    return Module


@pytest.mark.parametrize(
    ("name", "code"), [("CheckpointError", 2), ("DivergenceError", 1), ("ConfigError", 2), ("LaunchError", 2)]
)
def test_this_projects_errors_are_lines_and_codes(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlp.config import ConfigError
    from vlp.engine.guard import DivergenceError
    from vlp.engine.launch import LaunchError
    from vlp.engine.tensors import CheckpointError

    kinds = {c.__name__: c for c in (CheckpointError, DivergenceError, ConfigError, LaunchError)}
    monkeypatch.setattr(cli.importlib, "import_module", lambda module: raising(kinds[name]("file x: do y")))
    assert cli.main(["config"]) == code
    assert capsys.readouterr().err == f"{name}: file x: do y\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda module: raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["config"])


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda module: raising(KeyboardInterrupt()))
    assert cli.main(["config"]) == 130


def test_python_m_is_the_same_door(config_file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "finetune", config_file, "optim.lrr=1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ConfigError: optim has no field 'lrr'; did you mean 'lr'? (fields: lr)\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_its_module(name: str) -> None:
    module = cli.importlib.import_module(cli.COMMANDS[name].module)
    assert callable(module.add_arguments)
    assert callable(module.main)
