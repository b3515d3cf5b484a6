"""The contract, over the zoo: every model and every method, each applied or refused as `describe` says."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import vitscope
from tests.cheaper import cheaper
from tests.conditioning import precision
from tests.zoo import ZOO, Entry, built, marks_of, module_of, of_each_kind
from vitscope.methods import as_method

BLUNT = ["gradcam", "gradcam_pp", "xgradcam", "layercam", "grad_eclip"]
"""On a random model all patches may end up below zero, so that no map is left after the ReLU."""
LABELS = [cheaper(facts.name) for facts in vitscope.list_methods() if not facts.trivial and facts.name not in BLUNT]
SAMPLING = {"scorecam", "rise", "tis", "vit_cx"}
"""Methods that have nothing to tell apart where a random model gives every altered picture the same probability."""
ALTERING = [label for label in LABELS if as_method(label).needs.pictures]
"""Methods that run the model many times; they know nothing of its parts."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


Maps = dict[str, vitscope.Attribution]


@dataclass(frozen=True)
class Explained:
    """A model of the zoo, two images, and their maps, refusals and logits."""

    entry: Entry
    labels: list[str]
    explainer: vitscope.Explainer
    model: nn.Module
    images: Tensor
    maps: Maps
    refusals: dict[str, str]
    alike: set[str]
    logits: Tensor

    @property
    def index(self) -> int:
        """Of the image to explain alone."""
        return len(self.entry.name) % 2

    def untouched(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.entry.output(self.model, images)

    def alone(self, index: int, labels: list[str] | None = None) -> Maps:
        return together(explain(self.explainer, self.images[index : index + 1], labels or self.labels))


def name_of(label: str) -> str:
    return label.partition(":")[0]


def explain(explainer, images, labels=LABELS):
    """Explanations by the class-agnostic methods, without a target, and by the others, of the predicted classes.

    Of a model without classes, an output is explained.
    """
    specific = [label for label in labels if as_method(label).facts.class_specific]
    found = [explainer(images, [label for label in labels if label not in specific] or "attention", strict=False)]
    if any(not explainer.why_not(label, as_method(label)) for label in specific):
        predicted = found[0].logits.argmax(dim=1).tolist()
        target = predicted if explainer.anatomy.outputs else lambda output: output[:, 2]
        found.append(explainer(images, specific, target, strict=False))
    return found


def together(explanations):
    return {label: found for each in explanations for label, found in each.attributions.items()}


def pictures(size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def bound(explained, label):
    """How far two runs may differ; a probability's relative error is its logit's own, which grows with the logit.

    A gradient at the pixels has gone back through the whole model: its sum over a patch gathers the rounding of all of
    it. (In float64 a batch's is that of its pictures to 1e-12 in the models where it was tried.)
    """
    if as_method(label).facts.family == "input-gradient":
        return 2e-3
    return 1e-4 * (max(1.0, float(explained.logits.abs().max())) if name_of(label) in SAMPLING else 1.0)


def row_of(entry):
    return f"{entry.family}-{entry.name}"


def cases():
    """Every model, by all methods or by those that know its parts; all that concerns a model by one process."""
    for entry in ZOO:
        marks = [pytest.mark.xdist_group(row_of(entry)), *marks_of(entry)]
        yield pytest.param((entry, of_each_kind(entry)), marks=marks, id=row_of(entry))
        if not of_each_kind(entry):
            yield pytest.param((entry, True), marks=[*marks, pytest.mark.slow], id=f"{row_of(entry)}, all methods")


@pytest.fixture(scope="module", params=list(cases()))
def explained(request):
    entry, thorough = request.param
    if entry.extra:
        pytest.importorskip(entry.extra)
    labels = LABELS if thorough else [label for label in LABELS if label not in ALTERING]
    made = built(entry)
    logging.disable(logging.WARNING)  # that the preprocessing of a module of one's own is unknown
    explainer = vitscope.Explainer(made)
    logging.disable(logging.NOTSET)
    images = pictures(entry.size or explainer.preprocessing.size)
    explanations = explain(explainer, images, labels)
    refusals = {label: reason for label in labels if (reason := explainer.why_not(label, as_method(label)))}
    failures = {label: reason for each in explanations for label, reason in each.failures.items()}
    alike = {label for label, reason in failures.items() if "altered pictures score alike" in reason}
    maps, logits = together(explanations), explanations[0].logits
    return Explained(entry, labels, explainer, module_of(made), images, maps, refusals, alike, logits)


def test_there_are_at_least_45_models():
    assert len(ZOO) >= 45
    assert len({row_of(entry) for entry in ZOO}) == len(ZOO)


def test_logits_are_the_untouched_models(explained):
    assert explained.explainer.description_error < 1e-5
    assert torch.isfinite(explained.logits).all()
    assert relative(explained.logits, explained.untouched(explained.images)) < 1e-5


def test_every_method_that_applies_gives_a_map_on_the_grid(explained):
    anatomy = explained.explainer.anatomy
    assert {*explained.maps, *explained.refusals, *explained.alike} == {*explained.labels}  # none failed
    assert {name_of(label) for label in explained.alike} <= SAMPLING
    assert explained.maps
    for label, attribution in explained.maps.items():
        values = attribution.values
        assert values.shape[0] == 2
        if anatomy.blocks:
            assert tuple(values.shape[1:]) == anatomy.grid(tuple(explained.images.shape[-2:])), label
        assert values[0].numel() > 1
        assert torch.isfinite(values).all(), label
        flat = values.flatten(1)
        if not explained.explainer._needs_sites(as_method(label)):  # random weights make them alike in late stages
            assert (flat.std(dim=1) > 1e-3 * flat.abs().amax(dim=1)).all(), label
        assert relative(values[0], values[1]) > 1e-3, label  # another picture, another map
        assert attribution.signed or values.min() >= 0
        if attribution.blocks is not None:
            count = len(anatomy.blocks) or attribution.blocks.shape[1]
            assert attribution.blocks.shape == (2, count, *values.shape[1:])
            assert relative(attribution.flow[:, -1], values) < 1e-4


def state_of(model):
    """What an explanation may not change: values, gradients, flags and hooks."""
    modules, parameters = list(model.modules()), list(model.parameters())
    return {
        "training": [module.training for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "grad": [None if parameter.grad is None else parameter.grad.sum().item() for parameter in parameters],
        "hooks": [[list(getattr(module, kind)) for kind in HOOKS] for module in modules],
        "tensors": {key: value.clone() for key, value in model.state_dict().items()},
        "random": torch.get_rng_state(),
    }


@pytest.fixture(scope="module")
def in_training(explained):
    """The maps of one image, the model partly in training and partly frozen, and its state before and afterwards."""
    parameters = list(explained.model.parameters())
    wants = [parameter.requires_grad for parameter in parameters]
    first = next(parameter for parameter in parameters if parameter.requires_grad)
    for place, module in enumerate(explained.model.modules()):
        module.training = place % 3 != 1
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    first.grad = torch.ones_like(first)
    before = state_of(explained.model)
    try:
        maps = explained.alone(explained.index)
        after = state_of(explained.model)
    finally:
        first.grad = None
        for parameter, wanted in zip(parameters, wants, strict=True):
            parameter.requires_grad_(wanted)
        explained.model.eval()
    return maps, before, after


def test_the_model_is_left_as_it_was_found(in_training):
    _, before, after = in_training
    assert sum(grad is not None for grad in before["grad"]) == 1
    assert not all(before["training"])
    assert after["tensors"].keys() == before["tensors"].keys()
    assert all(torch.equal(value, before["tensors"][key]) for key, value in after.pop("tensors").items())
    assert torch.equal(after.pop("random"), before["random"])
    assert after == {key: before[key] for key in after}


def alike_alone(explained, index, maps):
    assert {*explained.maps} <= {*maps} <= {*explained.maps, *explained.alike}
    for label, attribution in explained.maps.items():
        if precision(label) == torch.float32:
            assert relative(maps[label].values[0], attribution.values[index]) < bound(explained, label), label


def test_a_batch_is_its_images_one_by_one(explained, in_training):
    """In evaluation mode and in training alike: a map is always made in evaluation mode."""
    alike_alone(explained, explained.index, in_training[0])


@pytest.mark.slow
def test_a_batch_is_its_other_image_too(explained):
    index = 1 - explained.index
    alike_alone(explained, index, explained.alone(index))


@pytest.mark.integration
def test_a_batch_is_its_images_one_by_one_in_float64(explained):
    """The methods whose maps rounding alone may change; maps are given in float32."""
    made = built(explained.entry)
    module_of(made).double()
    explainer, images = vitscope.Explainer(made), explained.images.double()
    labels = [label for label in explained.maps if precision(label) == torch.float64]
    batch = together(explain(explainer, images, labels))
    assert {name_of(label) for label in {*labels} - {*batch}} <= SAMPLING
    index = explained.index
    alone = together(explain(explainer, images[index : index + 1], labels))
    for label in {*labels} & {*batch}:
        assert relative(alone[label].values[0], batch[label].values[index]) < 1e-6, label


def test_pictures_of_another_shape(explained):
    explainer, anatomy = explained.explainer, explained.explainer.anatomy
    if not anatomy.flexible_size:
        if anatomy.blocks:
            with pytest.raises(vitscope.ModelError, match="takes pictures of"):
                explainer(pictures([3 * side for side in anatomy.input_size]), "attention")
        return
    size = (96, 160) if anatomy.windows else (3 * anatomy.patch[0], 5 * anatomy.patch[1])
    images = pictures(size)
    found = explain(explainer, images, explained.labels)
    assert relative(found[0].logits, explained.untouched(images)) < 1e-5
    maps = together(found)
    assert {name_of(label) for label in maps.keys() ^ explained.maps.keys()} <= SAMPLING
    for label, attribution in maps.items():
        assert torch.isfinite(attribution.values).all()
        assert attribution.values.std() > 0, label
        if not explainer._needs_sites(as_method(label)):
            assert attribution.values.shape[1:] == (3, 5)
        assert attribution.to_pixels()[0].shape == size


def test_a_method_that_does_not_apply_is_refused_with_its_reason_and_a_way_out(explained):
    applied = {name_of(label) for label in explained.maps}
    target = None if explained.explainer.anatomy.outputs else lambda output: output[:, 1]
    for label, reason in explained.refusals.items():
        with pytest.raises(vitscope.MethodError) as caught:
            explained.explainer(explained.images, label, target)
        said = str(caught.value)
        assert said == reason
        assert said.startswith(f"{label} is not defined for {explained.explainer.anatomy.name}: ")
        _, use, ways_out = said.rpartition("; use ")
        assert use
        assert applied & set(ways_out.replace(",", " ").split())


def test_a_blunt_method_gives_a_map_or_says_that_nothing_is_left(explained):
    anatomy = explained.explainer.anatomy
    if anatomy.windows:
        return  # refused like the others
    target = 1 if anatomy.outputs else lambda output: output[:, 1]
    found = explained.explainer(explained.images, BLUNT, target, strict=False)
    for label in BLUNT:
        if label in found:
            assert torch.isfinite(found[label].values).all()
            assert tuple(found[label].values.shape[1:]) == anatomy.grid(tuple(explained.images.shape[-2:]))
        else:
            assert "after its ReLUs no patch speaks for the target" in found.failures[label]


def test_describe_says_what_was_found(explained):
    found = vitscope.describe(explained.explainer)
    assert set(found.methods) == {facts.name for facts in vitscope.list_methods()}
    beside = {facts.name for facts in vitscope.list_methods() if facts.trivial}
    beside |= set() if explained.explainer.anatomy.windows else set(BLUNT)
    tried = beside | {name_of(label) for label in explained.labels}
    assert {name for name, reason in found.methods.items() if name in tried and not reason} == beside | {
        name_of(label) for label in {*explained.maps, *explained.alike}
    }
    text = str(found)
    for label, refusal in explained.refusals.items():
        reason = found.methods[name_of(label)]
        assert refusal.endswith(f": {reason}")
        assert f"no: {reason}" in text
    assert found.facts["outputs"] in (0, explained.logits.shape[1])
    assert found.facts["family"] == explained.explainer.anatomy.family
