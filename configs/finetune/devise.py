"""DeViSE: a picture mapped to where its words are (Frome 2013).

The mean of the image tokens is mapped by one linear layer to the caption's vector; every rival that comes within the
margin counts.

    accelerate launch -m pretrain configs/finetune/devise.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, as run again by later authors:
Flickr30K TR/IR R@1 4.5/6.7. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: sentences in place of class names, and the text side trains too.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.pooling.tokens import LastPool, MeanPool
from vlp.text.recurrent import RecurrentText
from vlp.training import TrainConfig

MATCHING = Matching(
    name="DeViSE",
    paper="NIPS 2013",
    family="global",
    shape="mean, cosine, all rivals",
    index="inner product",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    stem = matching.one_way(stem)
    read = lazy(LastPool)() if stem.text.target is RecurrentText else lazy(MeanPool)()
    model = stem.model(itc=matching.vector(stem, lazy(MeanPool)(), read))
    return model, {"rank": lazy(Ranking)(margin=0.1, negatives="all", easy_steps=easy_steps)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("devise", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("devise", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("devise", parts(matching.FROZEN, easy_steps=100))
