"""`vlp checkpoint consolidate`: what it writes is what the checkpoint or the shards held, and nothing is unpickled."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from vlp import cli
from vlp.engine.checkpoint import save
from vlp.engine.tensors import read_tensors


def state() -> dict[str, Tensor]:
    """A task's state: a model with tied weights and a count, its teacher, an objective's head."""
    g = torch.Generator().manual_seed(0)
    word = torch.randn(40, 8, generator=g)
    return {
        "model.word": word,
        "model.decoder": word,
        "model.count": torch.tensor(7),
        "model.layer.weight": torch.randn(8, 8, generator=g),
        "teacher.copy.model.word": torch.randn(40, 8, generator=g),
        "objectives.mlm.head.bias": torch.randn(40, generator=g),
    }


def write(run: Path, step: int, tensors: dict[str, Tensor]) -> Path:
    return save(run, step, tensors={"model.safetensors": tensors}, files={}, state={})


def write_shards(folder: Path) -> None:
    folder.mkdir()
    untied = {name: tensor.clone() for name, tensor in state().items()}  # a tied weight is stored under one name
    save_torch_state_dict(untied, folder, max_shard_size=1500)


def consolidate(*arguments: object) -> int:
    return cli.main(["checkpoint", "consolidate", *map(str, arguments)])


def student(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in wanted.items())


def test_the_file_holds_the_newest_checkpoints_model_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", 1, {name: t + 1 for name, t in state().items()})
    write(tmp_path / "run", 2, state())
    out = tmp_path / "made" / "model.safetensors"
    assert consolidate(tmp_path / "run", out) == 0
    assert_same(read_tensors(out), student(state()))
    told = capsys.readouterr().out
    assert hashlib.sha256(out.read_bytes()).hexdigest() in told
    assert f"{40 * 8 + 64 + 1:,} numbers" in told  # tied weights counted, and written, once
    assert out.stat().st_size < 4 * 2 * 40 * 8
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_teacher_and_another_number_format(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", 1, state())
    assert consolidate(folder, tmp_path / "teacher.safetensors", "--teacher") == 0
    assert_same(read_tensors(tmp_path / "teacher.safetensors"), {"word": state()["teacher.copy.model.word"]})
    assert consolidate(folder, tmp_path / "half.safetensors", "--dtype", "bf16") == 0
    halves = {name: t.bfloat16() if t.is_floating_point() else t for name, t in student(state()).items()}
    assert_same(read_tensors(tmp_path / "half.safetensors"), halves)


def test_shards_that_others_write_are_joined(tmp_path: Path) -> None:
    """Hugging Face's form, in which DeepSpeed's and Accelerate's own converters write, too."""
    write_shards(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert consolidate(tmp_path / "shards", tmp_path / "joined.safetensors") == 0
    assert_same(read_tensors(tmp_path / "joined.safetensors"), student(state()))
    assert consolidate(tmp_path / "joined.safetensors", tmp_path / "again.safetensors") == 2  # no task's state


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_damage_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", 1, state())
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert consolidate(folder, tmp_path / "out.safetensors") == 2
    assert str(folder) in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_missing_shard_a_model_that_is_not_there_and_a_place_that_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "shards")
    sorted((tmp_path / "shards").glob("*.safetensors"))[1].unlink()
    folder, out = (
        write(tmp_path / "run", 1, student(state()) | {"model.w": torch.ones(1)}),
        tmp_path / "out.safetensors",
    )
    assert consolidate(tmp_path / "shards", out) == 2
    assert consolidate(folder, out, "--teacher") == 2
    assert "leave out --teacher" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert consolidate(folder, tmp_path / "file" / "out.safetensors") == 2
    assert not out.exists()
    out.write_text("mine")
    assert consolidate(folder, out) == 2
    assert out.read_text() == "mine"
    assert not list(tmp_path.glob(".*.partial"))


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_refused_unopened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, remedy in (("dcp", "accelerate merge-weights"), ("deepspeed", "zero_to_fp32.py")):
        folder = tmp_path / kind
        if kind == "dcp":
            dcp.save({"model": nn.Linear(3, 3).state_dict()}, checkpoint_id=folder, no_dist=True)
            (folder / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        else:
            (folder / "global_step1").mkdir(parents=True)
            shard = folder / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
            shard.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        assert consolidate(folder, tmp_path / "out.safetensors") == 2
        assert remedy in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
