"""Word pieces: transformers' BertTokenizer agrees, cuts keep [SEP], and pieces know their words."""

from pathlib import Path

import pytest
from transformers import BertTokenizer

from vlp.data.errors import DataError
from vlp.data.tokenizer import Tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "run", "##ning", "##s", "dog", ",", "!", "cafe", "-"]
TEXTS = ["A running dog!", "dogs, runs", "Café - unknownword", "", "a  dog\trun"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return tmp_path


def test_ids_are_transformers(folder: Path) -> None:
    theirs, ours = BertTokenizer(vocab={w: i for i, w in enumerate(VOCABULARY)}), Tokenizer.from_folder(folder)
    for text in TEXTS:
        assert ours(text, 64)[0] == theirs(text)["input_ids"]


def test_a_saved_tokenizer_reads_the_same(folder: Path, tmp_path: Path) -> None:
    ours, place = Tokenizer.from_folder(folder), tmp_path / "saved"
    place.mkdir()
    ours.save(place)
    again = Tokenizer.from_folder(place)
    assert [again(t, 64) for t in TEXTS] == [ours(t, 64) for t in TEXTS]
    assert (again.vocab_size, again.mask_id) == (len(VOCABULARY), 4)


def test_a_cut_keeps_both_ends_and_pieces_know_their_word(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    ids, words = ours("a running dog runs", 64)
    assert words == [-1, 0, 1, 1, 2, 3, 3, -1]
    ids, words = ours("a running dog runs", 5)
    assert ids == [2, 5, 6, 7, 3]
    assert words == [-1, 0, 1, 1, -1]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb")
    with pytest.raises(DataError, match=r"has no \[PAD\]"):
        Tokenizer.from_folder(tmp_path)
