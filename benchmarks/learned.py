"""What a trained system has learned of the synthetic world: figures on pictures that it has not seen.

Every figure is computed in evaluation mode over pairs of distinct pictures; random draws come from a fixed seed. What
each says, and what it is held against:

words       a colour or shape word is masked in each caption and told, synonyms counting as right, with the true picture
            and with another one of the batch: does the model look? The difference is in points
told        the same for a captioner, which tells such words from those in front of them
matching    a pair and a pair with a drawn other picture, each judged by the sign of its log-odds
retrieval   the caption's own picture among those of a batch of 32, by the model's similarity
alignment   the image token that an object word points to lies in the box of its thing: the one with the most of the
            word's transport (UNITER, ViLT), or of the largest cosine (FILIP)
blind       a masked-vision loss or accuracy against the best answer that looks at nothing: the mean of the targets, or
            the most frequent one
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_tools.world.words import COLOUR_WORDS, SHAPE_WORDS
from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.tokenizer import Tokenizer
from vlp.layers.transport import cosine_cost, ipot
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.captioning import Captioning
from vlp.objectives.masked_dictionary import MaskedDictionary
from vlp.objectives.masked_patches import MaskedPatches, softmax_divergence
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.masked_tags import MaskedTags
from vlp.objectives.negatives import RandomNegatives
from vlp.task import Task
from vlp.types import Batch, Fused, Graph, Regions, Stream
from vlp.view import View
from vlp.vision.regions import RegionEmbedding

BATCH = 32
OBJECT = 1  # of Graph.kind
Figures = dict[str, float]


def batches(config: DataConfig, folder: str, tokenizer: Tokenizer, pictures: int) -> Iterator[Batch]:
    """Each picture once with one of its captions, regions and graphs beside it, in batches of 32."""
    read = replace(config, use_regions=True, use_graph=True)
    dataset = PairDataset(read, folder, tokenizer, train=False)
    for start in range(0, min(pictures, dataset.num_pictures) - BATCH + 1, BATCH):
        samples = [dataset.sample_of(0, start + i, 0) for i in range(BATCH)]
        yield collate(samples, tokenizer.pad_id, config.normalisation).to("cpu")


def meanings(tokenizer: Tokenizer) -> Tensor:
    """(V,) for each word id which colour or shape it names, equal for synonyms and plurals; -1 for other words."""
    found = torch.full((tokenizer.vocab_size,), -1)
    shapes = [[word for pair in pairs for word in pair] for shape, pairs in SHAPE_WORDS.items() if shape]
    for number, words in enumerate([*COLOUR_WORDS.values(), *shapes]):
        for word in words:
            found[tokenizer(word, 3)[0][1]] = number
    return found


@torch.no_grad()
def measure(task: Task, tokenizer: Tokenizer, read: Callable[[], Iterator[Batch]]) -> Figures:
    """Every figure that the task's parts allow, averaged over the batches of `read()`."""
    task.eval()
    meaning = meanings(tokenizer)
    rows: list[dict[str, tuple[float, float]]] = []
    for number, batch in enumerate(read()):
        torch.manual_seed(number)
        view = View(task.model, batch, momentum=task.teacher, whole_rows=True)
        rows.append(words(view, task, meaning) | matching(view) | retrieval(view) | alignment(view, task))
    figures = {}
    for name in sorted({name for row in rows for name in row}):
        right, count = (sum(row[name][i] for row in rows if name in row) for i in (0, 1))
        figures[name] = right / max(count, 1)
    for name in ("words", "told"):
        if f"{name} with picture" in figures:
            figures[f"{name} points"] = 100 * (figures[f"{name} with picture"] - figures[f"{name} with another"])
    return figures | blind(task, read)


def others(batch: Batch) -> Tensor:
    """(B,) the row of another picture of the batch, where the pictures are distinct."""
    return torch.arange(len(batch)).roll(1)


