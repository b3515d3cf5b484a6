"""Models that misbehave, from the first pass on or later: refused in one line, and left as they were found."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import build, pictures
from vitscope import Explainer, MethodError, VitscopeError
from vitscope.methods import list_methods
from vitscope.models import anatomy_of

METHODS = (
    "attention",
    "agcam",
    "daam",
    "cdam",
    "smooth_cdam",
    "rollout",
    "chefer",
    "gradcam",
    "legrad",
    "input_x_gradient",
    "smoothgrad:samples=2",
    "libra_fullgrad",
    "attnlrp",
    "rise:masks=8",
    "token_ablation",
    "random",
)
OUTPUTS = {
    "not a number": (lambda out: out * torch.nan, "output for image 0 is not finite; check its weights"),
    "infinite": (lambda out: out + torch.inf, "output for image 0 is not finite"),
    "a tuple": (lambda out: (out,), r"the output is \[0\] \(\d, 7\); give a function"),
    "a dictionary": (lambda out: {"scores": out}, r"the output is scores \(\d, 7\); give a function"),
    "nothing": (lambda out: None, "the output is a NoneType without tensors"),
    "a word": (lambda out: "cat", "the output is a str without tensors"),
    "no logits": (lambda out: out[:, :0], "argmax"),
    "whole numbers": (lambda out: out.long(), r"floating-point numbers, got torch\.int64"),
    "another batch": (lambda out: out[:0], r"one value for each image, \(\d,\), got \(0,\)"),
    "another axis": (lambda out: out[:, None], r"the output is output \(\d, 1, 7\)"),
    "no axis": (lambda out: out[:, 0], r"the output is output \(\d,\)"),
}


def faulty(change):
    """A model whose output is changed, and what takes the change away."""
    model = build()
    plain = model.head.forward
    model.head.forward = lambda x: change(plain(x))
    return model, lambda: model.head.__dict__.pop("forward")


def state_of(model):
    return {name: one.clone() for name, one in model.state_dict().items()}


def test_each_family_of_methods_is_asked():
    families = {facts.name: facts.family for facts in list_methods()}
    assert {families[name.partition(":")[0]] for name in METHODS} == set(families.values())


@pytest.mark.parametrize("fault", sorted(OUTPUTS))
def test_an_output_that_is_none_is_refused_before_and_after_the_model_is_understood(fault):
    change, says = OUTPUTS[fault]
    model, _ = faulty(change)
    images = pictures(model)
    with pytest.raises(VitscopeError, match=says):
        Explainer(model)(images, "daam")
    fine = build()
    explainer = Explainer(fine)
    wanted = {method: explainer(images, method)[method].values for method in ("daam", "cdam")}
    before, plain = state_of(fine), fine.head.forward
    fine.head.forward = lambda x: change(plain(x))
    for method in METHODS:
        with pytest.raises(VitscopeError) as caught:
            explainer(images, method)
        assert str(caught.value).isprintable()
    del fine.head.forward
    assert all(torch.equal(one, before[name]) for name, one in fine.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fine.modules())
    for method, values in wanted.items():
        assert torch.equal(explainer(images, method)[method].values, values)


@pytest.mark.parametrize(("change", "classes"), [(lambda out: out[:, :5], 5), (lambda out: out.repeat(1, 2), 14)])
def test_other_logits_than_the_head_gives_are_those_that_are_explained(change, classes):
    model, _ = faulty(change)
    images = pictures(model)
    found = Explainer(model)(images, "daam", 2)
    assert found.logits.shape == (2, classes)
    assert float((found["daam"].values - Explainer(build())(images, "daam", 2)["daam"].values).abs().max()) < 1e-3


def test_a_classifier_that_is_not_what_its_weights_say_is_explained_as_it_is():
    plain, _ = faulty(lambda out: out)
    images = pictures(plain)
    wanted = Explainer(plain)(images, "cdam,daam", 2)
    tripled, heal = faulty(lambda out: out * 3)
    explainer = Explainer(tripled)
    assert not explainer.anatomy.described
    for label in ("cdam", "daam"):
        found = explainer(images, label, 2)[label].values
        torch.testing.assert_close(found, 3 * wanted[label].values, rtol=1e-3, atol=1e-5)
    with pytest.raises(VitscopeError, match=r"flat|gradient is zero"):
        Explainer(faulty(lambda out: out * 0)[0])(images, "daam", 2)
    heal()
    assert Explainer(tripled).anatomy.described


def test_an_output_without_gradient_is_refused_where_a_gradient_is_needed():
    fine = build()
    explainer, images = Explainer(fine), pictures(fine)
    plain = fine.head.forward
    wanted = explainer(images, "cdam")["cdam"].values
    fine.head.forward = lambda x: plain(x).detach()
    for method in ("smoothgrad:samples=2", "libra_fullgrad", "attnlrp"):
        with pytest.raises(MethodError, match="no gradient leads from the model's output to its input"):
            explainer(images, method)
    assert torch.equal(explainer(images, "cdam")["cdam"].values, wanted)  # its slope is the classifier's own weight


def test_half_precision_at_the_end_is_taken():
    fine = build()
    explainer, images = Explainer(fine), pictures(fine)
    wanted = explainer(images, "daam,cdam,agcam")
    plain = fine.head.forward
    fine.head.forward = lambda x: plain(x).half()
    found = explainer(images, "daam,cdam,agcam")
    for name in ("daam", "cdam", "agcam"):
        assert torch.allclose(found[name].values, wanted[name].values, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_amid_a_pass_reaches_the_caller_and_leaves_no_trace(method):
    model = build()
    explainer, images = Explainer(model), pictures(model)
    before, calls = state_of(model), []

    def broken(_, inputs):
        calls.append(1)
        raise ZeroDivisionError("amid a block")

    handle = model.blocks[1].mlp.register_forward_pre_hook(broken)
    with pytest.raises(ZeroDivisionError, match="amid a block"):
        explainer(images, method)
    handle.remove()
    assert calls
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert explainer(images, method)[method].values.isfinite().all()


def test_all_methods_fail_alike_where_strictness_is_not_asked_for():
    model, _ = faulty(lambda out: out)
    explainer, images = Explainer(model), pictures(model)
    explainer.anatomy = anatomy_of(model)
    plain = model.head.forward
    model.head.forward = lambda x: plain(x) * torch.nan
    with pytest.raises(VitscopeError, match="not finite"):
        explainer(images, "all", strict=False)
