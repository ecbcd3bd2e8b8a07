"""Components, concepts and retelling against slow readings of their papers."""

import math

import torch
from torch import nn

from tests.parts import VOCAB, batch, regions
from tests.streams import stream
from vlp.layers.chain import Chain
from vlp.model import VLModel
from vlp.objectives.components import ComponentRanking, component_means, labels_of
from vlp.objectives.concepts import ConceptAgreement, concept_divergence, named
from vlp.objectives.ranking import violations
from vlp.objectives.retelling import Retelling
from vlp.pooling.tokens import MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.similarity.consensus import ConceptGraph, Consensus
from vlp.similarity.vector import VectorSimilarity
from vlp.text.recurrent import RecurrentText
from vlp.types import Batch, Graph
from vlp.view import View
from vlp.vision.region_features import RegionFeatures

WIDTH = 8


def model(**similarities: nn.Module) -> VLModel:
    torch.manual_seed(0)
    return VLModel(
        vision=RegionFeatures(feature_width=12),
        text=RecurrentText(vocab_size=VOCAB, word_width=6, width=12),
        similarities=similarities or {"itc": VectorSimilarity(**heads())},
    )


def heads() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {s: Chain(parts=[TokenAdapter(width=12, embed_dim=WIDTH), MeanPool()]) for s in ("image", "text")}


