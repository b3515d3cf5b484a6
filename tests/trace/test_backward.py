"""Other backward passes: what they conserve, what they do not, and that they are what their papers' equations say."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitscope
from tests import reference
from tests.conftest import LAYOUTS, POOLED, TINY, build, perturbed, pictures
from vitscope.methods import CheferLRP
from vitscope.models import anatomy_of
from vitscope.targets import Class, Contrast
from vitscope.trace import CHEFER_LRP, CP_LRP, LIBRA, PLAIN, attn_lrp, record, res_lrp, why_no_rule
from vitscope.trace.gradient_rules import Gamma, plus_by_sign
from vitscope.trace.propagate import propagate

EVERY = [*LAYOUTS, *POOLED]
RULES = (PLAIN, LIBRA, CP_LRP, attn_lrp(0.0), attn_lrp(0.05), res_lrp(0.0), res_lrp(0.05), CHEFER_LRP)


def without_biases(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def totals(model, rules, target=3):
    """(block image): the relevance of all tokens of each block, over the output that it should add up to."""
    images = pictures(model, 3, dtype=torch.float64)
    output, found = propagate(anatomy_of(model), images, rules, [Class(target)])
    whole = torch.ones(3).double() if rules.relevance else output[:, target]
    return torch.stack([found.relevance(index).sum(dim=-1)[:, 0] / whole for index in range(len(found.tokens))])


@pytest.mark.parametrize("layout", EVERY)
def test_libra_is_complete_without_biases(layout):
    model = without_biases(build(layout, dtype=torch.float64))
    assert (totals(model, LIBRA) - 1).abs().max() < 1e-10
    assert (totals(model, PLAIN) - 1).abs().max() > 0.1  # the ordinary gradient is not


def test_libra_leaves_out_what_the_biases_give():
    assert (totals(build(dtype=torch.float64), LIBRA) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("layout", EVERY)
def test_chefers_relevance_is_conserved(layout):
    share = totals(build(layout, dtype=torch.float64), CHEFER_LRP)
    if layout == "attention_pool":  # the learned query takes its part
        assert ((share > 0.5) & (share < 1)).all()
        return
    assert (share - 1).abs().max() < 1e-6


def relu_model():
    model = VisionTransformer(**TINY, act_layer=nn.ReLU)
    return without_biases(perturbed(model).double())


def test_cp_lrp_is_conserved_with_relu_and_not_with_gelu():
    assert (totals(relu_model(), CP_LRP) - 1).abs().max() < 1e-10
    assert (totals(without_biases(build(dtype=torch.float64)), CP_LRP) - 1).abs().max() > 1e-2


@pytest.mark.parametrize("rules", [attn_lrp(0.0), attn_lrp(0.05), res_lrp(0.0)], ids=lambda rules: rules.name)
def test_softmax_keeps_relevance_in_attnlrp(rules):
    """Its authors say so: the bias term of the Taylor expansion takes a part."""
    share = totals(without_biases(build(dtype=torch.float64)), rules)
    assert 1e-3 < (share - 1).abs().max() < 1


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.5])
def test_the_gamma_rule_against_its_definition(gamma):
    x, weight, bias = torch.randn(4, 5).double(), torch.randn(3, 5).double(), torch.randn(3).double()
    at = torch.randn(4, 3).double()
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(Gamma(gamma)(leaf, weight, bias), leaf, at)
    wanted = torch.zeros_like(x)
    for row in range(4):
        for j in range(3):
            parts = [*(x[row, i] * weight[j, i] for i in range(5)), bias[j]]
            z = sum(parts)
            weighed = [part * (1 + gamma * (part.sign() == z.sign())) for part in parts]
            for i in range(5):
                wanted[row, i] += weighed[i] / sum(weighed) * z * at[row, j]
    assert torch.allclose(found * x, wanted, rtol=1e-4, atol=1e-6)


def test_the_residual_rule_against_its_definition():
    first, second, at = (torch.randn(7, 5).double() for _ in range(3))
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    found = torch.autograd.grad(plus_by_sign(*leaves), leaves, at)
    total = first + second
    weights = [1 + (part.sign() == total.sign()).double() for part in (first, second)]
    share = weights[0] * first / (weights[0] * first + weights[1] * second)
    assert torch.allclose(found[0] * first, share * total * at)
    assert torch.allclose(found[1] * second, (1 - share) * total * at)
    zero = torch.autograd.grad(plus_by_sign(leaves[0], -leaves[0]), leaves[0], at)[0]
    assert torch.isfinite(zero).all()


def test_the_ordinary_gradient_is_autograds(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    _, found = propagate(anatomy_of(model), images, PLAIN, [Class(3), Contrast(1, 2)])
    seen = []
    hooks = [block.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for block in model.blocks]
    output = model(images)
    for hook in hooks:
        hook.remove()
    for slot, score in enumerate((output[:, 3], output[:, 1] - output[:, 2])):
        wanted = torch.autograd.grad(score.sum(), seen, retain_graph=True)
        for at, other in zip(found.at_tokens, wanted, strict=True):
            assert torch.allclose(at[:, slot], other)


def test_libras_gradient_is_autograds_of_a_model_with_constants(layout):
    """Written by hand for one layout family: attention, gates and spreads replaced by what they were."""
    if layout == "dinov2_registers":
        pytest.skip("its MLP is SwiGLU, checked by completeness")
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    _, found = propagate(anatomy_of(model), images, LIBRA, [Class(3)])
    wanted = reference.libra_gradients(model, images, 3)
    for at, other in zip(found.at_tokens, wanted, strict=True):
        assert torch.allclose(at[:, 0], other, atol=1e-12)


@pytest.mark.parametrize("layout", ["vit", "non_square", "deit3", "qk_norm", "clip"])
def test_chefers_lrp_against_its_equations(layout):
    """The whole relevance propagation a second time, layer by layer, with whole matrices."""
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    found = explainer(images, "chefer_lrp,partial_lrp", 3)
    for index in range(2):
        wanted, partial = reference.chefer_lrp(model, images[index : index + 1], 3)
        for name, other in (("chefer_lrp", wanted), ("partial_lrp", partial)):
            values = found[name].values[index].flatten().double()
            other = other[model.num_prefix_tokens :]
            assert (values - other).norm() / other.norm() < 1e-5


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
@pytest.mark.parametrize("layout", EVERY)
def test_the_forward_pass_is_the_same(rules, layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output, _ = propagate(anatomy_of(model), images, rules, [Class(0)])
    assert torch.allclose(output, model(images).detach(), rtol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_several_targets_are_each_alone():
    """In float64, as Chefer's LRP amplifies rounding."""
    model = build(dtype=torch.float64)
    explainer, images = vitscope.Explainer(model), pictures(model, 2, dtype=torch.float64)
    for label in ("libra_fullgrad", "chefer_lrp", "reslrp", "daam:path=libra"):
        together = explainer.each(images, label, [1, Contrast(0, 4)])
        for target, one in zip((1, Contrast(0, 4)), together, strict=True):
            alone = explainer(images, label, target)
            assert torch.allclose(one[label].values, alone[label].values, rtol=1e-4, atol=1e-6)


