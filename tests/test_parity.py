"""Whole architectures against the installed transformers, weights shared: RoBERTa, ViT, ViLT, VisualBERT, BLIP's
fusion, co-attention (METER's, LXMERT's), CLIP's loss. BERT, CLIP's and SigLIP's text and SigLIP's loss are beside
their parts (tests/text, tests/objectives)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BridgeTowerTextConfig,
    CLIPConfig,
    CLIPModel,
    LxmertConfig,
    RobertaConfig,
    RobertaModel,
    ViltConfig,
    ViltModel,
    VisualBertConfig,
    VisualBertModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from tests.parts import SIZE, VOCAB, WIDTH, batch, regions
from vlp.fusion.co_attention import CoAttention
from vlp.fusion.cross import CrossFusion
from vlp.fusion.one_stream import OneStream
from vlp.layers.blocks import PostNormBlock
from vlp.layers.packing import Packing
from vlp.objectives.itc import contrast_loss
from vlp.text.bert import BertText
from vlp.types import Stream
from vlp.vision.patches import LinearPatches
from vlp.vision.regions import RegionEmbedding
from vlp.vision.vit import TimmViT

SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
State = dict[str, Tensor]


def far(module: nn.Module) -> nn.Module:
    """A module away from its initialisation, where every bias and norm counts; it drops nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def renamed(state: State, names: dict[str, str | list[str]]) -> State:
    """Weights and biases under our names; several of theirs are joined."""
    found = {}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            parts = [state[f"{name}.{kind}"] for name in ([theirs] if isinstance(theirs, str) else theirs)]
            found[f"{ours}.{kind}"] = torch.cat(parts)
    return found


