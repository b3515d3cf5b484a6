"""The Quantus bridge: what it refuses, and, where Quantus is installed, inside its metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitscope
from tests import zoo
from tests.bridges import fresh
from tests.conftest import build, perturbed, pictures
from vitscope import ImageError, MethodError, TargetError
from vitscope.bridges import quantus

QUIET = {"disable_warnings": True, "display_progressbar": False}


@pytest.fixture
def library():
    return pytest.importorskip("quantus", reason="make test-peers installs it")


@pytest.fixture
def world():
    seed = fresh()
    model = build("vit", seed=seed)
    return model, pictures(model, 3, seed=seed + 1).numpy(), np.array([seed % 7, seed % 5, seed % 3])


def maps_of(model, inputs, targets, label="cdam"):
    """By the Explainer, (b 1 H W)."""
    values = vitscope.explain(model, torch.as_tensor(inputs), label, targets.tolist()).values
    return F.interpolate(values[:, None], inputs.shape[-2:], mode="bilinear").numpy()


def apart(a, b, **_):
    """A similarity function: of flattened maps (b f), each pair's."""
    return np.abs(a - b).sum(axis=-1)


def test_a_metric_scores_the_maps_as_if_they_were_handed_over(library, world):
    model, inputs, targets = world
    masks = np.random.default_rng(fresh()).random((3, 1, 32, 32)) < 0.4
    asked = {"model": model, "x_batch": inputs, "y_batch": targets, "device": "cpu"}
    for metric, given in (
        (library.RegionPerturbation(patch_size=8, regions_evaluation=16, **QUIET), {}),  # absolute, its default
        (library.RelevanceMassAccuracy(abs=False, normalise=True, **QUIET), {"s_batch": masks}),
        (library.Sparseness(**QUIET), {}),
    ):
        found = metric(**asked, **given, a_batch=None, explain_func=quantus("cdam"))
        wanted = metric(**asked, **given, a_batch=maps_of(model, inputs, targets))
        np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=1e-3, atol=1e-4)
    # Interpolated pixels at the edge are equal, and rounding would order them.
    metric = library.PixelFlipping(features_in_step=64, abs=False, normalise=False, **QUIET)
    found = metric(**asked, a_batch=None, explain_func=quantus("cdam"))
    wanted = metric(**asked, a_batch=quantus("cdam")(model, inputs, targets))
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4)


def test_a_metric_that_explains_altered_pictures(library, world):
    model, inputs, targets = world
    moved = 0.2 * np.random.default_rng(fresh()).standard_normal(inputs[0].size).astype("float32")
    metric = library.MaxSensitivity(
        nr_samples=2,
        perturb_func=lambda arr, **_: arr + moved,
        perturb_func_kwargs={},
        return_nan_when_prediction_changes=False,
        abs=False,
        normalise=False,
        **QUIET,
    )
    found = metric(model, inputs, targets, device="cpu", explain_func=quantus("cdam"))
    there = inputs + moved.reshape(inputs.shape[1:])
    before, after = maps_of(model, inputs, targets), maps_of(model, there, targets)
    change, size = (np.linalg.norm(one.reshape(3, -1), axis=1) for one in (after - before, before))
    np.testing.assert_allclose(found, change / size, rtol=1e-3, atol=1e-5)


def test_a_metric_that_randomises_the_model_layer_by_layer_explains_each_state_of_it(library, world):
    model, inputs, targets = world
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metric = library.MPRT(similarity_func=apart, abs=False, normalise=False, **QUIET)
    found = metric(model, inputs, targets, a_batch=None, device="cpu", explain_func=quantus("cdam"))
    wrapped = library.helpers.model.pytorch_model.PyTorchModel(model)
    wanted = {
        name: np.abs(maps_of(altered, inputs, targets) - maps_of(model, inputs, targets)).sum((1, 2, 3))
        for name, altered in wrapped.get_random_layer_generator("top_down")
    }
    scores = found if isinstance(found, dict) else metric.evaluation_scores
    assert wanted.keys() <= scores.keys()
    assert len(wanted) > 10
    for name, values in wanted.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_metric_that_asks_for_another_class(library, world):
    model, inputs, targets = world
    metric = library.RandomLogit(num_classes=7, similarity_func=apart, abs=False, normalise=False, **QUIET)
    assert min(metric(model, inputs, targets, device="cpu", explain_func=quantus("cdam"))) > 1e-4
    agnostic = quantus("attention", any_target=True)
    assert metric(model, inputs, targets, device="cpu", explain_func=agnostic) == [0, 0, 0]
    with pytest.raises(TargetError, match="attention is class-agnostic, and not all targets are the predicted classes"):
        metric(model, inputs, targets, device="cpu", explain_func=quantus("attention"))


