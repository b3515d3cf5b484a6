"""How a model is run: in which precision, memory layout and by which compiler; the model itself stays as it is."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings

import pytest
import torch
from torch import nn

import vitscope
from tests.conftest import build, pictures
from vitscope import Running
from vitscope.metrics import ModelScorer
from vitscope.models import anatomy_of
from vitscope.models.anatomy import Anatomy
from vitscope.models.running import Compiled

LOW = ["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MODES = [
    *LOW,
    Running(channels_last=True),
    Running(compiled=True),
    Running("bf16", channels_last=True, compiled=True),
]


@pytest.fixture
def eagerly(monkeypatch):
    """torch.compile by its eager backend: traced and guarded as ever, and quick."""
    made, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: made.append(f) or compile_(f, backend="eager"))
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


@pytest.mark.parametrize("precision", LOW)
def test_the_output_is_the_models_own_under_autocast(precision):
    model = build()
    images = pictures(model, 3)
    with torch.no_grad(), torch.autocast("cpu", DTYPES[precision]):
        wanted = model(images)
    explainer = vitscope.Explainer(model, running=precision)
    explanation = explainer(images, "attention")
    assert wanted.dtype == DTYPES[precision]
    assert explanation.logits.dtype == torch.float32
    assert torch.equal(ModelScorer.of(explainer.anatomy)(images, torch.arange(3)), wanted.float())
    bound = 4 * torch.finfo(wanted.dtype).eps * float(wanted.abs().max())  # the last block computes one row alone
    assert torch.allclose(explanation.logits, wanted.float(), rtol=0, atol=bound)
    assert not torch.allclose(explanation.logits, vitscope.Explainer(model)(images, "attention").logits, rtol=1e-5)
    assert explanation.subject.provenance["running"]["precision"] == precision


@pytest.mark.parametrize("precision", LOW)
def test_what_is_read_of_a_pass_is_in_float32(precision, monkeypatch):
    """The last block's scores, of the very queries and keys that its kernel was given."""
    model, seen = build(), []
    images = pictures(model)
    own = nn.functional.scaled_dot_product_attention

    def kernel(query, key, value, *args, **kwargs):
        seen.append((query, key))
        return own(query, key, value, *args, **kwargs)

    monkeypatch.setattr("timm.layers.attention.F.scaled_dot_product_attention", kernel)
    with torch.no_grad(), torch.autocast("cpu", DTYPES[precision]):
        model(images)
    monkeypatch.undo()
    query, key = (one.float() for one in seen[-1])
    assert seen[-1][0].dtype == DTYPES[precision]
    scores = query[:, :, :1] @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    wanted = scores.softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    found = vitscope.Explainer(model, running=precision)(images, "attention")["attention"].values.flatten(1)
    assert torch.allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("running", MODES)
