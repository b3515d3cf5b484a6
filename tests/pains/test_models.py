"""Pains with models: what must be said of them, and what is read wrongly. Each test is named after its pain."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import vitscope
from tests.conftest import build, perturbed, pictures
from vitscope.models import Layout, anatomy_of
from vitscope.models.weights import read_weights
from vitscope.targets import Predicted
from vitscope.trace import Blocks, Needs, record


def attention_of(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Every block's matrix (b h n n) as the model itself makes it, written out; without vitscope."""
    seen: list[torch.Tensor] = []
    handles = [
        block.attn.attn_drop.register_forward_hook(lambda _, __, matrix: seen.append(matrix)) for block in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def written_out(layout: str) -> nn.Module:
    """The same weights as `build(layout)`, with attention that a hook can see."""
    return build(layout, fused=False)


def test_01_a_reshape_transform_must_be_written():
    """A model and a picture are enough: the layout is found, printed, and cells lie where their patches do."""
    for layout in ("non_square", "distilled", "dinov2_registers", "mean_no_class_token"):
        model = build(layout)
        with torch.no_grad():
            model.pos_embed.zero_()  # then a picture whose patches trade places has a map whose cells do
        rows, cols = (side // 8 for side in model.patch_embed.img_size)
        images = pictures(model)
        traded = images.unflatten(3, (cols, 8)).flip(3).flatten(3, 4).unflatten(2, (rows, 8)).roll(1, 2).flatten(2, 3)
        explainer = vitscope.Explainer(model)
        for label in ("daam", "cdam"):
            values, other = (explainer(some, label)[label].values for some in (images, traded))
            assert values.shape == (2, rows, cols)
            torch.testing.assert_close(other, values.flip(2).roll(1, 1), rtol=1e-3, atol=1e-6)
        assert f"{rows} x {cols} of 8 x 8 pixels" in repr(vitscope.describe(model))
    model = build()
    said = Layout(blocks=list(model.blocks), final_norm=model.norm, head=model.head, patch=8, image_size=32)
    values = vitscope.explain(vitscope.adapt(model, said), pictures(model)).values
    torch.testing.assert_close(values, vitscope.explain(model, pictures(model)).values)


@pytest.fixture(scope="module")
def swin() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=7, depths=(2, 1, 1, 1))
    return perturbed(model, by=0.05)


def test_02_swin_has_no_layer_to_point_at(swin):
    """Its maps need no layer; windows, shifted ones too, are merged where they were cut."""
    explainer = vitscope.Explainer(swin)
    images = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    found = explainer(images, "daam,agcam,cdam,gradcam")
    assert [found[label].values.shape for label in found] == [(1, 14, 14), (1, 14, 14), (1, 2, 2), (1, 2, 2)]
    assert vitscope.describe(explainer).methods["attention"] == ""
    assert explainer(images, "attention:stage=0")["attention:stage=0"].values.shape == (1, 14, 14)
    altered = images.clone()
    altered[..., 2 * 4 : 3 * 4, 9 * 4 : 10 * 4] += 3  # the token in row 2, column 9; windows of 7 x 7
    one, other = (
        record(explainer.anatomy, x, Needs(attention=Blocks.LAST), [Predicted()]).windows for x in (images, altered)
    )
    plain = (one[0].received - other[0].received).abs().sum(dim=(0, 1)) > 1e-7
    assert plain[:7, 7:].any()
    assert not plain[7:].any()
    assert not plain[:, :7].any()
    shifted = (one[1].received - other[1].received).abs().sum(dim=(0, 1)) > 1e-7  # cut 3 later: rows 3-9, 10-2
    assert shifted[:, 3:10].any()
    assert shifted[:, 10:].any()


def test_03_attention_is_none_under_a_fused_kernel():
    """Every block's attention is seen while the fused kernel runs, and is what the kernel computed."""
    for layout in ("vit", "qk_norm", "dinov2_registers"):
        model = build(layout)
        assert all(block.attn.fused_attn for block in model.blocks)
        trace = record(anatomy_of(model), pictures(model), Needs(attention=Blocks.ALL), [Predicted()])
        wanted = attention_of(written_out(layout), pictures(model))
        assert len(trace.blocks) == len(wanted) == 3
        for block, matrix in zip(trace.blocks, wanted, strict=True):
            torch.testing.assert_close(block.attention, matrix[:, :, 0], rtol=1e-4, atol=1e-6)

    model = build()
    attention = model.blocks[1].attn
    attention.forward = lambda x, **_: attention.proj(x.roll(1, 1))  # whatever a kernel of somebody else's does
    with pytest.raises(vitscope.ModelError, match=r"the attention of blocks\.1 was not seen: it uses a kernel"):
        vitscope.Explainer(model)


def test_03_also_in_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=7, attn_implementation="sdpa")
    model = perturbed(transformers.ViTForImageClassification(config))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    trace = record(anatomy_of(model), images, Needs(attention=Blocks.ALL), [Predicted()])
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model(images, output_attentions=True).attentions
    assert len(trace.blocks) == len(wanted) == 3
    for block, matrix in zip(trace.blocks, wanted, strict=True):
        torch.testing.assert_close(block.attention, matrix[:, :, 0], rtol=1e-4, atol=1e-6)


