"""The attention pool against SigLIP's head of transformers, weights shared; the last token of ragged rows."""

import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from vlp.pooling.tokens import AttentionPool, ClsMeanPool, LastPool
from vlp.types import Stream


def test_the_attention_pool_is_siglips_head() -> None:
    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, hidden_act="gelu")
    theirs = SiglipMultiheadAttentionPoolingHead(config).eval()
    torch.nn.init.normal_(theirs.attention.in_proj_bias)
    state, ours = theirs.state_dict(), AttentionPool(width=32, heads=4, hidden=48).eval()
    own = {"probe": state["probe"][0]}
    for kind in ("weight", "bias"):
        projection = state[f"attention.in_proj_{kind}"]
        own[f"cross.q.{kind}"], own[f"cross.kv.{kind}"] = projection[:32], projection[32:]
        own[f"cross.out.{kind}"] = state[f"attention.out_proj.{kind}"]
        own[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        own[f"feed_forward.up.{kind}"] = state[f"mlp.fc1.{kind}"]
        own[f"feed_forward.down.{kind}"] = state[f"mlp.fc2.{kind}"]
    ours.load_state_dict(own)
    tokens = torch.randn(3, 6, 32)
    mask = torch.arange(6)[None] < torch.tensor([6, 2, 4])[:, None]
    with torch.no_grad():
        pooled = ours(Stream(tokens, mask))
        for i in range(3):
            wanted = theirs(tokens[i : i + 1, : int(mask[i].sum())])[0]
            torch.testing.assert_close(pooled[i], wanted, rtol=1e-4, atol=1e-5)


def test_the_last_token_present_is_read() -> None:
    tokens = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    assert LastPool()(Stream(tokens, mask))[:, 0].tolist() == [1.0, 7.0]


def test_first_and_mean_read_the_last_dimensions_alone() -> None:
    tokens, mask = torch.randn(2, 4, 6), torch.tensor([[True, True, True, False], [True, True, False, False]])
    expected = torch.stack([torch.cat([t[0, 4:], t[1:n, 4:].mean(0)]) for t, n in zip(tokens, (3, 2), strict=True)])
    torch.testing.assert_close(ClsMeanPool(width=2)(Stream(tokens, mask)), expected)