def test_the_model_is_left_as_found(running, eagerly):
    model = build(drop_path_rate=0.5).train()
    model.blocks[0].eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    explainer = vitscope.Explainer(model, running=running)
    images = pictures(model)
    explainer(images, "daam,cdam,rise:masks=12", 2)
    ModelScorer.of(explainer.anatomy)(images, torch.arange(2))
    with pytest.raises(vitscope.TargetError):
        explainer(images, "daam", lambda output: output)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.is_contiguous() and parameter.grad is None for parameter in model.parameters())
    assert flags == [m.training for m in model.modules()]
    assert wants == [p.requires_grad for p in model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("running", [Running(channels_last=True), Running(compiled=True)])
def test_memory_layout_and_compiler_change_no_number(running, eagerly):
    model = build()
    images = pictures(model, 3)
    labels = "daam,agcam,cdam,rise:masks=40,scorecam"
    wanted, found = (vitscope.Explainer(model, running=one)(images, labels, 2) for one in (Running(), running))
    for label in wanted:
        exactly = label in ("daam", "agcam", "cdam")  # whose passes are watched
        assert torch.allclose(found[label].values, wanted[label].values, rtol=0 if exactly else 1e-4, atol=0)
    assert len(eagerly) == running.compiled


@pytest.mark.slow
def test_the_compilers_own_code_changes_no_number():
    torch.compiler.reset()
    anatomy = anatomy_of(build())
    images = pictures(anatomy.model, 3)
    fast = vitscope.Explainer(anatomy.model, running=Running(compiled=True)).anatomy
    found = ModelScorer.of(fast)(images, torch.arange(3))
    assert not fast._compiled._failed
    assert torch.allclose(found, ModelScorer.of(anatomy)(images, torch.arange(3)), rtol=1e-4, atol=1e-5)


def test_pictures_come_in_the_memory_layout_that_was_asked_for():
    model, seen = build(), []
    model.patch_embed.proj.register_forward_pre_hook(
        lambda _, x: seen.append(x[0].is_contiguous(memory_format=torch.channels_last))
    )
    explainer = vitscope.Explainer(model, running=Running(channels_last=True))
    seen.clear()  # of the passes that described and verified the model
    images = pictures(model)
    ModelScorer.of(explainer.anatomy)(images, torch.arange(2))
    explainer(images, "cdam")
    assert seen == [True, False]
    assert images.is_contiguous()


def test_a_compiled_forward_is_compiled_once_and_travels_uncompiled(eagerly):
    explainer = vitscope.Explainer(build(), running=Running(compiled=True))
    images = pictures(explainer.anatomy.model, 3)
    for count in (3, 2, 3):
        ModelScorer.of(explainer.anatomy)(images[:count], torch.arange(count))
    assert len(eagerly) == 1
    compiled = pickle.loads(pickle.dumps(Compiled(torch.neg)))
    assert torch.equal(compiled(images), -images)


def test_where_the_compiler_fails_one_line_says_so_and_the_forward_runs_as_written(monkeypatch, caplog):
    def compile_(forward):
        def broken(images):
            raise RuntimeError("no C++ compiler\nmany lines of trace")

        return broken

    monkeypatch.setattr(torch, "compile", compile_)
    model = build()
    images, index = pictures(model), torch.arange(2)
    scorer = ModelScorer.of(vitscope.Explainer(model, running=Running(compiled=True)).anatomy)
    with caplog.at_level(logging.WARNING):
        found = [scorer(images, index) for _ in range(2)]
    assert torch.equal(found[0], ModelScorer(model)(images, index))
    assert torch.equal(*found)
    line = caplog.messages[-1]
    assert sum("torch.compile" in message for message in caplog.messages) == 1
    assert line == "torch.compile failed (no C++ compiler); the forwards of altered pictures run uncompiled"


def test_a_models_own_error_is_not_the_compilers(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", lambda forward: forward)

    def broken(images):
        raise ValueError("the model's own")

    with pytest.raises(ValueError, match="the model's own"):
        Compiled(broken)(torch.ones(1))
    assert not caplog.messages


def test_what_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(vitscope.ModelError, match="'half' is not known; give float32, bf16, fp16"):
        Running("half")
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float64, "float64")):
        with pytest.raises(vitscope.ModelError, match=f"weights in float32, and these are in {name}; leave it out"):
            vitscope.Explainer(build(dtype=dtype), running="bf16")
    vitscope.Explainer(build(dtype=torch.float64))
    own = torch.autocast

    def disabled(device, dtype=None, **kwargs):
        """As torch's for a type that it does not know: a warning, and nothing is lowered."""
        warnings.warn("the target dtype is not supported. Disabling autocast.", stacklevel=2)
        return own(device, enabled=False)

    monkeypatch.setattr(torch, "autocast", disabled)
    with pytest.raises(vitscope.ModelError, match="torch has no fp16 on cpu; leave the precision at float32"):
        vitscope.Explainer(build(), running="fp16")


def test_numbers_beyond_fp16_are_an_error_that_says_so():
    model = build()
    with torch.no_grad():
        model.head.weight.mul_(1e5)
    images = pictures(model)
    with pytest.raises(vitscope.ModelError, match="leave the range of fp16; use bf16 or float32"):
        vitscope.Explainer(model, running="fp16")(images, "daam")
    assert torch.isfinite(vitscope.Explainer(model, running="bf16")(images, "daam")["daam"].values).all()
    assert not torch.is_autocast_enabled("cpu")


def test_a_description_keeps_how_it_is_run_apart_from_what_is_where():
    explainer = vitscope.Explainer(build(), running="bf16")
    assert isinstance(explainer.anatomy, Anatomy)
    assert explainer.anatomy.exact.running == Running()
    assert vitscope.Explainer(explainer.anatomy).anatomy.running == Running()
