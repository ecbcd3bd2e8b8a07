"""Prompt tuning for retrieval: a dual encoder stays as it is, a few learned tokens beside its input train.

CoOp's learned context in front of the caption (Zhou 2022, arXiv 2109.01134) and VPT's shallow prompts beside the
patches (Jia 2022, arXiv 2203.12119), on CLIP. 20,480 numbers train in place of 151 million, and the temperature.

    vlp data pack SHARDS/train SHARDS/few --shuffle 0 --limit 64
    vlp finetune configs/finetune/prompts.py init=runs/clip data.train=SHARDS/few data.val=SHARDS/val
    vlp finetune configs/finetune/prompts.py:tiny init=runs/clip-tiny

Data: any few pictures; `vlp data pack` takes so many at random. The papers tune for classification and print no
retrieval; nothing is reproduced here.

Deliberately different: prompts are dropped behind the encoder, so that a stream is as long as without them; they learn
by contrast with captions, where CoOp learns from class names.
"""

from configs.systems import clip
from vlp.config import override
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.training import TrainConfig

PROMPTS = 16
ONLY_PROMPTS = {
    "model": 0.0,
    "model.vision.prompts": 1.0,
    "model.text.prompts": 1.0,
    "model.similarities.itc.logit_scale": 0.1,
}


def config() -> TrainConfig:
    """Published size: 16 prompts on each side of CLIP's ViT-B/32."""
    return prompted(clip.config(), batch_size=256, steps=2000, out="runs/clip-prompts")


def tiny() -> TrainConfig:
    """The same on the synthetic world."""
    return prompted(clip.tiny(), batch_size=32, steps=500, out="runs/clip-tiny-prompts")


def prompted(run: TrainConfig, batch_size: int, steps: int, out: str) -> TrainConfig:
    """A dual encoder's run with prompts on both sides, and nothing else that trains but the temperature."""
    override(run, [f"model.vision.prompts={PROMPTS}", f"model.text.prompts={PROMPTS}"])
    run.data.batch_size = batch_size
    run.optim = OptimConfig(lr=2e-3, min_lr=1e-5, weight_decay=0.0, warmup_steps=20, lr_scale=dict(ONLY_PROMPTS))
    run.run = RunConfig(out=out, steps=steps, precision=run.run.precision, checkpoint_every=500)
    return run
