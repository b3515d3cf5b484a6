"""What every method must keep, run over the registry: a newcomer is tested before anyone writes a test for it."""

from __future__ import annotations

import copy
import functools
import operator
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vitscope
from tests import modes
from tests.cheaper import cheaper
from tests.conditioning import POLE, ROUNDING, conditioning, divides, precision, shaky
from tests.conftest import LAYOUTS, build, pictures
from vitscope.methods import as_method, as_methods, list_methods

NAMES = [facts.name for facts in list_methods() if not facts.trivial]
VARIANTS = [
    "gmar:norm=l2",
    "tokentm:directions=mean",
    "daam:path=skip",
    "daam:path=feedforward",
    "daam:rows=all",
    "daam:blocks=minmax",
    "agcam:path=full",
    "agcam:scores=softmax",
    "agcam:scores=minmax,heads=max,layers=gradient",
    "agcam:scores=instance_norm,heads=gradient,layers=max",
    "agcam:scores=layer_norm,heads=mean,layers=mean",
    "smooth_cdam:samples=3,at=norm",
    "integrated_cdam:steps=4,at=norm",
    "daam:path=libra",
    "daam:path=libra,rows=all",
    "agcam:path=libra",
    "chefer:path=libra",
    "attcat:path=libra",
    "gmar:path=libra",
    "grad_sam:path=libra",
    "tokentm:path=libra",
    "attnlrp:gamma=0",
    "reslrp:gamma=0",
    "hirescam:path=libra",
    "attention:head=1",
]
"""Options that change what is computed; on layouts other than `VARIED` they are slow."""

LABELS = [*(cheaper(name) for name in NAMES), *VARIANTS]
VARIED = ("vit", "distilled", "dinov2_registers")


def by_layout(labels: list[str]) -> pytest.MarkDecorator:
    """Each label on each layout."""
    return pytest.mark.parametrize(
        ("layout", "label"),
        [
            pytest.param(
                layout,
                label,
                marks=[pytest.mark.slow] if label in VARIANTS and layout not in VARIED else [],
                id=f"{layout}-{label}",
            )
            for layout in LAYOUTS
            for label in labels
        ],
    )


def close(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-4) -> bool:
    return float((a - b).norm() / b.norm()) < modes.within(bound)


DIVIDING = [label for label in LABELS if divides(label)]


def as_compared(label: str, layout: str = "vit", **options) -> tuple[vitscope.Explainer, torch.Tensor]:
    """A model of the layout and three images, in the precision in which the method's maps are compared."""
    dtype = precision(label)
    model = build(layout, dtype=dtype, **options)
    return vitscope.Explainer(model), pictures(model, 3, dtype=dtype)


def moved(label: str, layout: str, target: list[int] | None, by: float) -> float:
    """How far the maps move if the weights and the images change by a relative error."""
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 3, dtype=torch.float64)
    return conditioning(model, images, lambda model, x: vitscope.Explainer(model)(x, label, target)[label].values, by)


@pytest.fixture(autouse=True)
def _defined(request):
    """Methods that follow tokens from block to block are refused where there is one block."""
    wanted = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if wanted.get("layout") == "one_block" and "label" in wanted and as_method(wanted["label"]).facts.of_tokens:
        explainer = vitscope.Explainer(build("one_block"))
        assert "use chefer, attention" in explainer.why_not(wanted["label"], as_method(wanted["label"]))
        pytest.skip("refused")


def target_of(label: str, explainer: vitscope.Explainer, images: torch.Tensor):
    """For each image a class for which the map is not flat; None for a class-agnostic method."""
    if not as_method(label).facts.class_specific:
        return None
    return [next(c for c in (1, 3, 0, 2, 4, 5, 6) if not flat(label, explainer, one, c)) for one in images]


def flat(label: str, explainer: vitscope.Explainer, image: torch.Tensor, target: int) -> bool:
    try:
        explainer(image, label, target)
    except vitscope.FlatMapError:
        return True
    return False


@by_layout(LABELS)
def test_batch_equals_loop(label, layout):
    explainer, images = as_compared(label, layout)
    target = target_of(label, explainer, images)
    together = explainer(images, label, target)[label]
    for index in range(3):
        alone = explainer(images[index], label, target and target[index])[label]
        assert close(together.values[index], alone.values[0])
        if alone.blocks is not None:
            assert close(together.blocks[index], alone.blocks[0])


@pytest.mark.parametrize("label", LABELS)
def test_permuting_the_batch_permutes_the_maps(label):
    (explainer, images), order = as_compared(label), [2, 0, 1]
    target = target_of(label, explainer, images)
    maps = explainer(images, label, target)[label].values
    permuted = explainer(images[order], label, target and [target[i] for i in order])[label].values
    assert close(permuted, maps[order])
    assert not close(maps[0], maps[1], 1e-2)


