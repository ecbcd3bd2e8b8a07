"""Kaleido-BERT: vision-language pre-training on fashion domain (Zhuge 2021, arXiv 2103.16110).

One stream: BERT-base reads words and 55 patches, the picture cut 1, 2, 3, 4 and 5 times each way, each patch a feature
of a fixed ResNet. In each grid one patch is turned, shuffled, another picture's, grey or empty, and that is to be told;
words that name something in the picture are masked first. MLM and ITM.

    accelerate launch -m pretrain configs/systems/kaleido_bert.py data.train=SHARDS model.fusion.weights=BERT

Data: FashionGen as shards, with regions and captions' phrases that name them. Published, FashionGen with 101
candidates: R@1 TR 28.0, IR 33.9 (not checked against the paper). Not reproduced here: that takes FashionGen.

Deliberately different: which words and patches belong together is the data's word, where the paper has a captioner's
attention; the five tasks share one fused pass with a whole caption; a ResNet-50.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.alignment_masking import AlignmentMasking
from vlp.objectives.itm import ITM
from vlp.objectives.kaleido import GRIDS, Kaleido
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.patch_cnn import PatchCNN

SYSTEM = System(
    name="Kaleido-BERT",
    paper="2103.16110",
    shape="one stream over patches of a CNN at five scales",
    data="FashionGen, 0.26M pairs; regions that phrases name",
    reason="No count of the authors' was found; 23.5 of these are the fixed ResNet-50",
)


def parts(
    vision: Any, feature_width: int, words: dict[str, Any], width: int, layers: int, heads: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around patches."""
    model = world.one_stream(vision, words, width, layers, heads)
    masking = lazy(AlignmentMasking)()
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, masking=masking, **words),
        "kaleido": lazy(Kaleido)(width=width, feature_width=feature_width, masking=masking),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: ResNet-50 and BERT-base, 55 patches."""
    vision = lazy(PatchCNN)(name="resnet50", image_size=256, patch_size=64, grids=list(GRIDS))
    model, objectives = parts(vision, 2048, world.BERT, 768, 12, 12)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=256, max_length=64, batch_size=64, workers=8, use_regions=True, use_graph=True),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.0, warmup_steps=10_000),
        run=RunConfig(out="runs/kaleido_bert", steps=100_000, precision="bf16", checkpoint_every=2000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world, with a network that trains."""
    vision = world.small_patch_cnn(list(GRIDS))
    made = parts(vision, 64, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS)
    return world.tiny("kaleido_bert", *made, use_regions=True, use_graph=True)
