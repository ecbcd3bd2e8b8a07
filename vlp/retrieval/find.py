"""Pictures found by sentences: cosine over the whole gallery, then a look at the best of each with its sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from vlp.data.images import resize
from vlp.loading import RetrievalModel
from vlp.retrieval.cache import EmbeddingCache
from vlp.retrieval.errors import SearchError
from vlp.retrieval.pictures import Pictures
from vlp.retrieval.ranks import check_finite

BLOCK = 64  # pictures read and encoded at once


@dataclass
class Hit:
    """A picture found. A score that was not computed is None."""

    number: int  # in the gallery
    name: str
    cosine: float | None = None
    match: float | None = None  # logit of the fused head, or of what else looks at pairs


@dataclass
class Found:
    """Hits of each sentence, best first, and the pictures that could not be read."""

    hits: list[list[Hit]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # "name: cause"


def find(
    model: RetrievalModel,
    pictures: Pictures,
    sentences: Sequence[str],
    *,
    top: int = 8,
    rerank: int = 16,
    cache: EmbeddingCache | None = None,
    progress: bool = True,
) -> Found:
    """The `top` pictures of each sentence.

    The best `rerank` by cosine are ordered anew by the similarity that looks at pairs (0 = cosine alone), mixed with
    the first stage as the model was evaluated. A model without embeddings has every pair looked at. Raises SearchError
    when no picture can be read.
    """
    found = Found()
    if not model.embeds:
        numbers, scores = _every_pair(model, pictures, sentences, found, progress)
        check_finite(scores, "fused")
        orders = [scores[:, i].argsort(descending=True, stable=True)[:top].tolist() for i in range(len(sentences))]
        for i, order in enumerate(orders):
            found.hits.append(
                [Hit(numbers[row], pictures.names[numbers[row]], match=float(scores[row, i])) for row in order]
            )
        return found
    numbers, rows = _embed(model, pictures, found, cache, progress)
    cosines = rows @ model.encode_texts(list(sentences)).T
    check_finite(cosines, "first-stage")
    for i, sentence in enumerate(sentences):
        order = cosines[:, i].argsort(descending=True, stable=True)[: max(top, rerank)].tolist()
        hits = [Hit(numbers[row], pictures.names[numbers[row]], cosine=float(cosines[row, i])) for row in order]
        found.hits.append(_reranked(model, pictures, sentence, hits, rerank)[:top])
    return found


def _reranked(model: RetrievalModel, pictures: Pictures, sentence: str, hits: list[Hit], rerank: int) -> list[Hit]:
    """The first `rerank` hits ordered by match + mix x first-stage logit, the others behind them."""
    shortlist = hits[:rerank]
    if not shortlist:
        return hits
    scores = model.match_all([_small(model, pictures, hit.number) for hit in shortlist], sentence)[:, 0]
    check_finite(scores, "fused")
    for hit, score in zip(shortlist, scores.tolist(), strict=True):
        hit.match = score
    scale = float(model.model.contrast.scale().detach())
    mixed = scores + model.mix * scale * torch.tensor([hit.cosine for hit in shortlist])
    return [shortlist[i] for i in mixed.argsort(descending=True, stable=True).tolist()] + hits[rerank:]


def _embed(
    model: RetrievalModel,
    pictures: Pictures,
    found: Found,
    cache: EmbeddingCache | None,
    progress: bool,
) -> tuple[list[int], Tensor]:
    """Numbers of the readable pictures and their embeddings (N, E)."""
    known = cache.read() if cache is not None else {}
    stamps = {number: pictures.stamp(number) for number in range(len(pictures.names))}
    fresh = [number for number, stamp in stamps.items() if stamp not in known]
    try:
        for numbers, tensors in _readable(model, pictures, fresh, found, progress):
            rows = model.encode_images(tensors)
            known |= {stamps[number]: row for number, row in zip(numbers, rows, strict=True)}
    finally:  # an interrupted search keeps what it has
        if cache is not None and fresh:
            cache.write({stamp: known[stamp] for stamp in stamps.values() if stamp in known})
    readable = [number for number, stamp in stamps.items() if stamp in known]
    if not readable:
        raise SearchError(f"none of the {len(stamps)} pictures of {pictures.folder} can be read")
    return readable, torch.stack([known[stamps[number]] for number in readable])


def _every_pair(
    model: RetrievalModel,
    pictures: Pictures,
    sentences: Sequence[str],
    found: Found,
    progress: bool,
) -> tuple[list[int], Tensor]:
    """Numbers of the readable pictures and their fused log-odds (N, C) with every sentence."""
    numbers: list[int] = []
    scores = []
    for block, tensors in _readable(model, pictures, range(len(pictures.names)), found, progress):
        scores.append(model.score(tensors, list(sentences)))
        numbers += block
    if not numbers:
        raise SearchError(f"none of the {len(pictures.names)} pictures of {pictures.folder} can be read")
    return numbers, torch.cat(scores)


def _small(model: RetrievalModel, pictures: Pictures, number: int) -> Tensor:
    """A picture at the model's size: a block of camera pictures as they are would fill the memory."""
    return resize(pictures.read(number), model.data.image_size)


def _readable(
    model: RetrievalModel,
    pictures: Pictures,
    numbers: Sequence[int],
    found: Found,
    progress: bool,
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Blocks of pictures that can be read; the others are noted in `found`."""
    with tqdm(total=len(numbers), desc="read pictures", unit="pic", disable=not progress or not numbers) as bar:
        for start in range(0, len(numbers), BLOCK):
            block: dict[int, Tensor] = {}
            for number in numbers[start : start + BLOCK]:
                try:
                    block[number] = _small(model, pictures, number)
                except (OSError, ValueError) as error:
                    found.unreadable.append(f"{pictures.names[number]}: {error}")
            if block:
                yield list(block), list(block.values())
            bar.update(len(numbers[start : start + BLOCK]))
