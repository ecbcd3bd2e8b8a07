"""CAMP: cross-modal adaptive message passing (Wang 2019, arXiv 1909.05506).

Both sides read each other, a gate lets in what fits, and a small network judges the fused pair.

    accelerate launch -m pretrain configs/finetune/camp.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 68.1/51.5, COCO 5K
50.1/39.0. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: AdamW, and one stage that begins by ranking its own probabilities; the paper first trains the
attention by ranking cosines, then the gates, then all, by SGD.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.pair_loss import PairLoss
from vlp.similarity.gated_fusion import GatedFusion
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="CAMP",
    paper="1909.05506",
    row="CAMP",
    family="local",
    shape="gated fusion both ways, pair loss with the hardest negatives",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    # Tokens keep their lengths, the only temperature that attention and gates have: of unit tokens every share is even.
    heads = {side: stem.adapter(side) for side in ("image", "text")}
    model = stem.model(match=lazy(TokenSimilarity)(scorer=lazy(GatedFusion)(width=stem.embed_dim), **heads))
    return model, {"pair": lazy(PairLoss)(pairs="hardest", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("camp", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("camp", parts(matching.WORLD, easy_steps=300))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("camp", parts(matching.FROZEN, easy_steps=200))