def bert_block(state: State, theirs: str, ours: str, cross: bool = False) -> State:
    """One of BERT's layers as `PostNormBlock`."""
    names: dict[str, str | list[str]] = {
        "attention.qkv": [f"attention.self.{part}" for part in ("query", "key", "value")],
        "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    if cross:
        names |= {
            "cross.q": "crossattention.self.query",
            "cross.kv": ["crossattention.self.key", "crossattention.self.value"],
            "cross.out": "crossattention.output.dense",
            "cross_norm": "crossattention.output.LayerNorm",
        }
    whole = {
        f"{ours}{n}": f"{theirs}{t}" if isinstance(t, str) else [f"{theirs}{p}" for p in t] for n, t in names.items()
    }
    return renamed(state, whole)  # type: ignore[arg-type]


def embeddings(state: State, theirs: str = "embeddings.", segment: Tensor | None = None) -> State:
    """BERT's embeddings as `BertText`'s."""
    if segment is None:
        segment = state[f"{theirs}token_type_embeddings.weight"][0]
    found = {f"embeddings.{n}.weight": state[f"{theirs}{n}_embeddings.weight"] for n in ("word", "position")}
    return found | {"embeddings.segment": segment} | renamed(state, {"embeddings.norm": f"{theirs}LayerNorm"})


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def words(positions: int, layers: int = 0, **options: Any) -> BertText:
    return BertText(
        vocab_size=VOCAB, width=WIDTH, layers=layers, heads=4, hidden=48, max_positions=positions, **options
    ).eval()


@torch.no_grad()
def test_roberta_is_read_from_its_folder(tmp_path: Path) -> None:
    config = RobertaConfig(**SIZES, vocab_size=VOCAB, max_position_embeddings=18, pad_token_id=1, type_vocab_size=1)
    theirs, b = far(RobertaModel(config)), batch()
    theirs.save_pretrained(tmp_path)
    ids = torch.where(b.text_mask, b.text_ids, 1)  # its positions count the ids that are not its padding
    wanted = theirs(input_ids=ids, attention_mask=b.text_mask.long()).last_hidden_state
    ours = words(16, 2, weights=str(tmp_path), eps=config.layer_norm_eps)
    close(ours(ids, b.text_mask).tokens[b.text_mask], wanted[b.text_mask])


@torch.no_grad()
def test_a_vit_is_transformers_vit() -> None:
    theirs, b = far(ViTModel(ViTConfig(**SIZES, image_size=SIZE, patch_size=8, layer_norm_eps=1e-6))), batch()
    options = {"patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
    ours, state = TimmViT(name="vit_tiny_patch16_224", image_size=SIZE, options=options).eval(), theirs.state_dict()
    names: dict[str, str | list[str]] = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    for i in range(2):
        mine, layer = f"blocks.{i}", f"layers.{i}"
        names |= {
            f"{mine}.attn.qkv": [f"{layer}.attention.{part}_proj" for part in "qkv"],
            f"{mine}.attn.proj": f"{layer}.attention.o_proj",
            f"{mine}.norm1": f"{layer}.layernorm_before",
            f"{mine}.norm2": f"{layer}.layernorm_after",
            f"{mine}.mlp.fc1": f"{layer}.mlp.fc1",
            f"{mine}.mlp.fc2": f"{layer}.mlp.fc2",
        }
    own = {"cls_token": state["embeddings.cls_token"], "pos_embed": state["embeddings.position_embeddings"]}
    ours.vit.load_state_dict(own | renamed(state, names))
    close(ours(b).tokens, theirs(pixel_values=b.image).last_hidden_state)


@torch.no_grad()
def test_one_stream_over_linear_patches_is_vilt() -> None:
    config = ViltConfig(
        **SIZES, vocab_size=VOCAB, image_size=SIZE, patch_size=8, layer_norm_eps=1e-6, max_image_length=-1
    )
    theirs, b = far(ViltModel(config)), batch()
    theirs.embeddings.text_embeddings.LayerNorm.eps = 1e-12  # type: ignore[union-attr,assignment]  # as BERT's
    state = theirs.state_dict()
    text, fusion = words(40), OneStream(width=WIDTH, layers=2, heads=4, hidden=48).eval()
    vision = LinearPatches(image_size=SIZE, patch=8, width=WIDTH).eval()
    text.load_state_dict(embeddings(state, "embeddings.text_embeddings."))
    patches = "embeddings.patch_embeddings.projection"
    vision.load_state_dict(
        {
            "class_token": state["embeddings.cls_token"],
            "positions": state["embeddings.position_embeddings"],
            "projection.weight": state[f"{patches}.weight"].flatten(1),
            "projection.bias": state[f"{patches}.bias"],
        }
    )
    names: dict[str, str | list[str]] = {"norm": "layernorm", "pooler": "pooler.dense"}
    for i in range(2):
        mine, layer = f"layers.{i}", f"encoder.layer.{i}"
        names |= {
            f"{mine}.attention.qkv": [f"{layer}.attention.attention.{part}" for part in ("query", "key", "value")],
            f"{mine}.attention.out": f"{layer}.attention.output.dense",
            f"{mine}.attention_norm": f"{layer}.layernorm_before",
            f"{mine}.feed_forward_norm": f"{layer}.layernorm_after",
            f"{mine}.feed_forward.up": f"{layer}.intermediate.dense",
            f"{mine}.feed_forward.down": f"{layer}.output.dense",
        }
    fusion.load_state_dict({"modality": state["embeddings.token_type_embeddings.weight"]} | renamed(state, names))
    wanted = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long(), pixel_values=b.image)
    fused = fusion(text(b.text_ids, b.text_mask), fusion.prepare(vision(b)))
    # Theirs shuffles the patches, so words and the pooled [CLS] are compared.
    close(fused.text.tokens[b.text_mask], wanted.last_hidden_state[:, : b.text_ids.shape[1]][b.text_mask])
    close(fused.summary, wanted.pooler_output)


@torch.no_grad()
def test_one_stream_over_regions_without_boxes_is_visualbert() -> None:
    theirs, b = far(VisualBertModel(VisualBertConfig(**SIZES, vocab_size=VOCAB, visual_embedding_dim=6))), batch()
    b.regions, state = regions(len(b), most=5, width=6, classes=2), theirs.state_dict()
    text, vision = words(512), RegionEmbedding(feature_width=6, width=WIDTH, box_form=0, hides=False).eval()
    fusion = OneStream(width=WIDTH, layers=2, heads=4, hidden=48, post_norm=True).eval()
    text.load_state_dict(embeddings(state))
    # Their position and segment of a region are one constant; ours is in the bias. A norm of a norm is that norm.
    shift = (
        state["embeddings.visual_position_embeddings.weight"][0]
        + state["embeddings.visual_token_type_embeddings.weight"][1]
    )
    vision.load_state_dict(
        renamed(state, {"feature": "embeddings.visual_projection", "norm": "embeddings.LayerNorm"})
        | {"feature_norm.weight": torch.ones(WIDTH), "feature_norm.bias": torch.zeros(WIDTH)}
    )
    vision.feature.bias += shift
    blocks = [bert_block(state, f"encoder.layer.{i}.", f"layers.{i}.") for i in range(2)]
    own = {"modality": torch.zeros(2, WIDTH)} | renamed(state, {"pooler": "pooler.dense"})
    fusion.load_state_dict(own | blocks[0] | blocks[1])
    wanted = theirs(
        input_ids=b.text_ids,
        attention_mask=b.text_mask.long(),
        visual_embeds=b.regions.features,
        visual_attention_mask=b.regions.mask.long(),
    )
    fused = fusion(text(b.text_ids, b.text_mask), fusion.prepare(vision(b)))
    assert fused.image is not None
    there = torch.cat([b.text_mask, b.regions.mask], 1)
    close(torch.cat([fused.text.tokens, fused.image.tokens], 1)[there], wanted.last_hidden_state[there])
    close(fused.summary, wanted.pooler_output)


def image_stream() -> Stream:
    torch.manual_seed(2)
    return Stream(torch.randn(8, 5, 20), torch.arange(5)[None] < torch.tensor([5, 3, 1, 4, 5, 2, 5, 3])[:, None])


@torch.no_grad()
def test_text_that_reads_an_image_is_blips_fusion() -> None:
    config = BlipTextConfig(
        **SIZES, vocab_size=VOCAB, encoder_hidden_size=20, is_decoder=True, max_position_embeddings=16,
        attn_implementation="eager",  # its layers add the mask to the scores, and a bool one would mask nothing
    )  # fmt: skip
    theirs, b, image = far(BlipTextModel(config, add_pooling_layer=False)), batch(), image_stream()
    image.mask[:] = True  # BLIP's pictures have no padding, and this version of its code drops their mask
    state = theirs.state_dict()
    text, fusion = words(16), CrossFusion(width=WIDTH, layers=2, heads=4, hidden=48, image_width=20).eval()
    text.load_state_dict(embeddings(state, segment=torch.zeros(WIDTH)))
    blocks = [bert_block(state, f"encoder.layer.{i}.", f"layers.{i}.", cross=True) for i in range(2)]
    fusion.load_state_dict(blocks[0] | blocks[1])
    reading = {"encoder_hidden_states": image.tokens}
    wanted = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long(), **reading).last_hidden_state
    found = fusion(text(b.text_ids, b.text_mask), fusion.prepare(image)).text.tokens
    close(found[b.text_mask], wanted[b.text_mask])
    told = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long(), is_decoder=True, **reading).last_hidden_state
    close(fusion.decode(text(b.text_ids, b.text_mask), fusion.prepare(image))[b.text_mask], told[b.text_mask])


