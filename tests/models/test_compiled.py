"""What torch.compile made gives the maps of what was written, whole, in part or in place."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch._dynamo import eval_frame

import vitscope
from tests.conftest import build, pictures
from vitscope.models.compiled import uncompiled

pytestmark = pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6")


def whole(model):
    return torch.compile(model, backend="eager")


def within(model):
    return nn.Sequential(nn.Identity(), whole(model))


def in_place(model):
    model.compile(backend="eager")
    return model


def by_block(model):
    for block in model.blocks:
        block.compile(backend="eager")
    return model


@pytest.mark.parametrize("used", [pytest.param(False, marks=pytest.mark.integration), True])
@pytest.mark.parametrize("compiled", [whole, within, in_place, by_block])
def test_the_same_maps(compiled, used):
    torch.compiler.reset()
    images = pictures(build())
    wanted = vitscope.Explainer(build())(images, "daam,agcam,cdam", 2)
    model = compiled(build())
    if used:
        with torch.no_grad():
            model(images)
    found = vitscope.Explainer(model)(images, "daam,agcam,cdam", 2)
    for label, attribution in wanted.attributions.items():
        assert torch.allclose(found[label].values, attribution.values, rtol=1e-5, atol=1e-7)
    assert eval_frame._stance.stance == "default"


def test_a_stance_comes_back_when_the_last_thread_has_left():
    first_inside, second_inside = threading.Event(), threading.Event()

    def second():
        first_inside.wait()
        with uncompiled():
            second_inside.set()
            first.join()
            assert eval_frame._stance.stance == "force_eager"

    def one():
        with uncompiled():
            first_inside.set()
            second_inside.wait()

    first, other = threading.Thread(target=one), threading.Thread(target=second)
    with torch.compiler.set_stance("eager_on_recompile"):
        first.start(), other.start()
        other.join()
        assert eval_frame._stance.stance == "eager_on_recompile"
    assert eval_frame._stance.stance == "default"
