"""Word tokens that a frozen encoder made once: they come with the batch (`Batch.text_features`)."""

from torch import Tensor, nn

from vlp.types import Stream


class StoredText(nn.Module):
    """Stands where a text encoder would. `vocab_size` is that of the encoder that made the tokens."""

    def __init__(self, *, vocab_size: int = 30522) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, ids: Tensor, mask: Tensor) -> Stream:
        """Raises ValueError: there is no encoder here."""
        raise ValueError("this model reads stored word tokens (Batch.text_features); it cannot encode new captions")