@torch.no_grad()
def test_co_attention_is_two_rows_of_meters_layers() -> None:
    """Those of BridgeTower, which took them over: each reads what the other side was before the layer."""
    config = BridgeTowerTextConfig(**SIZES, vocab_size=VOCAB, attn_implementation="eager")
    theirs = [[far(BridgeTowerBertCrossLayer(config)) for _ in range(2)] for _ in range(2)]
    fusion = CoAttention(text_width=WIDTH, image_width=WIDTH, width=WIDTH, layers=2, heads=4, image_hidden=48).eval()
    for side, layers in zip((fusion.text_layers, fusion.image_layers), theirs, strict=True):
        for i, layer in enumerate(layers):
            block = PostNormBlock(width=WIDTH, heads=4, hidden=48, context_width=WIDTH, eps=config.layer_norm_eps)
            block.load_state_dict(bert_block(layer.state_dict(), "", "", cross=True))
            side[i] = block.eval()
    for linear in (fusion.text_in, fusion.image_in):
        linear.weight.copy_(torch.eye(WIDTH))
        linear.bias.zero_()
    torch.manual_seed(3)
    b, cells = batch(), image_stream().mask
    t, i = torch.randn(8, 12, WIDTH), torch.randn(8, 5, WIDTH)
    fused = fusion(Stream(t, b.text_mask), fusion.prepare(Stream(i, cells)))
    bias = [torch.where(mask, 0.0, -1e9)[:, None, None] for mask in (b.text_mask, cells)]
    for text_layer, image_layer in zip(*theirs, strict=True):
        t, i = (
            text_layer(t, i, attention_mask=bias[0], encoder_attention_mask=bias[1])[0],
            image_layer(i, t, attention_mask=bias[1], encoder_attention_mask=bias[0])[0],
        )
    close(fused.text.tokens[b.text_mask], t[b.text_mask])
    close(fused.image.tokens[cells], i[cells])  # type: ignore[union-attr]


