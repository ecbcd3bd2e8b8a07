"""VSRN: visual semantic reasoning over regions (Li 2019, arXiv 1909.02701).

Four graph convolutions over the regions, a GRU over them whose last state is the picture.

    accelerate launch -m pretrain configs/finetune/vsrn.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, one model: Flickr30K TR/IR R@1
70.4/53.0; two averaged: 71.3/54.7. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the caption decoder that trains beside it attends to the regions at every word; patches stand in
raster order where the regions stood by confidence, and train without the decoder, whose vocabulary costs more than all
the rest.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.objectives.retelling import Retelling
from vlp.pooling.recurrent import RecurrentPool
from vlp.pooling.tokens import LastPool, MeanPool
from vlp.reasoning.region_graph import RegionGraph
from vlp.similarity.vector import VectorSimilarity
from vlp.text.recurrent import RecurrentText
from vlp.training import TrainConfig

MATCHING = Matching(
    name="VSRN",
    paper="1909.02701",
    row="VSRN",
    family="local",
    shape="region graph, GRU, cosine, hardest negative, caption decoder",
    index="inner product",
    caveat="the survey calls it local, but a picture is one vector; its figure averages two models",
)


def parts(stem: Stem, easy_steps: int = 1000, retell: bool = True) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    stem = matching.one_way(stem)
    width = stem.embed_dim
    image = [lazy(RegionGraph)(width=width, layers=4), lazy(RecurrentPool)(width=width, embed_dim=width)]
    read = lazy(LastPool)() if stem.text.target is RecurrentText else lazy(MeanPool)()
    similarity = lazy(VectorSimilarity)(
        image=matching.chain(stem.adapter("image"), *image), text=matching.chain(stem.adapter("text"), read)
    )
    objectives: dict[str, Any] = {"rank": lazy(Ranking)(easy_steps=easy_steps)}
    if retell:
        objectives["retell"] = lazy(Retelling)(width=width, vocab_size=stem.vocabulary)
    return stem.model(itc=similarity), objectives


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("vsrn", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("vsrn", parts(matching.WORLD, easy_steps=300))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("vsrn", parts(matching.FROZEN, easy_steps=300, retell=False))
