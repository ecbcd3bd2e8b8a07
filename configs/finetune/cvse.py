"""CVSE: consensus-aware visual-semantic embedding (Wang 2020, arXiv 2007.08883).

A graph of concepts that occur together in captions; each side is a vector of its own and a little of the concepts that
it has to do with.

    accelerate launch -m pretrain configs/finetune/cvse.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 73.5/52.9; its test
completes the concepts of captions from the test gallery itself. Not reproduced here: docs/survey.md has what was
measured on other data.

Deliberately different: concepts are the 2,000 most frequent words of BERT's vocabulary, with embeddings that are
learned, where the paper takes 300 of the captions with GloVe vectors; none of the test's captions helps another.
"""

from collections.abc import Sequence
from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.concepts import ConceptAgreement
from vlp.pooling.gated import GatedPool
from vlp.similarity.consensus import Consensus
from vlp.training import TrainConfig

MATCHING = Matching(
    name="CVSE",
    paper="2007.08883",
    row="CVSE",
    family="global",
    shape="gated pooling and a concept graph, three rankings, concept divergence",
    index="inner product",
    caveat="the published test completes labels from the test gallery",
)
FREQUENT = range(1996, 3996)  # BERT's whole words stand in the order of their frequency, behind signs and letters


def parts(stem: Stem, concepts: Sequence[int] = FREQUENT) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    heads = {side: matching.chain(stem.adapter(side), lazy(GatedPool)(width=width)) for side in ("image", "text")}
    model = stem.model(itc=lazy(Consensus)(width=width, concepts=list(concepts), **heads))
    return model, {"concepts": lazy(ConceptAgreement)()}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("cvse", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world, every word of which is a concept."""
    return matching.tiny("cvse", parts(matching.WORLD, concepts=range(5, 160)))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("cvse", parts(matching.FROZEN))
