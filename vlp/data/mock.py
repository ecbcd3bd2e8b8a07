"""A batch made of nothing, for `--dry-run` and benchmarks: random pictures, captions as long as COCO's are."""

import torch

from vlp.types import Batch, Graph, Regions, Tags

# Lengths in BERT pieces, [CLS] and [SEP] included, of 29,000 Flickr30K captions: mean 14.4.
QUANTILES = ((0.0, 8), (0.05, 10), (0.5, 14), (0.95, 22), (0.99, 26), (1.0, 38))


def caption_lengths(count: int, longest: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) lengths drawn by inverting the quantiles, at most `longest`."""
    share = torch.rand(count, generator=generator)
    knots = torch.tensor(QUANTILES)
    right = torch.searchsorted(knots[:, 0].contiguous(), share).clamp(1, len(QUANTILES) - 1)
    low, high = knots[right - 1], knots[right]
    slope = (high[:, 1] - low[:, 1]) / (high[:, 0] - low[:, 0])
    return (low[:, 1] + (share - low[:, 0]) * slope).round().long().clamp(max=longest)


def mock_batch(
    batch_size: int,
    image_size: int,
    max_length: int,
    vocab_size: int,
    seed: int = 0,
    features_shape: tuple[int, int] | None = None,
    regions: tuple[int, int, int] | None = None,
    pictures: bool = True,
    tags: int = 0,
    graph: bool = False,
) -> Batch:
    """Random pictures (or cached features of `features_shape` (N, D)) with random captions; where asked for also
    `regions` (R, F, K), up to `tags` tags a picture, and the captions' `graph`."""
    g = torch.Generator().manual_seed(seed)
    lengths = caption_lengths(batch_size, max_length, g)
    places = torch.arange(int(lengths.max()))[None]
    mask = places < lengths[:, None]
    words = torch.where(mask & (places > 0) & (places < lengths[:, None] - 1), places - 1, -1)
    shown = torch.randn(batch_size, 3, image_size, image_size, generator=g) if pictures and not features_shape else None
    return Batch(
        text_ids=torch.randint(min(5, vocab_size - 1), vocab_size, mask.shape, generator=g) * mask,
        text_mask=mask,
        word_ids=words,
        image_id=torch.arange(batch_size),
        caption_id=torch.arange(batch_size),
        image=shown,
        features=None if features_shape is None else torch.randn(batch_size, *features_shape, generator=g),
        regions=None if regions is None else mock_regions(batch_size, *regions, g),
        tags=mock_tags(batch_size, tags, vocab_size, g) if tags else None,
        graph=mock_graph(words, regions[0] // 2 if regions else 1) if graph else None,
        keys=[f"mock-{i}" for i in range(batch_size)],
    )


def mock_regions(count: int, most: int, width: int, classes: int, g: torch.Generator) -> Regions:
    """Regions of `count` pictures, from a half of `most` to `most` in each."""
    number = torch.randint((most + 1) // 2, most + 1, (count, 1), generator=g)
    corners = torch.rand(count, most, 2, 2, generator=g).sort(dim=2).values
    return Regions(
        features=torch.randn(count, most, width, generator=g),
        boxes=corners.flatten(2),
        class_probs=torch.rand(count, most, classes, generator=g).softmax(-1),
        mask=torch.arange(most)[None] < number,
    )


def mock_tags(count: int, most: int, vocab_size: int, g: torch.Generator) -> Tags:
    """Up to `most` tags for each of `count` pictures, one at least."""
    number = torch.randint(1, most + 1, (count, 1), generator=g)
    ids = torch.randint(min(5, vocab_size - 1), vocab_size, (count, most), generator=g)
    return Tags(ids, torch.arange(most)[None] < number)


def mock_graph(words: torch.Tensor, regions: int) -> Graph:
    """Of every five words: an attribute and an object of one phrase, a relation, an object, and one that is nothing."""
    place = words % 5
    kind = torch.tensor([2, 1, 3, 1, 0])[place] * (words >= 0)
    inside = (kind == 1) | (kind == 2)
    phrase = torch.where(inside, 2 * (words // 5) + (place == 3).long(), -1)
    region = torch.where(inside, phrase % max(regions, 1), -1)
    return Graph(kind, torch.where(kind > 0, words, -1), phrase, region)
