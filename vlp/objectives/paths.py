"""Pairs of like meaning are to be routed alike (DIME's semantic path regularisation, Qu 2021, section 3.4)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.gather import gather
from vlp.similarity.routed import RoutedInteraction
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.types import Loss
from vlp.view import View


def path_loss(paths: Tensor, meanings: Tensor, all_paths: Tensor, all_meanings: Tensor) -> Tensor:
    """(B, P), (B, E) of the local pairs, and those of all -> the mean over the local pairs of the summed squared
    differences between cosines of paths and cosines of meanings."""
    routes = F.normalize(paths, dim=1) @ F.normalize(all_paths, dim=1).T
    senses = F.normalize(meanings, dim=1) @ F.normalize(all_meanings, dim=1).T
    return (routes - senses).square().sum(1).mean()


class PathRegulariser(nn.Module):
    """Needs a token similarity whose scorer is a `RoutedInteraction`. A caption's meaning is the mean of the words as
    the text encoder gives them, without gradient."""

    def __init__(self, *, similarity: str = "match", weight: float = 0.5) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Over the pairs of all ranks."""
        match = cast(TokenSimilarity, view.model.similarities[self.similarity])
        scorer, row = cast(RoutedInteraction, match.scorer), view.batch.image_row
        image, text = match.image_tokens(view.image), match.text_tokens(view.text)
        captions = torch.arange(len(text.mask), device=text.mask.device)
        pictures = captions if row is None else row
        if scorer.direction == "image":
            paths = scorer.routed(image, text, pictures, captions)[1]
        else:
            paths = scorer.routed(text, image, captions, pictures)[1]
        with torch.no_grad():
            words = view.text.mask[..., None]
            meanings = view.text.tokens.masked_fill(~words, 0.0).sum(1) / words.sum(1)
        value = path_loss(paths, meanings, gather(paths), gather(meanings))
        return Loss(value, {"paths": value.detach()})
