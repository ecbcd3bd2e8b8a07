"""A plain reading of the two-stream step: the same losses on the same parameters, written the way they are told.

Every pass encodes and projects what it needs anew, text is padded to its full length, logits are made at every
position, attention is softmax(QK')V, negatives are drawn row by row, EMA and AdamW run tensor by tensor. It exists to
be compared with `vlp.task.Task` (`python -m benchmarks.step`), and to be read beside it.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.blocks import PostNormBlock
from vlp.model import VLModel
from vlp.objectives.mlm import mask_words
from vlp.task import Task
from vlp.types import Batch


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, fused: bool) -> Tensor:
    """(B, L, D) queries, (B, N, D) keys and values -> (B, L, D)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e4)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class PlainStep:
    """One training step on a task's own parameters. `sample` draws one column for each row of weights (B, B)."""

    def __init__(self, task: Task, *, lr: float = 1e-4, fused_attention: bool = False, argmax: bool = False) -> None:
        assert task.teacher is not None
        self.task = task
        self.teacher = task.teacher
        self.fused = fused_attention
        self.argmax = argmax
        parameters = [p for p in task.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, foreach=False)

    def step(self, batch: Batch) -> None:
        """Forward, backward, optimizer, momentum update, queue."""
        losses, features = self.losses(batch)
        self.optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        self.optimizer.step()
        self.update(features, batch)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """ITC, ITM and MLM of a batch, and the teacher's embeddings for the queue."""
        model, momentum = self.task.model, self.teacher.model
        image, text = self.image(model, batch), self.text(model, batch.text_ids, batch.text_mask)
        with torch.no_grad():
            image_m, text_m = self.image(momentum, batch), self.text(momentum, batch.text_ids, batch.text_mask)
            features = self.project(momentum, image_m, text_m)
        scores = self.contrast_scores(model, image, text, features)
        itc = self.contrast(model, scores, features, batch)
        itm = self.matching(model, image, text, scores, batch)
        mlm = self.language(model, momentum, image, image_m, batch)
        return {"itc": itc, "itm": itm, "mlm": mlm}, features

    # ------------------------------------------------------------ encoders

    def image(self, model: VLModel, batch: Batch) -> Tensor:
        """(B, 1 + N, D)."""
        vit: nn.Module = model.vision.vit  # type: ignore[union-attr, assignment]
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(batch.image))))  # type: ignore[operator]
        for block in vit.blocks:  # type: ignore[union-attr]
            normed, attention = block.norm1(tokens), block.attn
            read = attend(*attention.qkv(normed).chunk(3, -1), attention.num_heads, None, self.fused)
            tokens = tokens + attention.proj(read)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return cast(Tensor, vit.norm(tokens))  # type: ignore[operator]

    def text(self, model: VLModel, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D)."""
        e = model.text.embeddings
        places = torch.arange(ids.shape[1], device=ids.device)
        tokens = e.norm(e.word(ids) + e.position(places) + e.segment)  # type: ignore[union-attr, operator]
        for layer in model.text.layers:  # type: ignore[union-attr]
            tokens = self.layer(layer, tokens, mask)
        return tokens

    def fuse(self, model: VLModel, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """(R, L, D)."""
        for layer in model.fusion.layers:  # type: ignore[union-attr]
            text = self.layer(layer, text, mask, image)
        return text

    def layer(self, layer: PostNormBlock, tokens: Tensor, mask: Tensor, image: Tensor | None = None) -> Tensor:
        """BERT's layer on padded rows."""
        own = layer.attention
        read = attend(*own.qkv(tokens).chunk(3, -1), own.heads, mask[:, None, None], self.fused)
        tokens = layer.attention_norm(tokens + own.out(read))
        if image is not None:
            cross = layer.cross
            read = attend(cross.q(tokens), *cross.kv(image).chunk(2, -1), cross.heads, None, self.fused)
            tokens = layer.cross_norm(tokens + cross.out(read))
        return cast(Tensor, layer.feed_forward_norm(tokens + layer.feed_forward(tokens)))

    # ------------------------------------------------------------ losses

    def project(self, model: VLModel, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) unit rows of both sides."""
        itc = model.contrast
        return (
            F.normalize(itc.image_projection(image[:, 0]), dim=-1),
            F.normalize(itc.text_projection(text[:, 0]), dim=-1),
        )

    def contrast_scores(
        self, model: VLModel, image: Tensor, text: Tensor, features: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, B + Q) logits, both directions."""
        ours, queue = self.project(model, image, text), self.teacher
        image_all = torch.cat([features[0], queue.queue_image])  # type: ignore[list-item]
        text_all = torch.cat([features[1], queue.queue_text])  # type: ignore[list-item]
        scale = model.contrast.logit_scale.exp()
        return scale * ours[0] @ text_all.T, scale * ours[1] @ image_all.T

    def contrast(
        self, model: VLModel, scores: tuple[Tensor, Tensor], features: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        """ALBEF's equations 1, 2 and 6."""
        ids = torch.cat([batch.image_id, self.teacher.queue_ids])  # type: ignore[list-item]
        hard = (batch.image_id[:, None] == ids[None]).float()
        hard = hard / hard.sum(1, keepdim=True)
        alpha, total = self.teacher.alpha(), torch.zeros(())
        with torch.no_grad():
            scale = model.contrast.logit_scale.exp()
            soft = [
                scale * features[0] @ torch.cat([features[1], self.teacher.queue_text]).T,  # type: ignore[list-item]
                scale * features[1] @ torch.cat([features[0], self.teacher.queue_image]).T,  # type: ignore[list-item]
            ]
        for side, teacher in zip(scores, soft, strict=True):
            empty = (ids == -1)[None]
            targets = alpha * teacher.masked_fill(empty, -1e30).softmax(1) + (1 - alpha) * hard
            total = total - (targets * side.masked_fill(empty, -1e30).log_softmax(1)).sum(1).mean() / 2
        return total

    def negative(self, scores: Tensor, batch: Batch, row: int) -> int:
        """A column for one row, never of its own image."""
        weights = scores[row].detach().masked_fill(batch.image_id == batch.image_id[row], float("-inf"))
        return int(weights.argmax() if self.argmax else torch.multinomial(weights.softmax(0), 1).item())

    def matching(
        self, model: VLModel, image: Tensor, text: Tensor, scores: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        """ALBEF's equation 4: a positive pass, then a negative pass with a hard text and a hard image for each pair."""
        size, mask = len(batch), batch.text_mask
        positive = self.fuse(model, text, mask, image)[:, 0]
        texts = [self.negative(scores[0][:, :size], batch, i) for i in range(size)]
        images = [self.negative(scores[1][:, :size], batch, i) for i in range(size)]
        text_rows = torch.cat([torch.stack([text[i] for i in texts]), text])
        mask_rows = torch.cat([torch.stack([mask[i] for i in texts]), mask])
        image_rows = torch.cat([image, torch.stack([image[i] for i in images])])
        negative = self.fuse(model, text_rows, mask_rows, image_rows)[:, 0]
        logits = model.similarities["itm"].classifier(torch.cat([positive, negative]))  # type: ignore[operator, union-attr]
        return F.cross_entropy(logits, torch.cat([torch.ones(size), torch.zeros(2 * size)]).long())

    def language(self, model: VLModel, momentum: VLModel, image: Tensor, image_m: Tensor, batch: Batch) -> Tensor:
        """ALBEF's equations 3 and 7, logits at every position."""
        mlm = self.task.objectives["mlm"]
        masked = mask_words(
            batch.text_ids,
            batch.word_ids,
            probability=mlm.probability,  # type: ignore[arg-type]
            whole_words=False,
            mask_id=mlm.mask_id,  # type: ignore[arg-type]
            first_word_id=mlm.first_word_id,  # type: ignore[arg-type]
            vocab_size=mlm.vocab_size,  # type: ignore[arg-type]
        )
        logits = self.words(model, mlm.head, masked.ids, batch.text_mask, image)  # type: ignore[arg-type]
        with torch.no_grad():
            soft = self.words(momentum, self.teacher.copy["mlm"], masked.ids, batch.text_mask, image_m).softmax(-1)
        labels = batch.text_ids.masked_fill(~masked.positions, -100)
        hard = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        distilled = -(soft * logits.log_softmax(-1)).sum(-1)[masked.positions].mean()
        alpha = self.teacher.alpha()
        return (1 - alpha) * hard + alpha * distilled

    def words(self, model: VLModel, head: nn.Module, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """(B, L, V)."""
        tokens = self.fuse(model, self.text(model, ids, mask), mask, image)
        return cast(Tensor, head(tokens, model.text.embeddings.word.weight))  # type: ignore[union-attr]

    # ------------------------------------------------------------ after the step

    @torch.no_grad()
    def update(self, features: tuple[Tensor, Tensor], batch: Batch) -> None:
        """Momentum update tensor by tensor, then the queue."""
        theirs = [p for part in self.teacher.source for p in part.parameters()]
        for ours, student in zip(self.teacher.copy.parameters(), theirs, strict=True):
            ours.data = ours.data * self.teacher.momentum + student.data * (1 - self.teacher.momentum)
        self.teacher._push(*features, batch.image_id)
        self.teacher.steps += 1
