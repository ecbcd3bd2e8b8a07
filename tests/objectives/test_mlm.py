"""MLM: who is masked, with what, and the loss against a slow reading."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import VOCAB, WIDTH, batch, one_stream, two_stream
from vlp.config import build, lazy
from vlp.objectives.mlm import MLM, mask_words, soft_cross_entropy
from vlp.task import Task
from vlp.view import View


def masked(ids: torch.Tensor, words: torch.Tensor, whole: bool = False, probability: float = 0.15):
    return mask_words(
        ids, words, probability=probability, whole_words=whole, mask_id=4, first_word_id=10, vocab_size=1000
    )


def test_shares_are_15_and_80_10_10_and_specials_stay() -> None:
    torch.manual_seed(0)
    ids, words = torch.randint(500, 510, (400, 100)), torch.arange(100).repeat(400, 1)
    words[:, 0] = words[:, -1] = -1
    m = masked(ids, words)
    assert not m.positions[:, 0].any()
    assert not m.positions[:, -1].any()
    assert abs(m.positions[:, 1:-1].float().mean() - 0.15) < 0.005
    old, new = ids[m.positions], m.ids[m.positions]
    assert abs((new == 4).float().mean() - 0.8) < 0.02
    assert abs((new == old).float().mean() - 0.1) < 0.02
    assert new[(new != 4)].min() >= 10
    assert torch.equal(m.ids[~m.positions], ids[~m.positions])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_whole_words_are_masked_together(seed: int) -> None:
    torch.manual_seed(seed)
    words = torch.randint(0, 2, (5, 14)).cumsum(1)
    words[:, 10:] = -1
    positions = masked(torch.full((5, 14), 50), words, whole=True, probability=0.5).positions
    for row, chosen in zip(words.tolist(), positions.tolist(), strict=True):
        for word in set(row):
            picks = {c for w, c in zip(row, chosen, strict=True) if w == word}
            assert len(picks) == 1
            assert word >= 0 or picks == {False}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.floats(0, 1), st.integers(0, 10_000))
def test_soft_cross_entropy_is_albefs(rows: int, alpha: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z, t = (torch.randn(rows, 6, generator=g) for _ in range(2))
    labels = torch.randint(0, 6, (rows,), generator=g)
    total = 0.0
    for a, b, y in zip(z.tolist(), t.tolist(), labels.tolist(), strict=True):
        p = [math.exp(x) / sum(map(math.exp, a)) for x in a]
        q = [math.exp(x) / sum(map(math.exp, b)) for x in b]
        total -= (1 - alpha) * math.log(p[y]) + alpha * sum(qi * math.log(pi) for qi, pi in zip(q, p, strict=True))
    assert abs(float(soft_cross_entropy(z, labels, t, alpha)) - total / max(rows, 1)) < 1e-4


def test_masked_only_logits_equal_logits_everywhere() -> None:
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**two_stream(teacher=False)))
    b, mlm = batch(), task.objectives["mlm"]
    torch.manual_seed(1)
    fast = mlm(View(task.model, b)).value
    torch.manual_seed(1)
    m = mask_words(
        b.text_ids, b.word_ids, probability=0.3, whole_words=False, mask_id=4, first_word_id=6, vocab_size=60
    )
    view = View(task.model, b)
    fused = task.model.fuse(task.model.encode_text(m.ids, b.text_mask), view.prepared)
    logits = mlm.head(fused.text.tokens, task.model.text.embeddings.word.weight)
    slow = torch.nn.functional.cross_entropy(logits[m.positions], b.text_ids[m.positions])
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_a_caption_by_itself_is_told_from_its_words_alone() -> None:
    torch.manual_seed(0)
    system = one_stream()
    system["objectives"] = {"text": lazy(MLM)(width=WIDTH, vocab_size=VOCAB, mask_id=4, first_word_id=6, alone=True)}
    task: Task = build(lazy(Task)(**system))
    found = []
    for scale in (1.0, -3.0):
        b = batch()
        assert b.image is not None
        b.image = scale * b.image
        torch.manual_seed(1)
        found.append(task(b).report["lm"])
    assert torch.equal(*found)


def test_words_of_a_masking_are_masked_beside_the_drawn_ones_and_specials_never() -> None:
    torch.manual_seed(0)
    ids, words = torch.randint(500, 510, (400, 100)), torch.arange(100).repeat(400, 1)
    words[:, 0] = -1
    also = torch.zeros(400, 100, dtype=torch.bool)
    also[:, :30] = True
    options = {"mask_id": 4, "first_word_id": 10, "vocab_size": 1000}
    m = mask_words(ids, words, also=also, probability=0.15, whole_words=False, **options)
    assert m.positions[:, 1:30].all()
    assert not m.positions[:, 0].any()
    assert abs(m.positions[:, 30:].float().mean() - 0.15) < 0.005
