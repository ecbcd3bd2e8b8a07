"""A GRU over the tokens, its last state the vector (VSRN, Li 2019, section 3.2; the text side of VSE++)."""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from vlp.types import Stream


class RecurrentPool(nn.Module):
    """(B, N, D) -> (B, E). The order of the tokens counts: regions by the detector's confidence, patches by rows."""

    def __init__(self, *, width: int, embed_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, embed_dim, batch_first=True)

    def forward(self, stream: Stream) -> Tensor:
        """Stream, present tokens first, to vector."""
        lengths = stream.mask.sum(1).cpu()
        packed = pack_padded_sequence(stream.tokens, lengths, batch_first=True, enforce_sorted=False)
        last: Tensor = self.gru(packed)[1]
        return last[0]
