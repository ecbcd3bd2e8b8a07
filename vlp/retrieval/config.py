"""How retrieval is evaluated."""

from dataclasses import dataclass


@dataclass
class EvaluationConfig:
    """A first similarity ranks everything, a second one orders its top k anew; either scores every pair where the other
    is missing, the second one also where `full`."""

    first: str | None = None  # name of the similarity that ranks everything; None = the model's cheapest
    rerank: str | None = None  # ... that orders its best k anew; None = the model's dearest
    k: int = 128  # candidates re-ranked for each query, a k beyond the gallery takes all; 0 = first stage alone
    wanted_ceiling: float | None = None  # choose k as the smallest with first-stage R@k at least this share, e.g. 0.995
    mix: float = 0.0  # beta: re-rank by the second score + beta * the first one's logit
    bank: str = ""  # training shards whose captions and pictures are the bank of `retrieval/bank.py`; "" = none
    bank_beta: float = 10.0  # sharpness of the bank's soft mean over cosines
    bank_limit: int = 1000  # pictures of the bank, with their captions
    full: bool = False  # score every pair with the second similarity
    fold: int | None = None  # also figures over folds of so many pictures, and their spread (COCO 1K: 1000)
    judgments: str = ""  # folder of ECCV Caption's lists or CxC's ratings (`retrieval/judged.py`); "" = none
    labels: str = ""  # file of class labels, COCO's instances layout (`retrieval/plausible.py`); "" = none
    resamples: int = 1000  # samples from which intervals, and spreads of correlations, are read off; 0 = none
    limit: int | None = None  # only the first pictures of the set
    batch_size: int = 64  # pictures or captions encoded at once
    rows: int = 512  # fused rows scored at once
    tile_bytes: int = 256 << 20  # what a pairwise similarity may hold at once for the pairs of a tile
