"""VinVL: revisiting visual representations (Zhang 2021, arXiv 2101.00529).

One stream: words, object tags and regions. Words and tags are masked alike; a head on the summary tells whether the
tags are the picture's own, or the caption is not.

    accelerate launch -m pretrain configs/systems/vinvl.py data.train=SHARDS model.fusion.weights=BERT

Data: shards with regions of 2048 numbers and 6 of the box, and "tags" in each sample's json.
Published, VinVL-base, 8.85M triples, after fine-tuning: COCO 5K TR/IR R@1 74.6/58.1. Not reproduced here: that takes
those pairs.

Deliberately different: tags stand with the picture they were found in, in front of its regions, so that a picture of
another pair brings its own; their positions start from 0, and their mask is drawn apart from the words'.
"""

from configs.facts import System
from configs.systems import oscar
from vlp.training import TrainConfig

SYSTEM = System(
    name="VinVL",
    paper="2101.00529",
    shape="one stream over words, tags and regions",
    data="8.85M text-tag-image triples of 5.65M images; regions of a larger detector and tags",
    published=110.0,
    source="BERT-base",
)


def config() -> TrainConfig:
    """Published size: Oscar's, with the 3-way head."""
    return _as_vinvl(oscar.config(), "runs/vinvl")


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions and tags of the synthetic world."""
    run = oscar.tiny()
    return _as_vinvl(run, run.run.out.replace("oscar", "vinvl"))


def _as_vinvl(run: TrainConfig, out: str) -> TrainConfig:
    run.objectives["tags"].kwargs["ways"] = 3
    run.run.out = out
    return run
