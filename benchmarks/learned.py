"""What a trained system has learned of the synthetic world: figures on pictures that it has not seen.

Every figure is computed in evaluation mode over pairs of distinct pictures; random draws come from a fixed seed. One
that nothing could be asked for is left out. What each says, and what it is held against:

words       a colour or shape word is masked in each caption and told, synonyms counting as right, with the true picture
            and with another one of the batch: does the model look? The difference is in points
told        the same for a captioner, which tells such words from those in front of them
matching    a pair and a pair with a drawn other picture, each judged by the sign of its log-odds; for a system that
            learns to tell something else with that head, what it learns (`matching`)
retrieval   the caption's own picture among those of a batch of 32, by the model's similarity
alignment   an object word points to the box of its thing (benchmarks/learned_alignment.py)
blind       masked vision and detection against the best answer that looks at nothing (benchmarks/learned_vision.py)
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks import learned_vision
from benchmarks.learned_alignment import alignment
from data_tools.world.words import COLOUR_WORDS, SHAPE_WORDS
from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.tokenizer import Tokenizer
from vlp.objectives.captioning import Captioning
from vlp.objectives.cross_modal_contrast import CrossModalContrast, rewritten
from vlp.objectives.fast_slow import FastSlow
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.objectives.tag_contrast import TagContrast, tags_of
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View

BATCH = 32
Figures = dict[str, float]
Counts = dict[str, tuple[float, float]]  # right answers and questions


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
    rows: list[Counts] = []
    for number, batch in enumerate(read()):
        torch.manual_seed(number)
        view = View(task.model, batch, momentum=task.teacher, whole_rows=True)
        rows.append(words(view, task, meaning) | matching(view, task) | retrieval(view) | alignment(view, task))
    return summed(rows) | learned_vision.vision(task, read)


def summed(rows: list[Counts]) -> Figures:
    """The share of right answers over all rows, and the points between both pictures; none where nothing was asked."""
    figures = {}
    for name in sorted({name for row in rows for name in row}):
        right, count = (sum(row[name][i] for row in rows if name in row) for i in (0, 1))
        if count:
            figures[name] = right / count
    for name in ("words", "told"):
        if f"{name} with picture" in figures:
            figures[f"{name} points"] = 100 * (figures[f"{name} with picture"] - figures[f"{name} with another"])
    return figures


def others(batch: Batch) -> Tensor:
    """(B,) the row of another picture of the batch, where the pictures are distinct."""
    return torch.arange(len(batch)).roll(1)


def one_each(places: Tensor) -> Tensor:
    """(B, L) bool: one of the places (B, L) of each row, drawn."""
    draw = torch.rand(places.shape).masked_fill(~places, -1.0)
    return (draw == draw.max(1, keepdim=True).values) & places


def words(view: View, task: Task, meaning: Tensor) -> Counts:
    """Right answers and questions, by masked words and by captioning, with both pictures."""
    found = {}
    for objective in task.objectives.values():
        if isinstance(objective, Captioning | FastSlow):
            found |= told(view, objective, meaning)
        elif isinstance(objective, MLM) and not objective.alone:
            found |= masked(view, objective, meaning)
    return found


def told(view: View, objective: Captioning | FastSlow, meaning: Tensor) -> Counts:
    """Colour and shape words told from the words in front of them."""
    found, batch = {}, view.batch
    asked = meaning[batch.text_ids[:, 1:]] >= 0
    for name, rows in (("picture", None), ("another", others(batch))):
        shown = View(view.model, replace(batch, image_row=rows))
        if isinstance(objective, Captioning):
            head, states = objective.told, objective.decoded(shown)
        else:
            head = cast(Any, view.model.similarities["slow"]).told
            states = view.model.decode(shown.text, shown.prepared, rows)
        logits = head(states[:, :-1][asked], _word_vectors(view))
        found[f"told with {name}"] = _right(logits, batch.text_ids[:, 1:][asked], meaning)
    return found


def masked(view: View, objective: MLM, meaning: Tensor) -> Counts:
    """One colour or shape word of each caption masked."""
    found, batch, fusion = {}, view.batch, cast(Any, view.model.fusion)
    asked = one_each(meaning[batch.text_ids] >= 0)
    if not asked.any():
        return {}
    text = view.model.encode_text(torch.where(asked, objective.mask_id, batch.text_ids), batch.text_mask)
    for name, rows in (("picture", None), ("another", others(batch))):
        logits = objective.head(fusion.read(text, view.prepared, rows, asked), _word_vectors(view))
        found[f"words with {name}"] = _right(logits, batch.text_ids[asked], meaning)
    return found


def _word_vectors(view: View) -> Tensor:
    text: Any = view.model.text
    vectors: Tensor = text.embeddings.word.weight
    return vectors


def _right(logits: Tensor, labels: Tensor, meaning: Tensor) -> tuple[float, float]:
    said = meaning[logits[:, : len(meaning)].argmax(-1)]
    return float((said == meaning[labels]).sum()), float(len(labels))


def matching(view: View, task: Task) -> Counts:
    """Pairs told right, each as the system learned it: by the matching head (pairs and drawn other pairs, whatever
    negatives its objective takes); Oscar's and VinVL's head (`tagged`); UNIMO's, whose odds have no zero (`outranked`).
    """
    for objective in task.objectives.values():
        if isinstance(objective, TagContrast):
            return {"matching": tagged(view, objective)}
        if isinstance(objective, CrossModalContrast):
            return {"matching": outranked(view)}
    if "itm" not in view.model.similarities:
        return {}
    rows = RandomNegatives().rows(view)
    odds = view.model.match(view.text.select(rows.text), view.prepared, rows.image)
    asked = rows.weight > 0
    return {"matching": (float((((odds > 0) == (rows.label == 1)) & asked).sum()), float(asked.sum()))}


def tagged(view: View, objective: TagContrast) -> tuple[float, float]:
    """Whole pairs, pairs with another picture's tags where those differ, and at three ways with another's caption: each
    kind is to be told."""
    batch, own, other = view.batch, torch.arange(len(view.batch)), others(view.batch)
    kinds = [(own, own), (other, own), (own, other)][: objective.ways]
    right = count = 0.0
    for label, (pictures, texts) in enumerate(kinds):
        tags = tags_of(batch, pictures)
        prepared = view.model.prepare_image(view.model.with_tags(view.seen, tags))
        said = objective.classifier(view.model.summarize(view.text.select(texts), prepared, own)).argmax(1)
        mine, theirs = (some.ids.masked_fill(~some.mask, -1).sort(1).values for some in (tags_of(batch, own), tags))
        asked = (mine != theirs).any(1) if label == 1 else torch.ones_like(own, dtype=torch.bool)
        right, count = right + float(((said == label) & asked).sum()), count + float(asked.sum())
    return right, count


def outranked(view: View) -> tuple[float, float]:
    """Pictures whose own caption has larger log-odds than another picture's, and than their own with one object,
    attribute or relation rewritten."""
    batch, model = view.batch, view.model
    assert batch.graph is not None
    place, pick = torch.rand(batch.text_ids.shape), torch.rand(batch.text_ids.shape)
    ids, mask, could = rewritten(batch.text_ids, batch.text_mask, batch.graph, others(batch), place, pick)
    own, other = (model.match(text, view.prepared) for text in (view.text, view.text.select(others(batch))))
    changed = model.match(model.encode_text(ids, mask), view.prepared)
    return float((own > other).sum() + ((own > changed) & could).sum()), float(len(batch) + could.sum())


def retrieval(view: View) -> Counts:
    """Captions whose own picture scores best, by an indexable similarity or by late interaction."""
    for name in ("itc", "late"):
        if name in view.model.similarities:
            similarity: Any = view.model.similarities[name]
            scores = similarity.scores(view.image, view.text)
            return {"retrieval": (float((scores.argmax(0) == torch.arange(len(scores))).sum()), float(len(scores)))}
    return {}
