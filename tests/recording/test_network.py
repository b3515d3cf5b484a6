"""A recording of any network: batches, several targets, the state of the model, and what is said of failures."""

from __future__ import annotations

import threading
from functools import reduce

import pytest
import torch
from torch import nn

import vitscope
from tests.conftest import perturbed
from tests.recording.test_literal import CASES, Encoder, Latents, TwoBackbones, TwoHeads, images_of, model_of
from tests.zoo import small_vit
from vitscope.errors import MethodError, TargetError
from vitscope.methods import as_method
from vitscope.network import probe
from vitscope.recording import Network, described, leaves, logits_of, record_network
from vitscope.trace import Needs

LABELS = [
    "daam", "daam:rows=all", "agcam", "cdam", "attention", "rollout", "chefer", "grad_sam", "gradcam",
    "layercam", "input_x_gradient",
]  # fmt: skip
METHODS = {label: as_method(label) for label in LABELS}
NEEDS = reduce(Needs.__or__, (method.needs for method in METHODS.values()))
KINDS = [
    "Swin", "DETR, a query", "post-norm encoder", "maximum of the tokens", "two backbones", "latents",
    "encoder and decoder", "written out, bmm", "volume", "registers and mean", "attention pool",
]  # fmt: skip


def run(model, images):
    return model(images)


def network_of(model, images, call=run):
    return Network(model, call, probe(model, call, images[:1]))


def maps(network, images, scores, readout=None, methods=METHODS):
    """Each method's maps with the targets' axis, and the values of the targets."""
    needs = reduce(Needs.__or__, (method.needs for method in methods.values()))
    recording = record_network(network, images, needs, scores, readout)
    found = {}
    for label, method in methods.items():
        try:
            values = method(recording).values
        except MethodError:
            continue
        found[label] = (
            values if method.facts.class_specific else values[:, None].expand(-1, len(scores), *values.shape[1:])
        )
    return found, recording


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for label in wanted:
        assert found[label].shape == wanted[label].shape, label
        torch.testing.assert_close(found[label], wanted[label], rtol=1e-5, atol=1e-6 * float(wanted[label].abs().max()))


def case_of(name):
    case = next(case for case in CASES if case.name == name)
    if case.extra:
        pytest.importorskip(case.extra)
    return case


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_its_images_one_by_one(name):
    case = case_of(name)
    model, images = model_of(case), images_of(case, 3)
    network = network_of(model, images, case.call)
    together, recording = maps(network, images, [case.target])
    assert recording.values.shape == (3, 1)
    singles = [maps(network, images[index : index + 1], [case.target])[0] for index in range(3)]
    close(together, {label: torch.cat([one[label] for one in singles]) for label in singles[0]})
    assert {"daam", "agcam", "input_x_gradient"} <= together.keys()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "DETR, a query"])
def test_several_targets_are_those_one_by_one(name):
    case = case_of(name)
    model, images = model_of(case), images_of(case)

    def other(output):
        return case.target(output) ** 2

    def third(output):
        leaf = next(tensor for _, tensor in leaves(output) if tensor.requires_grad)
        return leaf.flatten(1)[:, :2].sum(dim=1)

    network = network_of(model, images, case.call)
    scores = [case.target, other, third]
    together, _ = maps(network, images, scores)
    singles = [maps(network, images, [score])[0] for score in scores]
    for label in together.keys() & LABELS[:4]:
        if all(label in one for one in singles):
            close({label: together[label]}, {label: torch.cat([one[label] for one in singles], dim=1)})


def test_two_heads_that_read_different_tokens():
    """Each target has its own rows, also where both are asked at once."""
    model = perturbed(TwoHeads(), by=0.2).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    scores = [lambda out: out["malignancy"][:, 0], lambda out: out["density"][0][:, 0]]
    network = network_of(model, images)
    together, _ = maps(network, images, scores)
    for slot, score in enumerate(scores):
        alone, _ = maps(network, images, [score])
        for label in ("daam", "agcam", "cdam"):
            close({label: together[label][:, slot : slot + 1]}, {label: alone[label]})


class Sides(nn.Module):
    """Logits of which some read the class token, and others the mean of the patches."""

    def __init__(self):
        super().__init__()
        self.inner = small_vit(num_classes=0)
        self.one, self.other = nn.Linear(24, 3), nn.Linear(24, 3)

    def forward(self, x):
        tokens = self.inner.forward_features(x)
        return torch.cat([self.one(tokens[:, 0]), self.other(tokens[:, 1:].mean(dim=1))], dim=1)


