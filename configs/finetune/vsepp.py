"""VSE++: visual-semantic embeddings with the hardest negative (Faghri 2018, arXiv 1707.05612).

Both sides one vector: the mean of the regions, the last state of a GRU. Of all rivals in the batch the hardest alone
counts.

    accelerate launch -m pretrain configs/finetune/vsepp.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with region features. Published, with a fine-tuned ResNet-152 in place of
regions: Flickr30K TR/IR R@1 52.9/39.6, COCO 5K 41.3/30.3. Not reproduced here: what was measured on other data is in
docs/survey.md.

Deliberately different: the loss is the mean over the pairs, not their sum, which Adam does not see; the first epoch
takes all rivals, as VSE-infinity does, from whose lack a run may collapse.
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
    name="VSE++",
    paper="1707.05612",
    row="VSE++",
    family="global",
    shape="mean and last state, cosine, hardest negative",
    index="inner product",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders. A GRU's last state speaks for a caption, else the mean of its words."""
    stem = matching.one_way(stem)
    read = lazy(LastPool)() if stem.text.target is RecurrentText else lazy(MeanPool)()
    model = stem.model(itc=matching.vector(stem, lazy(MeanPool)(), read))
    return model, {"rank": lazy(Ranking)(margin=0.2, easy_steps=easy_steps)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("vsepp", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("vsepp", parts(matching.WORLD, easy_steps=300))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("vsepp", parts(matching.FROZEN, easy_steps=100))