def test_several_methods_by_its_evaluate(library, world):
    model, inputs, targets = world
    found = library.evaluate(
        metrics={"sparseness": library.Sparseness(**QUIET)},
        xai_methods={"CDAM": quantus("cdam"), "random": quantus("random", any_target=True)},
        model=model,
        x_batch=inputs,
        y_batch=targets,
        explain_func_kwargs={},
    )
    wanted = library.Sparseness(**QUIET)(model, inputs, targets, a_batch=maps_of(model, inputs, targets))
    np.testing.assert_allclose(found["CDAM"]["sparseness"], wanted, rtol=1e-4)
    assert found["random"].keys() == {"sparseness"}


def test_weights_that_change_in_the_same_model_are_seen(world):
    model, inputs, targets = world
    explain = quantus("cdam")
    first = explain(model, inputs, targets)
    torch.nn.init.normal_(model.blocks[1].mlp.fc1.weight)
    second = explain(model, inputs, targets)
    assert not np.allclose(first, second, rtol=1e-2)
    np.testing.assert_allclose(second, maps_of(model, inputs, targets), rtol=1e-4, atol=1e-5 * np.abs(second).max())


def test_one_function_for_several_models(world):
    model, inputs, targets = world
    other, explain = build("deit3", seed=fresh()), quantus("cdam")
    for one in (model, other, model):
        np.testing.assert_allclose(explain(one, inputs, targets), maps_of(one, inputs, targets), rtol=1e-3, atol=1e-4)


def test_a_model_that_has_to_be_described():
    anatomy = zoo.adapted()
    model = perturbed(anatomy.model)
    inputs = pictures(build(), 2, seed=fresh()).numpy()
    found = quantus("cdam", describe=lambda module: anatomy)(model, inputs, np.array([1, 2]))
    wanted = vitscope.explain(anatomy, torch.as_tensor(inputs), "cdam", [1, 2]).values
    assert np.allclose(found, F.interpolate(wanted[:, None], (32, 32), mode="bilinear"), rtol=1e-3, atol=1e-4)


def test_patches_as_they_are(world):
    model, inputs, targets = world
    found = quantus("cdam", upsampling="nearest")(model, inputs, targets)
    values = vitscope.explain(model, torch.as_tensor(inputs), "cdam", targets.tolist()).values.numpy()
    np.testing.assert_allclose(found[:, 0], values.repeat(8, axis=1).repeat(8, axis=2), rtol=1e-5)


def test_precision_is_the_models(world):
    _, inputs, targets = world
    double = build(dtype=torch.float64)
    found = quantus("cdam")(double, inputs, targets)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps_of(double, inputs.astype("float64"), targets), rtol=1e-4, atol=1e-5)


def test_what_is_refused(world):
    model, inputs, targets = world
    explain = quantus("cdam")
    with pytest.raises(ImageError, match=r"inputs of torch\.uint8 and shape \(3, 3, 32, 32\) are none of the model"):
        explain(model, np.zeros((3, 3, 32, 32), np.uint8), targets)
    with pytest.raises(ImageError, match=r"a tensor of shape \(3, 32, 32, 3\) is no batch of pictures"):
        explain(model, inputs.transpose(0, 2, 3, 1), targets)
    with pytest.raises(TargetError, match="2 targets for 3 images"):
        explain(model, inputs, targets[:2])
    with pytest.raises(TargetError, match="class 7 is out of range"):
        explain(model, inputs, np.array([0, 1, 7]))
    with pytest.raises(TargetError, match=r"1\.0 is no target"):
        explain(model, inputs, np.ones(3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'xai_lib'"):
        explain(model, inputs, targets, xai_lib="captum")
    with pytest.raises(MethodError, match="Quantus compares maps with pixels; give the upsampling bilinear or nearest"):
        quantus("cdam", upsampling="none")
    with pytest.raises(MethodError, match="upsampling 'bicubic' is unknown"):
        quantus("cdam", upsampling="bicubic")
    with pytest.raises(MethodError, match="unknown method 'dam'"):
        quantus("dam")
    assert repr(explain) == "ExplainFunc(cdam)"
