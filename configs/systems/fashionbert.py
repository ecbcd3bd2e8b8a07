"""FashionBERT: text and image matching with adaptive loss (Gao 2020, arXiv 2005.09801).

One stream: BERT-base reads words and 8 x 8 patches of the picture, each a feature of a fixed ResNet. MLM, the hidden
patches' features by KL, and matching.

    accelerate launch -m pretrain configs/systems/fashionbert.py data.train=SHARDS model.fusion.weights=BERT

Data: FashionGen as shards. Published, FashionGen with 101 candidates: R@1 TR 24.0, IR 26.8 (released code 24.3,
28.9). Not reproduced here: that takes FashionGen.

Deliberately different: the losses are summed with equal weights, where the paper weighs them anew each step; a
ResNet-50 as in the released code, the paper has a ResNeXt-101.
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
from vlp.vision.patch_cnn import PatchCNN

SYSTEM = System(
    name="FashionBERT",
    paper="2005.09801",
    shape="one stream over patches of a CNN",
    data="FashionGen, 0.26M pairs",
    reason="The paper gives no count; 23.5 of these are the fixed ResNet-50",
)


def parts(
    vision: Any, feature_width: int, words: dict[str, Any], width: int, layers: int, heads: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around patches."""
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **words),
        "mpm": lazy(MaskedPatches)(width=width, feature_width=feature_width, probability=0.1),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: ResNet-50 and BERT-base, 64 patches."""
    vision = lazy(PatchCNN)(name="resnet50", image_size=256, patch_size=64)
    model, objectives = parts(vision, 2048, world.BERT, 768, 12, 12)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=256, max_length=64, batch_size=64, workers=8),
        optim=OptimConfig(lr=2e-5, min_lr=0.0, weight_decay=1e-4, warmup_steps=5000),
        run=RunConfig(out="runs/fashionbert", steps=80_000, precision="bf16", checkpoint_every=2000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 3 x 3 patches, and a network that trains."""
    vision = world.small_patch_cnn([3])
    return world.tiny("fashionbert", *parts(vision, 64, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS))
