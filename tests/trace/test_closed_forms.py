"""The closed-form class path against autograd through written-out attention, in float64, on every layout."""

from __future__ import annotations

import pytest
import torch

import vitscope
from tests import reference
from tests.conftest import build, pictures
from vitscope.models import anatomy_of
from vitscope.targets import Class, Contrast
from vitscope.trace import Blocks, Needs, capture, record, verify
from vitscope.trace.classpath import feature_map, token_effects
from vitscope.trace.heads import merge_heads
from vitscope.trace.jacobian import push_forward, pushed

ALL = Blocks.ALL
EVERYTHING = Needs(attention=ALL, values=ALL, sensitivity=ALL, skip_gradient=ALL, full_gradient=ALL)


def traced(model, images, classes, needs=EVERYTHING):
    return record(anatomy_of(model), images, needs, [Class(tuple(classes.tolist()))])


def effect_on_rows(block) -> torch.Tensor:
    """(b h r n d): what token n's own direction does to each row's T."""
    moved = block.values[:, :, None] - block.row_output[:, :, :, None]
    return block.row_attention[..., None] * (block.value_change[:, :, None] + block.score_change[..., None] * moved)


def close(found: torch.Tensor, wanted: torch.Tensor, bound: float = 1e-10) -> bool:
    return float((found - wanted).detach().norm() / wanted.detach().norm()) < bound