def some_batch() -> Batch:
    made = batch(size=4, captions_per_image=2)
    made.image, made.regions, made.image_row = None, regions(2, 5, 12, 2), torch.tensor([0, 0, 1, 1])
    node = torch.where(made.word_ids >= 0, made.word_ids // 2, -1)
    kind = torch.where(node >= 0, torch.tensor([1, 2, 1, 3])[made.word_ids % 4], 0)
    phrase = torch.where((kind == 1) | (kind == 2), node // 2, -1)
    made.graph = Graph(kind, node, phrase, torch.full_like(node, -1))
    return made


def test_components_are_the_means_of_their_words() -> None:
    tokens, labels = stream(3, 6, 4, seed=1), torch.randint(-1, 3, (3, 6), generator=torch.Generator().manual_seed(0))
    means, owner = component_means(tokens, labels)
    wanted = []
    for i in range(3):
        for label in range(3):
            words = [tokens.tokens[i, j] for j in range(6) if tokens.mask[i, j] and labels[i, j] == label]
            if words:
                wanted.append((i, torch.stack(words).mean(0)))
    assert owner.tolist() == [i for i, _ in wanted]
    torch.testing.assert_close(means, torch.stack([mean for _, mean in wanted]))


def test_each_level_ranks_its_picture() -> None:
    net, b = model(), some_batch()
    match, view = net.similarities["itc"], View(net, b)
    words, images = match.text.before_last(view.text), match.embed_image(view.image)
    total = 0.0
    for level in ("object", "phrase", "relation"):
        means, owner = component_means(words, labels_of(b.graph, level))
        costs = []
        for mean, caption in zip(nn.functional.normalize(means, dim=1), owner.tolist(), strict=True):
            own, other = images[caption // 2], images[1 - caption // 2]
            costs.append(max(0.0, 0.2 + float((mean @ other - mean @ own).detach())))
        total += sum(costs) / len(costs)
    assert abs(float(ComponentRanking()(View(net, b)).value.detach()) - total / 3) < 1e-5


def test_a_caption_without_components_costs_nothing() -> None:
    net, b = model(), some_batch()
    b.graph = Graph(*(torch.full_like(b.graph.node, value) for value in (0, -1, -1, -1)))
    assert float(ComponentRanking()(View(net, b)).value.detach()) == 0.0


def test_concepts_are_read_over_their_graph() -> None:
    torch.manual_seed(0)
    graph = ConceptGraph(concepts=3, width=4).double()
    graph.note(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    graph.after_step()
    assert graph.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    edges = torch.tensor([[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]], dtype=torch.float64)
    edges[:2] /= 1.25
    torch.testing.assert_close(graph.edges(), edges)
    hidden = nn.functional.leaky_relu(edges @ graph.embeddings @ graph.first.weight.T, 0.2)
    torch.testing.assert_close(graph(), edges @ hidden @ graph.second.weight.T)
    graph.note(torch.ones(1, 3))
    graph.discard_step()
    graph.after_step()
    assert graph.counts[2, 2] == 0


def test_consensus_is_the_papers() -> None:
    match = Consensus(**heads(), width=WIDTH, concepts=[7, 9, 11])
    net, b = model(itc=match), some_batch()
    view, graph = View(net, b), match.graph()
    own, consensus, log_shares = match.views("text", view.text)
    for i in range(4):
        x = nn.functional.normalize(match.text(view.text)[i], dim=0)
        asked = torch.tanh(match.text_side(x))
        scores = torch.stack([10.0 * match.weigh(torch.tanh(match.concept(c)) * asked)[0] for c in graph])
        torch.testing.assert_close(log_shares[i], scores.log_softmax(0), rtol=1e-4, atol=1e-5)
        read = nn.functional.normalize((scores.softmax(0)[:, None] * graph).sum(0), dim=0)
        torch.testing.assert_close(consensus[i], read, rtol=1e-4, atol=1e-5)
        wanted = nn.functional.normalize(0.9 * x + 0.1 * read, dim=0)
        torch.testing.assert_close(match.embed_text(view.text)[i], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.norm(dim=1), torch.ones(4))


def test_three_views_rank_and_the_concepts_agree() -> None:
    match = Consensus(**heads(), width=WIDTH, concepts=[7, 9, 11])
    net, b = model(itc=match), some_batch()
    view = View(net, b)
    image, text = match.views("image", view.image), match.views("text", view.text)
    image = tuple(part[b.image_row] for part in image)
    rival, total = b.image_id[:, None] != b.image_id, 0.0
    sides = ((match.fused(*image[:2]), match.fused(*text[:2])), (image[0], text[0]), (image[1], text[1]))
    for weight, (one, two) in zip((3.0, 5.0, 1.0), sides, strict=True):
        scores = one @ two.T
        own = scores.diagonal()
        total += weight * float((violations(scores, own, rival, 0.2) + violations(scores.T, own, rival, 0.2)).mean())
    for i in range(4):
        p, q = image[2][i].tolist(), text[2][i].tolist()
        total += 2.0 * sum(math.exp(a) * (a - c) for a, c in zip(p, q, strict=True)) / 4
    assert abs(float(ConceptAgreement()(View(net, b)).value.detach()) - total) < 1e-4
    torch.testing.assert_close(concept_divergence(text[2], text[2]), torch.zeros(4))
    ids = torch.tensor([[7, 5, 7], [9, 11, 0]])
    assert named(ids, torch.tensor([7, 9, 11])).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_retelling_tells_each_next_word_from_the_regions() -> None:
    net, b = model(), some_batch()
    torch.manual_seed(1)
    loss = Retelling(width=WIDTH, vocab_size=VOCAB, word_width=5)
    found = float(loss(View(net, b)).value.detach())
    regions_ = net.similarities["itc"].image.before_last(View(net, b).image)
    total = 0.0
    for i in range(4):
        seen = regions_.tokens[b.image_row[i]][regions_.mask[b.image_row[i]]]
        state = torch.tanh(loss.start(seen.mean(0)))[None, None]
        ids = b.text_ids[i][b.text_mask[i]]
        losses = []
        for word, following in zip(ids[:-1], ids[1:], strict=True):
            out, state = loss.gru(loss.words(word)[None, None], state)
            shares = (seen @ loss.query(out[0, 0]) / math.sqrt(WIDTH)).softmax(0)
            logits = loss.tell(torch.cat([out[0, 0], shares @ seen]))
            losses.append(-float(logits.log_softmax(0)[following].detach()))
        total += sum(losses) / len(losses)
    assert abs(found - total / 4) < 1e-4
