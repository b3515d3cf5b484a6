"""What every method must keep, run over the registry: a new method is tested before anyone writes a test for it.

All methods and several targets are explained in one pass per layout and condition, and compared method by method.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import re
import statistics
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import vitscope
from tests.cheaper import cheaper
from tests.conditioning import POLE, ROUNDING, clusters, conditioning, divides, precision, shaky
from tests.conftest import LAYOUTS, build, pictures
from tests.state import in_float64
from vitscope import Explainer, Running
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
"""Options that change what is computed."""

LABELS = [*(cheaper(name) for name in NAMES), *VARIANTS]
SPECIFIC = [label for label in LABELS if as_method(label).facts.class_specific]
TARGETS = (None, 1, 3, 0)
"""Explained in every pass. With all of them, every method has a map on every layout; see `Joint.check`."""

BY_PRECISION = {
    dtype: [label for label in LABELS if precision(label) == dtype] for dtype in (torch.float32, torch.float64)
}
"""The labels whose maps are compared in float32, and those for which rounding asks for float64."""

DIVIDING = [label for label in LABELS if divides(label)]

EXACT = ("cplrp", "attnlrp", "attnlrp:gamma=0", "reslrp", "reslrp:gamma=0", "libra_fullgrad")
"""Methods of one more backward pass, which runs in the precision of the weights."""


@dataclass(frozen=True)
class Joint:
    """All methods and targets, explained in one call."""

    explainer: Explainer
    images: Tensor
    explanations: list[vitscope.Explanation]

    @classmethod
    def of(cls, explainer: Explainer, images: Tensor, labels: list[str] = LABELS, targets: Any = TARGETS) -> Joint:
        return cls(explainer, images, explainer.each(images, labels, targets, strict=False))

    def __getitem__(self, label: str) -> list[vitscope.Attribution | None]:
        """Target by target, None where the map is flat or the method ignores the target."""
        return [one.attributions.get(label) for one in self.explanations]

    def undefined(self, label: str) -> str:
        return self.explainer.why_not(label, as_method(label))

    def defined(self) -> list[str]:
        return [label for label in LABELS if not self.undefined(label)]

    def check(self, each: Each) -> None:
        """Each method has a map of at least one target, or a reason that belongs to it."""
        for label in LABELS:
            reasons = ["is not defined for"] if self.undefined(label) else ["is flat", "altered pictures score alike"]
            if label not in SPECIFIC:
                reasons.append("is class-agnostic")
            with each(label):
                for one in self.explanations:
                    assert label in one or any(reason in one.failures[label] for reason in reasons), one.failures[label]
                assert self.undefined(label) or any(self[label])


@functools.cache
def joint(layout: str = "vit", dtype: torch.dtype = torch.float32) -> Joint:
    """The reference: fused attention, three images."""
    explainer = Explainer(build(layout, dtype=dtype))
    return Joint.of(explainer, pictures(explainer.anatomy.model, 3, dtype=dtype))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


Each = Callable[[str], contextlib.AbstractContextManager[None]]


@pytest.fixture
def each(subtests: pytest.Subtests) -> Each:
    """A subtest for a method, reported if it fails; over processes, each report costs more than a map."""

    @contextlib.contextmanager
    def subtest(label: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            with subtests.test(method=label):
                raise

    return subtest


def compare(
    each: Each,
    found: Joint,
    wanted: Joint,
    labels: list[str],
    bound: float | Callable[[str, int], float] = 1e-4,
    at: Any = None,
) -> None:
    """The same maps and blocks of all targets, of all images or those `at` some places; nothing else is missing.

    Args:
        each: a method's subtest.
        found, wanted: to be compared.
        labels: by which methods.
        bound: of the relative error; or a function of label and target number, where it is not the same for all.
        at: places of the images of `found` in `wanted`.
    """
    compared = 0
    for label in labels:
        for number, (one, other) in enumerate(zip(found[label], wanted[label], strict=True)):
            with each(label):
                if one is None or other is None:
                    assert one is other or at is not None  # of other images all maps may be flat
                    continue
                compared += 1
                allowed = bound if isinstance(bound, float) else bound(label, number)
                assert one.values.dtype == other.values.dtype == torch.float32
                assert error(one.values, other.values if at is None else other.values[at]) < allowed
                assert (one.blocks is None) == (other.blocks is None)
                if one.blocks is not None:
                    assert error(one.blocks, other.blocks if at is None else other.blocks[at]) < allowed
    assert compared >= len(set(labels) & set(wanted.defined()))


@functools.cache
def moved(layout: str, by: float = ROUNDING) -> dict[tuple[str, int], float]:
    """How far the maps of methods that divide move if weights and images change by a relative error, by target."""

    def explain(model: nn.Module, images: Tensor) -> dict[tuple[str, int], Tensor]:
        found = Joint.of(Explainer(model), images, DIVIDING)
        return {
            (label, number): one.values
            for label in DIVIDING
            for number, one in enumerate(found[label])
            if one is not None
        }

    reference = joint(layout, torch.float64)
    return conditioning(build(layout, dtype=torch.float64), reference.images, explain, by)


SOME_LAYOUTS = ["vit", "distilled", "dinov2_registers", "one_block"]
"""For what does not depend on how a layout is read: other numbers of prefix tokens, rows that are read, and blocks."""


def grouped(names: Any, default: Any = LAYOUTS) -> list[Any]:
    """All tests of a layout by one process, since they share its reference; layouts not in `default` in integration."""
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.xdist_group(f"contract-{name}"),
                *([] if name in default else [pytest.mark.integration]),
            ],
        )
        for name in names
    ]


BY_LAYOUT = pytest.mark.parametrize("layout", grouped(LAYOUTS))
BY_LAYOUT_OR_SOME = pytest.mark.parametrize("layout", grouped(LAYOUTS, SOME_LAYOUTS))
BY_SOME_LAYOUTS = pytest.mark.parametrize("layout", grouped(SOME_LAYOUTS))
BY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@BY_LAYOUT
def test_every_method_has_a_map_on_the_grid(layout, each):
    reference = joint(layout)
    reference.check(each)
    rows, cols = reference.images.shape[-2] // 8, reference.images.shape[-1] // 8
    for label in reference.defined():
        for found in filter(None, reference[label]):
            with each(label):
                assert found.values.shape == (3, rows, cols)
                assert found.values.isfinite().all()
                assert found.signed or found.values.min() >= 0
                if found.blocks is not None:
                    assert found.blocks.shape == (3, len(reference.explainer.anatomy.blocks), rows, cols)
                    assert error(found.flow[:, -1], found.values) < 1e-4


@BY_LAYOUT_OR_SOME
def test_an_image_alone_gets_its_maps_of_the_batch(layout, each):
    alone_as_in_the_batch(layout, torch.float32, each)


@BY_SOME_LAYOUTS
def test_an_image_alone_gets_its_maps_of_the_batch_in_float64(layout, each):
    alone_as_in_the_batch(layout, torch.float64, each)


def alone_as_in_the_batch(layout: str, dtype: torch.dtype, each: Each) -> None:
    """The first, the middle or the last image, from layout to layout."""
    reference, labels = joint(layout, dtype), BY_PRECISION[dtype]
    index = list(LAYOUTS).index(layout) % 3
    alone = Joint.of(reference.explainer, reference.images[index : index + 1], labels)
    compare(each, alone, reference, labels, at=slice(index, index + 1))


@BY_LAYOUT_OR_SOME
def test_float64_agrees_with_float32(layout, each):
    labels = [label for label in LABELS if label not in DIVIDING]
    compare(each, joint(layout), joint(layout, torch.float64), labels, bound=1e-3)


@BY_SOME_LAYOUTS
def test_float32_is_as_near_to_float64_as_the_methods_conditioning_lets_it(layout, each):
    """Each of some 30 consecutive roundings, ten per block, may move a map that far; near a pole, one of them farther.

    So the median over the targets is compared.
    """
    single, double = joint(layout), joint(layout, torch.float64)
    for label in set(DIVIDING) & set(double.defined()):
        pairs = enumerate(zip(single[label], double[label], strict=True))
        errors = [
            error(one.values, other.values) / moved(layout)[label, number] for number, (one, other) in pairs if other
        ]
        with each(label):
            assert statistics.median(errors) < 30


@BY_SOME_LAYOUTS
@BY_DTYPE
def test_written_out_attention_agrees_with_fused(layout, dtype, each):
    """A method that divides may meet a pole of its own at another scale."""

    def bound(label: str, number: int) -> float:
        return max(1e-4, moved(layout, POLE)[label, number]) if label in DIVIDING else 1e-4

    reference, labels = joint(layout, dtype), BY_PRECISION[dtype]
    written = Joint.of(Explainer(build(layout, fused=False, dtype=dtype)), reference.images, labels)
    compare(each, written, reference, labels, bound)


@BY_SOME_LAYOUTS
@BY_DTYPE
def test_each_method_alone_gives_its_map_of_the_joint_pass(layout, dtype, each):
    reference = joint(layout, dtype)
    for label in set(BY_PRECISION[dtype]) & set(reference.defined()):
        target, found = [(t, found) for t, found in zip(TARGETS, reference[label], strict=True) if found][-1]
        with each(label):
            alone = reference.explainer(reference.images, label, target)[label]
            assert error(alone.values, found.values) < 1e-4


@BY_SOME_LAYOUTS
def test_one_forward_serves_all_methods(layout):
    model, calls = build(layout), []
    model.register_forward_hook(lambda *_: calls.append(1))
    explainer = Explainer(model)
    labels = [label for label in joint(layout).defined() if not as_method(label).needs.pictures]
    explainer(joint(layout).images[:1], labels, strict=False)  # each rule of a backward pass is verified once
    calls.clear()
    explainer(joint(layout).images, labels, strict=False)
    needs = functools.reduce(operator.or_, (as_method(label).needs for label in labels))
    assert len(calls) == 1 + sum(steps - 1 for steps in needs.scaled) + len(needs.backward)


def test_methods_that_follow_tokens_are_refused_where_there_is_one_block():
    for label in LABELS:
        reason = joint("one_block").undefined(label)
        assert bool(reason) == as_method(label).facts.of_tokens
        assert not reason or "use chefer, attention" in reason


@BY_DTYPE
def test_permuting_the_batch_permutes_the_maps(dtype, each):
    reference, order, labels = joint("vit", dtype), [2, 0, 1], BY_PRECISION[dtype]
    compare(each, Joint.of(reference.explainer, reference.images[order], labels), reference, labels, at=order)
    for label in labels:
        maps = next(filter(None, reference[label])).values
        with each(label):
            assert error(maps[0], maps[1]) > 1e-2


# -- modes -------------------------------------------------------------------------------------------------------------


def alike(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation, the lowest of the images'."""
    pairs = zip(one.flatten(1), other.flatten(1), strict=True)
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_maps(precision, each):
    """Class-agnostic methods too: `None` explains whatever class half precision predicts."""
    reference = joint()
    half = Joint.of(Explainer(reference.explainer.anatomy.model, running=precision), reference.images)
    half.check(each)
    for label in LABELS:
        method = as_method(label)
        if method.facts.divides and not method.needs.backward:
            assert f"sums that may nearly cancel, and {precision} gives another" in half.undefined(label)
            continue
        first = 1 if label in SPECIFIC else 0  # half precision may predict another class
        for one, other in zip(half[label][first:], reference[label][first:], strict=True):
            if one is None or other is None:
                assert one is other, label
                continue
            assert one.values.dtype == torch.float32
            assert one.values.isfinite().all()
            assert not torch.equal(one.values, other.values) or label in EXACT
            assert shaky(label) or clusters(label) or alike(one.values, other.values) > 0.9, label
            assert one.blocks is None or (one.blocks.dtype, one.blocks.shape) == (torch.float32, other.blocks.shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_give_nearly_the_same_maps(dtype, each):
    explainer = Explainer(build(dtype=dtype))
    half = Joint.of(explainer, joint().images.to(dtype))
    half.check(each)
    for label in LABELS:
        if as_method(label).facts.divides:
            assert all(word in half.undefined(label) for word in ("sums", str(dtype)[6:], "in float32"))
            with pytest.raises(vitscope.MethodError, match=f"{label} is not defined "):
                explainer(half.images, label, 2)
        elif not (shaky(label) or clusters(label)):
            for one, other in zip(half[label][1:], joint()[label][1:], strict=True):
                both = one is not None and other is not None
                assert not both or alike(one.values.flatten()[None], other.values.flatten()[None]) > 0.9, label


def test_channels_last_changes_no_map(each):
    explainer = Explainer(joint().explainer.anatomy.model, running=Running(channels_last=True))
    labels = [label for label in LABELS if not clusters(label)]
    compare(each, Joint.of(explainer, joint().images, labels), joint(), labels)


@pytest.mark.integration
def test_the_compiler_changes_no_map(each):
    """It is used for forwards of altered images alone."""
    labels = ["rise:masks=16,cells=3", "token_ablation:max_forwards=9"]
    explainer = Explainer(joint().explainer.anatomy.model, running=Running(compiled=True))
    compare(each, Joint.of(explainer, joint().images, labels), joint(), labels)


@pytest.mark.parametrize(("layout", "dtype"), [("vit", torch.float32), ("mean", torch.float64)], ids=str)
def test_a_memory_limit_changes_no_map(layout, dtype, each):
    reference, labels = joint(layout, dtype), BY_PRECISION[dtype]
    limited = Explainer(reference.explainer.anatomy.model, memory_limit="1MB")
    compare(each, Joint.of(limited, reference.images, labels), reference, labels)


CALLER_MODES = {
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": functools.partial(torch.autocast, "cpu", torch.bfloat16),
    "float64": in_float64,
}


@pytest.mark.parametrize("mode", CALLER_MODES)
def test_the_callers_mode_changes_no_map(mode, each):
    reference = joint("distilled")
    with CALLER_MODES[mode]():
        found = Joint.of(reference.explainer, reference.images)
    compare(each, found, reference, LABELS)


# -- the model, threads, memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(training, each):
    model = build(drop_path_rate=0.5, proj_drop_rate=0.5)
    model.train(training)
    model.blocks[0].eval()
    model.head.weight.requires_grad_(False)
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    explainer = Explainer(model)
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    random_state = torch.get_rng_state()
    calls = (
        lambda: Joint.of(explainer, joint().images).check(each),
        lambda: explainer(joint().images, "daam", lambda output: output),  # a target that fails
    )
    for call, outcome in zip(calls, (contextlib.nullcontext(), pytest.raises(vitscope.TargetError)), strict=True):
        with outcome:
            call()
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert flags == [m.training for m in model.modules()]
        assert wants == [p.requires_grad for p in model.parameters()]
        assert [n for n, p in model.named_parameters() if p.grad is not None] == ["norm.weight"]
        assert torch.equal(model.norm.weight.grad, torch.ones_like(model.norm.weight))
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
        assert torch.equal(random_state, torch.get_rng_state())


def test_the_model_is_left_as_found_after_its_own_exception():
    model, broken = build(), []

    def fail(*_):
        if broken:
            raise RuntimeError("broken")

    model.norm.register_forward_hook(fail)
    explainer = Explainer(model.train())
    broken.append(True)
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
    explainers = [Explainer(model) for model in models]
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


def test_a_zero_head_is_an_error_that_names_each_flat_map():
    model = build()
    torch.nn.init.zeros_(model.head.weight)
    labels = [label for label in map(cheaper, NAMES) if label in SPECIFIC]
    explainer = Explainer(model)
    failures = explainer(joint().images, ["attention", *labels], strict=False).failures
    for label in labels:
        assert re.search(f"the {label} map of image 0 is flat.*head whose weights are zero", failures[label])
    with pytest.raises(vitscope.FlatMapError, match="the daam map of image 0 is flat"):
        explainer(joint().images, "daam")


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


@pytest.mark.parametrize("registers", [pytest.param(0, marks=pytest.mark.integration), 4])
def test_no_n_by_n_tensor_at_a_thousand_tokens(registers):
    model = build("dinov2_registers" if registers else "vit", img_size=8 * 33, depth=2)
    tokens = 33 * 33 + 1 + registers
    explainer = Explainer(model)
    with Largest(tokens) as seen:
        explainer(pictures(model, 1), [cheaper(name) for name in NAMES if not as_method(name).needs.every_row])
    assert seen.found == []
    model_written_out = build(fused=False, img_size=8 * 33, depth=2)
    with Largest(33 * 33 + 1) as seen, torch.no_grad():
        model_written_out(pictures(model_written_out, 1))
    assert seen.found, "the counter sees the matrix where there is one"


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
        Explainer(build())(pictures(build()), "attention:head=3")


def test_reading_an_undeclared_quantity_names_it():
    from vitscope.models import anatomy_of
    from vitscope.targets import Predicted
    from vitscope.trace import Needs, record

    model = build()
    trace = record(anatomy_of(model), pictures(model), Needs(), [Predicted()])
    with pytest.raises(vitscope.MethodError, match="'values' was not recorded"):
        _ = trace.blocks[0].values
