"""X-VLM: multi-grained vision language pre-training (Zeng 2022, arXiv 2111.08276).

Two streams, a Swin-B and the halves of a BERT-base: ITC, ITM with hard negatives and MLM on pictures, and where the
caption names a thing whose box is known, the phrase alone reads the picture and its box is told.

    accelerate launch -m pretrain configs/systems/xvlm.py data.train=SHARDS

Data: 4M images with boxes of phrases (COCO, VG) as shards: regions, and "phrases" and "nodes" in each caption.
Published after fine-tuning: COCO 5K TR/IR R@1 80.4/63.1, Flickr30K 96.8/86.1. Not reproduced here: that takes the 4M
images.

Deliberately different: ITC, ITM and MLM are for whole pictures only, the paper repeats them for the regions of a
picture; every step has both kinds of data, the paper draws one; no teacher, as published.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.cross import CrossFusion
from vlp.model import VLModel
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import HardNegatives
from vlp.objectives.phrase_box import PhraseBox
from vlp.pooling.tokens import MeanPool
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.matching import MatchingHead
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="X-VLM",
    paper="2111.08276",
    shape="two streams, text reads image, boxes of phrases",
    data="4M images (COCO, VG, CC3M, SBU); pairs, phrases and their boxes",
    published=215.6,
    source="the paper",
)


def parts(
    vision: Any,
    words: dict[str, Any],
    width: int,
    image_width: int,
    layers: tuple[int, int],
    heads: int,
    embed_dim: int,
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives); `layers` of the text part and of the fusion."""
    dropout = 0.0 if words is world.WORDS else 0.1
    model = lazy(VLModel)(
        vision=vision,
        text=world.words(words, width, layers[0], heads),
        fusion=lazy(CrossFusion)(
            width=width, layers=layers[1], heads=heads, image_width=image_width, dropout=dropout, first_layer=layers[0]
        ),
        similarities={
            "itc": lazy(CosineSimilarity)(
                image_width=image_width, text_width=width, embed_dim=embed_dim, image_pool=lazy(MeanPool)()
            ),
            "itm": lazy(MatchingHead)(width=width),
        },
    )
    objectives = {
        "itc": lazy(ITC)(),
        "itm": lazy(ITM)(negatives=lazy(HardNegatives)()),
        "mlm": lazy(MLM)(width=width, probability=0.25, **words),
        "box": lazy(PhraseBox)(width=width),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: Swin-B at 224 px, 30 tokens, global batch 1,024."""
    vision = lazy(GridCNN)(name="swin_base_patch4_window7_224", image_size=224, width=1024, options={"img_size": 224})
    model, objectives = parts(vision, world.BERT, 768, 1024, (6, 6), 12, 256)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=224, max_length=30, batch_size=1024, workers=8, use_regions=True, use_graph=True),
        optim=OptimConfig(lr=1e-4, min_lr=1e-5, weight_decay=0.01, warmup_steps=2500),
        run=RunConfig(out="runs/xvlm", steps=200_000, precision="bf16", checkpoint_every=5000),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 6 x 6 cells of a convolutional network, which know their
    place; the tokens of a small Swin or vision transformer do not (docs/decisions.md)."""
    vision = lazy(GridCNN)(
        name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", options=world.FINE_CNN
    )
    made = parts(vision, world.WORDS, world.WIDTH, world.WIDTH, (2, 3), world.HEADS, 64)
    return world.tiny("xvlm", *made, use_regions=True, use_graph=True)
