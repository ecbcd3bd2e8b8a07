"""The laws of DESIGN.md that hold for every task: padding, permutation, gradients, queue, equal passes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parts import batch, one_stream, two_stream
from vlp.config import build, from_json, lazy, to_json
from vlp.objectives import mlm as mlm_module
from vlp.objectives.mlm import Masked
from vlp.objectives.negatives import HardNegatives
from vlp.similarity.late import LateInteraction
from vlp.task import Task
from vlp.types import Batch, Stream
from vlp.view import Rows, View

BOTH = pytest.mark.parametrize("system", [two_stream, one_stream])


def make(system: object, seed: int = 0) -> Task:
    torch.manual_seed(seed)
    task: Task = build(lazy(Task)(**system()))  # type: ignore[operator]
    with torch.no_grad():  # far from initialisation, where every path matters
        for parameter in task.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    task.sync_teacher()
    return task


def permuted(b: Batch, order: Tensor) -> Batch:
    names = ("text_ids", "text_mask", "word_ids", "image_id", "caption_id", "image")
    return replace(b, **{n: getattr(b, n)[order] for n in names})


def padded(b: Batch, extra: int, filler: int) -> Batch:
    """More padding on the right, holding arbitrary ids."""
    pad = torch.full((len(b), extra), filler)
    ids = torch.cat([torch.where(b.text_mask, b.text_ids, filler), pad], 1)
    mask = torch.cat([b.text_mask, torch.zeros_like(pad, dtype=torch.bool)], 1)
    return replace(b, text_ids=ids, text_mask=mask, word_ids=torch.cat([b.word_ids, torch.full_like(pad, -1)], 1))


@pytest.fixture
def fixed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks by content and the hardest negatives, so that losses of two layouts of one batch compare."""

    def mask_by_id(ids: Tensor, word_ids: Tensor, *, mask_id: int, **_: object) -> Masked:
        positions = (ids % 3 == 0) & (word_ids >= 0)
        return Masked(torch.where(positions, torch.full_like(ids, mask_id), ids), positions)

    def hardest(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        blocked = scores.masked_fill(ids[:, None] == ids[None], float("-inf"))
        # equal scores (uniform draws) are told apart by image id and caption, not by place in the batch
        return (blocked - 1e-3 * ids[None]).argmax(1), torch.ones(len(ids), dtype=torch.bool)

    monkeypatch.setattr(mlm_module, "mask_words", mask_by_id)
    monkeypatch.setattr("vlp.objectives.negatives.sample_negatives", hardest)


@BOTH
def test_padding_content_never_changes_a_loss(system: object, fixed_draws: None) -> None:
    task, b = make(system), batch()
    torch.testing.assert_close(task(padded(b, 3, 7)).value, task(b).value, rtol=1e-5, atol=1e-6)


@BOTH
def test_pictures_that_pairs_share_are_the_same_as_repeated_ones(system: object, fixed_draws: None) -> None:
    task, b = make(system), batch()
    shared = replace(b, image=b.image[::2], image_row=torch.arange(len(b)) // 2)  # type: ignore[index]
    results = []
    for form in (b, shared):
        task.zero_grad()
        loss = task(form).value
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in task.parameters() if p.grad is not None)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@BOTH
def test_permuting_the_batch_never_changes_a_loss(system: object, fixed_draws: None) -> None:
    task, b = make(system), batch(captions_per_image=1)
    order = torch.randperm(len(b), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(task(permuted(b, order)).value, task(b).value, rtol=1e-5, atol=1e-6)


@BOTH
def test_every_parameter_gets_a_gradient(system: object) -> None:
    task = make(system)
    task(batch()).value.backward()
    names = [n for n, p in task.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    assert not names
    assert task.teacher is None or all(not p.requires_grad for p in task.teacher.parameters())


@BOTH
def test_a_batch_without_a_masked_word_is_a_batch(system: object) -> None:
    task = make(system)
    task.objectives["mlm"].probability = 0.0  # a few short captions, as on one of many ranks
    loss = task(batch())
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert float(loss.report["mlm"]) == 0.0
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


@BOTH
def test_the_record_of_a_task_builds_the_same_task(system: object) -> None:
    record = to_json(lazy(Task)(**system()))  # type: ignore[operator]
    torch.manual_seed(3)
    first: Task = build(lazy(Task)(**system()))  # type: ignore[operator]
    torch.manual_seed(3)
    second: Task = build(from_json(record))
    assert first.state_dict().keys() == second.state_dict().keys()
    b = batch()
    torch.manual_seed(4)
    one = first(b).value
    torch.manual_seed(4)
    assert torch.equal(one, second(b).value)


def test_an_empty_queue_is_no_queue() -> None:
    with_queue, without = make(lambda: two_stream(queue_size=20)), make(lambda: two_stream(queue_size=0))
    b = batch()
    for task in (with_queue, without):
        torch.manual_seed(5)
        task.loss = task(b)  # type: ignore[assignment]
    # empty slots leave the softmax, but rows of another length are summed in another order
    torch.testing.assert_close(with_queue.loss.value, without.loss.value, rtol=1e-6, atol=0)  # type: ignore[union-attr]


def test_forward_changes_nothing_and_after_step_does() -> None:
    task, b = make(two_stream), batch()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    task(b)
    assert all(torch.equal(v, before[k]) for k, v in task.state_dict().items())
    task.after_step()
    changed = {k for k, v in task.state_dict().items() if not torch.equal(v, before[k])}
    assert {"teacher.queue_image", "teacher.queue_ids", "teacher.queue_pointer", "teacher.steps"} <= changed


def test_each_stream_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls = make(two_stream), {"image": 0, "text": 0, "prepare": 0}

    def counted(name: str, function: object) -> object:
        def call(*args: object) -> object:
            calls[name] += 1
            return function(*args)  # type: ignore[operator]

        return call

    for name, attribute in (("image", "see"), ("text", "encode_text"), ("prepare", "prepare_image")):
        monkeypatch.setattr(task.model, attribute, counted(name, getattr(task.model, attribute)))
    task(batch())
    assert calls == {"image": 1, "text": 2, "prepare": 1}  # the second text pass is the masked caption


def test_an_objective_that_needs_no_gradient_leaves_none_without() -> None:
    task = make(lambda: two_stream(teacher=False))
    del task.objectives["itc"], task.objectives["mlm"]  # hard negatives are then the first to ask for embeddings
    task(batch()).value.backward()
    for part in (task.model.vision, task.model.text):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_the_summary_read_alone_is_the_summary_of_whole_rows() -> None:
    for system in (two_stream, one_stream):
        model, b = make(system).model, batch()
        text, prepared = model.encode_text(b.text_ids, b.text_mask), model.prepare_image(model.encode_image(b))
        index = torch.randperm(len(b))
        fused = model.fuse(text, prepared, index)
        torch.testing.assert_close(model.fusion.summarize(text, prepared, index), fused.summary, rtol=1e-4, atol=1e-5)
        picked = b.word_ids % 2 == 0
        torch.testing.assert_close(
            model.fusion.read(text, prepared, index, picked), fused.text.tokens[picked], rtol=1e-4, atol=1e-5
        )


def test_one_image_under_many_captions_is_read_the_same() -> None:
    for system in (two_stream, one_stream):
        model, b = make(system).model, batch()
        text, prepared = model.encode_text(b.text_ids, b.text_mask), model.prepare_image(model.encode_image(b))
        index = torch.full((len(b),), 3)
        alone = prepared.select(torch.tensor([3]))
        torch.testing.assert_close(
            model.match(text, alone, torch.zeros_like(index)), model.match(text, prepared, index), rtol=1e-4, atol=1e-5
        )


def test_hard_negatives_never_share_the_image() -> None:
    task = make(two_stream)
    for seed in range(20):
        torch.manual_seed(seed)
        b = batch(captions_per_image=3)
        rows: Rows = HardNegatives().rows(View(task.model, b, momentum=task.teacher))
        negative = rows.label == 0
        assert (b.image_id[rows.text[negative]] != b.image_id[rows.image[negative]]).all()
        assert (b.image_id[rows.text[~negative]] == b.image_id[rows.image[~negative]]).all()


def test_a_batch_of_one_image_offers_no_negative_and_no_crash() -> None:
    for system in (two_stream, one_stream):
        loss = make(system)(batch(size=4, captions_per_image=4))
        assert torch.isfinite(loss.value)


def test_packed_text_equals_captions_encoded_one_by_one() -> None:
    model, b = make(two_stream).model, batch()
    together = model.encode_text(b.text_ids, b.text_mask)
    for i in range(len(b)):
        n = int(b.text_mask[i].sum())
        alone: Stream = model.encode_text(b.text_ids[i : i + 1, :n], b.text_mask[i : i + 1, :n])
        torch.testing.assert_close(together.tokens[i, :n], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_after_step_reaches_parts_within_parts_and_the_teacher_reads_their_statistics() -> None:
    parts = two_stream()
    parts["model"].kwargs["similarities"]["itc"].kwargs |= {"hidden": 8, "dropout": 0.1}
    parts["model"].kwargs["similarities"]["late"] = lazy(LateInteraction)(image_width=32, text_width=32, embed_dim=8)
    task = make(lambda: parts).train()
    similarities: Any = task.model.similarities
    with torch.no_grad():
        similarities["late"].logit_scale.fill_(99.0)
    task(batch()).value.backward()
    task.after_step()
    assert float(similarities["late"].scale()) == pytest.approx(100.0)
    student = similarities["itc"].image_projection.standardize
    assert float(student.count) == len(batch())
    copied: Any = task.teacher.model.similarities  # type: ignore[union-attr]
    assert torch.equal(copied["itc"].image_projection.standardize.mean, student.mean)
