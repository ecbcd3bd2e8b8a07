"""Word pieces: transformers' BertTokenizer agrees, cuts keep [SEP], and pieces know their words."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from tokenizers.normalizers import Lowercase, Replace, Sequence
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


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdenrstu019.,!-'&", "run", "##n", "##s", "##1", "A", "Run"]
WORDS += ["b" * 120]


@pytest.mark.parametrize("lowercase", [True, False])
@settings(deadline=None)
@given(
    text=st.text(st.sampled_from("abenrsuARN019 .,!-'&[]\t\x00é中~") | st.characters(max_codepoint=300), max_size=40)
)
@example(text="run[MASK]runs [SEP] runn1")
@example(text="[unused]")
@example(text="a" * 120)
@example(text=f"{'b' * 120} run")  # longer than a word may be, though the vocabulary has it
def test_words_looked_up_are_the_words_that_the_library_finds(lowercase: bool, text: str) -> None:
    made = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=lowercase)
    ours = Tokenizer(made._tokenizer, "made")
    assert ours.table is not None
    for _ in range(2):  # looked up, then known
        theirs = ours.rust.encode(text)
        assert ours(text, 200) == (theirs.ids, [-1 if word is None else word for word in theirs.word_ids])


def test_a_tokenizer_of_another_make_is_never_second_guessed() -> None:
    made = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=True)._tokenizer
    made.add_tokens(["run runs"])
    assert Tokenizer(made, "made").table is None
    made = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=True)._tokenizer
    made.normalizer = Sequence([Lowercase(), Replace("u", "n")])
    ours = Tokenizer(made, "made")
    assert ours("run", 9)[0] == made.encode("run").ids
