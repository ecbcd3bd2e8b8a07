"""ViLT: vision-and-language transformer without convolution or region supervision (Kim 2021, arXiv 2102.03334).

One stream: linear 32 x 32 patches and word embeddings in one ViT-B of 12 pre-norm blocks. ITM with half of the rows
mismatched, whole-word MLM, and word-patch alignment by optimal transport (IPOT, weight 0.1) on the ITM pass.

    accelerate launch -m pretrain configs/systems/vilt.py data.train=SHARDS model.{vision,fusion}.weights=VIT

Data: image-caption pairs as indexed shards; VIT is the safetensors file of timm's vit_base_patch32_384, whose blocks
the published run starts with. Published, 4M images, after fine-tuning: COCO 5K TR/IR R@1 61.6/43.0,
Flickr30K 83.6/64.5 (64 GPUs, 200k steps). Not reproduced here: that takes the 4M images.

Deliberately different: pictures are squared to 384 px instead of keeping their aspect ratio up to 384 x 640, so no
patch is dropped at random; each positive row has its negative row in the same step; false images never show the same
image id; the MLM decoder is tied to the word embeddings. The tiny form learns one objective more, `WordPatchContrast`:
in pictures that are mostly background transport does not teach a word which patch it means (docs/decisions.md,
2026-11-29).
"""

from configs.facts import System
from configs.parts import one_stream
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.word_patch_contrast import WordPatchContrast
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

SYSTEM = System(
    name="ViLT",
    paper="2102.03334",
    shape="one stream over linear patches",
    data="4M images (COCO, VG, CC3M, SBU); pairs",
    published=111.6,
    source="transformers' retrieval model",
)


def config() -> TrainConfig:
    """Published size: 111 M parameters, 384 px, 40 tokens, global batch 4096."""
    model, objectives = one_stream(image_size=384, patch=32, width=768, layers=12, heads=12, whole_words=True)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(
            image_size=384,
            max_length=40,
            batch_size=4096,
            workers=8,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=10_000, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/vilt", steps=100_000, accumulate=8, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world, for a laptop, twins side by side (docs/decisions.md)."""
    from configs import demo

    run = demo.one_stream_pretrain()
    run.model, run.objectives = demo.one_stream_parts()
    run.objectives["wpc"] = lazy(WordPatchContrast)(max_length=run.data.max_length)
    run.data.batch_size, run.data.captions, run.data.block = 64, 1, 2
    run.optim.lr = 1.5e-3
    return run
