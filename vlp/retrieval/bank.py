"""Hubs taken down by a bank of training queries (querybank normalisation, Bogolin 2022, section 3, inverted softmax).

Some items of a gallery are near every query and crowd out the right ones. How near an item is to queries in general is
read off a bank of queries of the training set, never off the other queries of the test, so that each query is still
answered by itself.
"""

import math

import torch
from torch import Tensor

from vlp.retrieval.embed import Vectors


def hubness(scores: Tensor, beta: float) -> Tensor:
    """(items, queries of the bank) cosines -> (items,): log mean exp(beta s) / beta, a soft mean of each item's."""
    return (torch.logsumexp(beta * scores.double(), dim=1) - math.log(scores.shape[1])).div(beta).float()


def normalised(first: Tensor, gallery: Vectors, bank: Vectors, beta: float) -> Tensor:
    """(N, C) cosines of a gallery less each picture's nearness to the bank's captions and each caption's to its
    pictures, for both directions at once: what all items of a query lose changes no order."""
    images, bank_texts = gallery.image.float().cpu(), bank.text.float().cpu()
    texts, bank_images = gallery.text.float().cpu(), bank.image.float().cpu()
    pictures = torch.cat([hubness(some @ bank_texts.T, beta) for some in images.split(256)])
    captions = torch.cat([hubness(some @ bank_images.T, beta) for some in texts.split(256)])
    return first - pictures[:, None] - captions[None]
