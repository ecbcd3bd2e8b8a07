"""The scorers of pairs against slow readings of their papers: one pair at a time, without padding."""

import math

import pytest
import torch

from tests.similarity.test_stacked_attention import slow_score, slow_shares
from tests.streams import present, stream
from vlp.similarity import token_pairs
from vlp.similarity.alignment import AlignmentReasoning
from vlp.similarity.gated_fusion import GatedFusion
from vlp.similarity.iterative import IterativeMatching
from vlp.similarity.joint import JointSimilarity
from vlp.similarity.routed import CELLS, RoutedInteraction
from vlp.similarity.saliency import SaliencyAttention
from vlp.similarity.second_order import SecondOrderAttention
from vlp.similarity.stepwise import StepwiseAlignment
from vlp.similarity.token_pairs import TokenSimilarity

WIDTH = 8
Vectors = torch.Tensor


def unit(vectors: Vectors) -> Vectors:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def cosine(one: Vectors, two: Vectors) -> Vectors:
    return (one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1))


def slow_pool(pool: torch.nn.Module, tokens: Vectors) -> Vectors:
    """Equation 1 of SGRAF."""
    whole = torch.tanh(pool.whole(tokens.mean(0)))
    scores = torch.stack([pool.weigh(torch.tanh(pool.local(x)) * whole)[0] for x in tokens])
    return (scores.softmax(0)[:, None] * tokens).sum(0)


def slow_iterative(model: IterativeMatching, image: Vectors, text: Vectors) -> Vectors:
    total = torch.zeros((), dtype=torch.float64)
    for side, query, source in (("text", text, image), ("image", image, text)):
        asking = query
        for step in range(model.steps):
            read = slow_shares_of(asking, source, model.sharpness) @ source
            total = total + cosine(query, read).mean()
            if step + 1 < model.steps:
                memory = model.memories[side]
                weights = torch.cat([memory.query.weight, memory.context.weight], 1)
                both = torch.cat([asking, read], 1) @ weights.T + memory.query.bias
                gate = torch.sigmoid(both[:, :WIDTH])
                asking = gate * asking + (1 - gate) * torch.tanh(both[:, WIDTH:])
    return total


def slow_shares_of(query: Vectors, source: Vectors, sharpness: float) -> Vectors:
    return slow_shares(query.detach(), source.detach(), sharpness)


def slow_alignment(model: AlignmentReasoning, image: Vectors, text: Vectors) -> Vectors:
    read = unit(slow_shares_of(text, image, model.sharpness) @ image)
    local = unit(model.local((read - text) ** 2))
    picture, caption = unit(slow_pool(model.image_pool, image)), unit(slow_pool(model.text_pool, text))
    nodes = torch.cat([unit(model.whole((picture - caption) ** 2))[None], local])
    part = model.reasoning
    if hasattr(part, "gate"):
        gates = torch.sigmoid(part.gate(nodes)[:, 0])
        return model.score(unit((gates[:, None] * nodes).sum(0) / gates.sum()))[0]
    for query, key, out in zip(part.query, part.key, part.out, strict=True):
        new = []
        for node in nodes:
            edges = torch.stack([query(node) @ key(other) for other in nodes]).softmax(0)
            new.append(torch.relu(out((edges[:, None] * nodes).sum(0))))
        nodes = torch.stack(new)
    return model.score(nodes[0])[0]


def slow_stepwise(model: StepwiseAlignment, image: Vectors, text: Vectors) -> Vectors:
    def look(whole: Vectors, source: Vectors, sharpness: float) -> Vectors:
        shares = torch.stack([sharpness * cosine(whole, x) for x in source]).softmax(0)
        return (shares[:, None] * source).sum(0)

    words = slow_score(text, image, model.sharpness, "mean", 1.0, "none")
    regions = slow_score(image, text, model.image_sharpness, "mean", 1.0, "none")
    picture, caption = unit(slow_pool(model.image_pool, image)), unit(slow_pool(model.text_pool, text))
    seen, told = look(caption, image, model.sharpness), look(picture, text, model.image_sharpness)
    one = torch.sigmoid(model.image_gate(torch.cat([picture, seen])))
    two = torch.sigmoid(model.text_gate(torch.cat([caption, told])))
    wholes = cosine(one * picture + (1 - one) * seen, two * caption + (1 - two) * told)
    return words + regions + cosine(caption, seen) + cosine(picture, told) + wholes


