"""FILIP's fine-tuning for retrieval (Yao 2021): late interaction at the data's own captions.

    accelerate launch -m finetune configs/finetune/filip.py init=runs/filip data.train=SHARDS/train data.val=SHARDS/val

Data: COCO or Flickr30K as indexed shards. Published, large, from 340M pairs: Flickr30K TR/IR R@1 96.6/87.1. Not
reproduced here: that takes those pairs.

Deliberately different: the batch of all ranks is smaller, for the smaller data.
"""

from configs.systems import filip
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """3 epochs of Flickr30K at global batch 512."""
    run = filip.config()
    run.data.batch_size, run.data.crop_scale, run.data.flip = 512, (0.5, 1.0), True
    run.optim = OptimConfig(lr=1e-5, min_lr=1e-7, weight_decay=3e-2, warmup_steps=0.1)
    run.run = RunConfig(out="runs/filip-finetuned", steps=850, precision="bf16", checkpoint_every=250)
    return run
