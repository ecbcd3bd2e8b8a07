"""What a first stage hands on to a second one: the best k of each query, and how much can still be found among them."""

from torch import Tensor

from vlp.retrieval.ranks import count_image_to_text, count_text_to_image


def top_candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best captions of each picture and the k best pictures of each caption, both as (N, C) bool.

    Whatever ties with the last of them is a candidate as well, so the order of a gallery decides nothing. A k beyond
    the gallery takes all of it.
    """
    last_caption = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]
    last_picture = scores.topk(min(k, scores.shape[0]), dim=0).values[-1:]
    return scores >= last_caption, scores >= last_picture


def ceilings(first: Tensor, text_image: Tensor, k: int) -> dict[str, float]:
    """First-stage R@k in per cent, ties with the last candidate included: no re-ranking of them can find more."""
    image, text = count_image_to_text(first, text_image), count_text_to_image(first, text_image)
    return {"image to text": _found(image.above, k), "text to image": _found(text.above, k)}


def smallest_k(first: Tensor, text_image: Tensor, wanted: float) -> int:
    """The smallest k whose ceilings are at least `wanted` (a share) both ways."""
    sides = (count_image_to_text(first, text_image), count_text_to_image(first, text_image))
    low, high = 1, max(first.shape)
    while low < high:
        middle = (low + high) // 2
        reached = all(_found(side.above, middle) >= 100 * wanted for side in sides)
        low, high = (low, middle) if reached else (middle + 1, high)
    return low


def _found(above: Tensor, k: int) -> float:
    """Per cent of the queries whose best positive is a candidate: fewer than k items are above it."""
    return 100 * float((above < k).double().mean())