def slow_fusion(model: GatedFusion, image: Vectors, text: Vectors) -> Vectors:
    sides = []
    for own, other, fuse, summary in (
        (image, text, model.image_fuse, model.image_summary),
        (text, image, model.text_fuse, model.text_summary),
    ):
        fused = []
        for x in own:
            read = ((other @ x / math.sqrt(WIDTH)).softmax(0)[:, None] * other).sum(0)
            gate = torch.sigmoid(x @ read)
            fused.append(fuse(gate * torch.cat([x, read])) + x)
        tokens = torch.stack(fused)
        shares = summary.weigh(tokens).softmax(0)
        sides.append(torch.stack([(shares[:, h : h + 1] * tokens).sum(0) for h in range(shares.shape[1])]).mean(0))
    return model.judge(torch.cat(sides))[0]


def slow_joint(model: JointSimilarity, image: Vectors, text: Vectors) -> Vectors:
    tokens, apart = torch.cat([image, text]), unit(image.sum(0)) @ unit(text.sum(0))
    for layer in model.layers:
        tokens = slow_layer(layer, tokens)
    return apart + model.alpha * unit(tokens[: len(image)].mean(0)) @ unit(tokens[len(image) :].mean(0))


def slow_layer(layer: torch.nn.Module, tokens: Vectors) -> Vectors:
    q, k, v = layer.qkv(tokens).chunk(3, dim=1)
    size, heads = WIDTH // layer.heads, []
    for h in range(layer.heads):
        part = slice(h * size, (h + 1) * size)
        heads.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(1) @ v[:, part])
    tokens = layer.norm(tokens + layer.out(torch.cat(heads, 1)))
    return layer.feed_forward_norm(tokens + layer.feed_forward(tokens))


def slow_routed(model: RoutedInteraction, image: Vectors, text: Vectors) -> Vectors:
    own, other = (image, text) if model.direction == "image" else (text, image)
    inputs = [own] * 4
    for cells, routers in zip(model.cells, model.routers, strict=True):
        read = slow_shares(inputs[2], other, cells.sharpness) @ other
        film = cells.film(inputs[2] * torch.tanh(cells.scale(read)) + cells.shift(read))
        guided = torch.stack([unit(cells.guide(x) * other.mean(0)) for x in inputs[3]])
        outputs = [
            torch.relu(inputs[0]),
            slow_layer(cells.intra, inputs[1]),
            inputs[2] + film,
            (1 + guided) * inputs[3],
        ]
        paths = torch.stack([router(o.mean(0)) for router, o in zip(routers, outputs, strict=True)])  # (cells, paths)
        inputs = [
            sum(paths[c, p] / paths[:, p].sum() * outputs[c] for c in range(len(CELLS))) for p in range(paths.shape[1])
        ]
    tokens = inputs[0]
    return unit(tokens.mean(0) + tokens.max(0).values) @ unit(other.mean(0))


def slow_second_order(model: SecondOrderAttention, image: Vectors, text: Vectors) -> Vectors:
    affinity = torch.tanh(image @ model.affinity @ text.T)
    read = []
    for part, h, own, other in ((model.image, affinity, image, text), (model.text, affinity.T, text, image)):
        scores = []
        for k in range(len(own)):
            second = torch.stack([h[k] @ h[j] for j in range(len(own))])
            across = sum(a * part.across(o) for a, o in zip(unit(h[k]), other, strict=True))
            within = sum(a * part.within(o) for a, o in zip(unit(second), own, strict=True))
            scores.append(part.weigh(torch.tanh(part.own(own[k]) + across + within))[0])
        read.append((torch.stack(scores).softmax(0)[:, None] * own).sum(0))
    return cosine(*read)