@pytest.mark.parametrize("path", ["skip", "full"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_at_every_block(layout, path, fused):
    model = build(layout, dtype=torch.float64, fused=fused)
    images, classes = pictures(model, 3, dtype=torch.float64), torch.tensor([0, 5, 2])
    trace = traced(model, images, classes)
    for block, wanted in zip(trace.blocks, reference.gradients_at_outputs(model, images, classes, path), strict=True):
        assert close(block.gradient(path)[:, :, 0], wanted)


@pytest.mark.parametrize("path", ["skip", "full"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_several_targets_are_each_ones_own(layout, path, fused):
    model = build(layout, dtype=torch.float64, fused=fused)
    images = pictures(model, 2, dtype=torch.float64)
    aims = [Class((0, 5)), Contrast(3, 1), Class(6)]
    trace = record(anatomy_of(model), images, EVERYTHING, aims)
    alone = [record(anatomy_of(model), images, EVERYTHING, [aim]) for aim in aims]
    for slot, single in enumerate(alone):
        for block, wanted in zip(trace.blocks, single.blocks, strict=True):
            assert close(block.gradient(path)[:, :, slot], wanted.gradient(path)[:, :, 0])
        assert close(trace.blocks[-1].row_gradient[:, :, slot], single.blocks[-1].row_gradient[:, :, 0])


def test_scores_attention_values_output(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, dtype=torch.float64)
    trace = traced(model, images, torch.tensor([1, 2]))
    logits, run = reference.forward(model, images)
    assert close(trace.logits, logits)
    for block, z, a, v, out in zip(trace.blocks, run.scores, run.attention, run.values, run.outputs, strict=True):
        assert close(block.scores, z[:, :, 0])
        assert close(block.attention, a[:, :, 0])
        assert close(block.values, v)
        assert close(block.output, out[:, :, 0])


def test_sensitivity_is_the_derivative_along_each_token(layout):
    """dT/dt_n . t_n = a (dv + ds (v - T)), by a finite difference of one token."""
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 1, dtype=torch.float64)
    trace = traced(model, images, torch.tensor([1]))
    block, last = trace.blocks[-1], model.blocks[-1].attn
    effect = effect_on_rows(block)
    _, run = reference.forward(model, images)
    tokens = run.tokens[-1].detach()
    step = 1e-5
    for n in (trace.prefix, tokens.shape[1] - 1):
        ends = []
        for sign in (1, -1):
            moved = tokens.clone()
            moved[:, n] *= 1 + sign * step
            again = reference.WrittenOut(model)
            again.attend(last, moved)
            ends.append(again.outputs[0][:, :, : effect.shape[2]].detach())
        assert close(effect[:, :, :, n], (ends[0] - ends[1]) / (2 * step), 1e-7)


def test_push_forward_agrees_with_pull_back(layout, monkeypatch):
    """<J x, y> through autograd's reverse mode, and CDAM of every class through forward mode."""
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    anatomy = anatomy_of(model)
    trace = traced(model, images, torch.tensor([1, 2]))
    seen = capture.forward(anatomy, images, EVERYTHING)
    tangents = effect_on_rows(trace.blocks[-1]).permute(3, 0, 2, 1, 4).flatten(3)  # n b r D
    assert close(token_effects(anatomy.blocks[-1], seen.blocks[-1], anatomy.grid(tuple(images.shape[-2:]))), tangents)
    forth = push_forward(feature_map(anatomy, seen), merge_heads(seen.blocks[-1].rows), tangents)  # n b F
    for ways in (0, 1e9):  # by the tangents, and back from every output
        monkeypatch.setattr("vitscope.trace.jacobian._BACK_IS_CHEAPER", ways)
        either = pushed(feature_map(anatomy, seen), merge_heads(seen.blocks[-1].rows), tangents, forth.shape[-1])
        assert close(either, forth)
    every_class = forth @ anatomy.classifier.weight.T  # n b c
    for c in range(every_class.shape[-1]):
        wanted = reference.cdam(model, images, torch.tensor([c, c]))
        patches = slice(trace.prefix, None)
        assert close(every_class[patches, :, c].T, wanted[:, patches])


def test_feature_map_leads_to_the_models_own_output(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    anatomy = anatomy_of(model)
    seen = capture.forward(anatomy, images, EVERYTHING)
    assert close(anatomy.output(feature_map(anatomy, seen)(merge_heads(seen.blocks[-1].rows))), model(images))


def test_verify_finds_nothing_wrong(layout):
    model = build(layout, dtype=torch.float64)
    assert verify(anatomy_of(model), pictures(model, 1, dtype=torch.float64)).error < 1e-12


@pytest.mark.parametrize("boolean", [False, True])
def test_an_attention_mask_counts(boolean):
    """CDAM under a mask, against autograd at the last LN1's output through the model itself."""
    model = build(dtype=torch.float64)
    images, classes = pictures(model, dtype=torch.float64), torch.tensor([1, 2])
    generator = torch.Generator().manual_seed(0)
    mask = torch.randn(17, 17, generator=generator, dtype=torch.float64)
    mask = (mask > -1) | torch.eye(17, dtype=torch.bool) if boolean else mask
    plain = model.forward
    model.forward = lambda x: plain(x, attn_mask=mask)
    seen = []
    hook = model.blocks[-1].norm1.register_forward_hook(lambda *args: seen.append(args[2]))
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), seen[-1])
    hook.remove()
    found = vitscope.Explainer(model)(images, "cdam", classes.tolist())["cdam"].values.flatten(1)
    assert close(found, (seen[-1] * gradient).sum(-1)[:, 1:], 1e-6)


@pytest.mark.parametrize("which", ["vit", "deit3", "scale_norm", "qk_norm"])
def test_a_last_block_that_alone_is_written_out(which):
    """Its patch rows are left out all the same, though the block before ran the kernel."""
    model = build(which, dtype=torch.float64)
    images, classes = pictures(model, 2, dtype=torch.float64), torch.tensor([1, 4])
    fused = traced(model, images, classes)
    model.blocks[-1].attn.fused_attn = False
    written = traced(model, images, classes)
    for block, wanted in zip(written.blocks, fused.blocks, strict=True):
        for name in ("attention", "values", "output", "full_gradient", "skip_gradient"):
            assert close(getattr(block, name), getattr(wanted, name)), name


def test_patch_rows_of_the_last_attention_are_left_out():
    """The last attention sees one row, and the output is the model's own; with rotated or normed keys it sees all."""
    for which, rows in (("vit", 1), ("deit3", 1), ("qk_norm", 17), ("distilled", 18)):
        model = build(which)
        images, seen = pictures(model), []
        with torch.no_grad():
            wanted = model(images)
        hook = model.blocks[-1].attn.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1].shape[1]))
        found = record(anatomy_of(model), images, Needs(attention=ALL, full_gradient=ALL), [Class(2)]).logits
        hook.remove()
        assert seen == [rows], which
        torch.testing.assert_close(found, wanted)