@pytest.mark.parametrize("make", [Sides, lambda: small_vit(class_token=False, global_pool="max")], ids=["sides", "max"])
def test_rows_that_are_read_are_kept_only_where_they_are_always_the_same(make):
    model = perturbed(make(), by=0.2).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    network = network_of(model, images)
    only = {"daam": as_method("daam")}
    for index, label in ((0, 0), (1, 4), (2, 0), (3, 5)):
        image, score = images[index : index + 1], lambda output, label=label: output[:, label]
        found, _ = maps(network, image, [score], "logits", only)
        fresh, _ = maps(network_of(model, image), image, [score], None, only)
        close(found, fresh)
    assert network.readouts == {"logits": None}


def test_rows_are_kept_from_call_to_call():
    model = perturbed(small_vit(), by=0.2).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network = network_of(model, images)
    only, score = {"daam": as_method("daam")}, [lambda output: output[:, 2]]
    found, _ = maps(network, images, score, "logits", only)
    assert {number: rows.tolist() for number, rows in network.readouts["logits"].items()} == {0: [0], 1: [0], 2: [0]}
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(None))
    again, _ = maps(network, images, score, "logits", only)
    handle.remove()
    assert len(passes) == 1
    close(again, found)
    close(found, maps(network_of(model, images), images, score, None, only)[0])


def state_of(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    )


def same_state(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1:] == other[1:]


@pytest.mark.parametrize("name", ["Swin", "post-norm encoder", "written out, matmul", "encoder and decoder"])
def test_the_model_is_left_as_it_was_found(name):
    case = case_of(name)
    model, images = model_of(case).train(), images_of(case)
    next(iter(model.parameters())).requires_grad_(False)
    before, numbers, grad = state_of(model), torch.random.get_rng_state(), torch.is_grad_enabled()
    network = network_of(model, images, case.call)
    maps(network, images, [case.target])
    same_state(state_of(model), before)
    with torch.no_grad():
        maps(network, images, [case.target])
    with pytest.raises(TargetError):
        maps(network, images, [lambda output: output.no_such_part])
    same_state(state_of(model), before)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert torch.is_grad_enabled() == grad
    assert not images.requires_grad


def test_an_exception_within_the_model_leaves_it_as_it_was():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.broken = small_vit(), False

        def forward(self, x):
            x = self.inner(x)
            if self.broken:
                raise RuntimeError("broken")
            return x

    model = perturbed(Breaks(), by=0.2)
    images = torch.randn(2, 3, 32, 32)
    network = network_of(model, images)
    model.train()
    model.broken = True
    before = state_of(model)
    with pytest.raises(RuntimeError, match="broken"):
        maps(network, images, [lambda output: output[:, 0]])
    same_state(state_of(model), before)
    model.broken = False
    assert maps(network, images, [lambda output: output[:, 0]])[0]


def test_two_threads_record_one_model():
    model = perturbed(Encoder(True), by=0.2).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    network = network_of(model, images)
    scores = [lambda output: output[:, 1]]
    wanted = [maps(network, images[index : index + 2], scores)[0] for index in (0, 2)]
    found = {}

    def work(index):
        for _ in range(3):
            found[index] = maps(network, images[2 * index : 2 * index + 2], scores)[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        close(found[index], wanted[index])


def explainer(model):
    return vitscope.Explainer(model)


class NoAttention(nn.Module):
    """Its attention is beside what the target reads."""

    def __init__(self):
        super().__init__()
        self.inner = Encoder(True)
        self.conv, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)

    def forward(self, x):
        self.inner(x)
        return self.head(self.conv(x).mean(dim=(2, 3)))


def test_no_attention_that_leads_to_the_target():
    model = perturbed(NoAttention(), by=0.2)
    images = torch.randn(2, 3, 32, 32)
    network = network_of(model, images)
    recording = record_network(network, images, NEEDS, [lambda output: output[:, 0]], None)
    assert recording.sites == ()
    for label in ("daam", "agcam", "grad_sam", "attention"):
        with pytest.raises(MethodError, match=r"attention call whose keys have a place .*use gradcam"):
            METHODS[label](recording)
    assert bool(METHODS["input_x_gradient"](recording).values.any())


