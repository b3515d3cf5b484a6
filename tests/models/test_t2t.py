"""T2T-ViT: its arithmetic against loops and N x N matrices, the published sizes and names, and its maps."""

from __future__ import annotations

import math

import pytest
import torch
from timm.models.vision_transformer import Block

import vitscope
from tests.cheaper import cheaper
from vitscope.errors import ModelError
from vitscope.models import anatomy_of, list_models, load_model
from vitscope.models.t2t import T2T, PerformerTokens, T2TViT, TokensToToken, TransformerTokens, sinusoid, t2t_vit
from vitscope.models.weights import put_weights, read_weights
from vitscope.trace import verify

KINDS = ("performer", "transformer")
TINY = {"img_size": 64, "num_classes": 7, "embed_dim": 24, "depth": 3, "num_heads": 3, "token_dim": 8}


def moved(model, seed=0):
    """Every parameter moved a little, so that no norm is one and no bias nought by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith((".w", "pos_embed")):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def build(kind="performer", seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return moved(T2TViT(kind, **{**TINY, **options}), seed)


def pictures(count=2, size=(64, 64), seed=1):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def windows(plane, size, stride, padding):
    """Soft split of (c rows cols) by explicit loops: (n c*size*size), channels outermost; outside there are zeros."""
    channels, rows, cols = plane.shape
    out = []
    for top in range(-padding, rows + padding - size + 1, stride):
        for left in range(-padding, cols + padding - size + 1, stride):
            token = []
            for channel in range(channels):
                for row in range(top, top + size):
                    for col in range(left, left + size):
                        inside = 0 <= row < rows and 0 <= col < cols
                        token.append(plane[channel, row, col] if inside else plane.new_zeros(()))
            out.append(torch.stack(token))
    return torch.stack(out)


def normed(tokens, norm):
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
    return (tokens - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def performer(module, tokens):
    """One picture's tokens (n dim) through the N x N matrix of kernel values, entry by entry."""
    keys, queries, values = (normed(tokens, module.norm1) @ module.kqv.weight.T + module.kqv.bias).chunk(3, dim=-1)
    n, m = len(tokens), len(module.w)
    kernel = tokens.new_zeros(n, n)
    for i in range(n):
        for j in range(n):
            shift = (queries[i] @ queries[i] + keys[j] @ keys[j]) / 2
            kernel[i, j] = sum((torch.exp(w @ (queries[i] + keys[j]) - shift) for w in module.w), start=0) / m
    attention = kernel / (kernel.sum(1, keepdim=True) + 1e-8)
    y = values + module.proj(attention @ values)
    return y + module.mlp[2](gelu(module.mlp[0](normed(y, module.norm2))))


def transformer(module, tokens):
    """One picture's tokens (n dim) through softmax attention, written out."""
    queries, keys, values = (normed(tokens, module.norm1) @ module.attn.qkv.weight.T).chunk(3, dim=-1)
    products = (queries @ keys.T / math.sqrt(tokens.shape[1])).exp()
    y = values + module.attn.proj(products / products.sum(1, keepdim=True) @ values)
    return y + module.mlp.fc2(gelu(module.mlp.fc1(normed(y, module.norm2))))


NAIVE = {"performer": performer, "transformer": transformer}


@pytest.mark.parametrize(("kind", "module"), [("performer", PerformerTokens), ("transformer", TransformerTokens)])
def test_token_transformer_is_its_formula(kind, module):
    torch.manual_seed(0)
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    layer = moved(module(12, 6)).double()
    with torch.no_grad():
        expected = torch.stack([NAIVE[kind](layer, one) for one in tokens])
        torch.testing.assert_close(layer(tokens), expected, rtol=1e-11, atol=1e-12)


def test_the_random_features_estimate_the_softmax_kernel():
    """Lemma 1 of the Performer's paper: with many Gaussian directions φ(q)ᵀ φ(k) tends to exp(qᵀ k)."""
    torch.manual_seed(0)
    layer = PerformerTokens(6, 4).double()
    assert layer.w.shape == (2, 4)
    torch.testing.assert_close(layer.w @ layer.w.T, 2 * torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    layer.w.data = torch.randn(400_000, 4, dtype=torch.float64)
    queries, keys = 0.3 * torch.randn(2, 1, 5, 4, dtype=torch.float64)
    estimate = layer.features(queries) @ layer.features(keys).transpose(1, 2)
    torch.testing.assert_close(estimate, (queries @ keys.transpose(1, 2)).exp(), rtol=0.02, atol=0)


def test_performers_exponentials_stay_in_float32_under_autocast():
    layer = moved(PerformerTokens(49, 16), seed=11)
    queries, keys, values = torch.randn(3, 2, 20, 16, generator=torch.Generator().manual_seed(12))
    with torch.no_grad():
        features, attended = layer.features(queries), layer.attend(queries, keys, values)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.features(queries), features)
            assert torch.equal(layer.attend(queries, keys, values), attended)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_to_token_is_loops_over_windows(kind):
    module = moved(TokensToToken((32, 48), 5, kind, token_dim=4)).double()
    images = pictures(2, (32, 48)).double()
    expected = []
    with torch.no_grad():
        for plane in images:
            first = NAIVE[kind](module.attention1, windows(plane, 7, 4, 2))
            assert first.shape == (8 * 12, 4)
            second = NAIVE[kind](module.attention2, windows(first.T.reshape(4, 8, 12), 3, 2, 1))
            assert second.shape == (4 * 6, 4)
            last = windows(second.T.reshape(4, 4, 6), 3, 2, 1)
            expected.append(last @ module.project.weight.T + module.project.bias)
        torch.testing.assert_close(module(images), torch.stack(expected), rtol=1e-10, atol=1e-11)
    assert module.grid_size == (2, 3)


