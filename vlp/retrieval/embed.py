"""Every picture and caption of an evaluation set encoded once, in the form that each similarity asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.shares import Shares
from vlp.similarity.kinds import image_side, kind_of, reads_words, text_side
from vlp.types import Stream


@dataclass
class Vectors:
    """Embeddings of N pictures and C captions, whose products times `scale` are logits."""

    image: Tensor  # (N, E)
    text: Tensor  # (C, E)
    scale: float

    def products(self) -> Tensor:
        """(N, C) of all pairs, cosines where the rows are of unit length; in fp32, under autocast too."""
        with torch.autocast(self.image.device.type, enabled=False):
            return (self.image.float() @ self.text.float().T).cpu()


@dataclass
class Tokens:
    """Token streams of pictures, in blocks, and of captions. A process holds the blocks of pictures that it scores."""

    images: dict[int, Stream]  # (block, N, D) each
    block: int  # pictures a block
    texts: list[Tensor]  # (L_c, D) each: only the tokens present
    ids: list[Tensor] | None = None  # (L_c,) each: which words they are, for a similarity that reads them

    def image(self, number: int) -> Stream:
        """One picture's stream, (1, N, D)."""
        block, row = divmod(number, self.block)
        stream = self.images[block]
        return Stream(stream.tokens[row : row + 1], stream.mask[row : row + 1])

    def captions(self, numbers: list[int]) -> Stream:
        """Captions padded to the longest of them, (R, L, D)."""
        tokens = [self.texts[i] for i in numbers]
        lengths = torch.tensor([len(t) for t in tokens], device=tokens[0].device)
        padded = pad_sequence(tokens, batch_first=True)
        ids = None if self.ids is None else pad_sequence([self.ids[i] for i in numbers], batch_first=True)
        return Stream(padded, torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None], ids)


@dataclass
class Gallery:
    """N pictures and C captions as the similarities of a model see them, by the similarities' names."""

    num_images: int
    num_texts: int
    vectors: dict[str, Vectors] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)


Made = dict[int, dict[str, Tensor | Stream]]  # by block and similarity: vectors (B, E), or tokens


@torch.inference_mode()
def embed(
    model: VLModel,
    dataset: EvaluationSet,
    batch_size: int,
    device: torch.device | str = "cpu",
    progress: bool = True,
    names: Sequence[str] | None = None,
    shares: Shares | None = None,
) -> Gallery:
    """Encode a set with a model in evaluation mode, for the similarities `names` (None = all). Collective.

    Memory on the device: for "vectors" (N + C) x E numbers; for other kinds N x tokens x D over the processes, and
    C x words x D on each.
    """
    shares = shares or Shares()
    parts: dict[str, Any] = {n: model.similarities[n] for n in (model.similarities if names is None else names)}
    images, texts = (-(-count // batch_size) for count in (dataset.num_images, dataset.num_texts))
    total = sum(shares.mine(block) for count in (images, texts) for block in range(count))
    with tqdm(total=total, desc="encode", unit="batch", disable=not progress) as bar:

        def image(block: int) -> dict[str, Tensor | Stream]:
            stream = model.encode_image(dataset.image_batch(block, batch_size).to(device))
            bar.update()
            return {n: p.embed_image(stream) if _splits(p) else image_side(p, stream) for n, p in parts.items()}

        def text(block: int) -> dict[str, Tensor | Stream]:
            batch = dataset.text_batch(block, batch_size).to(device)
            stream = model.encode_text(batch.text_ids, batch.text_mask)
            bar.update()
            return {n: p.embed_text(stream) if _splits(p) else text_side(p, stream) for n, p in parts.items()}

        made_images: Made = {block: image(block) for block in range(images) if shares.mine(block)}
        made_texts: Made = {block: text(block) for block in range(texts) if shares.mine(block)}
    gallery, order = Gallery(dataset.num_images, dataset.num_texts), torch.tensor(dataset.text_order)
    for name, part in parts.items():
        if _splits(part):
            rows = [
                _joined(shares, count, made, name, device)
                for count, made in ((images, made_images), (texts, made_texts))
            ]
            gallery.vectors[name] = Vectors(rows[0], rows[1][order.argsort().to(rows[1].device)], float(part.scale()))
        else:
            own = {block: cast(Stream, kinds[name]) for block, kinds in made_images.items()}
            tokens = _ragged(shares, texts, made_texts, name, dataset, device)
            gallery.tokens[name] = Tokens(own, batch_size, tokens, _ids(dataset, device) if reads_words(part) else None)
    return gallery


def _ids(dataset: EvaluationSet, device: torch.device | str) -> list[Tensor]:
    return [torch.tensor(dataset.pieces(number), device=device) for number in range(dataset.num_texts)]


def _splits(similarity: nn.Module) -> bool:
    return kind_of(similarity) == "vectors"


def _joined(shares: Shares, blocks: int, made: Made, name: str, device: torch.device | str) -> Tensor:
    """(N, E) of all blocks, on every process."""
    return torch.cat(list(shares.exchanged(blocks, lambda block: cast(Tensor, made[block][name]), device)))


def _ragged(
    shares: Shares, blocks: int, made: Made, name: str, dataset: EvaluationSet, device: torch.device | str
) -> list[Tensor]:
    """The tokens present of every caption, in the set's order, on every process."""
    tokens = shares.exchanged(blocks, lambda block: cast(Stream, made[block][name]).tokens, device)
    masks = shares.exchanged(blocks, lambda block: cast(Stream, made[block][name]).mask, device)
    rows = (row[present] for block in zip(tokens, masks, strict=True) for row, present in zip(*block, strict=True))
    ordered: list[Tensor] = [torch.empty(0)] * dataset.num_texts
    for number, row in zip(dataset.text_order, rows, strict=True):
        ordered[number] = row
    return ordered
