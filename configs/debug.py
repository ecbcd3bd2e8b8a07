"""Everything switched on, in seconds: both systems at width 32 on the synthetic world.

    vlp data synthesize data/world --train 200 --val 40 --test 40
    vlp pretrain configs/debug.py
    vlp pretrain configs/debug.py:one_stream run.out=runs/debug_one

For trying out a change, and for the tests. It learns nothing worth looking at in its 20 steps.
"""

from configs import parts
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

WORLD = {"vocab_size": 160, "mask_id": 4, "first_word_id": 5}


def config() -> TrainConfig:
    """Two streams with teacher and queue."""
    model, objectives, teacher = parts.two_stream(
        vit="vit_tiny_patch16_224",
        image_size=32,
        width=32,
        text_layers=1,
        fusion_layers=1,
        heads=2,
        embed_dim=16,
        vit_options={"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        vocabulary=WORLD,
        max_positions=48,
        queue_size=64,
        ramp_steps=10,
        whole_words=True,
    )
    return TrainConfig(
        model=model,
        objectives=objectives,
        teacher=teacher,
        data=DataConfig(
            train="data/world/train",
            val="data/world/val",
            image_size=32,
            max_length=40,
            batch_size=16,
            crop_scale=(0.8, 1.0),
            flip=True,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=5),
        run=RunConfig(out="runs/debug", steps=20, log_every=1, checkpoint_every=5, eval_every=10),
        evaluation=EvaluationConfig(k=8, limit=16),
    )


def one_stream() -> TrainConfig:
    """One stream with word-patch alignment."""
    run = config()
    run.model, run.objectives = parts.one_stream(
        image_size=32, patch=8, width=32, layers=2, heads=2, vocabulary=WORLD, max_positions=48
    )
    run.teacher = None
    run.run.out = "runs/debug_one"
    run.evaluation = EvaluationConfig(limit=8)
    return run
