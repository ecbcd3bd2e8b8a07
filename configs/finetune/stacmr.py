"""StacMR: scene-text aware cross-modal retrieval (Mafla 2021, arXiv 2012.04329).

VSRN with the words that stand written in a picture: they reason in a graph of their own, and their mean raises or
lowers each number of the picture's vector.

    accelerate launch -m pretrain configs/finetune/stacmr.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: COCO-Text Captioned (CTC) and Flickr30K as indexed shards with 36 regions a picture, and in each record's json
what a text spotter reads in the picture ("tags"). Published on CTC's own test sets, not on Flickr30K's or COCO's; the
survey prints no number. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: written words are word pieces with the captions' embeddings, where the paper reads fastText
vectors of 15 words; they are normalised one by one, not by a batch norm over their places; a picture without words is
VSRN's, exactly. VSRN's own differences hold. The tags of the synthetic world name every look in a picture, which no
scene text does: a head that reads them knows more than its neighbours.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.finetune import vsrn
from configs.matching import Stem
from vlp.config import lazy
from vlp.pooling.scene_text import SceneText
from vlp.training import TrainConfig

MATCHING = Matching(
    name="StacMR",
    paper="2012.04329",
    family="global",
    shape="VSRN times the mean of a graph over the words written in a picture",
    index="inner product",
    caveat="named by the survey without a number; published on CTC alone; needs the words of a text spotter",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on regions and recurrent text."""
    model, objectives = vsrn.parts(stem, easy_steps)
    similarity = model.get("similarities")["itc"]
    similarity.kwargs["image"] = lazy(SceneText)(
        image=similarity.get("image"), width=stem.text.get("word_width"), embed_dim=stem.embed_dim
    )
    model.kwargs["tags"] = "beside"
    return model, objectives


def config() -> TrainConfig:
    """Published recipe on region features."""
    run = matching.paper("stacmr", parts(matching.PAPER))
    run.data.use_tags = True
    return run


def tiny() -> TrainConfig:
    """On the synthetic world, whose tags stand for what is written."""
    return matching.tiny("stacmr", parts(matching.WORLD, easy_steps=300), use_tags=True)
