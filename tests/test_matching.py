"""The laws of DESIGN.md over every way of matching in configs/finetune."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.systems import SIZE, assert_two_ranks_are_one, fixed_draws, padded, rows
from tests.test_systems import in_double
from vlp.config import build, from_json, load_config, to_json
from vlp.matching import names
from vlp.task import Task
from vlp.training import TrainConfig, build_task
from vlp.trial import trial_batch
from vlp.types import Batch, Stream

SYSTEMS = names()
EACH = pytest.mark.parametrize("name", SYSTEMS)


def make(name: str) -> tuple[Task, Batch]:
    """A tiny form away from its beginning, without dropout and draws, and a batch whose halves have equal shapes."""
    config: TrainConfig = load_config(f"configs.finetune.{name}:tiny")
    task = build_task(config, read_weights=False)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    words = int(task.model.text.vocab_size)  # type: ignore[arg-type]
    return task.eval(), trial_batch(task, config.data, SIZE, words, 0)


@EACH
def test_padding_and_the_order_of_the_batch_never_change_a_loss(name: str) -> None:
    task, batch = make(name)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    with fixed_draws(), torch.no_grad():
        whole = task(batch).report
        for other in (padded(batch, 3, 7), rows(batch, order)):
            for key, value in task(other).report.items():
                torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@EACH
def test_every_parameter_gets_a_gradient(name: str) -> None:
    task, batch = make(name)
    task.train()
    task(batch).value.backward()
    missing = [n for n, p in task.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("form", ["config", "tiny", "frozen"])
def test_at_the_beginning_spreads_do_not_outweigh_the_distances_of_means(form: str) -> None:
    """PCME++: squared distances of unit vectors are 2 at random. Where the spreads add more to every pair alike, the
    first thing to learn is one point for all means, and training stands still there."""
    config: TrainConfig = load_config(f"configs.finetune.pcmepp:{form}")
    match = config.model.get("similarities")["itc"]
    torch.manual_seed(0)
    total = 0.0
    for side in ("image", "text"):
        adapter, pool = match.get(side).get("parts")
        tokens = torch.randn(4, 7, adapter.get("width"))
        head = build(match.get(side)).eval()
        with torch.no_grad():
            gaussians = head(Stream(tokens, torch.ones(4, 7, dtype=torch.bool))).tokens
        total += float(gaussians[:, 1].exp().sum(1).mean())
        assert pool.get("embed_dim") == adapter.get("embed_dim")
    assert total < 2


@EACH
def test_the_record_of_a_system_is_the_system(name: str) -> None:
    forms = vars(import_module(f"configs.finetune.{name}")).keys() & {"config", "tiny", "frozen"}
    assert {"config", "tiny"} <= forms
    for form in forms:
        config = load_config(f"configs.finetune.{name}:{form}")
        assert from_json(to_json(config)) == config


def loss_and_gradients(name: str, part: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Loss and gradients in float64 of the batch, or of the rows `part` of it."""
    task, batch = make(name)
    task, batch = task.double(), in_double(batch)
    with fixed_draws():
        value = task(batch if part is None else rows(batch, part)).value
    value.backward()
    found = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    return {"value": value.detach()} | found


def test_pictures_without_written_words_are_those_of_vsrn() -> None:
    task, batch = make("stacmr")
    tags = batch.tags
    assert tags is not None
    tags.mask[::2] = False
    head = task.model.similarities["itc"].image  # type: ignore[union-attr]
    with torch.no_grad():
        image = task.model.encode_image(batch)
        read, alone = head(image), head.image(image)
    assert torch.equal(read[::2], alone[::2])
    assert not torch.isclose(read[1::2], alone[1::2]).all(1).any()


@pytest.mark.slow
def test_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    assert_two_ranks_are_one(SYSTEMS, loss_and_gradients, tmp_path)


@pytest.mark.parametrize("name", ["albef", "clip", "fast_slow", "filip", "iais", "uniter", "vilt"])
def test_a_recipe_trains_the_whole_model_that_it_tunes(name: str) -> None:
    system = {"iais": "uniter"}.get(name, name)
    config, pretrained = load_config(f"configs.finetune.{name}"), load_config(f"configs.systems.{system}:tiny")
    assert from_json(to_json(config)) == config
    pretrained.objectives, pretrained.teacher = config.objectives, None  # its losses, on the tiny form of its model
    task = build_task(pretrained, read_weights=False)
    batch = trial_batch(task, pretrained.data, SIZE, int(task.model.text.vocab_size), 0)
    torch.manual_seed(0)
    task(batch).value.backward()
    resting = [n for n, scale in config.optim.lr_scale.items() if scale == 0]
    assert not [n for n, p in task.named_parameters() if p.grad is None and n not in resting]