def lxmert_block(state: State, side: str) -> PostNormBlock:
    block = PostNormBlock(width=WIDTH, heads=4, hidden=48, context_width=WIDTH).eval()
    theirs, cross = f"{side}_self_att", "visual_attention"  # which both sides share
    names: dict[str, str | list[str]] = {
        "attention.qkv": [f"{theirs}.self.{part}" for part in ("query", "key", "value")],
        "attention.out": f"{theirs}.output.dense",
        "attention_norm": f"{theirs}.output.LayerNorm",
        "cross.q": f"{cross}.att.query",
        "cross.kv": [f"{cross}.att.key", f"{cross}.att.value"],
        "cross.out": f"{cross}.output.dense",
        "cross_norm": f"{cross}.output.LayerNorm",
        "feed_forward.up": f"{side}_inter.dense",
        "feed_forward.down": f"{side}_output.dense",
        "feed_forward_norm": f"{side}_output.LayerNorm",
    }
    block.load_state_dict(renamed(state, names))
    return block


@torch.no_grad()
def test_the_sublayers_in_lxmerts_order_are_lxmerts_layer() -> None:
    """LXMERT reads the other side first and itself second; `CoAttention` has METER's order, with the same sublayers."""
    config = LxmertConfig(hidden_size=WIDTH, num_attention_heads=4, intermediate_size=48)
    theirs, b, cells = far(LxmertXLayer(config)), batch(), image_stream().mask
    torch.manual_seed(3)
    t, i = torch.randn(8, 12, WIDTH), torch.randn(8, 5, WIDTH)
    bias = [torch.where(mask, 0.0, -1e9)[:, None, None] for mask in (b.text_mask, cells)]
    wanted = theirs(t, bias[0], i, bias[1])
    for side, own, mask, other, other_mask, expected in (
        ("lang", t, b.text_mask, i, cells, wanted[0]),
        ("visn", i, cells, t, b.text_mask, wanted[1]),
    ):
        block, rows, others = lxmert_block(theirs.state_dict(), side), Packing.of(mask), Packing.of(other_mask)
        tokens, context = rows.pack(own), block.cross.keys_values(others.unpack(others.pack(other)))
        tokens = block.cross_norm(tokens + block.cross(tokens, rows, context, others.key_mask))
        close(block(tokens, rows), expected[mask])


@torch.no_grad()
def test_contrast_is_clips_loss() -> None:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 40, "eos_token_id": 39},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    theirs = far(CLIPModel(config))
    out = theirs(input_ids=torch.randint(0, 40, (5, 7)), pixel_values=torch.randn(5, 3, 16, 16), return_loss=True)
    scores = theirs.logit_scale.exp() * out.image_embeds @ out.text_embeds.T
    ours = (contrast_loss(scores, torch.eye(5)) + contrast_loss(scores.T, torch.eye(5))) / 2
    torch.testing.assert_close(ours, out.loss)
