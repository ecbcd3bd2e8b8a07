"""The main job in minutes on two CPU cores: both systems learn the synthetic world from nothing (`make demo`).

    vlp data synthesize runs/demo/world --train 16000 --size 48
    vlp pretrain configs/demo.py:two_stream_pretrain
    vlp finetune configs/demo.py:two_stream_finetune init=runs/demo/two_stream
    vlp evaluate runs/demo/two_stream_finetuned --data runs/demo/world/test

ALBEF and ViLT at width 96 with 48 px pictures, nine patches of 16 px. What to expect: README, "Two commands".
"""

from typing import Any

from configs import parts
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.itm import ITM
from vlp.objectives.negatives import HardNegatives, SimilarTextNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

WORLD = {"vocab_size": 160, "mask_id": 4, "first_word_id": 5}
WIDTH = 96


def _data() -> DataConfig:
    return DataConfig(
        train="runs/demo/world/train",
        val="runs/demo/world/val",
        image_size=48,
        max_length=40,
        batch_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def two_stream_parts() -> tuple[Any, dict[str, Any], Any]:
    """ALBEF's model, objectives and teacher at width 96."""
    return parts.two_stream(
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
        mean_pool=True,
    )


def one_stream_parts() -> tuple[Any, dict[str, Any]]:
    """ViLT's model and objectives at width 96. Matching reads the mean of the words, which masked words have taught,
    where ViLT reads [CLS]."""
    return parts.one_stream(
        image_size=48,
        patch=16,
        width=WIDTH,
        layers=4,
        heads=4,
        vocabulary=WORLD,
        max_positions=48,
        dropout=0.0,
        mask_share=0.4,
        summary="mean",
    )


# Matching comes second. Until a cross-attention has learned from masked words to find what a word means, hard negatives
# teach it nothing, and they are two thirds of a step; after it, matching is learned in a hundred steps (decisions.md).


def two_stream_pretrain() -> TrainConfig:
    """ITC and MLM. No teacher: from random weights at this learning rate its slow candidates let the embeddings
    collapse (docs/decisions.md); `configs/systems/albef.py` has it, and ITM from the first step."""
    model, objectives, _ = two_stream_parts()
    return TrainConfig(
        model=model,
        objectives={name: objectives[name] for name in ("itc", "mlm")},
        data=_data(),
        optim=OptimConfig(lr=1.5e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/demo/two_stream", steps=2200, checkpoint_every=500),
        evaluation=EvaluationConfig(k=0),
    )


def two_stream_finetune() -> TrainConfig:
    """ITC, and ITM with hard negatives."""
    run = two_stream_pretrain()
    run.objectives = {"itc": run.objectives["itc"], "itm": lazy(ITM)(negatives=lazy(HardNegatives)())}
    run.optim = OptimConfig(lr=7e-4, min_lr=1e-6, warmup_steps=50, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/demo/two_stream_finetuned", steps=1200, checkpoint_every=500)
    run.evaluation = EvaluationConfig(k=32, limit=200)  # `vlp evaluate` takes every picture
    return run


def one_stream_pretrain() -> TrainConfig:
    """MLM alone; `configs/systems/vilt.py` has ITM and word-patch alignment beside it."""
    model, objectives = one_stream_parts()
    return TrainConfig(
        model=model,
        objectives={"mlm": objectives["mlm"]},
        data=_data(),
        optim=OptimConfig(lr=4e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/demo/one_stream", steps=3800, checkpoint_every=500),
        evaluation=EvaluationConfig(limit=20),
    )


def one_stream_finetune() -> TrainConfig:
    """ITM against pictures and captions of the batch that are alike in words: random ones are told apart by their
    backgrounds and colours alone, and a model that has only met those sees no more. The batch is large to have such."""
    run = one_stream_pretrain()
    run.data.batch_size = 128
    run.objectives = {"itm": lazy(ITM)(negatives=lazy(SimilarTextNegatives)(sharpness=30.0))}
    run.optim = OptimConfig(lr=3e-3, min_lr=1e-6, warmup_steps=50, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/demo/one_stream_finetuned", steps=440, checkpoint_every=110)
    run.evaluation = EvaluationConfig(limit=50)
    return run
