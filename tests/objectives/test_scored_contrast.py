"""InfoNCE over scored pairs against the loop in float64."""

import torch
from torch import nn

from tests.objectives.test_itc import slow_contrast
from tests.parts import WIDTH, batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.scored_contrast import ScoredContrast
from vlp.reasoning.adapter import TokenAdapter
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.similarity.word_attention import WordAttention
from vlp.task import Task
from vlp.view import View


def test_every_pair_of_the_batch_competes_and_pictures_of_one_image_do_not() -> None:
    parts = two_stream(teacher=False)
    adapter = lazy(TokenAdapter)(width=WIDTH, embed_dim=8, unit=True)
    similarity = lazy(TokenSimilarity)(image=adapter, text=adapter, scorer=lazy(WordAttention)(embed_dim=8))
    parts["model"].kwargs["similarities"]["words"] = similarity
    parts["objectives"] = {"words": lazy(ScoredContrast)(similarity="words")}
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**parts)).eval()
    assert isinstance(task.model.similarities["words"], nn.Module)
    b = batch(size=5)
    b.image_id[3] = b.image_id[1]
    view = View(task.model, b)
    scores = task.model.similarities["words"].scores(view.image, view.text).detach().double()
    ids, none = b.image_id.tolist(), [[0.0] * 5] * 5
    expected = (
        slow_contrast(scores.tolist(), ids, ids, none, 0) + slow_contrast(scores.T.tolist(), ids, ids, none, 0)
    ) / 2
    value = task(b).value.detach()
    assert abs(float(value) - expected) < 1e-5