def test_the_pixels_behind_a_token_lie_where_the_docstring_says():
    class Only(torch.nn.Module):  # no mixing of tokens: the windows alone
        def forward(self, tokens):
            return tokens.sum(-1, keepdim=True).expand(-1, -1, 4)

    module = TokensToToken(96, 1, "performer", token_dim=4)
    module.attention1, module.attention2 = Only(), Only()
    torch.nn.init.ones_(module.project.weight)
    picture = torch.ones(1, 3, 96, 96, requires_grad=True)
    module(picture)[0, 2 * 6 + 3, 0].backward()  # row 2, column 3
    seen = picture.grad[0, 0] != 0
    for axis, i in ((1, 2), (0, 3)):
        where = seen.any(dim=axis).nonzero().flatten().tolist()
        assert where == list(range(16 * i - 14, 16 * i + 17))


def test_half_precision_keeps_the_exponential_in_float32():
    layer = moved(PerformerTokens(12, 8))
    tokens = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        exact, half = layer(tokens), layer.bfloat16()(tokens.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.1)


def test_position_embedding():
    table = sinusoid(50, 10)
    for position, channel in ((0, 0), (0, 1), (7, 4), (49, 9)):
        angle = position / 10000 ** (2 * (channel // 2) / 10)
        assert table[position, channel] == pytest.approx(math.cos(angle) if channel % 2 else math.sin(angle), abs=1e-6)
    model = build()
    assert not model.pos_embed.requires_grad
    torch.testing.assert_close(model.pos_embed[0], sinusoid(17, 24))


PAPER = {"14": 21.5, "19": 39.2, "24": 64.1}
LEARNED = {  # of the published models, in millions, as reported for another implementation (timm pull request 2426)
    "t2t_vit_14": 21.4658,
    "t2t_vit_19": 39.0851,
    "t2t_vit_24": 64.0010,
    "t2t_vit_t_14": 21.4654,
    "t2t_vit_t_19": 39.0847,
    "t2t_vit_t_24": 64.0006,
}


@pytest.mark.parametrize("name", T2T)
def test_published_sizes(name):
    with torch.device("meta"):
        model = t2t_vit(name)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    assert count == pytest.approx(PAPER[name[-2:]], rel=0.01)
    assert learned == pytest.approx(LEARNED[name], abs=5e-5)


def official(kind, width=384, depth=2, positions=197, classes=1000, token_dim=64):
    """Random tensors under the names and shapes of the official checkpoints, written out."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "tokens_to_token.project.weight": (width, 9 * token_dim),
        "tokens_to_token.project.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    for index, dim in ((1, 147), (2, 9 * token_dim)):
        layer = f"tokens_to_token.attention{index}."
        for norm, size in (("norm1", dim), ("norm2", token_dim)):
            shapes |= {f"{layer}{norm}.weight": (size,), f"{layer}{norm}.bias": (size,)}
        if kind == "performer":
            shapes |= {f"{layer}w": (token_dim // 2, token_dim), f"{layer}kqv.weight": (3 * token_dim, dim)}
            shapes |= {f"{layer}kqv.bias": (3 * token_dim,)}
            linear = ("proj", "mlp.0", "mlp.2")
        else:
            shapes |= {f"{layer}attn.qkv.weight": (3 * token_dim, dim)}
            linear = ("attn.proj", "mlp.fc1", "mlp.fc2")
        for part in linear:
            shapes |= {f"{layer}{part}.weight": (token_dim, token_dim), f"{layer}{part}.bias": (token_dim,)}
    for index in range(depth):
        block = f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        shapes |= {f"{block}attn.qkv.weight": (3 * width, width)}
        for part, out, into in (("attn.proj", 1, 1), ("mlp.fc1", 3, 1), ("mlp.fc2", 1, 3)):
            shapes |= {f"{block}{part}.weight": (out * width, into * width), f"{block}{part}.bias": (out * width,)}
    generator = torch.Generator().manual_seed(5)
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["t2t_vit_14", "t2t_vit_t_14"])
def test_official_names_load_as_they_are(name):
    tensors = official(T2T[name].kind)
    model = t2t_vit(name, depth=2)
    model.load_state_dict(tensors, strict=True)
    state = model.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[key], tensors[key]) for key in tensors)


def test_official_file_with_averaged_weights_is_read(tmp_path):
    tensors = official("performer", depth=1)
    torch.save({"state_dict_ema": {f"module.{key}": value for key, value in tensors.items()}}, tmp_path / "w.pth.tar")
    model = t2t_vit("t2t_vit_14", depth=1)
    put_weights(model, read_weights(tmp_path / "w.pth.tar").tensors, "w.pth.tar", "t2t_vit_14")
    assert torch.equal(model.tokens_to_token.attention2.w, tensors["tokens_to_token.attention2.w"])


@pytest.mark.integration
def test_by_name_with_a_file(tmp_path):
    model = t2t_vit("t2t_vit_14", num_classes=5, img_size=96)
    torch.save({"state_dict_ema": moved(model).state_dict()}, tmp_path / "w.pth.tar")
    loaded = load_model("t2t_vit_14", tmp_path / "w.pth.tar")  # the file tells classes and picture size
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(pictures(1, (96, 96))), model(pictures(1, (96, 96))))
    assert load_model("t2t_vit_14", tmp_path / "w.pth.tar", image_size=(32, 64)).patch_embed.grid_size == (2, 4)
    assert load_model("t2t_vit_t_14", pretrained=False).tokens_to_token.img_size == (224, 224)
    assert {f"t2t/{name}" for name in T2T} <= set(list_models("t2t_"))
    with pytest.raises(ModelError, match=r"in no hub; download the file from .* and pass --weights FILE"):
        load_model("t2t_vit_14")
    with pytest.raises(ModelError, match="these are not weights of t2t_vit_t_14: 14 missing"):
        load_model("t2t_vit_t_14", tmp_path / "w.pth.tar")


def test_weights_of_another_size_are_put_in_with_resampled_positions():
    tensors = official("performer", depth=1)
    tensors["pos_embed"] = sinusoid(197, 384)[None]
    model = t2t_vit("t2t_vit_14", depth=1, img_size=(224, 320))
    put_weights(model, tensors, "file", "t2t_vit_14")
    assert model.pos_embed.shape == (1, 1 + 14 * 20, 384)
    assert torch.equal(model.pos_embed[:, 0], tensors["pos_embed"][:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_holds(kind):
    model = build(kind, img_size=(48, 64))
    anatomy = anatomy_of(model)
    assert all(type(block) is Block for block in model.blocks)
    assert anatomy.prefix == ("class",)
    assert anatomy.patch == (16, 16)
    assert anatomy.grid((48, 64)) == (3, 4)
    assert anatomy.class_row
    assert verify(anatomy, pictures(2, (48, 64))).error < 1e-5
    with pytest.raises(ModelError, match="takes pictures of 48 x 64 pixels, got 64 x 64"):
        vitscope.Explainer(model)(pictures(), "cdam")
    with pytest.raises(ModelError, match="takes pictures of 48 x 64 pixels, got 64 x 64"):
        model(pictures())


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_gives_a_map(kind):
    model = build(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explainer = vitscope.Explainer(model)
    applies = {name for name, why_not in vitscope.describe(model).methods.items() if not why_not}
    assert len(applies) == len(vitscope.list_methods())
    methods = sorted(applies - {"frame", "center", "random", "gradcam", "gradcam_pp", "xgradcam", "layercam"})
    methods = [cheaper(name) for name in methods]
    assert {"daam", "agcam", "cdam", "attention"} <= set(methods)
    explained = explainer(pictures(), methods)
    for name in methods:
        values = explained[name].values
        assert values.shape == (2, 4, 4)
        assert values.isfinite().all()
        assert (values.flatten(1).std(1) > 0).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.pos_embed.requires_grad


def test_cdam_is_the_gradient_with_respect_to_the_last_blocks_tokens():
    """CDAM of the official definition, by autograd through the whole last block, with nothing of the trace."""
    model = build().double()
    images = pictures().double()
    kept = []
    handle = model.blocks[-1].norm1.register_forward_hook(lambda *args: kept.append(args[-1]))
    logits = model(images)
    handle.remove()
    target = logits.argmax(1)
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), kept[0])
    expected = (gradient * kept[0]).sum(-1)[:, 1:].reshape(2, 4, 4).detach()
    found = vitscope.Explainer(model)(images, "cdam", target.tolist())["cdam"].values
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)


def test_factory():
    model = t2t_vit("t2t_vit_t_14", num_classes=3, img_size=32, depth=1)
    assert model.head.out_features == 3
    assert model.pretrained_cfg["architecture"] == "t2t_vit_t_14"
    prepared = vitscope.Explainer(model.eval()).preprocessing
    assert (prepared.size, prepared.crop_pct, prepared.interpolation) == ((32, 32), 0.9, "bicubic")
    assert prepared.mean == (0.485, 0.456, 0.406)
    assert model.norm.eps == model.blocks[0].norm1.eps == 1e-5
    with pytest.raises(ModelError, match=r"did you mean .*t2t_vit_14"):
        t2t_vit("t2t_vit_15")
    with pytest.raises(ModelError, match="100 x 100 pixels; give multiples of 16"):
        t2t_vit("t2t_vit_14", img_size=100)
    with pytest.raises(ModelError, match="no 'linear' token transformer"):
        T2TViT("linear")  # type: ignore[arg-type]
