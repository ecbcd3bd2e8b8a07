"""UNITER's fine-tuning for retrieval (Chen 2020): the pair's match ranked above hard rivals.

    accelerate launch -m finetune configs/finetune/uniter.py init=RUN data.train=SHARDS/train data.val=SHARDS/val

Data: COCO or Flickr30K as indexed shards with region features. A hinge of 0.2 between sigmoids, over the hardest of
many rivals. Published, large: Flickr30K TR/IR R@1 87.3/75.6. Not reproduced here: that takes the pre-trained weights.

Deliberately different: rivals are 15 pictures of the batch for each caption, of which the 4 hardest count, where the
paper draws 399 of the whole set, of both sides, and keeps 31.
"""

from configs.systems import uniter
from vlp.config import lazy
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.fused_ranking import FusedRanking
from vlp.objectives.negatives import RandomNegatives
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """5,000 steps, as published."""
    run = uniter.config()
    run.objectives = {"rank": lazy(FusedRanking)(negatives=lazy(RandomNegatives)(each=15), hardest=4)}
    run.data.batch_size = 64
    run.optim = OptimConfig(
        lr=5e-5,
        min_lr=0.0,
        weight_decay=0.01,
        warmup_steps=500,
        betas=(0.9, 0.98),
        clip=2.0,
        lr_scale={"model.vision.hidden": 0.0},  # what stood for hidden regions; none are hidden now
    )
    run.run = RunConfig(out="runs/uniter-finetuned", steps=5000, precision="bf16", checkpoint_every=1000)
    return run
