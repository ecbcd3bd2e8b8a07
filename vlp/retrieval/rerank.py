"""Scores of chosen pairs by a similarity that looks at every pair: fused, or pairwise.

Pairs go picture by picture. A fused head projects the picture's keys and values once for all its captions. A pairwise
similarity that scores all pairs takes several pictures at once, in tiles of bounded memory.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import Tokens
from vlp.retrieval.shares import Shares
from vlp.similarity.kinds import kind_of, pair_numbers, side_scores
from vlp.types import Stream

CAPTIONS = 256  # of a tile at most: more gain no speed


@torch.inference_mode()
def score_pairs(
    model: VLModel,
    name: str,
    tokens: Tokens,
    pairs: Tensor,
    config: EvaluationConfig,
    progress: bool = True,
    shares: Shares | None = None,
) -> Tensor:
    """(N, C) fp32 scores by the similarity `name` where `pairs` (N, C) is True, zero elsewhere. Collective.

    Captions go through sorted by length, at most `config.rows` fused rows or `config.tile_bytes` of a tile at a time.
    """
    shares = shares or Shares()
    fused = kind_of(model.similarities[name]) == "fused"
    device = tokens.texts[0].device
    blocks = list(pairs.split(tokens.block))
    total = sum(int(block.sum()) for number, block in enumerate(blocks) if shares.mine(number))
    with tqdm(total=total, desc=f"score pairs by {name}", unit="pair", unit_scale=True, disable=not progress) as bar:

        def work(number: int) -> Tensor:
            wanted = blocks[number]
            if fused:
                pieces = _fused(model, name, tokens, number * tokens.block, wanted, config.rows)
            else:
                pieces = _pairwise(model, name, tokens, number, wanted, config.tile_bytes)
            return _filled(wanted, pieces, bar.update).to(device)

        return torch.cat([rows.cpu() for rows in shares.exchanged(len(blocks), work, device)])


Piece = tuple[slice, list[int], Tensor]  # pictures of the block, captions, their scores


def _filled(wanted: Tensor, pieces: Iterator[Piece], advance: Callable[[int], object]) -> Tensor:
    out = torch.zeros(wanted.shape)
    for pictures, captions, scores in pieces:
        out[pictures, captions] = scores.float().cpu()
        advance(scores.numel())
    return out


def _fused(model: VLModel, name: str, tokens: Tokens, first: int, wanted: Tensor, rows: int) -> Iterator[Piece]:
    for row, chosen in enumerate(wanted):
        captions = _by_length(tokens, chosen)
        if not captions:
            continue
        prepared = model.prepare_image(tokens.image(first + row))
        for some in _cut(captions, rows):
            texts = tokens.captions(some)
            index = torch.zeros(len(some), dtype=torch.long, device=texts.tokens.device)
            yield slice(row, row + 1), some, model.match(texts, prepared, index, by=name)[None]


def _pairwise(
    model: VLModel, name: str, tokens: Tokens, block: int, wanted: Tensor, tile_bytes: int
) -> Iterator[Piece]:
    """Outside autocast and in fp32: bf16 scores would be full of ties."""
    similarity, stream = model.similarities[name], tokens.images[block]
    image_tokens = stream.mask.shape[1]
    for pictures, captions in _groups(tokens, wanted):
        while captions:
            longest = max(len(tokens.texts[captions[:CAPTIONS][-1]]), 1)  # sorted by length
            affordable = max(tile_bytes // (4 * pair_numbers(similarity, image_tokens, longest)), 1)
            width = min(len(captions), affordable, CAPTIONS)
            height = min(pictures.stop - pictures.start, max(affordable // width, 1))
            captions, some = captions[width:], captions[:width]
            texts = _full(tokens.captions(some))
            for start in range(pictures.start, pictures.stop, height):
                part = slice(start, min(start + height, pictures.stop))
                images = _full(Stream(stream.tokens[part], stream.mask[part]))
                with torch.autocast(texts.tokens.device.type, enabled=False):
                    yield part, some, side_scores(similarity, images, texts)


def _groups(tokens: Tokens, wanted: Tensor) -> Iterator[tuple[slice, list[int]]]:
    """All pictures with all captions where every pair is wanted, else each picture with its own."""
    if bool(wanted.all()):
        yield slice(0, len(wanted)), _by_length(tokens, wanted[0])
        return
    for row, chosen in enumerate(wanted):
        yield slice(row, row + 1), _by_length(tokens, chosen)


def _by_length(tokens: Tokens, chosen: Tensor) -> list[int]:
    return sorted(chosen.nonzero()[:, 0].tolist(), key=lambda caption: len(tokens.texts[caption]))


def _cut(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _full(stream: Stream) -> Stream:
    return Stream(stream.tokens.to(torch.promote_types(stream.tokens.dtype, torch.float32)), stream.mask)
