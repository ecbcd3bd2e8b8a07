"""Tensors by name: ties, prefixes, equal bytes for equal states, and what a misfit is told."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vlp.engine.tensors import (
    CheckpointError,
    check_fit,
    load_optimizer,
    optimizer_tensors,
    read_tensors,
    write_tensors,
)


def test_round_trip_by_prefix(tmp_path: Path) -> None:
    state = {"model.a": torch.randn(3, 2), "model.b": torch.arange(4), "teacher.a": torch.randn(1)}
    write_tensors(tmp_path / "x.safetensors", state)
    found = read_tensors(tmp_path / "x.safetensors", prefix="model.")
    assert set(found) == {"a", "b"}
    assert torch.equal(found["a"], state["model.a"])
    assert found["b"].dtype is torch.int64


def test_tied_weights_are_stored_once_and_come_back_under_both_names(tmp_path: Path) -> None:
    words = torch.randn(100, 50)
    write_tensors(tmp_path / "x.safetensors", {"decoder": words, "words": words, "view": words.T})
    found = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(found["words"], words)
    assert torch.equal(found["decoder"], words)
    assert torch.equal(found["view"], words.T)
    assert (tmp_path / "x.safetensors").stat().st_size < 2.5 * words.nbytes


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    state = {f"w{i}": torch.randn(3) for i in range(20)}
    state |= {f"tie{i}": state[f"w{i}"] for i in range(10)}
    for name in ("a", "b"):
        write_tensors(tmp_path / name, dict(state))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_writing_does_not_hold_on_to_the_weights(tmp_path: Path) -> None:
    weight = torch.zeros(2)
    write_tensors(tmp_path / "x", {"w": weight})
    weight += 1
    assert torch.equal(read_tensors(tmp_path / "x")["w"], torch.zeros(2))


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="x.safetensors cannot be read"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_misfit_lists_what_differs() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    found = {"a": torch.zeros(2), "b": torch.zeros(4), **{f"x{i}": torch.zeros(1) for i in range(12)}}
    with pytest.raises(CheckpointError) as caught:
        check_fit(own, found, "old.safetensors", "use the same config")
    text = str(caught.value)
    for part in ("old.safetensors", "1 missing: c", "12 unexpected: x0", "and 2 more", "b (4,), here (3,)", "use the"):
        assert part in text
    check_fit(own, dict(own), "old.safetensors", "")


def trained(seed: int) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        module(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def test_optimizer_state_goes_by_name_whatever_the_grouping(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    write_tensors(tmp_path / "optimizer.safetensors", optimizer_tensors(optimizer, module))
    other = torch.optim.AdamW([{"params": list(module[1].parameters())}, {"params": list(module[0].parameters())}])
    load_optimizer(other, module, read_tensors(tmp_path / "optimizer.safetensors"), tmp_path)
    for parameter in module.parameters():
        assert set(other.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}
        for slot, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][slot], value)


def test_optimizer_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    tensors = optimizer_tensors(optimizer, module)
    frozen = torch.optim.AdamW(module[0].parameters())
    with pytest.raises(CheckpointError, match=r"2 parameters that are not trained here: 1\.bias, 1\.weight"):
        load_optimizer(frozen, module, tensors, tmp_path / "optimizer.safetensors")
