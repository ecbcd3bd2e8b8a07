"""The main job in minutes on two CPU cores: both systems learn the synthetic world from nothing (`make demo`).

    vlp data synthesize runs/demo/world --train 16000 --size 48
    vlp pretrain configs/demo.py:two_stream_pretrain
    vlp finetune configs/demo.py:two_stream_finetune init=runs/demo/two_stream
    vlp evaluate runs/demo/two_stream_finetuned --data runs/demo/world/test

ALBEF and ViLT at width 96 with 48 px pictures, nine patches of 16 px. What to expect: README, "Two commands".
"""

from configs import parts
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

WORLD = {"vocab_size": 160, "mask_id": 4, "first_word_id": 5}
WIDTH = 96


def _data(batch_size: int) -> DataConfig:
    return DataConfig(
        train="runs/demo/world/train",
        val="runs/demo/world/val",
        image_size=48,
        max_length=40,
        batch_size=batch_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def two_stream_pretrain() -> TrainConfig:
    """ITC, ITM with hard negatives, MLM. No teacher: from random weights at this learning rate its slow candidates
    let the embeddings collapse (docs/decisions.md); `configs/systems/albef.py` has it."""
    model, objectives, _ = parts.two_stream(
        vit="vit_tiny_patch16_224",
        image_size=48,
        width=WIDTH,
        text_layers=2,
        fusion_layers=3,
        heads=4,
        embed_dim=64,
        vit_options={"patch_size": 16, "embed_dim": WIDTH, "depth": 4, "num_heads": 4, "weight_init": "jax"},
        vocabulary=WORLD,
        max_positions=48,
        dropout=0.0,
        mask_share=0.4,
    )
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=_data(32),
        optim=OptimConfig(lr=1.5e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/demo/two_stream", steps=1800, checkpoint_every=300),
        evaluation=EvaluationConfig(k=0),
    )


def two_stream_finetune() -> TrainConfig:
    """ITC and ITM alone."""
    run = two_stream_pretrain()
    run.objectives = {name: run.objectives[name] for name in ("itc", "itm")}
    run.data = _data(64)
    run.optim = OptimConfig(lr=5e-4, min_lr=1e-6, warmup_steps=50, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/demo/two_stream_finetuned", steps=500, checkpoint_every=250)
    run.evaluation = EvaluationConfig(k=32)
    return run


def one_stream_pretrain() -> TrainConfig:
    """ITM, MLM and word-patch alignment."""
    model, objectives = parts.one_stream(
        image_size=48,
        patch=16,
        width=WIDTH,
        layers=4,
        heads=4,
        vocabulary=WORLD,
        max_positions=48,
        dropout=0.0,
        mask_share=0.4,
    )
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=_data(32),
        optim=OptimConfig(lr=1.5e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/demo/one_stream", steps=1500, checkpoint_every=300),
        evaluation=EvaluationConfig(limit=20),
    )


def one_stream_finetune() -> TrainConfig:
    """ITM alone, against several other pictures."""
    run = one_stream_pretrain()
    run.objectives = {"itm": run.objectives["itm"]}
    run.optim = OptimConfig(lr=5e-4, min_lr=1e-6, warmup_steps=50, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/demo/one_stream_finetuned", steps=600, checkpoint_every=300)
    run.evaluation = EvaluationConfig(limit=100)
    return run