def one_each(places: Tensor) -> Tensor:
    """(B, L) bool: one of the places (B, L) of each row, drawn."""
    draw = torch.rand(places.shape).masked_fill(~places, -1.0)
    return (draw == draw.max(1, keepdim=True).values) & places


def words(view: View, task: Task, meaning: Tensor) -> dict[str, tuple[float, float]]:
    """Right answers and questions, by masked words and by captioning, with both pictures."""
    found = {}
    batch = view.batch
    for objective in task.objectives.values():
        part: Any = objective
        if isinstance(objective, Captioning):
            asked = meaning[batch.text_ids[:, 1:]] >= 0
            for name, rows in (("picture", None), ("another", others(batch))):
                shown = View(task.model, replace(batch, image_row=rows))
                logits = part.told(part.decoded(shown)[:, :-1][asked], _word_vectors(view))
                found[f"told with {name}"] = _right(logits, batch.text_ids[:, 1:][asked], meaning)
        elif hasattr(part, "head") and hasattr(part, "mask_id") and view.model.fusion is not None:
            asked = one_each(meaning[batch.text_ids] >= 0)
            ids = torch.where(asked, part.mask_id, batch.text_ids)
            text = view.model.encode_text(ids, batch.text_mask)
            for name, rows in (("picture", None), ("another", others(batch))):
                fusion: Any = view.model.fusion
                logits = part.head(fusion.read(text, view.prepared, rows, asked), _word_vectors(view))
                found[f"words with {name}"] = _right(logits, batch.text_ids[asked], meaning)
    return found


def _word_vectors(view: View) -> Tensor:
    text: Any = view.model.text
    vectors: Tensor = text.embeddings.word.weight
    return vectors


def _right(logits: Tensor, labels: Tensor, meaning: Tensor) -> tuple[float, float]:
    told = meaning[logits[:, : len(meaning)].argmax(-1)]
    return float((told == meaning[labels]).sum()), float(len(labels))


def matching(view: View) -> dict[str, tuple[float, float]]:
    """Pairs and drawn other pairs that are told right."""
    if "itm" not in view.model.similarities:
        return {}
    rows = RandomNegatives().rows(view)
    texts = Stream(view.text.tokens[rows.text], view.text.mask[rows.text])
    odds = view.model.match(texts, view.prepared, rows.image)
    return {"matching": (float(((odds > 0) == (rows.label == 1)).sum()), float(len(odds)))}


def retrieval(view: View) -> dict[str, tuple[float, float]]:
    """Captions whose own picture scores best, by an indexable similarity or by late interaction."""
    for name in ("itc", "late"):
        if name in view.model.similarities:
            similarity: Any = view.model.similarities[name]
            scores = similarity.scores(view.image, view.text)
            return {"retrieval": (float((scores.argmax(0) == torch.arange(len(scores))).sum()), float(len(scores)))}
    return {}


def alignment(view: View, task: Task) -> dict[str, tuple[float, float]]:
    """Object words whose image token lies in the box of their thing, for systems that claim to align them."""
    graph, regions = view.batch.graph, view.batch.regions
    assert graph is not None
    assert regions is not None
    for objective in task.objectives.values():
        if isinstance(objective, WordPatchAlignment):
            fused = view.fused_with(view.image)
            chosen, skip = _transported(fused, view.batch, objective), objective.skip
        elif "late" in view.model.similarities:
            late: Any = view.model.similarities["late"]
            text, image = late.text_tokens(view.text).tokens, late.image_tokens(view.image).tokens
            cosine = torch.einsum("ble,bne->bln", text, image)
            chosen, skip = cosine[..., 1:].argmax(2), 1
        else:
            continue
        by_region = isinstance(view.model.vision, RegionEmbedding)
        return {"alignment": pointed(chosen, graph, regions, view.image.mask.shape[1] - skip, by_region)}
    return {}


