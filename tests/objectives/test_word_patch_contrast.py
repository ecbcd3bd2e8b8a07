"""Word-patch contrast against loops over captions read alone and patches read one by one."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.learned_alignment import closest
from tests.parts import batch, one_stream, two_stream
from vlp.config import build
from vlp.layers.packing import Packing
from vlp.objectives.word_patch_contrast import WordPatchContrast
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View

TEMPERATURE = 0.1


def slow_tokens(task: Task, b: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Unit words and unit patches of each pair, as the layers read whole captions and single patches."""
    fusion: Any = task.model.fusion
    view = View(task.model, b)

    def read(tokens: Tensor) -> Tensor:
        rows = Packing.of(torch.ones(1, len(tokens), dtype=torch.bool))
        for layer in fusion.layers:
            tokens = layer(tokens, rows)
        return torch.nn.functional.normalize(fusion.norm(tokens).double(), dim=1)

    words, patches = [], []
    for i in range(len(b)):
        present = b.text_mask[i]
        caption = read(view.text.tokens[i][present] + fusion.modality[0])
        words.append(caption[b.word_ids[i][present] >= 0])
        seen = view.image.tokens[int(view.pictures(torch.tensor(i))), 1:] + fusion.modality[1]
        patches.append(torch.cat([read(patch[None]) for patch in seen]))
    return words, patches


def weighed(cosines: Tensor, spread: float) -> float:
    """(M, K) -> the mean over M of the largest of K, or of their mean weighed by exp(cosine / spread)."""
    if not spread:
        return float(cosines.amax(1).mean())
    weights = (cosines / spread).exp()
    return float(((weights * cosines).sum(1) / weights.sum(1)).mean())


def slow_contrast(words: list[Tensor], patches: list[Tensor], ids: list[int], spread: float) -> float:
    """FILIP's equations 1 and 3-5: the mean of both cross entropies, all pairs of one image being positives."""
    size, total = len(ids), 0.0
    for one, two in ((patches, words), (words, patches)):
        for i in range(size):
            scores = [weighed(one[i] @ other.T, spread) / TEMPERATURE for other in two]
            top = max(scores)
            log_sum = top + math.log(sum(math.exp(score - top) for score in scores))
            own = [scores[j] for j in range(size) if ids[j] == ids[i]]
            total += (log_sum - sum(own) / len(own)) / size / 2
    return total


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("captions", [1, 2])
def test_loss_is_the_contrast_of_tokens_read_apart(captions: int, spread: float) -> None:
    """Once with a picture a caption, once with pictures that two captions share."""
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())).eval(), batch()
    if captions > 1:
        assert b.image is not None
        row = torch.arange(len(b)) // captions
        b = replace(b, image=b.image[::captions], image_row=row, image_id=row)
    objective = WordPatchContrast(max_length=16, temperature=TEMPERATURE, spread=spread)
    with torch.no_grad():
        words, patches = slow_tokens(task, b)
        value = float(objective(View(task.model, b)).value)
    assert value == pytest.approx(slow_contrast(words, patches, b.image_id.tolist(), spread), rel=1e-4)


def test_a_patch_says_what_it_shows_and_nothing_of_its_picture() -> None:
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())).eval(), batch()
    assert b.image is not None
    with torch.no_grad():
        before = View(task.model, b).image_apart.tokens
        b.image[:, :, :8, :8] += 1.0  # the first patch
        after = View(task.model, b).image_apart.tokens
    torch.testing.assert_close(after[:, 2:], before[:, 2:])
    assert (after[:, 1] - before[:, 1]).abs().amax() > 1e-3


def test_words_point_to_the_patch_that_they_are_most_like() -> None:
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())).eval(), batch()
    with torch.no_grad():
        words, patches = slow_tokens(task, b)
        found = closest(*WordPatchContrast(max_length=16).tokens(View(task.model, b)))
    for i, (said, seen) in enumerate(zip(words, patches, strict=True)):
        assert torch.equal(found[i][b.word_ids[i] >= 0], (said @ seen.T).argmax(1))


def test_a_caption_without_words_is_read_by_its_special_tokens() -> None:
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())), batch()
    b.word_ids[0] = -1
    value = WordPatchContrast(max_length=16)(View(task.model, b)).value
    value.backward()
    assert value.isfinite()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_a_fusion_that_cannot_read_one_side_alone_is_named() -> None:
    task = Task(**build(two_stream(teacher=False)))
    with pytest.raises(ValueError, match="OneStream"):
        WordPatchContrast(max_length=16)(View(task.model, batch()))