class Cosine(nn.Module):
    """An activation that no rule knows."""

    def forward(self, x):
        return x.cos()


def test_a_layer_without_a_rule_is_refused_by_name():
    model = perturbed(VisionTransformer(**TINY, act_layer=Cosine))
    explainer = vitscope.Explainer(model)
    reason = explainer.why_not("libra_fullgrad", vitscope.methods.LibraFullGrad())
    assert "no rule for cos, which blocks.0 uses; use attention, rollout" in reason
    with pytest.raises(vitscope.MethodError, match="no rule for cos"):
        explainer(pictures(model), "libra_fullgrad")
    assert "no rule for cos" in vitscope.describe(explainer).methods["reslrp"]
    assert not why_no_rule(explainer.anatomy, PLAIN)
    assert explainer(pictures(model), "attcat")["attcat"].values.std() > 0
    found = explainer(pictures(model), ["daam", "libra_fullgrad"], strict=False)
    assert set(found.failures) == {"libra_fullgrad"}


def test_a_refusal_does_not_outlive_its_cause():
    model = perturbed(VisionTransformer(**TINY, act_layer=Cosine))
    explainer, images = vitscope.Explainer(model), pictures(model)
    with pytest.raises(vitscope.MethodError, match="no rule for cos"):
        explainer(images, "cplrp")
    for block in model.blocks:
        block.mlp.act = nn.GELU()
    wanted = vitscope.Explainer(copy.deepcopy(model))(images, "cplrp")["cplrp"].values
    for again in (explainer, vitscope.Explainer(model)):
        assert torch.equal(again(images, "cplrp")["cplrp"].values, wanted)
    model.blocks[1].mlp.act = Cosine()
    with pytest.raises(vitscope.MethodError, match=r"no rule for cos, which blocks\.1 uses"):
        explainer(images, "cplrp")


class NamedGELU(nn.Module):
    def forward(self, x):
        return F.gelu(approximate="none", input=x)


class NamedNorm(nn.LayerNorm):
    def forward(self, x):
        shape = self.normalized_shape
        return F.layer_norm(input=x, normalized_shape=shape, weight=self.weight, bias=self.bias, eps=self.eps)


class NamedScale(LayerScale):
    def forward(self, x):
        return torch.mul(input=x, other=self.gamma)


class NamedSum(TimmBlock):
    def forward(self, x, attn_mask=None, is_causal=False):
        x = torch.add(x, other=self.ls1(self.attn(self.norm1(x))))
        return torch.add(input=x, other=self.ls2(self.mlp(self.norm2(x))))


def test_arguments_by_name_are_those_by_place(monkeypatch):
    model = build("deit3", seed=3)
    images, labels = pictures(model, seed=4), ["libra_fullgrad", "cplrp", "attnlrp", "reslrp", "chefer_lrp", "attcat"]
    labels += ["gradcam:path=libra", "daam", "agcam"]
    targets = [2, Contrast(0, 5)]
    wanted = vitscope.Explainer(model).each(images, labels[:-2], targets[:1])
    several = vitscope.Explainer(model).each(images, labels[-2:], targets)
    for module in model.modules():
        if type(module) is nn.GELU:
            module.__class__ = NamedGELU
        elif isinstance(module, nn.LayerNorm):
            module.__class__ = NamedNorm
        elif type(module) is LayerScale:
            module.__class__ = NamedScale
        elif type(module) is TimmBlock:
            monkeypatch.setattr(module, "forward", NamedSum.forward.__get__(module))
    explainer = vitscope.Explainer(model)
    assert not any(vitscope.describe(explainer).methods.values())
    for one, other in zip(
        (*explainer.each(images, labels[:-2], targets[:1]), *explainer.each(images, labels[-2:], targets)),
        (*wanted, *several),
        strict=True,
    ):
        for label in other:
            assert torch.allclose(one[label].values, other[label].values, rtol=1e-3, atol=1e-6), label


class Unsteady(nn.Module):
    """Never the same twice."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x + 0.3 * self.calls * torch.ones_like(x).cumsum(dim=-1).sin()


def test_another_output_than_the_first_is_an_error():
    model = build()
    explainer = vitscope.Explainer(model)
    model.norm_pre = Unsteady()
    with pytest.raises(vitscope.ModelError, match="gave another output"):
        record(explainer.anatomy, pictures(model), CheferLRP().needs, [Class(0)])
