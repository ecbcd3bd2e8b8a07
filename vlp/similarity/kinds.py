"""The three kinds of similarity, told by their methods, so that evaluation can rank by any of them.

- "vectors": `embed_image(Stream) -> (B, E)`, `embed_text(Stream) -> (C, E)` and `scale() -> ()`, with
  `scores(image, text) = scale * embed_image @ embed_text.T`. A whole gallery is one matrix product, and can be indexed.
  `common(vectors)` gives what both sides' vectors have in common, where that is not all of them.
- "pairwise": `scores(image: Stream, text: Stream) -> (B, C)` alone: every pair is looked at. Three more methods are
  used where they are there. `image_tokens(Stream) -> Stream` and `text_tokens(Stream) -> Stream` do the work on one
  side, once for every picture and caption; `token_scores(image, text) -> (B, C)` does the rest, with
  `scores(image, text) = token_scores(image_tokens(image), text_tokens(text))`. `pair_numbers(N, L) -> int` says how
  many numbers one pair of N image and L text tokens holds at the peak; without it `NUMBERS` x N x L are counted on.
- "fused", on top of the model's fusion: `log_odds((R, D)) -> (R,)` of a fused pair's summary, or
  `log_likelihood(states (R, L, D), text: Stream, words (V, D)) -> (R,)` of a caption's words, each told from those
  before it.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream

Kind = Literal["vectors", "pairwise", "fused"]
NUMBERS = 4  # products, two masked copies and a softmax, each N x L


def kind_of(similarity: nn.Module) -> Kind:
    """Which kind a similarity is. Raises ValueError for a part that has none of the methods."""
    if hasattr(similarity, "log_odds") or reads_words(similarity):
        return "fused"
    if hasattr(similarity, "embed_image") and hasattr(similarity, "embed_text"):
        return "vectors"
    if hasattr(similarity, "scores"):
        return "pairwise"
    raise ValueError(
        f"{type(similarity).__name__} is no similarity: it has neither embed_image and embed_text, nor scores, "
        "nor log_odds or log_likelihood"
    )


def reads_words(similarity: nn.Module) -> bool:
    """Whether a fused similarity scores the words of a caption, so that it is to be given their ids (`Stream.ids`)."""
    return hasattr(similarity, "log_likelihood")


def image_side(similarity: Any, image: Stream) -> Stream:
    """What a pairwise similarity needs of pictures, (B, N, D) -> (B, N', E)."""
    made: Stream = similarity.image_tokens(image) if hasattr(similarity, "image_tokens") else image
    return made


def text_side(similarity: Any, text: Stream) -> Stream:
    """What a pairwise similarity needs of captions, (C, L, D) -> (C, L', E)."""
    made: Stream = similarity.text_tokens(text) if hasattr(similarity, "text_tokens") else text
    return made


def side_scores(similarity: Any, image: Stream, text: Stream) -> Tensor:
    """(B, C) of what `image_side` and `text_side` gave. Raises ValueError where the similarity gives another shape."""
    scorer = similarity.token_scores if hasattr(similarity, "token_scores") else similarity.scores
    scores: Tensor = scorer(image, text)
    wanted = (image.mask.shape[0], text.mask.shape[0])
    if tuple(scores.shape) != wanted:
        name = type(similarity).__name__
        raise ValueError(f"{name} gave scores of shape {tuple(scores.shape)} for {wanted[0]} pictures and {wanted[1]} "
                         f"captions; {wanted} is needed")  # fmt: skip
    return scores


def comparable(similarity: Any, vectors: Tensor) -> Tensor:
    """(B, E) embeddings of one side -> rows of length 1, whose products compare items of that side with each other."""
    common: Tensor = similarity.common(vectors) if hasattr(similarity, "common") else vectors
    return F.normalize(common.float(), dim=1)


def pair_numbers(similarity: Any, image_tokens: int, text_tokens: int) -> int:
    """Numbers that one pair holds at the peak of scoring."""
    if hasattr(similarity, "pair_numbers"):
        return int(similarity.pair_numbers(image_tokens, text_tokens))
    return NUMBERS * image_tokens * text_tokens
