"""BERT's word pieces, from a `tokenizer.json` or a `vocab.txt`, by the tokenizers library."""

import os
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from vlp.data.errors import DataError
from vlp.data.words import WordTable

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILE = "tokenizer.json"


class Tokenizer:
    """Text to ids, [CLS] first and [SEP] last, and the word that each piece belongs to (-1 at specials)."""

    def __init__(self, rust: RustTokenizer, source: str) -> None:
        found = {token: rust.token_to_id(token) for token in SPECIALS}
        ids = {token: value for token, value in found.items() if value is not None}
        _check_specials(list(ids), source)
        rust.no_padding()
        rust.no_truncation()
        self.rust = rust
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids.values()
        self.special_ids = tuple(ids.values())
        self.vocab_size: int = rust.get_vocab_size()
        ends = rust.encode("").ids == [self.cls_id, self.sep_id]
        self.table = WordTable.of(rust) if ends else None

    @staticmethod
    def from_folder(folder: Path | str) -> "Tokenizer":
        """Read `tokenizer.json`, else `vocab.txt`. Raises DataError naming the folder."""
        path = Path(folder)
        if (path / FILE).is_file():
            return Tokenizer(RustTokenizer.from_file(str(path / FILE)), str(path / FILE))
        if (path / "vocab.txt").is_file():
            return _from_words(path / "vocab.txt")
        raise DataError(f"{path} has neither {FILE} nor vocab.txt; set data.tokenizer to a folder that has one")

    def __call__(self, text: str, max_length: int) -> tuple[list[int], list[int]]:
        """(ids, word ids) of at most `max_length` pieces; a longer text is cut in front of its [SEP]."""
        plain = self.table(text) if self.table is not None else None
        if plain is not None:
            ids, words = [self.cls_id, *plain[0], self.sep_id], [-1, *plain[1], -1]
        else:
            encoding = self.rust.encode(text)
            ids, words = encoding.ids, [-1 if w is None else w for w in encoding.word_ids]
        if len(ids) > max_length:
            ids, words = [*ids[: max_length - 1], self.sep_id], [*words[: max_length - 1], -1]
        return ids, words

    def offsets(self, text: str, max_length: int) -> list[tuple[int, int]]:
        """Characters [start, end) of each piece that `self(text, max_length)` gives; (0, 0) at specials."""
        found: list[tuple[int, int]] = self.rust.encode(text).offsets
        return found if len(found) <= max_length else [*found[: max_length - 1], (0, 0)]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, specials left out."""
        text: str = self.rust.decode(ids)
        return text

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` into a folder, beside and then renamed."""
        part = Path(folder) / f"{FILE}.part"
        self.rust.save(str(part))
        os.replace(part, Path(folder) / FILE)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"rust": self.rust.to_str(), "table": self.table is not None}

    def __setstate__(self, state: dict[str, object]) -> None:
        rust = RustTokenizer.from_str(str(state["rust"]))
        self.__dict__.update(state | {"rust": rust, "table": WordTable(rust) if state["table"] else None})


def _from_words(path: Path) -> Tokenizer:
    words = path.read_text(encoding="utf-8").splitlines()
    _check_specials(words, str(path))
    made = BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, lowercase=True)
    return Tokenizer(made._tokenizer, str(path))


def _check_specials(words: list[str], source: str) -> None:
    missing = [token for token in SPECIALS if token not in words]
    if missing:
        raise DataError(f"{source} has no {', '.join(missing)}; a BERT word-piece tokenizer is needed")
