"""The laws of DESIGN.md over every system of configs/systems, and the page that lists them."""

from pathlib import Path

import pytest
import torch

from tests.systems import SYSTEMS, assert_two_ranks_are_one, fixed_draws, make, padded, rows, tiny, with_shared_pictures
from vlp import cli, matching, systems
from vlp.config import from_json, load_config, to_json

EACH = pytest.mark.parametrize("name", SYSTEMS)
DOCS = Path(__file__).parent.parent / "docs" / "systems.md"


@EACH
def test_padding_content_never_changes_a_loss(name: str) -> None:
    task, batch = make(name)
    task.mix = None
    with fixed_draws(), torch.no_grad():
        one, two = task(batch), task(padded(batch, 3, 7))
    for key, value in one.report.items():
        torch.testing.assert_close(two.report[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@EACH
def test_permuting_the_batch_never_changes_a_loss(name: str) -> None:
    task, batch = make(name)
    task.mix = None
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    with fixed_draws(), torch.no_grad():
        one, two = task(batch), task(rows(batch, order))
    for key, value in one.report.items():
        torch.testing.assert_close(two.report[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@EACH
def test_a_picture_that_pairs_share_is_the_same_as_a_repeated_one(name: str) -> None:
    task, batch = make(name)
    task.mix = None
    repeated, shared = with_shared_pictures(batch)
    with fixed_draws(), torch.no_grad():
        one, two = task(repeated), task(shared)
    for key, value in one.report.items():
        torch.testing.assert_close(two.report[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@EACH
def test_every_parameter_gets_a_gradient(name: str) -> None:
    task, batch = make(name)
    task.train()
    torch.manual_seed(0)
    found = {n: False for n, p in task.named_parameters() if p.requires_grad}
    for _ in range(12 if task.mix else 1):  # over a mix of objectives, each is drawn in its time
        task.zero_grad()
        task(batch).value.backward()
        missing = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing  # in every step, or DDP would wait for it
        found |= {n: True for n, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        task.after_step()
    assert not [n for n, there in found.items() if not there]


@EACH
def test_the_record_of_a_system_is_the_system(name: str) -> None:
    for config in (tiny(name), load_config(f"configs.systems.{name}")):
        assert from_json(to_json(config)) == config


def loss_and_gradients(name: str, part: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Loss and gradients in float64 of the batch, or of the rows `part` of it."""
    task, batch = make(name)
    task.mix = None
    task, batch = task.double(), in_double(batch)
    with fixed_draws():
        value = task(batch if part is None else rows(batch, part)).value
    value.backward()
    found = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    return {"value": value.detach()} | found


def in_double(batch: object) -> object:
    def convert(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.double() if value.is_floating_point() else value
        if hasattr(value, "__dataclass_fields__"):
            return type(value)(**{n: convert(getattr(value, n)) for n in value.__dataclass_fields__})  # type: ignore[attr-defined]
        return value

    return convert(batch)


@pytest.mark.slow
def test_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    assert_two_ranks_are_one(SYSTEMS, loss_and_gradients, tmp_path)


def test_the_page_is_what_the_command_writes() -> None:
    ways = matching.table([matching.describe(name) for name in matching.names()])
    assert DOCS.read_text() == systems.page([systems.describe(name) for name in SYSTEMS]) + ways, (
        "docs/systems.md is out of date: run `vlp systems --write docs/systems.md`"
    )


def test_check_takes_a_step_and_names_what_got_no_gradient(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["systems", "vilt", "--check"]) == 0
    assert "step of the tiny form: loss" in capsys.readouterr().out
    from configs.systems import vilt

    broken = tiny("vilt")
    del broken.objectives["itm"]
    monkeypatch.setattr("vlp.config.load_config", lambda path: broken if path.endswith(":tiny") else vilt.config())
    assert cli.main(["systems", "vilt", "--check"]) == 1
    assert "model.similarities.itm.classifier" in capsys.readouterr().out


def test_an_unknown_system_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["systems", "bert"]) == 2
    assert "no system bert" in capsys.readouterr().err
