"""Named parts that configs share: the two systems' wiring at any size."""

from typing import Any

from vlp.config import lazy
from vlp.fusion.cross import CrossFusion
from vlp.fusion.one_stream import OneStream
from vlp.fusion.summary import Summary
from vlp.model import VLModel
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import HardNegatives, RandomNegatives
from vlp.pooling.tokens import ClsMeanPool
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.matching import MatchingHead
from vlp.teacher import Teacher
from vlp.text.bert import BertText
from vlp.vision.patches import LinearPatches
from vlp.vision.vit import TimmViT

BERT_IDS: dict[str, Any] = {"vocab_size": 30522, "mask_id": 103, "first_word_id": 999}


def two_stream(
    *,
    vit: str,
    image_size: int,
    width: int,
    text_layers: int,
    fusion_layers: int,
    heads: int,
    embed_dim: int,
    vit_options: dict[str, Any] | None = None,
    vocabulary: dict[str, Any] | None = None,
    max_positions: int = 512,
    dropout: float = 0.1,
    queue_size: int = 65536,
    ramp_steps: int = 10_000,
    momentum: float = 0.995,
    whole_words: bool = False,
    mask_share: float = 0.15,
    mean_pool: bool = False,
) -> tuple[Any, dict[str, Any], Any]:
    """ALBEF's wiring: (model, objectives, teacher). `mean_pool`: ITC reads the mean of the tokens beside [CLS]."""
    words = vocabulary or BERT_IDS
    pools = {"image_pool": lazy(ClsMeanPool)(), "text_pool": lazy(ClsMeanPool)()} if mean_pool else {}
    pooled = width * (1 + mean_pool)
    model = lazy(VLModel)(
        vision=lazy(TimmViT)(name=vit, image_size=image_size, options=vit_options),
        text=lazy(BertText)(
            vocab_size=words["vocab_size"],
            width=width,
            layers=text_layers,
            heads=heads,
            max_positions=max_positions,
            dropout=dropout,
        ),
        fusion=lazy(CrossFusion)(
            width=width,
            layers=fusion_layers,
            heads=heads,
            image_width=width,
            first_layer=text_layers,
            dropout=dropout,
        ),
        similarities={
            "itc": lazy(CosineSimilarity)(image_width=pooled, text_width=pooled, embed_dim=embed_dim, **pools),
            "itm": lazy(MatchingHead)(width=width),
        },
    )
    objectives = {
        "itc": lazy(ITC)(),
        "itm": lazy(ITM)(negatives=lazy(HardNegatives)()),
        "mlm": lazy(MLM)(width=width, whole_words=whole_words, probability=mask_share, **words),
    }
    return model, objectives, lazy(Teacher)(momentum=momentum, queue_size=queue_size, ramp_steps=ramp_steps)


def one_stream(
    *,
    image_size: int,
    patch: int,
    width: int,
    layers: int,
    heads: int,
    vocabulary: dict[str, Any] | None = None,
    max_positions: int = 64,
    dropout: float = 0.1,
    whole_words: bool = False,
    mask_share: float = 0.15,
    negatives: int = 1,
    summary: Summary = "cls",
) -> tuple[Any, dict[str, Any]]:
    """ViLT's wiring: (model, objectives)."""
    words = vocabulary or BERT_IDS
    model = lazy(VLModel)(
        vision=lazy(LinearPatches)(image_size=image_size, patch=patch, width=width, dropout=dropout),
        text=lazy(BertText)(
            vocab_size=words["vocab_size"],
            width=width,
            layers=0,
            heads=heads,
            max_positions=max_positions,
            dropout=dropout,
        ),
        fusion=lazy(OneStream)(width=width, layers=layers, heads=heads, dropout=dropout, summary=summary),
        similarities={"itm": lazy(MatchingHead)(width=width)},
    )
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)(each=negatives)),
        "mlm": lazy(MLM)(width=width, whole_words=whole_words, probability=mask_share, **words),
        "wpa": lazy(WordPatchAlignment)(negatives=lazy(RandomNegatives)(each=negatives)),
    }
    return model, objectives
