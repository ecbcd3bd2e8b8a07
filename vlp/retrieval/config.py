"""How retrieval is evaluated."""

from dataclasses import dataclass


@dataclass
class EvaluationConfig:
    """First stage by "itc", re-ranking of its top k by "itm"; every pair by "itm" where `full` or no "itc" exists."""

    k: int = 128  # candidates re-ranked for each query; 0 = first stage alone
    wanted_ceiling: float | None = None  # choose k as the smallest with first-stage R@k at least this share, e.g. 0.995
    mix: float = 0.0  # beta: re-rank by itm log-odds + beta * itc logit
    bank: str = ""  # training shards whose captions and pictures are the bank of `retrieval/bank.py`; "" = none
    bank_beta: float = 10.0  # sharpness of the bank's soft mean over cosines
    bank_limit: int = 1000  # pictures of the bank, with their captions
    full: bool = False  # score every pair with the fused head
    limit: int | None = None  # only the first pictures of the set
    batch_size: int = 64  # pictures or captions encoded at once
    rows: int = 512  # fused rows scored at once
