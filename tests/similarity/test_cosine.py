"""Cosine similarity, and an ensemble of its projections, against readings in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from tests.objectives.test_itc import slow_contrast
from tests.parts import WIDTH, batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.itc import ITC
from vlp.similarity.cosine import CosineSimilarity, split_heads
from vlp.task import Task
from vlp.types import Stream
from vlp.view import View


def streams(rows: int, seed: int) -> tuple[Stream, Stream]:
    g = torch.Generator().manual_seed(seed)
    present = torch.ones(rows, 3, dtype=torch.bool)
    return Stream(torch.randn(rows, 3, 8, generator=g), present), Stream(torch.randn(rows, 3, 6, generator=g), present)


def ensemble(heads: int) -> CosineSimilarity:
    torch.manual_seed(heads)
    return CosineSimilarity(image_width=8, text_width=6, embed_dim=4, hidden=16, heads=heads).eval()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10_000))
def test_the_score_of_an_ensemble_is_the_mean_cosine_of_its_heads(rows: int, heads: int, seed: int) -> None:
    similarity, (image, text) = ensemble(heads), streams(rows, seed)
    pictures, captions = image.tokens[:, 0].double(), text.tokens[:, 0].double()
    similarity = similarity.double()
    mean = torch.zeros(rows, rows, dtype=torch.float64)
    for head in range(heads):
        ours = similarity.image_projection.layers[head](similarity.image_projection.standardize(pictures))
        theirs = similarity.text_projection.layers[head](similarity.text_projection.standardize(captions))
        mean += cosine_similarity(ours[:, None], theirs[None], dim=-1) / heads
    image, text = Stream(pictures[:, None], image.mask[:, :1]), Stream(captions[:, None], text.mask[:, :1])
    torch.testing.assert_close(similarity.scores(image, text), mean / 0.07, rtol=1e-6, atol=1e-6)
    assert similarity.embed_image(image).shape == (rows, similarity.embed_dim)
    assert torch.allclose(similarity.embed_text(text).norm(dim=1), torch.ones(rows, dtype=torch.float64))


def test_each_head_of_an_ensemble_has_its_own_contrast() -> None:
    parts = two_stream(teacher=False)
    similarity = lazy(CosineSimilarity)(image_width=WIDTH, text_width=WIDTH, embed_dim=4, hidden=16, heads=3)
    parts["model"].kwargs["similarities"]["itc"] = similarity
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**parts)).eval()
    view = View(task.model, batch(size=5))
    ids, c = view.batch.image_id.tolist(), view.contrast
    expected = 0.0
    for ours, theirs in ((c.image, c.text), (c.text, c.image)):
        for head in range(3):
            width = ours.shape[1] // 3
            a, b = (x[:, head * width : (head + 1) * width].double() * math.sqrt(3) for x in (ours, theirs))
            expected += slow_contrast((c.scale.double() * a @ b.T).tolist(), ids, ids, [[0.0] * 5] * 5, 0.0) / 6
    assert abs(float(ITC()(view).value) - expected) < 1e-5
    assert all(torch.allclose(h.norm(dim=1), torch.ones(5)) for h in split_heads(c.image, 3))


def test_heads_that_would_learn_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden"):
        CosineSimilarity(image_width=8, text_width=6, heads=2)
