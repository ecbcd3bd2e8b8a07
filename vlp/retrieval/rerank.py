"""Fused scores of chosen pairs, picture by picture: keys and values are projected once for all its captions."""

import torch
from torch import Tensor
from tqdm import tqdm

from vlp.model import VLModel
from vlp.retrieval.embed import Gallery


def top_candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best captions of each picture and the k best pictures of each caption, both as (N, C) bool."""
    images = torch.zeros_like(scores, dtype=torch.bool)
    images.scatter_(1, scores.topk(min(k, scores.shape[1]), dim=1).indices, True)
    texts = torch.zeros_like(scores, dtype=torch.bool)
    texts.scatter_(0, scores.topk(min(k, scores.shape[0]), dim=0).indices, True)
    return images, texts


@torch.inference_mode()
def score_pairs(model: VLModel, gallery: Gallery, pairs: Tensor, rows: int = 512, progress: bool = True) -> Tensor:
    """(N, C) fp32 log-odds of the "itm" head where `pairs` (N, C) is True, zero elsewhere.

    A picture's captions go through sorted by length, at most `rows` at a time; neither changes a score.
    """
    out = torch.zeros(pairs.shape)
    with tqdm(total=int(pairs.sum()), desc="score pairs", unit="pair", unit_scale=True, disable=not progress) as bar:
        for number, wanted in enumerate(pairs):
            captions = sorted(wanted.nonzero()[:, 0].tolist(), key=lambda i: len(gallery.texts[i]))
            if not captions:
                continue
            prepared = model.prepare_image(gallery.image(number))
            for start in range(0, len(captions), rows):
                chosen = captions[start : start + rows]
                texts = gallery.captions(chosen)
                index = torch.zeros(len(chosen), dtype=torch.long, device=texts.tokens.device)
                out[number, chosen] = model.match(texts, prepared, index).float().cpu()
            bar.update(len(captions))
    return out
