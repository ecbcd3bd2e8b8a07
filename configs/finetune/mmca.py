"""MMCA: self-attention on each side, and over both (Wei 2020, CVPR).

A transformer layer over the regions, n-grams over the words; then one over both. The score adds up the views before
and after.

    accelerate launch -m pretrain configs/finetune/mmca.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 74.2/54.8, COCO 5K
54.0/38.7. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the loss is a mean over the pairs; a warm-up with all rivals.
"""

from dataclasses import replace
from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.reasoning.adapter import TokenAdapter
from vlp.reasoning.ngrams import NGrams
from vlp.reasoning.transformer import TransformerReasoner
from vlp.similarity.joint import JointSimilarity
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="MMCA",
    paper="CVPR 2020",
    row="MMCA",
    family="relation-aware",
    shape="self-attention, joint attention, sum of two cosines, hardest negative",
)


def parts(stem: Stem, easy_steps: int = 1000, width: int | None = None) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders; `width` in place of the stem's, for pairs that cost less."""
    stem = replace(stem, embed_dim=width or stem.embed_dim)
    width = stem.embed_dim
    image = lazy(TransformerReasoner)(width=width, heads=8, hidden=2 * width)
    text = [lazy(NGrams)(width=width, channels=width), lazy(TokenAdapter)(width=3 * width, embed_dim=width)]
    similarity = lazy(TokenSimilarity)(
        image=matching.chain(stem.adapter("image"), image),
        text=matching.chain(stem.adapter("text"), *text),
        scorer=lazy(JointSimilarity)(width=width),
    )
    return stem.model(match=similarity), {
        "rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("mmca", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("mmca", parts(matching.WORLD, easy_steps=300))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("mmca", parts(matching.FROZEN, easy_steps=300, width=128), batch_size=32)