def test_04_home_made_recipes_are_wrong():
    """The attention is softmax(q k / sqrt(d)), which x @ v is not; a model that computes another thing is refused."""
    model = build("dinov2_registers")
    (values,) = vitscope.explain(model, pictures(model, 1), "attention").values
    kept: list[torch.Tensor] = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, packed: kept.append(packed))
    with torch.no_grad():
        model(pictures(model, 1))
    handle.remove()
    query, key, value = kept[0].unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4).unbind(0)
    scores = torch.einsum("hd,hnd->hn", query[0, :, 0], key[0]) * 8**-0.5
    right = scores.softmax(dim=1).mean(dim=0)[5:].unflatten(0, (4, 4))
    wrong = torch.einsum("hd,hnd->hn", query[0, :, 0], value[0]).mean(dim=0)[5:].unflatten(0, (4, 4))
    torch.testing.assert_close(values, right, rtol=1e-4, atol=1e-6)
    assert np.corrcoef(values.flatten(), wrong.flatten())[0, 1] < 0.9
    assert vitscope.Explainer(model).description_error < 1e-5
    assert "relative error against the model's own numbers" in repr(vitscope.describe(model))

    other = build()
    other.blocks[1].attn.register_forward_hook(lambda _, __, output: 1.5 * output)
    assert not vitscope.Explainer(other).anatomy.described


def test_05_registers_and_outliers_are_taken_for_patches():
    """However loud the registers are, the map is that of the patches behind them."""
    model, twin = build("dinov2_registers"), written_out("dinov2_registers")
    with torch.no_grad():
        model.reg_token *= 50
        twin.reg_token *= 50
    images = pictures(model)
    matrix = attention_of(twin, images)[-1]
    wanted = matrix[:, :, 0, 5:].mean(dim=1).unflatten(1, (4, 4))
    torch.testing.assert_close(vitscope.explain(model, images, "attention").values, wanted, rtol=1e-4, atol=1e-6)
    assert [name.rstrip("0123456789 ") for name in vitscope.describe(model).facts["prefix_tokens"]] == [
        "class",
        *["register"] * 4,
    ]
    assert vitscope.explain(build("distilled"), images, "attention").values.shape == (2, 4, 4)


def test_11_several_gpus_lose_half_of_the_batch(tmp_path):
    """The module in DataParallel is the one that is run, with the whole batch; its weights' names are understood."""
    model = build()
    sizes: list[int] = []
    model.patch_embed.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    images = pictures(model, 5)
    explainer = vitscope.Explainer(nn.DataParallel(model))
    sizes.clear()
    ex = explainer(images, "daam,agcam,cdam", [0, 1, 2, 3, 4])
    assert sizes == [5]
    for label in ex:
        assert ex[label].values.shape == (5, 4, 4)
        torch.testing.assert_close(ex[label].values, vitscope.explain(model, images, label, [0, 1, 2, 3, 4]).values)
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        save_file({prefix + name: value for name, value in model.state_dict().items()}, tmp_path / "w.safetensors")
        assert read_weights(tmp_path / "w.safetensors").tensors.keys() == model.state_dict().keys(), prefix


def test_11_and_processes_of_their_own_share_the_pictures(tmp_path):
    """Each part of a run is one process's, and together they are all pictures, once."""
    from PIL import Image

    from vitscope.bench import make_plan
    from vitscope.bench.worker import Worker
    from vitscope.datasets import Scenes

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index, scene in enumerate(Scenes(7, seed=1)):
        Image.fromarray(scene.image).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(scene.mask().astype(np.uint8) * 255).save(tmp_path / "masks" / f"{index}.png")
    explainer = vitscope.Explainer("scenes")
    plan = make_plan(explainer, "masks", tmp_path, methods="cdam", metrics="energy", part_size=2)
    workers = [Worker(plan, explainer=explainer) for _ in range(2)]  # as in two processes, which share nothing
    done = [workers[part.index % 2].compute(part).table["image"].to_pylist() for part in plan.parts()]
    assert sorted(image for part in done for image in set(part)) == [str(index) for index in range(7)]


