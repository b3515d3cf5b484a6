"""The methods of Captum against Captum itself, run by hand on the model."""

from __future__ import annotations

import pytest
import timm
import torch

import vitscope
from tests.conftest import build, perturbed, pictures
from vitscope.methods import as_method
from vitscope.targets import Concept, Contrast

captum = pytest.importorskip("captum.attr")

CLASSES = [4, 1]


def on_grid(attributions, side):
    """Summed over channels and patches, by hand."""
    rows, cols = attributions.shape[2] // side, attributions.shape[3] // side
    found = torch.zeros(len(attributions), rows, cols, dtype=attributions.dtype)
    for row in range(rows):
        for col in range(cols):
            patch = attributions[:, :, row * side : (row + 1) * side, col * side : (col + 1) * side]
            found[:, row, col] = patch.sum(dim=(1, 2, 3))
    return found


def check(found, wanted, bound=1e-5):
    assert float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("layout", ["vit", "non_square", "dynamic", "distilled", "mean_no_class_token"])
def test_each_is_captums(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, seed=int(torch.randint(1000, ())), dtype=torch.float64)
    ex = vitscope.Explainer(model)(
        images, "input_x_gradient,integrated_gradients,smoothgrad:samples=6,noise=0.2,seed=3", CLASSES
    )
    product = captum.InputXGradient(model).attribute(images.clone().requires_grad_(), target=CLASSES).detach()
    check(ex["input_x_gradient"].values, on_grid(product, 8))
    integrated = captum.IntegratedGradients(model).attribute(images, target=CLASSES, n_steps=50)
    check(ex["integrated_gradients"].values, on_grid(integrated, 8))
    for image, target, found in zip(images, CLASSES, ex["smoothgrad:samples=6,noise=0.2,seed=3"].values, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            smooth = captum.NoiseTunnel(captum.Saliency(model)).attribute(
                image[None],
                nt_type="smoothgrad",
                nt_samples=6,
                stdevs=0.2 * float(image.max() - image.min()),
                target=target,
                abs=False,
            )
        check(found, on_grid(smooth, 8)[0])


@pytest.mark.parametrize("others", ["", ",daam", ",chefer,agcam", ",attnlrp,legrad"])
@pytest.mark.parametrize(
    "layout", ["vit", "distilled", "clip", "qk_norm", "one_block", "mean", "mean_one_block", "max", "attention_pool"]
)
def test_the_gradient_at_the_pictures_whatever_else_is_made_of_the_pass(layout, others):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, seed=int(torch.randint(1000, ())), dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    labels = [label for label in others.split(",")[1:] if not explainer.why_not(label, as_method(label))]
    together = explainer.each(images, ["input_x_gradient", *labels], [2, Contrast(1, 4)])
    for found, by in zip(together, (lambda y: y[:, 2], lambda y: y[:, 1] - y[:, 4]), strict=True):
        product = captum.InputXGradient(lambda x, by=by: by(model(x))).attribute(images.clone().requires_grad_())
        check(found["input_x_gradient"].values, on_grid(product.detach(), 8))
    if labels:
        for found, apart in zip(together, explainer.each(images, labels, [2, Contrast(1, 4)]), strict=True):
            for label in labels:
                check(found[label].values, apart[label].values)


@pytest.mark.parametrize("count", [1, 3])
def test_the_gradient_at_the_pictures_through_batch_norms(count):
    """Of one picture too, where torch's own backward pass is wrong: held against the picture in company."""
    model = perturbed(timm.create_model("xcit_nano_12_p16_224", img_size=64, num_classes=7), by=0.05).double().eval()
    images = torch.randn(count, 3, 64, 64, dtype=torch.float64)
    found = vitscope.Explainer(model)(images, "input_x_gradient", 3)["input_x_gradient"].values
    twice = torch.cat([images, images]).requires_grad_()
    product = captum.InputXGradient(model).attribute(twice, target=3).detach()[:count]
    check(found, on_grid(product, 16))


def test_other_targets():
    model = build(dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    contrast = captum.IntegratedGradients(lambda x: model(x)[:, 2] - model(x)[:, 5]).attribute(images, n_steps=9)
    concept = torch.randn(24)

    def along(x):
        return model.forward_head(model.forward_features(x), pre_logits=True) @ concept.double()

    toward = captum.IntegratedGradients(along).attribute(images, n_steps=9)
    label = "integrated_gradients:steps=9"
    first, second = explainer.each(images, label, [Contrast(2, 5), Concept(concept)])
    check(first[label].values, on_grid(contrast, 8))
    check(second[label].values, on_grid(toward, 8))


def test_integrated_gradients_add_up():
    model = build(dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    found = vitscope.Explainer(model)(images, "integrated_gradients:steps=300", CLASSES)
    (values,) = (one.values for one in found.attributions.values())
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images))).gather(1, torch.tensor(CLASSES)[:, None])[:, 0]
    torch.testing.assert_close(values.sum(dim=(1, 2)).double(), change, rtol=1e-3, atol=1e-4)


def test_models_without_rows():
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=7)
    model = perturbed(model, by=0.05).double()
    images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    ex = vitscope.Explainer(model)(
        images, "attention,input_x_gradient,smoothgrad:samples=2,rise:masks=5", CLASSES, strict=False
    )
    rows = ex["input_x_gradient"].values.shape[1]
    assert all(attribution.values.shape == (2, rows, rows) for attribution in ex.attributions.values())
    product = captum.InputXGradient(model).attribute(images.clone().requires_grad_(), target=CLASSES).detach()
    check(ex["input_x_gradient"].values, on_grid(product, 56 // rows), 1e-4)


def test_torchs_random_state_is_put_back():
    model = build()
    state = torch.get_rng_state()
    vitscope.Explainer(model)(pictures(model), "smoothgrad:samples=3")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("label", ["smoothgrad:samples=0", "smoothgrad:noise=-1", "integrated_gradients:steps=0"])
def test_wrong_options_are_one_clear_line(label):
    with pytest.raises(vitscope.MethodError, match="give at least 1"):
        vitscope.methods.as_methods(label)