@by_layout([label for label in LABELS if not divides(label)])
def test_float64_agrees_with_float32_and_is_given_in_float32(label, layout):
    maps, target = [], None
    for dtype in (torch.float32, torch.float64):
        explainer = vitscope.Explainer(build(layout, dtype=dtype))
        images = pictures(explainer.anatomy.model, 3).to(dtype)
        target = target or target_of(label, explainer, images)
        maps.append(explainer(images, label, target)[label].values)
    assert maps[0].dtype == maps[1].dtype == torch.float32
    assert close(*maps, bound=1e-3)


@by_layout(DIVIDING)
def test_float32_is_as_near_to_float64_as_the_methods_conditioning_lets_it(label, layout):
    """Of some 30 roundings one after another (ten in each of the three blocks) each may move the map that far."""
    maps, target = [], None
    for dtype in (torch.float32, torch.float64):
        explainer = vitscope.Explainer(build(layout, dtype=dtype))
        images = pictures(explainer.anatomy.model, 3, dtype=dtype)
        target = target or target_of(label, explainer, images)
        maps.append(explainer(images, label, target)[label].values)
    assert close(*maps, bound=30 * moved(label, layout, target, by=ROUNDING))


@pytest.mark.parametrize("label", [label for label in LABELS if not shaky(label)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_same_picture(label, dtype):
    maps, target = [], None
    for kind in (torch.float32, dtype):
        explainer = vitscope.Explainer(build(dtype=kind))
        images = pictures(explainer.anatomy.model, 2).to(kind)
        target = target or target_of(label, explainer, images)
        maps.append(explainer(images, label, target)[label].values)
    assert torch.corrcoef(torch.stack([m.flatten() for m in maps]))[0, 1] > 0.9


@pytest.mark.parametrize("label", DIVIDING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_refused_where_sums_nearly_cancel(label, dtype):
    explainer = vitscope.Explainer(build(dtype=dtype))
    images = pictures(explainer.anatomy.model, 2).to(dtype)
    with pytest.raises(vitscope.MethodError, match=f"{label} is not defined .* sums .*{str(dtype)[6:]}.* in float32"):
        explainer(images, label, 2)
    assert label in explainer(images, "all", 2, strict=False, max_forwards=4).failures


@by_layout(LABELS)
def test_fused_equals_written_out(label, layout):
    maps, target = [], None
    for fused in (True, False):
        explainer, images = as_compared(label, layout, fused=fused)
        target = target or target_of(label, explainer, images)
        maps.append(explainer(images, label, target)[label].values)
    assert close(*maps) or (divides(label) and close(*maps, bound=moved(label, layout, target, by=POLE)))


@by_layout(LABELS)
def test_shape_signs_and_blocks(label, layout):
    explainer = vitscope.Explainer(build(layout))
    images = pictures(explainer.anatomy.model, 2)
    attribution = explainer(images, label, target_of(label, explainer, images))[label]
    rows, cols = images.shape[-2] // 8, images.shape[-1] // 8
    assert attribution.values.shape == (2, rows, cols)
    assert attribution.signed or attribution.values.min() >= 0
    if attribution.blocks is not None:
        assert attribution.blocks.shape == (2, len(explainer.anatomy.blocks), rows, cols)
        assert close(attribution.flow[:, -1], attribution.values)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(label, training):
    model = build(drop_path_rate=0.5, proj_drop_rate=0.5)
    model.train(training)
    model.blocks[0].eval()
    model.head.weight.requires_grad_(False)
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    explainer = vitscope.Explainer(model)
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    random_state = torch.get_rng_state()
    explainer(pictures(model), label)
    with pytest.raises(vitscope.TargetError):
        explainer(pictures(model), "daam", lambda output: output)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert flags == [m.training for m in model.modules()]
    assert wants == [p.requires_grad for p in model.parameters()]
    assert [p.grad is not None for p in model.parameters()] == [n == "norm.weight" for n, _ in model.named_parameters()]
    assert torch.equal(model.norm.weight.grad, torch.ones_like(model.norm.weight))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_model_is_left_as_found_after_its_own_exception():
    model = build()
    explainer = vitscope.Explainer(model.train())
    model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        explainer(pictures(model))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if m is not model.norm)
    assert len(model.norm._forward_hooks) == 1
    assert not model.norm._forward_pre_hooks


@pytest.mark.parametrize("same_model", [False, True])
def test_two_threads(same_model):
    models = [build(seed=0), build(seed=5)]
    if same_model:
        models[1] = models[0]
    explainers = [vitscope.Explainer(model) for model in models]
    images = [pictures(model, seed=seed) for seed, model in enumerate(models)]
    wanted = [e(x)["daam"].values for e, x in zip(explainers, images, strict=True)]
    found: list[list[torch.Tensor]] = [[], []]

    def work(which: int) -> None:
        for _ in range(10):
            found[which].append(explainers[which](images[which])["daam"].values)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for which in (0, 1):
        assert len(found[which]) == 10
        assert all(torch.allclose(maps, wanted[which], rtol=1e-4, atol=1e-7) for maps in found[which])


@pytest.mark.parametrize("label", [cheaper(n) for n in NAMES if as_method(n).facts.class_specific])
def test_a_zero_head_is_an_error_that_names_the_flat_map(label):
    model = build()
    torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(vitscope.FlatMapError, match=f"the {label} map of image 0 is flat.*head whose weights are zero"):
        vitscope.Explainer(model)(pictures(model), label)


class Largest(TorchDispatchMode):
    """Counts the tensors that any operation makes with two axes of N."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.found = tokens, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and list(tensor.shape).count(self.tokens) >= 2:
                self.found.append((str(func), tuple(tensor.shape)))
        return result


@pytest.mark.parametrize("registers", [0, 4])
def test_no_n_by_n_tensor_at_a_thousand_tokens(registers):
    model = build("dinov2_registers" if registers else "vit", img_size=8 * 33, depth=2)
    tokens = 33 * 33 + 1 + registers
    explainer = vitscope.Explainer(model)
    with Largest(tokens) as seen:
        explainer(pictures(model, 1), [cheaper(name) for name in NAMES if not as_method(name).needs.every_row])
    assert seen.found == []
    model_written_out = build(fused=False, img_size=8 * 33, depth=2)
    with Largest(33 * 33 + 1) as seen, torch.no_grad():
        model_written_out(pictures(model_written_out, 1))
    assert seen.found, "the counter sees the matrix where there is one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_methods_in_one_pass_are_each_alone(layout, dtype):
    explainer = vitscope.Explainer(build(layout, dtype=dtype))
    images = pictures(explainer.anatomy.model, dtype=dtype)
    calls = []
    explainer.anatomy.model.register_forward_hook(lambda *_: calls.append(1))
    defined = [label for label in LABELS if not explainer.why_not(label, as_method(label))]
    one_pass = [label for label in defined if not as_method(label).needs.pictures]
    calls.clear()  # to find what is defined, layers are tried once a model
    explainer(images, one_pass, strict=False)
    needs = functools.reduce(operator.or_, (as_method(label).needs for label in one_pass))
    more = sum(steps - 1 for steps in needs.scaled) + len(needs.backward)  # that methods ask for
    assert len(calls) == 1 + more or (modes.limited() and len(calls) > 1 + more)
    together = explainer(images, LABELS, strict=False)
    assert len(together.attributions) > len(defined) - 4
    for label in LABELS:
        if label in together:
            if precision(label) == dtype:
                assert close(together[label].values, explainer(images, label)[label].values), label
        else:
            said = together.failures[label]
            reasons = "is flat (every value 0): after its ReLUs", "altered pictures score alike", "is not defined for"
            assert any(reason in said for reason in reasons)


def test_labels_and_options():
    assert list(as_methods("daam, agcam:path=full,scores=softmax,cdam")) == [
        "daam",
        "agcam:path=full,scores=softmax",
        "cdam",
    ]
    assert list(as_methods([vitscope.methods.AGCAM(scores="softmax")])) == ["agcam:scores=softmax"]
    assert as_method("attention:head=none") == vitscope.methods.Attention()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dam", "unknown method 'dam'; did you mean .*daam"),
        ("xyz", "'xyz'; known: agcam, attcat, attention, attnlrp, bth, btt, cdam, center, chefer, chefer_lrp"),
        ("agcam:score=softmax", "no option 'score'; it takes heads, layers, path, scores"),
        ("cdam:x=1", "takes no options"),
        ("agcam:scores=relu", "it takes sigmoid | softmax"),
        ("attention:head=x", "a whole number or none"),
        ("daam,daam", "named twice"),
        ("", "no method is named"),
    ],
)
def test_wrong_words_are_answered(text, says):
    with pytest.raises(vitscope.MethodError, match=says):
        as_methods(text)


def test_a_head_out_of_range_is_answered():
    with pytest.raises(vitscope.MethodError, match="heads 0 to 2, not 3"):
        vitscope.Explainer(build())(pictures(build()), "attention:head=3")


def test_reading_an_undeclared_quantity_names_it():
    from vitscope.models import anatomy_of
    from vitscope.targets import Predicted
    from vitscope.trace import Needs, record

    model = build()
    trace = record(anatomy_of(model), pictures(model), Needs(), [Predicted()])
    with pytest.raises(vitscope.MethodError, match="'values' was not recorded"):
        _ = trace.blocks[0].values
