"""Re-ranking by a fused head as evaluation does it, against one query at a time, in one process with the same weights.

    python -m benchmarks.rerank --json benchmarks/results/rerank.json

One query at a time is the form of the published evaluation scripts: each picture's tokens are repeated for its k
captions, which are padded to one length, and go through every layer whole; each caption meets its k pictures in the
same way, and a pair that both ask for is scored twice. Here keys and values are projected once for each picture,
captions are packed, the last layer is computed where it is read, and a pair is scored once. First both are shown to
give the same scores; then they run in turn, and the median of the ratios is the figure. Rates count the pairs asked
for, both ways.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.parts import two_stream
from vlp.config import build
from vlp.data.mock import caption_lengths
from vlp.engine.provenance import machine, timestamp
from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import Tokens
from vlp.retrieval.ranking import Staged
from vlp.retrieval.rerank import score_pairs
from vlp.types import Stream

CAPTIONS = 5  # a picture
PADDED = 30  # pieces, ALBEF's max_length


def tiny_model() -> VLModel:
    """Width 192, fusion of 3 layers, 384 px, patch 16: 577 image tokens."""
    model, _, _ = two_stream(
        vit="vit_tiny_patch16_224", image_size=384, width=192, text_layers=3, fusion_layers=3, heads=3, embed_dim=256
    )
    made: VLModel = build(model)
    return made.eval()


def make_tokens(pictures: int, device: str) -> Tokens:
    """Random streams of both encoders' shapes, captions as long as COCO's."""
    g = torch.Generator().manual_seed(0)
    images = torch.randn(pictures, 577, 192, generator=g).to(device)
    lengths = caption_lengths(CAPTIONS * pictures, PADDED, g).tolist()
    texts = [torch.randn(length, 192, generator=g).to(device) for length in lengths]
    return Tokens({0: Stream(images, torch.ones(images.shape[:2], dtype=torch.bool, device=device))}, pictures, texts)


# ---------------------------------------------------------------- one query at a time


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention of (R, L, D) over (R, N, D)."""
    split = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).flatten(2)


def plain_layer(layer: Any, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """BERT's layer with cross-attention over padded rows: text (R, L, D), mask (R, L), image (R, N, D)."""
    q, k, v = layer.attention.qkv(text).chunk(3, dim=-1)
    read = attended(q, k, v, layer.attention.heads, mask[:, None, None])
    text = layer.attention_norm(text + layer.attention.out(read))
    k, v = layer.cross.kv(image).chunk(2, dim=-1)
    read = attended(layer.cross.q(text), k, v, layer.cross.heads, None)
    text = layer.cross_norm(text + layer.cross.out(read))
    return layer.feed_forward_norm(text + layer.feed_forward(text))


def plain_scores(model: Any, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """(R,) log-odds of R rows."""
    for layer in model.fusion.layers:
        text = plain_layer(layer, text, mask, image)
    return model.similarities["itm"].log_odds(text[:, 0])


@torch.inference_mode()
def one_query_at_a_time(model: VLModel, images: Tensor, texts: Stream, stage: Staged) -> tuple[Tensor, Tensor]:
    """(N, C) scores of each picture's candidates, and of each caption's."""
    forward, backward = torch.zeros_like(stage.first), torch.zeros_like(stage.first)
    for row, chosen in enumerate(stage.image_candidates):
        index = chosen.nonzero()[:, 0]
        repeated = images[row].repeat(len(index), 1, 1)
        forward[row, index] = plain_scores(model, texts.tokens[index], texts.mask[index], repeated).cpu()
    for column, chosen in enumerate(stage.text_candidates.T):
        index = chosen.nonzero()[:, 0]
        text, mask = texts.tokens[column].repeat(len(index), 1, 1), texts.mask[column].repeat(len(index), 1)
        backward[index, column] = plain_scores(model, text, mask, images[index]).cpu()
    return forward, backward


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds: of CPU time on a CPU, so that other work on the machine does not count; by the clock elsewhere."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Show that both are equal, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=24, help="in the gallery, with 5 captions each")
    parser.add_argument("--k", type=int, default=8, help="candidates of each query, both ways")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each form, in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, tokens = tiny_model().to(args.device), make_tokens(args.pictures, args.device)
    first = torch.randn(args.pictures, CAPTIONS * args.pictures, generator=torch.Generator().manual_seed(1))
    stage = Staged.of(first, args.k)
    images, texts = tokens.images[0].tokens, padded(tokens, args.device)
    asked = int(stage.image_candidates.sum() + stage.text_candidates.sum())

    def ours() -> Tensor:
        return score_pairs(model, "itm", tokens, stage.pairs(), EvaluationConfig(), progress=False)

    def plain() -> tuple[Tensor, Tensor]:
        return one_query_at_a_time(model, images, texts, stage)

    forward, backward = plain()
    union = ours()
    apart = max(
        float((one - union)[chosen].abs().max())
        for one, chosen in ((forward, stage.image_candidates), (backward, stage.text_candidates))
    )
    print(f"largest difference of two scores {apart:.1e}; their deviation {float(union[stage.pairs()].std()):.2f}")
    if apart > 1e-5:
        raise SystemExit("the two forms do not give the same scores, so their times say nothing")
    rounds = [(timed(plain, args.device), timed(ours, args.device)) for _ in range(args.rounds)]
    result = {
        "time": timestamp(),
        "machine": machine(),
        "pictures": args.pictures,
        "captions": len(tokens.texts),
        "k": args.k,
        "device": args.device,
        "pairs_asked": asked,
        "pairs_scored_once": int(stage.pairs().sum()),
        "largest_difference": apart,
        "one_query_pairs_per_second": asked / statistics.median(r[0] for r in rounds),
        "pairs_per_second": asked / statistics.median(r[1] for r in rounds),
        "ratio": statistics.median(r[0] / r[1] for r in rounds),
        "ratios": [r[0] / r[1] for r in rounds],
    }
    print(f"{args.pictures} pictures, {len(tokens.texts)} captions, k {args.k}: {asked} pairs asked for, {args.device}")
    print(f"  one query at a time  {result['one_query_pairs_per_second']:9.0f} pairs/s")
    print(f"  evaluation           {result['pairs_per_second']:9.0f} pairs/s   {result['ratio']:.1f} x")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def padded(tokens: Tokens, device: str) -> Stream:
    """All captions at one length, as a tokenizer with padding gives them."""
    text = torch.zeros(len(tokens.texts), PADDED, 192, device=device)
    mask = torch.zeros(text.shape[:2], dtype=torch.bool, device=device)
    for row, caption in enumerate(tokens.texts):
        text[row, : len(caption)], mask[row, : len(caption)] = caption, True
    return Stream(text, mask)


if __name__ == "__main__":
    main()
