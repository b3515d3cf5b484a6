"""Adapters describe by structure; weights load safely and say what does not fit."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import safetensors.torch
import timm
import torch

import vitscope
from tests.conftest import build, pictures
from vitscope.errors import ModelError
from vitscope.models import anatomy_of, families, list_models, load_model, register_adapter
from vitscope.trace import verify

PREFIXES = {
    "distilled": ("class", "distillation"),
    "dinov2_registers": ("class", *(f"register {i}" for i in range(1, 5))),
}


def test_prefix_grid_and_blocks(layout):
    model = build(layout)
    anatomy = anatomy_of(model)
    assert anatomy.prefix == PREFIXES.get(layout, ("class",))
    images = pictures(model)
    assert anatomy.grid(tuple(images.shape[-2:])) == (images.shape[-2] // 8, images.shape[-1] // 8)
    assert len(anatomy.blocks) == len(model.blocks)
    assert anatomy.outputs == 7
    assert anatomy.class_row
    assert verify(anatomy, images).error < 1e-5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_token": False, "global_pool": "avg"}, "every row"),
        ({"class_token": False, "global_pool": "map"}, "every row; in the last block the learned query of attn_pool"),
        ({"reg_tokens": 2}, "the class token's row"),
    ],
)
def test_what_the_head_reads_is_told(options, says):
    assert vitscope.describe(build(**options)).facts["methods_read"] == says


def test_a_model_that_gives_every_tokens_output_needs_a_target_that_reads_it():
    model = build(global_pool="", fc_norm=False)
    explainer, images = vitscope.Explainer(model), pictures(model)
    with pytest.raises(vitscope.TargetError, match=r"the output is output \(\d, 17, 7\); give a function"):
        explainer(images)
    found = explainer(images, target=lambda tokens: tokens[:, 0, 2])
    wanted = vitscope.Explainer(build())(images, target=2)
    for label in ("daam", "agcam", "cdam"):
        torch.testing.assert_close(found[label].values, wanted[label].values, rtol=1e-3, atol=1e-5)


def test_other_blocks_and_models_are_refused_by_name():
    from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock

    for block in (ParallelThingsBlock, ResPostBlock):
        with pytest.raises(ModelError, match=block.__name__):
            anatomy_of(build(block_fn=block))
    with pytest.raises(ModelError, match="no adapter knows the model class ResNet"):
        anatomy_of(timm.create_model("resnet18"))
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module"):
        anatomy_of("vit")  # type: ignore[arg-type]
    model = build()
    model.set_grad_checkpointing(True)
    with pytest.raises(ModelError, match="set_grad_checkpointing"):
        anatomy_of(model)


def test_a_wrong_description_is_found_out():
    """A block that does more than its adapter says is explained without a description."""

    class Louder(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, **options):
            return 1.5 * self.inner(x, **options)

    model = build()
    block = model.blocks[1]
    inner = block.forward
    block.forward = lambda x, **options: 1.1 * inner(x, **options)
    explainer = vitscope.Explainer(model)
    assert not explainer.anatomy.described
    with pytest.raises(vitscope.MethodError, match=r"not understood: .*blocks\.2: residual stream differs"):
        explainer(pictures(model), "legrad", 1)
    del block.forward
    model.blocks[1].mlp = Louder(model.blocks[1].mlp)  # inside the described part, it is simply followed
    vitscope.Explainer(model)


def test_a_kernel_that_torch_does_not_show_is_named():
    model = build()
    model.blocks[1].attn.forward = lambda x, **_: x
    with pytest.raises(ModelError, match=r"attention of blocks\.1 was not seen"):
        vitscope.Explainer(model)


def test_adapters_register_once():
    assert "timm VisionTransformer" in families()
    with pytest.raises(ValueError, match="registered already"):
        register_adapter("timm VisionTransformer")(lambda model: None)


def test_other_sizes():
    with pytest.raises(ModelError, match="takes pictures of 32 x 32 pixels, got 40 x 40"):
        vitscope.Explainer(build())(torch.randn(1, 3, 40, 40))
    with pytest.raises(ModelError, match="45 x 30 pixels are not made of whole patches of 8 x 8"):
        vitscope.Explainer(build("dynamic"))(torch.randn(1, 3, 45, 30))


def test_a_model_that_pads_keeps_its_patches_where_they_are():
    padding = vitscope.Explainer(build("dynamic", dynamic_img_pad=True))
    attribution = padding(torch.randn(1, 3, 45, 30), "cdam")["cdam"]
    assert attribution.values.shape == (1, 6, 4)
    shown = attribution.to_pixels("nearest")
    assert shown.shape == (1, 45, 30)
    for row, col in ((0, 0), (5, 3), (2, 1)):
        assert shown[0, 8 * row + 4, 8 * col + 4] == attribution.values[0, row, col]


@pytest.fixture
def tiny(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    return model, tmp_path


def test_weights_in_every_wrapping(tiny):
    model, folder = tiny
    state = model.state_dict()
    safetensors.torch.save_file(state, folder / "plain.safetensors")
    torch.save(state, folder / "plain.pth")
    torch.save({"model": state, "epoch": 3}, folder / "wrapped.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "parallel.pth")
    for name in ("plain.safetensors", "plain.pth", "wrapped.pth", "parallel.pth"):
        loaded = load_model("timm/vit_tiny_patch16_224", folder / name)
        assert loaded.num_classes == 5
        assert not loaded.training
        assert all(torch.equal(state[k], v) for k, v in loaded.state_dict().items())


def test_headless_weights(tiny):
    model, folder = tiny
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head")}
    torch.save(state, folder / "backbone.pth")
    explainer = vitscope.Explainer("vit_tiny_patch16_224", folder / "backbone.pth")
    assert explainer.anatomy.outputs == 0
    picture = torch.randn(1, 3, 224, 224)
    with pytest.raises(vitscope.TargetError, match="no classifier head"):
        explainer(picture)
    assert explainer(picture, "cdam", lambda features: features[:, 3])["cdam"].values.abs().max() > 0


def test_another_input_size_resamples_the_position_embedding(tiny):
    model, folder = tiny
    torch.save(model.state_dict(), folder / "w.pth")
    explainer = vitscope.Explainer("vit_tiny_patch16_224", folder / "w.pth", preprocessing={"size": (96, 160)})
    assert explainer(torch.randn(1, 3, 96, 160), "cdam")["cdam"].values.shape == (1, 6, 10)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_unsafe_and_damaged_weights_are_refused(tiny, capsys):
    _, folder = tiny
    torch.save({"model": Evil()}, folder / "evil.pth")
    (folder / "noise.pth").write_bytes(b"hello")
    (folder / "noise.safetensors").write_bytes(b"hello")
    (folder / "list.pth").write_bytes(pickle.dumps([1, 2]))
    torch.save({"epoch": 3}, folder / "empty.pth")
    for name, says in (
        ("evil.pth", "refused"),
        ("noise.pth", "not a readable|refused"),
        ("list.pth", "."),
        ("noise.safetensors", "not a readable"),
        ("empty.pth", "no tensors"),
        ("no.pth", "no such"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            load_model("timm/vit_tiny_patch16_224", folder / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_weights_of_another_architecture_show_the_first_differences(tiny):
    model, folder = tiny
    torch.save(model.state_dict(), folder / "w.pth")
    with pytest.raises(ModelError, match=r"151 of another shape \(cls_token \(1, 1, 192\) for \(1, 1, 384\)"):
        load_model("timm/vit_small_patch16_224", folder / "w.pth")


def test_names():
    assert "timm/vit_tiny_patch16_224" in list_models("tiny")
    assert "timm/deit_tiny_distilled_patch16_224" in vitscope.list_models()
    for name, says in (
        ("timm/vit_tinny_patch16_224", "did you mean vit_tiny"),
        ("hf/x", "neither a directory nor OWNER/NAME"),
    ):
        with pytest.raises(ModelError, match=says):
            load_model(name)


def test_no_hub_within_reach(monkeypatch):
    def offline(*_, **__):
        raise OSError("We cannot connect. Try again.\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"\(We cannot connect\); pass --weights FILE"):
        load_model("timm/vit_tiny_patch16_224")


def test_a_device_that_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used"):
            vitscope.Explainer("timm/vit_tiny_patch16_224", pretrained=False, device="cuda")


def test_description_reads_like_a_page():
    text = str(vitscope.describe(build("distilled")))
    assert "class, distillation" in text
    assert "4 x 4 of 8 x 8 pixels" in text
    assert text.count("yes") == len(vitscope.list_methods())


@pytest.mark.parametrize(
    ("layout", "wrong", "says"),
    [
        ("vit", lambda b: {"keys_values": lambda *t: tuple(1.1 * x for x in b.keys_values(*t))}, r"blocks\.0: values"),
        ("vit", lambda b: {"keys_values": lambda *t: (b.keys_values(*t)[1], b.keys_values(*t)[1])}, r"blocks\.0: keys"),
        ("qk_norm", lambda _: {"affine_keys": True}, r"blocks\.0: affine keys"),
        ("vit", lambda b: {"projection": lambda rows: 1.1 * b.projection(rows)}, r"blocks\.0: residual sum"),
        ("vit", lambda b: {"feedforward": lambda rows: 1.1 * b.feedforward(rows)}, r"blocks\.1: residual stream"),
    ],
)
def test_each_wrong_claim_of_a_block_is_found_out(layout, wrong, says):
    model = build(layout)
    anatomy = anatomy_of(model)
    first = dataclasses.replace(anatomy.blocks[0], **wrong(anatomy.blocks[0]))
    with pytest.raises(ModelError, match=says):
        verify(dataclasses.replace(anatomy, blocks=(first, *anatomy.blocks[1:])), pictures(model))


def test_wrong_features_are_found_out():
    model = build()
    anatomy = anatomy_of(model)
    with pytest.raises(ModelError, match="the head differs"):
        verify(dataclasses.replace(anatomy, features=lambda rows: 1.1 * anatomy.features(rows)), pictures(model))
