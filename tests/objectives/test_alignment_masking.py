"""Kaleido-BERT's masking: which phrases and which cells are aligned."""

from dataclasses import replace

import torch

from tests.objectives.test_knowledge_masking import with_knowledge
from vlp.layers.boxes import cells_in
from vlp.objectives.alignment_masking import AlignmentMasking


def test_only_words_of_phrases_that_name_a_region_are_masked_each_whole_and_for_itself() -> None:
    b = with_knowledge()
    assert b.graph is not None
    b.graph.region[:] = torch.where(b.graph.phrase == 1, 2, -1)
    words = torch.where(b.graph.phrase == 1, torch.arange(b.text_ids.shape[1]) // 2, -1)  # of up to two pieces
    b = replace(b, word_ids=torch.where(b.graph.phrase == 1, words, b.word_ids))
    torch.manual_seed(0)
    found = torch.stack([AlignmentMasking(probability=0.4).words(b) for _ in range(300)])
    aligned = b.graph.phrase == 1
    assert not found[:, ~aligned].any()
    apart = 0
    for row in range(8):
        pieces, of = found[:, row][:, aligned[row]], b.word_ids[row][aligned[row]]
        for word in of.unique():
            assert (pieces[:, of == word] == pieces[:, of == word][:, :1]).all()
            assert abs(float(pieces[:, of == word][:, 0].float().mean()) - 0.4) < 0.1
        apart += int(len(of.unique()) > 1 and bool((pieces != pieces[:, :1]).any()))
    assert apart


def test_aligned_cells_are_those_of_the_regions_that_captions_name() -> None:
    b = with_knowledge()
    assert b.regions is not None
    assert b.graph is not None
    b.graph.region[3, 4] = 0  # the second caption of picture 1
    found = AlignmentMasking().cells(b, 4)
    assert torch.equal(found[0], cells_in(b.regions.boxes[0, 1], 4))
    assert torch.equal(found[1], cells_in(b.regions.boxes[1, 0], 4))
    assert not found[2:].any()
