"""Every picture and caption of an evaluation set encoded once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.types import Stream


@dataclass
class Gallery:
    """Streams of N pictures and C captions, and where the model has "itc", their embeddings."""

    images: list[Stream]  # blocks of pictures, in order
    block: int  # pictures a block
    texts: list[Tensor]  # (L_c, D) each: only the tokens present
    image_embeddings: Tensor | None  # (N, E)
    text_embeddings: Tensor | None  # (C, E)
    scale: float  # of the "itc" logits

    def image(self, number: int) -> Stream:
        """One picture's stream, (1, N, D)."""
        block, row = divmod(number, self.block)
        stream = self.images[block]
        return Stream(stream.tokens[row : row + 1], stream.mask[row : row + 1])

    def captions(self, numbers: list[int]) -> Stream:
        """Captions padded to the longest of them, (R, L, D)."""
        tokens = [self.texts[i] for i in numbers]
        lengths = torch.tensor([len(t) for t in tokens], device=tokens[0].device)
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return Stream(padded, torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None])

    def first_stage(self) -> Tensor | None:
        """(N, C) cosines in fp32, None for a model without "itc"."""
        if self.image_embeddings is None or self.text_embeddings is None:
            return None
        return (self.image_embeddings @ self.text_embeddings.T).float().cpu()


@torch.inference_mode()
def embed(
    model: VLModel, dataset: EvaluationSet, batch_size: int, device: torch.device | str = "cpu", progress: bool = True
) -> Gallery:
    """Encode a set with a model in evaluation mode. Memory: N x tokens x D + C x words x D numbers on the device."""
    contrast = model.contrast if "itc" in model.similarities else None
    total = -(-dataset.num_images // batch_size) + -(-dataset.num_texts // batch_size)
    images, texts = [], [torch.empty(0)] * dataset.num_texts
    image_embeddings: list[Tensor] = []
    text_embeddings = torch.empty(0)
    with tqdm(total=total, desc="encode", unit="batch", disable=not progress) as bar:
        for batch in dataset.image_batches(batch_size):
            stream = model.encode_image(batch.to(device))
            images.append(stream)
            if contrast is not None:
                image_embeddings.append(contrast.embed_image(stream))
            bar.update()
        for batch in dataset.text_batches(batch_size):
            moved = batch.to(device)
            stream = model.encode_text(moved.text_ids, moved.text_mask)
            for number, tokens, mask in zip(batch.caption_id.tolist(), stream.tokens, stream.mask, strict=True):
                texts[number] = tokens[mask]
            if contrast is not None:
                rows = contrast.embed_text(stream)
                if not len(text_embeddings):
                    text_embeddings = rows.new_empty(dataset.num_texts, rows.shape[1])
                text_embeddings[moved.caption_id] = rows
            bar.update()
    if contrast is None:
        return Gallery(images, batch_size, texts, None, None, 1.0)
    return Gallery(images, batch_size, texts, torch.cat(image_embeddings), text_embeddings, float(contrast.scale()))
