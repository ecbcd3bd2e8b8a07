"""PIM: probing inter-modality, visual parsing with self-attention (Xue 2021, arXiv 2106.13488).

One stream: BERT-base reads words and the cells of a Swin transformer, which parses the picture first. MLM, ITM, and
masked feature regression: a cell is hidden with those that it attends to most, and their features are told.

    accelerate launch -m pretrain configs/systems/pim.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO and Visual Genome as shards. Published after fine-tuning: Flickr30K TR/IR R@1 87.0/73.5 (not checked against
the paper). Not reproduced here: that takes those pairs.

Deliberately different: one cell of each picture is drawn with a fixed number of others; the features that it is to tell
are normalised; the inter-modality flow, a measure of attention from one side to the other, is not computed.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.itm import ITM
from vlp.objectives.masked_patches import MaskedPatches
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.swin import SwinParser

SYSTEM = System(
    name="PIM (visual parsing)",
    paper="2106.13488",
    shape="one stream over the cells of a Swin transformer",
    data="COCO and Visual Genome; pairs",
    reason="No count of the authors' was found",
)


def parts(
    vision: Any, feature_width: int, words: dict[str, Any], width: int, layers: int, heads: int, neighbours: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around a parser of pictures."""
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **words),
        "mfr": lazy(MaskedPatches)(
            width=width, feature_width=feature_width, target="regression", neighbours=neighbours
        ),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: Swin-B at 384 px, 12 x 12 cells, and BERT-base; a cell and 14 others are hidden."""
    vision = lazy(SwinParser)(name="swin_base_patch4_window12_384", image_size=384)
    model, objectives = parts(vision, 1024, world.BERT, 768, 12, 12, 14)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=384, max_length=40, batch_size=2048, workers=8),
        optim=OptimConfig(lr=5e-5, min_lr=0.0, weight_decay=0.01, warmup_steps=2000),
        run=RunConfig(out="runs/pim", steps=100_000, accumulate=8, precision="bf16", checkpoint_every=2000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 6 x 6 cells of a Swin of two stages, 5 hidden with one."""
    options = {"patch_size": 4, "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 4], "window_size": 6}
    vision = lazy(SwinParser)(
        name="swin_tiny_patch4_window7_224", image_size=world.IMAGE, width=world.WIDTH, options=options
    )
    return world.tiny("pim", *parts(vision, 64, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS, 5))
