"""SGRAF: similarity graph reasoning and attention filtration (Diao 2021, arXiv 2101.01368), here the graph.

How each word is alike what it reads is a vector; these vectors and one of the wholes exchange in a graph, and the
whole's is judged. `reasoning="filter"` is the paper's other half.

    accelerate launch -m pretrain configs/finetune/sgraf.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, graph alone: Flickr30K TR/IR R@1
75.2/56.2; graph and filter averaged: 77.8/58.5. Not reproduced here: docs/survey.md has what was measured on other
data.

Deliberately different: no batch norms, which tie a pair's score in training to the batch's other pairs; ranked by the
logit, not its sigmoid.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.alignment import AlignmentReasoning, Reasoning
from vlp.training import TrainConfig

MATCHING = Matching(
    name="SGRAF (graph)",
    paper="2101.01368",
    row="SGRAF",
    family="relation-aware",
    shape="alignment vectors, graph of three steps, hardest negative on sigmoids",
    caveat="the survey's figure averages graph and filter; the graph alone: 75.2/56.2 on Flickr30K",
)


def parts(stem: Stem, easy_steps: int = 1000, reasoning: Reasoning = "graph") -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    scorer = lazy(AlignmentReasoning)(width=stem.embed_dim, align_dim=min(256, stem.embed_dim), reasoning=reasoning)
    model = stem.model(match=matching.tokens(stem, scorer))
    return model, {"rank": lazy(Ranking)(similarity="match", squash=True, easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("sgraf", parts(matching.PAPER), epochs=40)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("sgraf", parts(matching.WORLD, easy_steps=300))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("sgraf", parts(matching.FROZEN, easy_steps=300))
