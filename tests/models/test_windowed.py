"""Windowed models: what keys receive is put back where the model's own cutting took it from."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import swin_transformer as swin

import vitscope
from tests.conftest import perturbed
from tests.zoo import DOWN, HYBRID, MASKED, NARROW, PYRAMID, TORCHVISION, TWO_BRANCHES, V1, V2
from vitscope.models import anatomy_of

MODELS = {
    "swin": lambda: of_timm("swin_tiny_patch4_window7_224", img_size=56, **NARROW),
    "swin_padded": lambda: of_timm("swin_tiny_patch4_window7_224", img_size=(112, 80), **NARROW),
    "swin_v2": lambda: of_timm("swinv2_tiny_window8_256", img_size=64, window_size=4, **NARROW),
    "maxvit": lambda: of_timm("maxvit_nano_rw_256", img_size=64, **HYBRID),
    "hiera": lambda: of_timm("hiera_tiny_224", img_size=128, **MASKED),
    "pvt_v2": lambda: of_timm("pvt_v2_b0", **PYRAMID),
    "pvt_v2_linear": lambda: of_timm("pvt_v2_b2_li", **PYRAMID),
    "levit": lambda: of_timm("levit_128s", **DOWN),
    "crossvit": lambda: of_timm("crossvit_9_240", **TWO_BRANCHES),
    "torchvision_swin": lambda: swin.SwinTransformer(**TORCHVISION, **V1),
    "torchvision_swin_v2": lambda: swin.SwinTransformer(**TORCHVISION, **V2),
}
TRANSFORMERS = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 3],
}


def of_timm(name: str, **options) -> nn.Module:
    return timm.create_model(name, num_classes=7, **options)


def of_transformers(kind: str, **options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**TRANSFORMERS, num_labels=7, **options)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


MODELS |= {
    "transformers_swin": lambda: of_transformers("Swin", window_size=4),
    "transformers_swin_padded": lambda: of_transformers("Swin", window_size=5),
    "transformers_swin_v2": lambda: of_transformers("Swinv2", window_size=4),
}
PREPARED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


KINDS = ("swin", "swin_v2", "maxvit", "hiera", "levit")
"""One model of each kind; the others are integration tests."""


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name in KINDS else [pytest.mark.integration]) for name in sorted(MODELS)],
    scope="module",
)
def explainer(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vitscope.Explainer(perturbed(MODELS[request.param](), by=0.05), preprocessing=PREPARED)


def test_every_stage_has_a_map_and_the_papers_methods_too(explainer):
    images = torch.randn(2, 3, *explainer.preprocessing.size, generator=torch.Generator().manual_seed(1))
    stages = sorted({window.stage for window in explainer.anatomy.windows})
    labels = ["attention", *(f"attention:stage={stage}" for stage in stages)]
    ex = explainer(images, [*labels, "legrad"], strict=False)
    with torch.no_grad():
        assert torch.allclose(ex.logits, explainer.anatomy.forward(images), rtol=1e-5, atol=1e-5)
    assert list(ex.attributions) == labels
    assert torch.equal(ex["attention"].values, ex[labels[-1]].values)
    for label in labels:
        values = ex[label].values
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert (values.flatten(1).std(dim=1) > 1e-6 * values.max()).all()
        assert torch.allclose(explainer(images[1], label)[label].values[0], values[1], rtol=1e-4, atol=1e-7)
        assert ex[label].to_pixels()[0].shape == images.shape[-2:]
    assert "use attention" in ex.failures["legrad"]
    papers = explainer(images, "daam,agcam,cdam", 1)
    alone = explainer(images[1:], "daam,agcam,cdam", 1)
    for label in papers:
        values = papers[label].values
        assert values.isfinite().all()
        assert (values.flatten(1).std(dim=1) > 1e-6 * values.abs().amax()).all(), label
        torch.testing.assert_close(alone[label].values[0], values[1], rtol=1e-3, atol=float(values.abs().max()) * 1e-4)
    with pytest.raises(vitscope.MethodError, match=f"stages 0 to {stages[-1]}, not 9"):
        explainer(images, "attention:stage=9")
    text = str(vitscope.describe(explainer))
    assert f"in {len(stages)} stages" in text
    assert re.search("legrad +no: it follows rows of tokens", text)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("levit_128s", {"img_size": 160}),
        ("hiera_tiny_224", {"img_size": (96, 160)}),
        ("maxvit_nano_rw_256", {"img_size": (64, 128)}),
        ("pvt_v2_b0", {"pretrained_cfg_overlay": {"input_size": (3, 96, 160)}}),
    ],
)
def test_a_model_built_for_another_size(name, options):
    explainer = vitscope.Explainer(perturbed(timm.create_model(name, num_classes=7, **options), by=0.05))
    size = options.get("img_size", (96, 160))
    size = size if isinstance(size, tuple) else (size, size)
    assert explainer.anatomy.input_size == explainer.preprocessing.size == size
    values = explainer(torch.randn(1, 3, *size), "attention:stage=0")["attention:stage=0"].values
    assert values.shape[1] * size[1] == values.shape[2] * size[0]


class FirstLinear(TorchFunctionMode):
    """The input of the first linear layer of this width: the tokens as their attention gets them."""

    def __init__(self, width):
        super().__init__()
        self.width, self.tokens = width, None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear and self.tokens is None and args[0].shape[-1] == self.width:
            self.tokens = args[0]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*(name for name in MODELS if "swin" in name), "maxvit", "hiera"])
def test_a_key_goes_back_where_it_came_from(name):
    """Every place of the picture carries its own number into the blocks; the numbers of the keys are put back."""
    model = perturbed(MODELS[name](), by=0.05)
    anatomy = anatomy_of(model)
    inputs = {}
    for window in anatomy.windows:
        window.site.register_forward_pre_hook(lambda _, given, w=window.name: inputs.__setitem__(w, given))
    with torch.no_grad():
        anatomy.forward(torch.randn(1, 3, *anatomy.input_size))
    for window in anatomy.windows:
        first, *rest = inputs[window.name]
        for part in ("norm1", "layernorm_before"):
            if hasattr(window.site, part):
                setattr(window.site, part, nn.Identity())
        numbers = torch.arange(first[..., 0].numel(), dtype=first.dtype).view(first.shape[:-1])
        with torch.no_grad(), FirstLinear(first.shape[-1]) as seen:
            window.site(numbers[..., None].expand_as(first).contiguous(), *rest)
        keys = seen.tokens[..., 0]
        wanted = numbers[0]
        if name == "hiera":
            wanted = model.reroll(numbers[..., None], int(window.name.split(".")[1]))[0, ..., 0]
            units = keys.shape[1] // window.attention.window_size if window.attention.use_mask_unit_attn else None
            keys = keys.view(1, -1, units).permute(0, 2, 1) if units else keys  # b units n, as the attention reads it
        else:
            keys = keys.flatten(1)
        wanted = wanted.view(rest[0]) if name.startswith("transformers") else wanted
        assert torch.equal(window.put_back(keys[:, None], (first, *rest))[0, 0], wanted), window.name