def _transported(fused: Fused, batch: Batch, objective: WordPatchAlignment) -> Tensor:
    """(B, L) the image token that takes the most of each word."""
    assert fused.image is not None
    image, present = fused.image.tokens[:, objective.skip :], fused.image.mask[:, objective.skip :]
    spoken = batch.word_ids >= 0
    cost = cosine_cost(fused.text.tokens, image, spoken, present)
    return ipot(cost, spoken, present, beta=objective.beta, iterations=objective.iterations).argmax(1)


def pointed(chosen: Tensor, graph: Graph, regions: Regions, tokens: int, by_region: bool) -> tuple[float, float]:
    """A region points to its own row; a patch to a box that holds its centre, or whose centre it holds."""
    asked = (graph.kind == OBJECT) & (graph.region >= 0)
    row, wanted = asked.nonzero()[:, 0], graph.region[asked]
    if by_region:
        return float((chosen[asked] == wanted).sum()), float(len(wanted))
    side = round(tokens**0.5)
    x, y = chosen[asked] % side, torch.div(chosen[asked], side, rounding_mode="floor")
    box = regions.boxes[row, wanted]
    centre = torch.stack([x + 0.5, y + 0.5], 1) / side
    inside = ((centre >= box[:, :2]) & (centre <= box[:, 2:])).all(1)
    held = ((box[:, :2] + box[:, 2:]) / 2 * side).long().clamp(max=side - 1)
    return float((inside | ((held[:, 0] == x) & (held[:, 1] == y))).sum()), float(len(wanted))


@torch.no_grad()
def blind(task: Task, read: Callable[[], Iterator[Batch]]) -> Figures:
    """Masked-vision objectives: their figure, and " blind" the best that an answer reaches which looks at nothing."""
    found: Figures = {}
    for objective in task.objectives.values():
        if not isinstance(objective, MaskedRegions | MaskedPatches | MaskedDictionary | MaskedTags):
            continue
        reports, targets = [], []
        for number, batch in enumerate(read()):
            torch.manual_seed(number)
            view = View(task.model, batch, momentum=task.teacher, whole_rows=True)
            reports.append(objective(view).report)
            targets.append(_targets(objective, view))
        means = {name: float(torch.stack([report[name] for report in reports]).mean()) for name in reports[0]}
        joined = {name: torch.cat([some[name] for some in targets]) for name in targets[0]}
        kl = isinstance(objective, MaskedPatches) and objective.target == "kl"
        for name, target in joined.items():
            found |= {name: means[name], f"{name} blind": best_blind(target, kl)}
    return found


def _targets(objective: Any, view: View) -> dict[str, Tensor]:
    """What the objective asks for, by the name of its report, over all places and not only the hidden ones."""
    vision: Any = view.model.vision
    batch = view.batch
    if isinstance(objective, MaskedTags):
        assert batch.tags is not None
        return {"mtl_accuracy": batch.tags.ids[batch.tags.mask]}
    if isinstance(objective, MaskedDictionary):
        return {"mvm_accuracy": vision.codes(batch).flatten()}
    if isinstance(objective, MaskedPatches):
        features = vision.hidden_features(batch).flatten(0, 1).float()
        return {
            "mpm": features.log_softmax(-1) if objective.target == "kl" else F.layer_norm(features, features.shape[-1:])
        }
    assert batch.regions is not None
    there, found = batch.regions.mask, {}
    if objective.feature_weight:
        found["mrfr"] = batch.regions.features[there].float()
    if objective.class_weight:
        found["mrc_accuracy"] = batch.regions.class_probs[there].argmax(1)
    return found


def best_blind(target: Tensor, kl: bool = False) -> float:
    """Share of the most frequent number; of (M, F) rows the mean squared distance to their mean, or with `kl`, for rows
    of log-probabilities, the mean divergence from their mean."""
    if target.ndim == 1:
        return float(target.bincount().max()) / len(target)
    if kl:
        return float(softmax_divergence(target.exp().mean(0).log().expand_as(target), target))
    return float((target - target.mean(0)).square().mean())
