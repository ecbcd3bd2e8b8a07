"""Small models and batches that many tests share."""

from typing import Any

import torch

from vlp.config import lazy
from vlp.data.mock import mock_regions
from vlp.fusion.cross import CrossFusion
from vlp.fusion.one_stream import OneStream
from vlp.model import VLModel
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.fast_slow import FastSlow
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import HardNegatives, RandomNegatives
from vlp.pooling.tokens import LastPool
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.likelihood import CaptionLikelihood
from vlp.similarity.matching import MatchingHead
from vlp.teacher import Teacher
from vlp.text.bert import BertText
from vlp.types import Batch, Regions
from vlp.vision.patches import LinearPatches
from vlp.vision.vit import TimmViT

WIDTH, VOCAB, SIZE = 32, 60, 32


def batch(size: int = 8, length: int = 12, seed: int = 0, captions_per_image: int = 2) -> Batch:
    """Random pairs with ragged captions: [CLS] words [SEP], several captions an image."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, length + 1, (size,), generator=g)
    lengths[0] = length
    mask = torch.arange(length)[None] < lengths[:, None]
    ids = torch.randint(6, VOCAB, (size, length), generator=g) * mask
    ids[:, 0] = 2
    ids[torch.arange(size), lengths - 1] = 3
    words = (torch.arange(length)[None].expand(size, length) - 1).clone()
    words[~mask] = -1
    words[torch.arange(size), lengths - 1] = -1
    image_id = torch.arange(size) // captions_per_image
    pictures = torch.randn(size, 3, SIZE, SIZE, generator=g)[image_id]
    return Batch(
        text_ids=ids, text_mask=mask, word_ids=words, image_id=image_id, caption_id=torch.arange(size), image=pictures
    )


def two_stream(queue_size: int = 20, teacher: bool = True, dropout: float = 0.0) -> dict[str, Any]:
    """Keywords of a tiny ALBEF task, as lazy records."""
    return {
        "model": lazy(VLModel)(
            vision=lazy(TimmViT)(
                name="vit_tiny_patch16_224",
                image_size=SIZE,
                options={"patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 4},
            ),
            text=lazy(BertText)(vocab_size=VOCAB, width=WIDTH, layers=2, heads=4, max_positions=16, dropout=dropout),
            fusion=lazy(CrossFusion)(width=WIDTH, layers=2, heads=4, image_width=WIDTH, dropout=dropout),
            similarities={
                "itc": lazy(CosineSimilarity)(image_width=WIDTH, text_width=WIDTH, embed_dim=16),
                "itm": lazy(MatchingHead)(width=WIDTH),
            },
        ),
        "objectives": {
            "itc": lazy(ITC)(),
            "itm": lazy(ITM)(negatives=lazy(HardNegatives)()),
            "mlm": lazy(MLM)(width=WIDTH, vocab_size=VOCAB, mask_id=4, first_word_id=6, probability=0.3),
        },
        "teacher": lazy(Teacher)(queue_size=queue_size, ramp_steps=4, momentum=0.9) if teacher else None,
    }


def captioner() -> dict[str, Any]:
    """Keywords of a tiny task of Miech's: the words are read in their order, and the likelihood of captions ranks."""
    system = two_stream(teacher=False)
    model = system["model"].kwargs
    model["text"].kwargs["causal"] = True
    cosine = model["similarities"]["itc"]
    cosine.kwargs["text_pool"] = lazy(LastPool)()
    model["similarities"] = {"itc": cosine, "slow": lazy(CaptionLikelihood)(width=WIDTH, vocab_size=VOCAB)}
    system["objectives"] = {"itc": lazy(ITC)(), "pair": lazy(FastSlow)()}
    return system


def one_stream(dropout: float = 0.0) -> dict[str, Any]:
    """Keywords of a tiny ViLT task, as lazy records."""
    return {
        "model": lazy(VLModel)(
            vision=lazy(LinearPatches)(image_size=SIZE, patch=8, width=WIDTH),
            text=lazy(BertText)(vocab_size=VOCAB, width=WIDTH, layers=0, heads=4, max_positions=16, dropout=dropout),
            fusion=lazy(OneStream)(width=WIDTH, layers=2, heads=4, dropout=dropout),
            similarities={"itm": lazy(MatchingHead)(width=WIDTH)},
        ),
        "objectives": {
            "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
            "mlm": lazy(MLM)(width=WIDTH, vocab_size=VOCAB, mask_id=4, first_word_id=6, probability=0.3),
            "wpa": lazy(WordPatchAlignment)(negatives=lazy(RandomNegatives)()),
        },
    }


def regions(count: int, most: int, width: int, classes: int, seed: int = 0) -> Regions:
    """Random regions, ragged, with content under the mask that must not matter."""
    made = mock_regions(count, most, width, classes, torch.Generator().manual_seed(seed))
    assert made.mask.any(1).all()
    return made
