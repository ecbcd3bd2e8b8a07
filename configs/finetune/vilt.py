"""ViLT's fine-tuning for retrieval (Kim 2021, section 4.2): the pair chosen among itself and 15 wrong ones.

    accelerate launch -m finetune configs/finetune/vilt.py init=runs/vilt data.train=SHARDS/train data.val=SHARDS/val

Data: COCO or Flickr30K as indexed shards. Published: Flickr30K TR/IR R@1 83.5/64.4, COCO 5K 61.5/42.7. Not reproduced
here: that takes the pre-trained weights.

Deliberately different: the wrong ones are pictures of the batch for each caption, where the paper draws captions of the
whole set for each picture.
"""

from configs.systems import vilt
from vlp.config import lazy
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.fused_ranking import FusedRanking
from vlp.objectives.negatives import RandomNegatives
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """10 epochs of Flickr30K at global batch 256."""
    run = vilt.config()
    run.objectives = {"rank": lazy(FusedRanking)(negatives=lazy(RandomNegatives)(each=15), kind="choice")}
    run.data.batch_size = 256
    run.optim = OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=0.1, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/vilt-finetuned", steps=5700, accumulate=8, precision="bf16", checkpoint_every=1000)
    return run