@pytest.mark.parametrize("layout", ["attention_pool"])
def test_16_clip_and_siglip_take_no_text(layout):
    """A text is a target; where a learned query pools the tokens (SigLIP), the map is that query's."""
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16}
    words = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = perturbed(open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=words), by=0.1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explainer = vitscope.Explainer(clip, preprocessing={"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3})
    cat, dog = (explainer(images, "cdam", f"a photo of a {name}")["cdam"].values for name in ("cat", "dog"))
    assert not torch.allclose(cat, dog, rtol=0.05)
    vector = torch.nn.functional.normalize(clip.encode_text(open_clip.tokenize(["a photo of a cat"], 16)), dim=1)[0]
    leaf = images.clone().requires_grad_()
    score = (torch.nn.functional.normalize(clip.encode_image(leaf), dim=1) @ vector).sum()
    (gradient,) = torch.autograd.grad(score, leaf)
    values = explainer(images, "input_x_gradient", "a photo of a cat")["input_x_gradient"].values
    by_hand = (gradient * images).sum(1).unflatten(1, (4, 8)).unflatten(3, (4, 8)).sum(dim=(2, 4))
    torch.testing.assert_close(values, by_hand, rtol=1e-3, atol=1e-6)
    pooled = build(layout)
    shown = pictures(pooled)
    pool, seen = pooled.attn_pool, []
    handle = pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        pooled(shown)
        handle.remove()
        query = pool.q_norm(pool.q(pool.latent).unflatten(2, (pool.num_heads, -1)).transpose(1, 2))
        key = pool.k_norm(pool.kv(seen[0]).unflatten(2, (2, pool.num_heads, -1))[:, :, 0].transpose(1, 2))
        wanted = (query @ key.transpose(2, 3) * pool.scale).softmax(-1)[:, :, 0].mean(1).unflatten(1, (4, 6))
    torch.testing.assert_close(vitscope.explain(pooled, shown, "attention").values, wanted, rtol=1e-4, atol=1e-6)


def test_17_models_of_hugging_face_need_a_wrapper():
    """A model whose output is no tensor is called as it wants to be, or explained by a function of its output."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    model = perturbed(
        transformers.ViTForImageClassification(
            transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=7)
        )
    )
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ex = vitscope.Explainer(model, preprocessing={"size": 32})(images, "daam,agcam,cdam")
    with torch.no_grad():
        torch.testing.assert_close(ex.logits, model(pixel_values=images).logits)
    assert all(ex[label].values.shape == (2, 4, 4) for label in ex)

    class Tuples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = build()

        def forward(self, x):
            return self.vit(x), "and more"

    explainer = vitscope.Explainer(Tuples(), preprocessing={"size": 32})
    assert explainer(images, "daam", lambda output: output[0][:, 1])["daam"].values.std() > 0
    with pytest.raises(vitscope.TargetError, match=r"the output is \[0\] \(\d, 7\); give a function"):
        explainer(images, "daam")


def test_19_torch_compile_drops_hooks():
    """A model that was compiled, and used, gives the maps of the one that was written."""
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("torch before 2.6")
    images = pictures(build())
    wanted = vitscope.Explainer(build())(images, "daam,agcam,cdam,chefer", 2)

    def in_place(model: nn.Module) -> nn.Module:
        for block in model.blocks:
            block.compile(backend="eager")
        return model

    for compiled in (functools.partial(torch.compile, backend="eager"), in_place):
        torch.compiler.reset()
        model = compiled(build())
        with torch.no_grad():
            model(images)  # its graphs are made before any hook is there
        found = vitscope.Explainer(model)(images, "daam,agcam,cdam,chefer", 2)
        for label, attribution in wanted.attributions.items():
            torch.testing.assert_close(found[label].values, attribution.values, rtol=1e-4, atol=1e-7)


def test_22_pictures_that_are_not_square_come_out_wrong():
    """Rows are rows: the cell that stands out is where the odd patch is, in any size, and on the picture's pixels."""
    model = build("dynamic")
    with torch.no_grad():
        model.pos_embed.zero_()
    explainer = vitscope.Explainer(model)
    for rows, cols in ((3, 9), (5, 2)):
        images = torch.zeros(1, 3, 8 * rows, 8 * cols)
        images[..., 8:16, 8 * (cols - 1) :] = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
        attribution = explainer(images, "attention")["attention"]
        values = attribution.values[0]
        assert values.shape == (rows, cols)
        others = torch.ones(rows, cols, dtype=torch.bool)
        others[1, cols - 1] = False
        torch.testing.assert_close(values[others], values[0, 0].expand(rows * cols - 1), rtol=1e-4, atol=1e-6)
        assert abs(values[1, cols - 1] - values[0, 0]) > 1e-3
        pixels = attribution.to_pixels()[0]
        assert pixels.shape == (8 * rows, 8 * cols)
        assert abs(pixels[12, 8 * cols - 4] - pixels[2, 2]) > 1e-3