def test_a_network_without_attention():
    model = perturbed(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), by=0.2)
    model[0].bias.data += 1  # in each cell some channel is above zero, so that the ReLU's output is located everywhere
    images = torch.randn(2, 3, 32, 32)
    recording = record_network(network_of(model, images), images, NEEDS, [lambda output: output[:, 0]], None)
    with pytest.raises(MethodError, match="no attention call"):
        METHODS["daam"](recording)
    values = METHODS["gradcam"](recording).values
    activations = model[1](model[0](images))
    weights = torch.zeros(2, 8)
    weights[:, 0] = 1 / 64
    torch.testing.assert_close(values[:, 0], (activations * weights[:, :, None, None]).sum(dim=1).relu())


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda output: output["logit"], r"fails on the model's output \(malignancy \(2, 2\), density\[0\] \(2, 1\)\)"),
        (lambda output: output["malignancy"], r"one value for each image, \(2,\), got \(2, 2\)"),
        (lambda output: output["malignancy"].sum(), r"one value for each image, \(2,\), got \(\)"),
        (lambda output: 3.0, r"got float"),
        (lambda output: output["malignancy"].argmax(dim=1).float(), "no gradient leads from the target"),
        (lambda output: output["malignancy"][:, 0].detach(), "no gradient leads from the target"),
    ],
    ids=["fails", "two values", "a sum", "a number", "argmax", "detached"],
)
def test_targets_that_cannot_be_explained(score, message):
    model = perturbed(TwoHeads(), by=0.2)
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(TargetError, match=message):
        record_network(network_of(model, images), images, NEEDS, [score], None)


def test_an_output_without_logits_lists_its_parts():
    with pytest.raises(TargetError, match=r"malignancy \(1, 2\), density\[0\] \(1, 1\); give a function of the output"):
        explainer(perturbed(TwoHeads(), by=0.2))(torch.randn(1, 3, 32, 32), "daam")


def test_outputs_of_any_kind_are_described():
    tensor = torch.zeros(2, 3)
    assert described({"a": tensor, "b": [tensor, {"c": tensor}]}) == "a (2, 3), b[0] (2, 3), b[1].c (2, 3)"
    assert described((tensor,)) == "[0] (2, 3)"
    assert described(3) == "a int without tensors"
    assert logits_of(tensor) is tensor
    assert logits_of({"logits": tensor}) is tensor
    assert logits_of({"logits": tensor[0]}) is None
    assert logits_of((tensor,)) is None


@pytest.mark.parametrize("make", [lambda: Encoder(False), TwoBackbones, Latents], ids=["encoder", "two", "latents"])
def test_the_explainer_gives_the_recording(make):
    """An unknown network is explained by the same numbers, by classes and by functions of the output alike."""
    model = perturbed(make(), by=0.2).double()
    images = torch.randn(2, 3, 24, 32) if not isinstance(model, TwoBackbones) else torch.randn(2, 3, 32, 32)
    images = images.double()
    by_class = explainer(model)(images, ["daam", "agcam"], target=[1, 3])
    by_function = explainer(model)(images, ["daam", "agcam"], target=lambda output: output[:, [1, 3]].diagonal())
    found, _ = maps(network_of(model, images), images, [lambda output: output[:, [1, 3]].diagonal()])
    for label in ("daam", "agcam"):
        torch.testing.assert_close(torch.as_tensor(by_class[label].values), found[label][:, 0].float())
        torch.testing.assert_close(torch.as_tensor(by_function[label].values), found[label][:, 0].float())
    assert by_class.logits.shape == (2, 5)


class Frames(nn.Module):
    """The mean over frames (b t 3 H W)."""

    def __init__(self):
        super().__init__()
        self.trunk = small_vit()

    def forward(self, video):
        return self.trunk(video.flatten(0, 1)).unflatten(0, video.shape[:2]).mean(dim=1)


def test_maps_of_a_video_are_given_and_not_drawn(tmp_path):
    found = vitscope.Explainer(perturbed(Frames(), by=0.1))(torch.randn(1, 4, 3, 32, 32), "daam", 1)
    assert found["daam"].values.shape == (1, 4, 4, 4)
    for draw in (found["daam"].to_pixels, lambda: found.save(tmp_path)):
        with pytest.raises(MethodError, match=r"no single plane to draw; take \.values"):
            draw()
