"""A vision-language model: two encoders, a fusion, and the similarities that retrieval uses. No loss."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.kinds import kind_of, reads_words
from vlp.types import Batch, Fused, Stream, Tags


class VLModel(nn.Module):
    """Parts in four slots. `similarities` of any kind by name (`vlp/similarity/kinds.py`): "itc" gives vectors, "itm"
    reads a fused pair, "late" looks at every pair, ...

    With `tags` the words that a detector says of a picture (`Batch.tags`) stand in front of its image tokens, embedded
    by the text part (`BertText(tags=True)`), so that a picture always brings its own (Oscar, Li 2020). With
    `tags="beside"` they are a stream of their own, `Stream.words`, which the head of a similarity brings to the picture
    (`SceneText`; StacMR, Mafla 2021).
    """

    def __init__(
        self,
        *,
        vision: nn.Module,
        text: nn.Module,
        similarities: dict[str, nn.Module],
        fusion: nn.Module | None = None,
        tags: bool | Literal["beside"] = False,
    ) -> None:
        super().__init__()
        fused = [name for name, part in similarities.items() if kind_of(part) == "fused"]
        if fused and fusion is None:
            raise ValueError(f"the similarity {fused[0]!r} reads a fused pair, so the model needs a fusion")
        self.vision = vision
        self.text = text
        self.fusion = fusion
        self.tags = tags
        self.similarities = nn.ModuleDict(similarities)
        if any(reads_words(part) for part in similarities.values()):
            self._decoder()  # a model that cannot score is an error here, not after hours

    def encode_image(self, batch: Batch) -> Stream:
        """Pictures, regions or cached features of a batch to a stream (B, N, D)."""
        return self.with_tags(self.see(batch), batch.tags)

    def see(self, batch: Batch) -> Stream:
        """The vision part's stream alone."""
        return cast(Stream, self.vision(batch))

    def with_tags(self, stream: Stream, tags: Tags | None) -> Stream:
        """The tags of the same pictures in front of their tokens or beside them, if the model reads tags."""
        if not self.tags:
            return stream
        if tags is None:
            raise ValueError(
                "this model reads tags with a picture; set data.use_tags=true and give shards that hold them"
            )
        words = cast(Any, self.text).embed_tags(tags)
        if self.tags == "beside":
            return Stream(stream.tokens, stream.mask, words=words)
        return Stream(torch.cat([words.tokens, stream.tokens], 1), torch.cat([words.mask, stream.mask], 1))

    def encode_text(self, text_ids: Tensor, text_mask: Tensor) -> Stream:
        """(C, L) ids and mask to a stream (C, L, D)."""
        made = cast(Stream, self.text(text_ids, text_mask))
        return Stream(made.tokens, made.mask, text_ids)

    def prepare_image(self, image: Stream) -> Any:
        """The fusion's work on the image alone, done once for every pass that reads it."""
        return self._fusion().prepare(image)

    def fuse(self, text: Stream, prepared: Any, image_index: Tensor | None = None) -> Fused:
        """R texts with the prepared images `image_index` (R,); None pairs them in order."""
        return cast(Fused, self._fusion()(text, prepared, image_index))

    def match(self, text: Stream, prepared: Any, image_index: Tensor | None = None, by: str = "itm") -> Tensor:
        """(R,) log-odds that text and image belong together, or the text's log-likelihood, by a fused similarity."""
        similarity: Any = self.similarities[by]
        if reads_words(similarity):
            words = cast(Any, self.text).embeddings.word.weight
            return cast(Tensor, similarity.log_likelihood(self.decode(text, prepared, image_index), text, words))
        return cast(Tensor, similarity.log_odds(self.summarize(text, prepared, image_index)))

    def summarize(self, text: Stream, prepared: Any, image_index: Tensor | None = None) -> Tensor:
        """(R, D) the fused [CLS] alone."""
        return cast(Tensor, self._fusion().summarize(text, prepared, image_index))

    def decode(self, text: Stream, prepared: Any, image_index: Tensor | None = None) -> Tensor:
        """(R, L, D) states of the words, each of which has read the image and the words up to its own.

        Raises ValueError where the text part reads later words, or the fusion has no such way.
        """
        return cast(Tensor, self._decoder().decode(text, prepared, image_index))

    @property
    def contrast(self) -> CosineSimilarity:
        """The indexable similarity. Raises ValueError where the model has none."""
        if "itc" not in self.similarities:
            raise ValueError("this model has no indexable similarity 'itc'; it scores pairs through its fusion only")
        return cast(CosineSimilarity, self.similarities["itc"])

    def _fusion(self) -> Any:
        if self.fusion is None:
            raise ValueError("this model is a dual encoder: it has no fusion")
        return self.fusion

    def _decoder(self) -> Any:
        fusion, text = self._fusion(), self.text
        if not hasattr(fusion, "decode"):
            raise ValueError(f"{type(fusion).__name__} tells no word from those before it; take CrossFusion, OneStream")
        if getattr(text, "layers", True) and not getattr(text, "causal", False):
            raise ValueError(
                "the text part reads later words, so none can be told from those before it; set "
                "model.text.causal=true (or give a captioning objective a decoder of its own)"
            )
        return fusion