def slow_saliency(model: SaliencyAttention, image: Vectors, text: Vectors) -> Vectors:
    raw = model.detector(image)[:, 0]
    picture = unit((raw.softmax(0)[:, None] * image).sum(0))
    salient = unit((torch.sigmoid(raw)[:, None] * image).sum(0))
    guide = torch.tanh(model.picture(picture) + model.salient(salient) + model.caption(text.mean(0)))
    scores = torch.stack([model.weigh(torch.tanh(model.word(t)) * guide)[0] for t in text])
    return cosine(picture, (scores.softmax(0)[:, None] * text).sum(0))


CASES = {
    "caan": (lambda: SecondOrderAttention(width=WIDTH), slow_second_order),
    "san": (lambda: SaliencyAttention(width=WIDTH), slow_saliency),
    "dime, image": (lambda: RoutedInteraction(width=WIDTH, heads=2), slow_routed),
    "dime, text": (lambda: RoutedInteraction(width=WIDTH, heads=2, layers=2, direction="text"), slow_routed),
    "imram": (lambda: IterativeMatching(width=WIDTH), slow_iterative),
    "imram, one step": (lambda: IterativeMatching(width=WIDTH, steps=1), slow_iterative),
    "sgr": (lambda: AlignmentReasoning(width=WIDTH, align_dim=6), slow_alignment),
    "saf": (lambda: AlignmentReasoning(width=WIDTH, align_dim=6, reasoning="filter"), slow_alignment),
    "shan": (lambda: StepwiseAlignment(width=WIDTH), slow_stepwise),
    "camp": (lambda: GatedFusion(width=WIDTH), slow_fusion),
    "mmca": (lambda: JointSimilarity(width=WIDTH, heads=2, alpha=0.7), slow_joint),
}
EACH = pytest.mark.parametrize("name", CASES)


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().double().eval()


@EACH
def test_scores_are_the_papers(name: str) -> None:
    model, image, text = made(name), stream(3, 5, WIDTH, seed=1, unit=True), stream(4, 6, WIDTH, seed=2, unit=True)
    with torch.no_grad():
        found = model(image, text)
        for b in range(3):
            for c in range(4):
                wanted = CASES[name][1](model, present(image, b), present(text, c))
                assert abs(float(found[b, c]) - float(wanted)) < 1e-9


@EACH
def test_tiles_and_aligned_pairs_are_the_whole(name: str) -> None:
    heads = {"image": torch.nn.Identity(), "text": torch.nn.Identity()}
    whole, tiled = (TokenSimilarity(**heads, scorer=made(name), limit=limit) for limit in (1 << 26, 1))
    image, text = stream(4, 5, WIDTH, seed=3, unit=True), stream(4, 6, WIDTH, seed=4, unit=True)
    torch.testing.assert_close(tiled.scores(image, text), whole.scores(image, text))
    torch.testing.assert_close(whole.pairs(image, text), whole.scores(image, text).diagonal())


@EACH
def test_on_a_cpu_tiles_without_gradients_stay_near_the_core(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients one tile holds all pairs here; without, as many as fit what is near, with the same scores."""
    heads = {"image": torch.nn.Identity(), "text": torch.nn.Identity()}
    similarity, sizes = TokenSimilarity(**heads, scorer=made(name)), []
    similarity.scorer.register_forward_hook(lambda _, inputs, out: sizes.append(out.numel()))
    image, text = stream(4, 5, WIDTH, seed=3, unit=True), stream(4, 6, WIDTH, seed=4, unit=True)
    whole = similarity.scores(image, text)
    assert sizes == [16]
    with torch.no_grad():
        monkeypatch.setattr(token_pairs, "CACHED", 3 * similarity.pair_numbers(5, 6))
        torch.testing.assert_close(similarity.scores(image, text), whole)
    assert max(sizes[1:]) <= 3
    assert sum(sizes[1:]) == 16


def test_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        IterativeMatching(width=WIDTH, steps=0)
