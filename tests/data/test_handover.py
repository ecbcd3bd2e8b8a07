"""Batches handed over in slabs: every tensor arrives, and no memory is written again that somebody still looks at."""

import multiprocessing
from collections.abc import Callable
from dataclasses import fields
from itertools import islice
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_loader import loader, same
from vlp.data.canvas import Canvas, in_one_piece
from vlp.data.handover import HEAD, MOST_KEPT, Slabs, pack, unpack
from vlp.data.mock import mock_batch
from vlp.types import Batch, Regions

Make = Callable[..., Path]


def batch(seed: int = 0) -> Batch:
    """One of everything: dataclasses within, bool and float, a layout that is not plane by plane."""
    made = mock_batch(6, 8, 20, 50, seed=seed, regions=(3, 5, 4), tags=4, graph=True)
    made.image = made.image.to(memory_format=torch.channels_last)
    made.image_row = torch.arange(12)[::2]  # not dense
    return made


def test_what_is_packed_arrives() -> None:
    sent, slabs = batch(), Slabs()
    assert same_everywhere(unpack(*pack(sent, slabs)), sent)
    assert unpack(*pack(sent, slabs)).image.is_contiguous(memory_format=torch.channels_last)


def same_everywhere(one: Batch, two: Batch) -> bool:
    parts = [f.name for f in fields(Regions)[:4]]
    regions = all(torch.equal(getattr(one.regions, p), getattr(two.regions, p)) for p in parts)
    plain = ("text_ids", "text_mask", "word_ids", "image_id", "caption_id", "image", "image_row")
    rest = torch.equal(one.tags.ids, two.tags.ids) and torch.equal(one.graph.region, two.graph.region)
    return (
        regions and rest and one.keys == two.keys and all(torch.equal(getattr(one, p), getattr(two, p)) for p in plain)
    )


def test_a_slab_is_used_again_when_the_last_tensor_of_it_is_gone() -> None:
    slabs = Slabs()
    slab, placed = pack(batch(0), slabs)
    held = unpack(slab, placed)
    view = held.regions.features[1:3, 0]  # a view of a view
    kept = view.clone()
    del held
    pack(batch(1), slabs)
    assert len(slabs.kept) == 2  # the first one is still looked at
    assert torch.equal(view, kept)
    del view
    third, _ = pack(batch(2), slabs)
    assert third[0].data_ptr() == slab[0].data_ptr()
    assert len(slabs.kept) == 2


def test_what_was_lent_and_not_sent_is_free_again() -> None:
    slabs = Slabs()
    first = slabs.lend(4000)
    slabs.send([])
    assert slabs.lend(2000).data_ptr() == first.data_ptr()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_no_loan_is_ever_written_over(steps: list[bool]) -> None:
    slabs, held = Slabs(), []
    for number, keep in enumerate(steps):
        sent = Batch(*(torch.full((2, 3), number) for _ in range(5)))
        held.append((number, unpack(*pack(sent, slabs))))
        if not keep:
            held.pop(0)
        assert len(slabs.kept) <= MOST_KEPT
        assert all((b.text_ids == n).all() and (b.caption_id == n).all() for n, b in held)


def test_pictures_made_on_a_canvas_are_a_batch_already() -> None:
    canvas = Canvas(torch.zeros(4 * 3 * 5 * 5 + HEAD, dtype=torch.uint8), 5)
    rows = []
    while (row := canvas.row()) is not None:
        rows.append(row.fill_(len(rows)))
        canvas.keep()
    assert len(rows) == 4
    whole = in_one_piece(rows)
    assert whole.data_ptr() == rows[0].data_ptr()
    assert torch.equal(whole, torch.stack(rows))
    assert in_one_piece([rows[0], rows[2]]) is None
    assert in_one_piece([rows[0], rows[1].clone()]) is None


def test_a_run_that_keeps_many_batches_keeps_them_whole(make_shards: Make) -> None:
    folder = make_shards(count=30)
    count = 2 * MOST_KEPT
    expected = list(islice(loader(folder, captions=2).batches(0), count))
    held = list(islice(loader(folder, captions=2, workers=1).batches(0), count))
    assert all(same(a, b) for a, b in zip(held, expected, strict=True))
    assert not multiprocessing.active_children()
