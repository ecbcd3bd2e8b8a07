"""Wiring: what starts a run, what is refused before it starts, what a checkpoint gives back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests import parts
from tests.small_run import small_config, write_data
from vlp import training
from vlp.config import ConfigError, Lazy, from_json, lazy, to_json
from vlp.data.errors import DataError
from vlp.engine.checkpoint import CheckpointError, newest
from vlp.engine.manifest import write_manifest
from vlp.engine.tensors import read_tensors, write_tensors
from vlp.training import TrainConfig, load_model
from vlp.weights import load_weights, without_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two steps."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    training.run(small_config(data, out, steps=2), source="small.py")
    return out


def lazy_model(config: TrainConfig) -> Lazy:
    return cast(Lazy, config.model)


def test_a_run_writes_where_its_numbers_come_from(trained: Path) -> None:
    (first,) = json.loads((trained / "run.json").read_text())["starts"]
    assert first["seed"] == 3
    assert first["config"] == "small.py"
    assert {"command", "versions", "commit", "time", "machine"} <= set(first)
    checkpoint = newest(trained)
    assert checkpoint is not None
    names = {
        "model.safetensors",
        "optimizer.safetensors",
        "config.json",
        "tokenizer.json",
        "state.json",
        "manifest.json",
    }
    assert {p.name for p in checkpoint.iterdir()} == names


def test_the_recorded_config_is_the_config(trained: Path, data: Path) -> None:
    record = json.loads((cast(Path, newest(trained)) / "config.json").read_text())
    assert from_json(record) == small_config(data, trained, steps=2)


def test_a_checkpoint_gives_back_the_model_without_its_first_weights_files(trained: Path) -> None:
    folder = cast(Path, newest(trained))
    record = json.loads((folder / "config.json").read_text())
    model, config, tokenizer = load_model(trained)
    saved = read_tensors(folder / "model.safetensors", prefix="model.")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert to_json(config) == record
    assert tokenizer.mask_id == 4
    assert not model.training
    nested = {"a": [lazy(parts.BertText)(weights="gone", layers=1)]}
    assert without_weights(nested)["a"][0].kwargs == {"weights": None, "layers": 1}
    assert cast(Any, nested["a"][0]).kwargs["weights"] == "gone"


def test_init_starts_model_and_teacher_from_the_checkpoint(trained: Path, data: Path, tmp_path: Path) -> None:
    config = small_config(data, tmp_path / "run", steps=1)
    config.init = str(trained)
    config.optim = replace(config.optim, lr=0.0, min_lr=0.0, weight_decay=0.0)
    training.run(config)
    before = read_tensors(cast(Path, newest(trained)) / "model.safetensors", prefix="model.")
    state = read_tensors(cast(Path, newest(tmp_path / "run")) / "model.safetensors")
    for name, value in before.items():
        assert torch.equal(state[f"model.{name}"], value)
        torch.testing.assert_close(state[f"teacher.copy.model.{name}"], value)


def test_init_parts_start_from_the_checkpoint_and_the_others_from_seed_and_files(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    config = small_config(data, tmp_path / "run", steps=1)
    deeper_text(config)
    config.run.seed, config.optim = 5, replace(config.optim, lr=0.0, min_lr=0.0, weight_decay=0.0)
    drawn = training.build_task(config).model.state_dict()
    config.init, config.init_parts = str(trained), ["vision.vit.blocks", "text.layers.2=text.layers.1"]
    training.run(config)
    state = read_tensors(cast(Path, newest(tmp_path / "run")) / "model.safetensors", prefix="model.")
    saved = read_tensors(cast(Path, newest(trained)) / "model.safetensors", prefix="model.")
    for name, value in state.items():
        given = name.startswith(("vision.vit.blocks.", "text.layers.2."))
        wanted = saved[name.replace("text.layers.2.", "text.layers.1.")] if given else drawn[name]
        assert torch.equal(value, wanted), name


@pytest.mark.parametrize(
    ("parts_asked", "error", "message"),
    [
        (["vision", "txt"], ConfigError, r"init_parts=\['txt'\]: the model has no such part; it has vision, text"),
        (["text"], CheckpointError, r"missing: text\.layers\.2\.(.|\n)*init_parts=\['text'\] must be as they are in"),
    ],
)
def test_init_parts_that_do_not_fit_are_named(
    parts_asked: list[str], error: type[Exception], message: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    config = small_config(data, tmp_path / "run")
    deeper_text(config)
    config.init, config.init_parts = str(trained), parts_asked
    with pytest.raises(error, match=message):
        training.run(config)
    config.init = None
    with pytest.raises(ConfigError, match=r"init_parts are parts of the run that init names; set init=RUN"):
        training.run(config)
    assert not (tmp_path / "run").exists()


def in_the_older_form(run: Path) -> None:
    """Temperatures without a dimension, as checkpoints held them before."""
    folder = cast(Path, newest(run))
    for name in ("model", "optimizer"):
        path = folder / f"{name}.safetensors"
        tensors = read_tensors(path)
        old = {k: t.squeeze() if k.endswith("logit_scale") else t for k, t in tensors.items()}
        assert any(t.shape != tensors[k].shape for k, t in old.items())
        write_tensors(path, old)
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def test_a_checkpoint_with_temperatures_of_the_older_form_is_read_and_resumed(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    finals = []
    for name in ("new", "old"):
        run = shutil.copytree(trained, tmp_path / name)
        if name == "old":
            in_the_older_form(run)
            assert load_model(run)[0].contrast.logit_scale.shape == (1,)
        with pytest.warns(UserWarning, match="changed, so the run is not an exact repeat"):
            training.run(small_config(data, run, steps=3), resume=True)
        finals.append([(run / "step-00000003" / f"{n}.safetensors").read_bytes() for n in ("model", "optimizer")])
    assert finals[0] == finals[1]


def test_another_image_size_resamples_positions(trained: Path, data: Path) -> None:
    config = small_config(data, "unused")
    cast(Lazy, lazy_model(config).kwargs["vision"]).kwargs["image_size"] = 48
    model = training.build_task(config).model
    load_weights(model, cast(Path, newest(trained)))
    assert cast(Any, model.vision).vit.pos_embed.shape[1] == 1 + 6 * 6
    saved = read_tensors(cast(Path, newest(trained)) / "model.safetensors", prefix="model.")
    assert torch.equal(model.state_dict()["text.embeddings.word.weight"], saved["text.embeddings.word.weight"])


def narrower_text(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["text"]).kwargs["max_positions"] = 20


def deeper_text(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["text"]).kwargs["layers"] = 3


def shallower_text(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["text"]).kwargs["layers"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (narrower_text, r"of another shape: text\.embeddings\.position\.weight \(16, 32\), here \(20, 32\)"),
        (deeper_text, r"\d+ missing: text\.layers\.2\."),
        (shallower_text, r"\d+ unexpected: text\.layers\.1\."),
    ],
)
def test_a_checkpoint_of_another_architecture_lists_the_keys(
    change: Callable[[TrainConfig], None], message: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    config = small_config(data, tmp_path / "run")
    config.init = str(trained)
    change(config)
    with pytest.raises(CheckpointError, match=message):
        training.run(config)
    assert not (tmp_path / "run").exists()


def wrong_image_size(config: TrainConfig) -> None:
    config.data.image_size = 40


def indivisible_image_size(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["vision"]).kwargs["image_size"] = config.data.image_size = 33


def small_vocabulary(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["text"]).kwargs["vocab_size"] = 50


def wrong_mask(config: TrainConfig) -> None:
    cast(Lazy, config.objectives["mlm"]).kwargs["mask_id"] = 5


def no_data(config: TrainConfig) -> None:
    config.data = replace(config.data, train="", tokenizer=config.data.train)


def missing_data(config: TrainConfig) -> None:
    config.data = replace(config.data, train="nowhere/shards", tokenizer=config.data.train)


def no_tokenizer(config: TrainConfig) -> None:
    config.data = replace(config.data, tokenizer="nowhere/words")


def missing_weights(config: TrainConfig) -> None:
    cast(Lazy, lazy_model(config).kwargs["vision"]).kwargs["weights"] = "nowhere/vit.safetensors"


def no_checkpoint(config: TrainConfig) -> None:
    config.init = "nowhere/run"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (wrong_image_size, ConfigError, r"data\.image_size=40 but the vision part takes pictures of 32; set"),
        (indivisible_image_size, ConfigError, r"parts cannot be built: .*33.* (patch|multiple|divis)"),
        (small_vocabulary, ConfigError, r"tokenizer has 60 words but model\.text\.vocab_size=50"),
        (wrong_mask, ConfigError, r"objectives\.mlm\.mask_id is not the tokenizer's \[MASK\], 4"),
        (no_data, ConfigError, r"data\.train is not set"),
        (missing_data, DataError, r"nowhere/shards"),
        (no_tokenizer, DataError, r"nowhere/words has neither tokenizer\.json nor vocab\.txt"),
        (missing_weights, ConfigError, r"nowhere/vit\.safetensors do not exist"),
        (no_checkpoint, CheckpointError, r"nowhere/run is no checkpoint"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    change: Callable[[TrainConfig], None], error: type[Exception], message: str, data: Path, tmp_path: Path
) -> None:
    config = small_config(data, tmp_path / "run")
    change(config)
    with pytest.raises(error, match=message):
        training.run(config)
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_refused_without_resume(trained: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty: continue that run with --resume"):
        training.run(small_config(data, trained))


def test_resuming_a_finished_run_does_nothing_and_returns_its_metrics(trained: Path, data: Path) -> None:
    log = (trained / "log.jsonl").read_text()
    metrics = training.run(small_config(data, trained, steps=2), resume=True)
    step, evaluation = (json.loads(line) for line in log.splitlines()[-2:])
    assert metrics["loss"] == step["loss"]
    assert metrics["retrieval/first/all/rsum"] == evaluation["retrieval/first/all/rsum"]
    assert (trained / "log.jsonl").read_text() == log


def test_resuming_with_another_config_names_the_fields(data: Path, tmp_path: Path) -> None:
    training.run(small_config(data, tmp_path / "run", steps=2))
    longer = small_config(data, tmp_path / "run", steps=3)
    longer.optim.lr = 2e-3
    with pytest.warns(UserWarning, match=r"optim\.lr, run\.steps changed"):
        training.run(longer, resume=True)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3]


def test_a_dry_run_needs_no_data_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config("", tmp_path / "run")
    config.optim.lr_scale = {"model.vision": 0.0}
    found = training.run(config, dry_run=True)
    text = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert found["without_gradient"] == 0
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.count("  ") >= 2 and line[0] != " "}
    task = training.build_task(config)
    for name, part in {"model.text": task.model.text, "objectives.mlm": task.objectives["mlm"]}.items():
        assert rows[name] == [f"{sum(p.numel() for p in part.parameters()):,}", "0"]
    assert rows["model.vision"][0] == "0"
    assert rows["teacher"][0] == "0"
    assert '"crop_scale"' in text
    assert "FLOPs per sample" in text


def test_a_dry_run_names_forgotten_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config("", tmp_path / "run")
    del config.objectives["itm"]
    found = training.run(config, dry_run=True)
    assert found["without_gradient"] > 0
    assert "  model.similarities.itm." in capsys.readouterr().out
