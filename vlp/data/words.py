"""Word pieces of plain text word by word: captions repeat their words, and BERT's rules for plain ASCII are few."""

import re

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

PLAIN = re.compile(r"[ -Z\\-~]*")  # printable ASCII without "[", which may open a special token
PARTS = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z ]")  # BERT parts words at spaces, and each punctuation mark is a word
MOST_WORDS = 65_536  # words that are kept: some 15 MB


class WordTable:
    """The pieces of each word that was met, as the tokenizer itself gave them."""

    def __init__(self, rust: RustTokenizer) -> None:
        self.rust = rust
        self.lowercase = bool(rust.normalizer.lowercase)
        self.longest = int(rust.model.max_input_chars_per_word)  # a longer word is unknown, in the vocabulary or not
        self.pieces: dict[str, list[int]] = {}

    @staticmethod
    def of(rust: RustTokenizer) -> "WordTable | None":
        """A table, where the tokenizer parts plain text as BERT does, word by word; else None."""
        bert = isinstance(rust.normalizer, BertNormalizer) and isinstance(rust.pre_tokenizer, BertPreTokenizer)
        added = [token.content for token in rust.get_added_tokens_decoder().values()]
        if not bert or not isinstance(rust.model, WordPiece) or not all(token.startswith("[") for token in added):
            return None
        return WordTable(rust)

    def __call__(self, text: str) -> tuple[list[int], list[int]] | None:
        """(ids, word ids) without specials; None for a text that is not plain."""
        if not PLAIN.fullmatch(text):
            return None
        ids: list[int] = []
        words: list[int] = []
        for number, word in enumerate(PARTS.findall(text.lower() if self.lowercase else text)):
            pieces = self.pieces.get(word) or self._look_up(word)
            ids += pieces
            words += [number] * len(pieces)
        return ids, words

    def _look_up(self, word: str) -> list[int]:
        # The longest match is taken first, so a word of the vocabulary is its own one piece; asking costs a twentieth.
        whole = self.rust.token_to_id(word) if len(word) <= self.longest else None
        pieces: list[int] = [whole] if whole is not None else self.rust.encode(word, add_special_tokens=False).ids
        if len(self.pieces) < MOST_WORDS:
            self.pieces[word] = pieces
        return pieces
