"""Kaleido-BERT's tasks: what is done to the patches, patch by patch, and the losses against loops in float64."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch

from tests.objectives.test_masked_patches import divergence
from tests.parts import WIDTH, batch, one_stream
from vlp.config import build, lazy
from vlp.objectives.kaleido import STARTS, Kaleido, grey, image_ids, replaced, rotated, shuffled, spoil
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View
from vlp.vision.patch_cnn import PatchCNN

CNN = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]}


def made(grids: tuple[int, ...] = (1, 2, 3, 4, 5)) -> tuple[Task, Batch]:
    torch.manual_seed(0)
    system: dict[str, Any] = one_stream()
    system["model"].kwargs["vision"] = lazy(PatchCNN)(
        name="resnet18", image_size=32, width=WIDTH, grids=grids, patch_size=8, norm="group", trains=True, options=CNN
    )
    system["objectives"] = {"kaleido": lazy(Kaleido)(width=WIDTH, feature_width=16)}
    task: Task = build(lazy(Task)(**system))
    return task.eval(), batch(captions_per_image=1)


def test_patches_are_turned_shuffled_and_made_grey_one_by_one() -> None:
    patches = torch.randn(4, 3, 5, 5)
    turned = rotated(patches, torch.tensor([0, 1, 2, 3]))
    for i in range(4):
        wanted = patches[i]
        for _ in range(i):  # a quarter: columns become rows, from the right
            wanted = wanted.flip(2).transpose(1, 2)
        torch.testing.assert_close(turned[i], wanted)
    four = torch.randn(2, 4, 3, 2, 2)
    mixed = shuffled(four, torch.tensor([0, 9]))
    for i, number in enumerate((0, 9)):
        for place, source in enumerate(list(permutations(range(4)))[number]):
            torch.testing.assert_close(mixed[i, place], four[i, source])
    assert len(set(map(tuple, permutations(range(4))))) == 24
    one = replaced(four, torch.tensor([2, 0]), torch.zeros(2, 3, 2, 2))
    assert not one[0, 2].any()
    assert not one[1, 0].any()
    assert torch.equal(one[0, [0, 1, 3]], four[0, [0, 1, 3]])
    colours = grey(patches)
    torch.testing.assert_close(colours[:, 0], (patches[:, 0] + patches[:, 1] + patches[:, 2]) / 3)
    assert torch.equal(colours[:, 0], colours[:, 2])


def test_each_grid_has_one_change_and_the_answer_names_it() -> None:
    task, b = made()
    vision: Any = task.model.vision
    objective: Any = task.objectives["kaleido"]
    patches = vision.patches(b.image)
    answers = objective._answers(b, 8)
    spoilt = spoil(patches, patches, answers, lambda shown: shown)  # with pixels for features
    with torch.no_grad():
        found = spoil(patches, vision.features(patches), answers, vision.features)
        torch.testing.assert_close(found, vision.features(spoilt), rtol=1e-4, atol=1e-5)
    changed = (spoilt != patches).flatten(2).any(2)
    for i in range(8):
        grids = zip("12345", STARTS, STARTS[1:], strict=False)
        moved = {name: changed[i, start:end].nonzero()[:, 0].tolist() for name, start, end in grids}
        assert moved["1"] == [0] * bool(answers["turn"][i])
        order = list(permutations(range(4)))[int(answers["order"][i])]
        assert moved["2"] == [place for place, source in enumerate(order) if place != source]
        assert moved["3"] == [int(answers["stranger"][i])]
        assert moved["4"] == [int(answers["grey"][i])]
        assert moved["5"] == [int(answers["blank"][i])]
        place = STARTS[2] + int(answers["stranger"][i])
        assert answers["other"][i] != i
        assert torch.equal(spoilt[i, place], patches[answers["other"][i], place])


def test_the_losses_are_those_of_the_paper() -> None:
    task, _ = made()
    objective: Any = task.objectives["kaleido"]
    g = torch.Generator().manual_seed(0)
    tokens, features = torch.randn(3, 55, WIDTH, generator=g), torch.randn(3, 55, 16, generator=g)
    answers = {
        "turn": torch.tensor([0, 3, 1]), "order": torch.tensor([5, 0, 23]), "stranger": torch.tensor([8, 0, 4]),
        "there": torch.tensor([True, False, True]), "grey": torch.tensor([0, 15, 7]), "blank": torch.tensor([24, 3, 0]),
    }  # fmt: skip
    with torch.no_grad():
        found = objective._losses(tokens, features, answers)
        scores = {
            "turn": objective.turn(tokens[:, 0]),
            "order": objective.order(torch.cat([tokens[:, 1 + i] for i in range(4)], 1)),
            "stranger": torch.cat([objective.stranger(tokens[:, 5 + i]) for i in range(9)], 1),
        }
        told = {n: objective.feature[k](tokens) for k, n in enumerate(("grey", "blank"))}
    for name, table in scores.items():
        rows = [0, 2] if name == "stranger" else [0, 1, 2]
        total = 0.0
        for b in rows:
            row = table[b].double().tolist()
            total -= row[int(answers[name][b])] - math.log(sum(math.exp(v) for v in row))
        assert abs(float(found[f"kaleido_{name}"]) - total / len(rows)) < 1e-4
    for name, start in (("grey", 14), ("blank", 30)):
        places = [start + int(p) for p in answers[name]]
        total = sum(divergence(told[name][b, p], features[b, p]) for b, p in enumerate(places))
        assert abs(float(found[f"kaleido_{name}"]) - total / 3) < 1e-4


def test_pictures_that_pairs_share_have_their_id() -> None:
    b = batch(captions_per_image=2)
    b.image_row = torch.arange(8) // 2
    assert image_ids(b, 4).tolist() == [0, 1, 2, 3]


def test_other_grids_are_refused() -> None:
    task, b = made((1, 2))
    with pytest.raises(ValueError, match="grids"):
        task.objectives["kaleido"](View(task.model, b))
