"""What cannot be explained is refused by its own name, with a next step that works; what can be is explained."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

import vitscope
from tests.conftest import build, pictures
from vitscope.datasets import Scenes
from vitscope.errors import ImageError, ModelError, TargetError

X = pictures(build())


@pytest.fixture(scope="module")
def scenes():
    return vitscope.Explainer("scenes")


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(Scenes(1, seed=7)[0].image).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def values(explainer, images, method="cdam", **options):
    return explainer(images, method, **options)[method].values


def test_the_bytes_of_a_file_and_an_open_one_are_explained(scenes, photo):
    content = photo.read_bytes()
    wanted = values(scenes, photo)
    again = io.BytesIO(content)
    with photo.open("rb") as file:
        for one in (content, bytearray(content), memoryview(content), again, again, file, [content]):
            assert torch.equal(values(scenes, one), wanted)
    both = scenes([content, str(photo)], "cdam")
    assert both.subject.batch.names == ("image-0", "a.png")
    with pytest.raises(ImageError, match="the image: not a picture in a format that Pillow reads"):
        scenes(b"hello", "cdam")


def test_a_folder_and_a_url_say_what_to_give(scenes, photo, tmp_path):
    with pytest.raises(ImageError, match="a folder; give the images in it, such as sorted") as caught:
        scenes(str(tmp_path), "cdam")
    code = str(caught.value).split("such as ")[1]
    assert eval(code, {"Path": Path}) == [photo]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="a folder with no pictures in it"):
        scenes(tmp_path / "empty", "cdam")
    with pytest.raises(ImageError, match=r"https://example\.org/a\.jpg: a URL, and nothing is downloaded here"):
        scenes("https://example.org/a.jpg", "cdam")


@pytest.mark.parametrize("method", ["cdam", "daam", "input_x_gradient", "attnlrp", "rise:masks=4"])
@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda output: output.logits[:, 0], "AttributeError: 'Tensor' object has no attribute 'logits'"),
        (lambda output: output[:, 99], "IndexError"),
        (lambda output: 1 / 0, "ZeroDivisionError"),
        (lambda output: output["logits"], "IndexError|TypeError"),
    ],
)
def test_a_target_that_raises_says_what_it_is_given(function, cause, method):
    explainer = vitscope.Explainer(build())
    with pytest.raises(
        TargetError, match=rf"given .* output, a tensor .* \(2, \d+\), and raises ({cause}).*output\[:, 0\]"
    ):
        explainer(X, method, target=function)


def test_a_target_of_features_and_one_of_nothing():
    explainer = vitscope.Explainer(build())
    with pytest.raises(TargetError, match=r"given the model's features, a tensor \(images, features\) of shape \(2, "):
        explainer(X, "cdam", target=vitscope.targets.Custom(lambda rows: rows.missing, of_features=True))
    with pytest.raises(TargetError, match="does not depend on the output"):
        explainer(X, "cdam", target=lambda output: torch.ones(len(output), requires_grad=True))


def test_a_target_that_fails_at_altered_images_alone():
    calls = []

    def fails(output):
        calls.append(output)
        if len(calls) > 1:
            raise KeyError("later")
        return output[:, 0]

    with pytest.raises(TargetError, match="raises KeyError: 'later'"):
        vitscope.Explainer(build())(X, "rise:masks=4", target=fails)


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "maxvit_rmlp_pico_rw_256",
        "hiera_tiny_224",
        "levit_128s",
        "cait_xxs24_224",
        "vit_tiny_patch16_224",
    ],
)
def test_a_tensor_of_another_size_is_refused_with_both_sizes(name):
    model = timm.create_model(name, num_classes=3).eval()
    side = model.pretrained_cfg["input_size"][1]
    explainer = vitscope.Explainer(model)
    with pytest.raises(ModelError) as caught:
        explainer(torch.randn(1, 3, side + 20, side + 20), "attention")
    assert f"{side + 20} x {side + 20}" in str(caught.value)
    assert f"{side} x {side}" in str(caught.value)
    assert "resize" in str(caught.value)
    assert ("dynamic_img_size" in str(caught.value)) == (name == "vit_tiny_patch16_224")


def test_errors_of_a_users_own_hook_are_left_at_the_models_size():
    model = build()

    def fails(*_):
        raise KeyError("mine")

    explainer = vitscope.Explainer(model)
    with model.blocks[0].register_forward_hook(fails), pytest.raises((KeyError, ModelError), match="mine"):
        explainer(X, "cdam")


class Output(dict):
    """As a training loop returns it."""


class Wrapped(nn.Module):
    def __init__(self, inner, head=None):
        super().__init__()
        self.inner, self.head = inner, head

    def forward(self, images):
        found = self.inner(images)
        return Output(logits=found if self.head is None else self.head(found), loss=None)


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("method", ["cdam", "daam", "agcam", "rise:masks=4", "attnlrp", "input_x_gradient"])
def test_a_mapping_with_logits_is_explained_as_they_are(method, headed):
    torch.manual_seed(0)
    inner = build(num_classes=0) if headed else build()
    head = nn.Linear(inner.num_features, 5) if headed else None
    plain = nn.Sequential(inner, head) if headed else inner
    found = vitscope.Explainer(Wrapped(inner, head).eval())(X, method, target=1)
    wanted = vitscope.Explainer(plain.eval())(X, method, target=1)
    assert torch.allclose(found.logits, wanted.logits)
    assert torch.allclose(found[method].values, wanted[method].values, atol=1e-6)


def test_transformers_wrapper_of_timm_is_explained(caplog):
    transformers = pytest.importorskip("transformers", reason="extra hf")
    torch.manual_seed(0)
    config = transformers.TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=5, model_args={"depth": 2})
    model = transformers.TimmWrapperForImageClassification(config).eval()
    model.timm_model.head.weight.data.normal_()
    images = torch.randn(1, 3, 224, 224)
    found = vitscope.Explainer(model)
    assert not caplog.messages
    wanted = vitscope.Explainer(model.timm_model)
    assert found.preprocessing == wanted.preprocessing
    for method in ("cdam", "daam", "rise:masks=4"):
        assert torch.allclose(values(found, images, method), values(wanted, images, method), atol=1e-6)


@pytest.mark.parametrize("used", [False, True])
def test_blocks_that_are_compiled_one_by_one_are_explained(used):
    model, images = build(), X
    wanted = vitscope.Explainer(model)(images, "cdam,daam,attention")
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="eager")
    if used:
        model(images)
    found = vitscope.Explainer(model)(images, "cdam,daam,attention")
    for method in ("cdam", "daam", "attention"):
        assert torch.equal(found[method].values, wanted[method].values)


def test_compiled_blocks_of_other_families_are_named():
    sizes = {"image_size": 32, "patch_size": 8, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": 3}
    model = torchvision.models.VisionTransformer(num_layers=1, **sizes).eval()
    model.encoder.layers[0] = torch.compile(model.encoder.layers[0], backend="eager")
    with pytest.raises(ModelError, match=r"compiled by themselves \(encoder\.layers.*before torch\.compile"):
        vitscope.Explainer(model)


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_and_torchscript_are_refused_by_name(caplog):
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(build(), {nn.Linear})
        scripted = torch.jit.trace(model, X)
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv is a quantised layer .* before it is quantised"):
        vitscope.Explainer(quantised)
    with pytest.raises(ModelError, match=r"is TorchScript .*model\.load_state_dict\(scripted\.state_dict\(\)\)"):
        vitscope.Explainer(scripted)
    assert not caplog.messages
    again = build()
    again.load_state_dict(scripted.state_dict())
    assert torch.allclose(vitscope.Explainer(again)(X, "cdam").logits, scripted(X), atol=1e-4)


def test_the_log_says_once_that_preprocessing_is_unknown(caplog):
    transformers = pytest.importorskip("transformers", reason="extra hf")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=7)
    vitscope.Explainer(transformers.ViTForImageClassification(config).eval())
    vitscope.Explainer(Wrapped(build()).eval())
    assert len(caplog.messages) == 2
    for line in caplog.messages:
        assert line.count("unknown") == 1
        assert line.count("preprocessing=") == 1
        assert line.endswith("timm's defaults are taken")
