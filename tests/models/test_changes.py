"""A model that changes after its Explainer was built: maps of the model as it is now, or a refusal."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitscope
from tests.conftest import build, pictures
from vitscope.errors import ModelError
from vitscope.models.state import ModelState

METHODS = "daam,agcam,cdam"


class LoRA(nn.Module):
    """x W' + b + x A' B', with B = 0 at first; like peft's layer it shows the base layer's weight and bias."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base, self.scale = base, 2.0
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.scale * self.up(self.down(x))

    def merged(self) -> nn.Linear:
        layer = copy.deepcopy(self.base)
        layer.weight.data += self.scale * self.up.weight.data @ self.down.weight.data
        return layer


def with_lora(model):
    for block in model.blocks:
        block.attn.qkv = LoRA(block.attn.qkv)
    return model


def train(model, x, steps: int = 10) -> None:
    optimizer = torch.optim.Adam(
        [p for name, p in model.named_parameters() if ".up." in name or ".down." in name], 0.02
    )
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(len(x))).backward()
        optimizer.step()


def assert_explains(explainer, model, x) -> None:
    """The maps and logits are those of a new Explainer of the model, with LoRA adapters merged."""
    merged = copy.deepcopy(model)
    for block in getattr(merged, "blocks", []):
        if isinstance(block.attn.qkv, LoRA):
            block.attn.qkv = block.attn.qkv.merged()
    found, wanted = explainer(x, METHODS, target=1), vitscope.Explainer(merged)(x, METHODS, target=1)
    torch.testing.assert_close(found.logits, model(x).detach(), rtol=1e-4, atol=1e-4)
    for name in METHODS.split(","):
        error = (found[name].values - wanted[name].values).norm() / wanted[name].values.norm()
        assert error < 1e-4, name


@pytest.mark.parametrize("layout", ["vit", "mean", "qk_norm", "distilled"])
def test_a_lora_adapter_trained_after_verification(layout):
    model = with_lora(build(layout))
    x = pictures(model)
    explainer = vitscope.Explainer(model)
    before = explainer(x, METHODS, target=1)
    train(model, x)
    assert not torch.allclose(before.logits, model(x), atol=1e-2)
    assert_explains(explainer, model, x)
    evidence = vitscope.Explainer(copy.deepcopy(model))
    if explainer.anatomy.rows_read is not None:
        torch.testing.assert_close(explainer.evidence(x)[1], evidence.evidence(x)[1])


def add_to_data(model):
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def load_other(model):
    model.load_state_dict(build("vit", seed=9).state_dict())


def assign_other(model):
    model.load_state_dict(build("vit", seed=9).state_dict(), assign=True)


def replace_block(model):
    model.blocks[1] = build("vit", seed=9).blocks[1]


def replace_head(model):
    model.head = nn.Linear(24, 3)


def insert_lora(model):
    with_lora(model)
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.up.weight, std=0.2)


def in_float64(model):
    model.double()


def hook_on_qkv(model):
    model.blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: 1.5 * output)


@pytest.mark.parametrize(
    "change", [add_to_data, load_other, assign_other, replace_block, replace_head, insert_lora, in_float64, hook_on_qkv]
)
def test_a_change_is_noticed_and_the_model_described_again(change):
    model = build("vit")
    explainer = vitscope.Explainer(model)
    x = pictures(model)
    explainer(x, METHODS, target=1)
    change(model)
    assert_explains(explainer, model, x.to(next(model.parameters()).dtype))
    assert explainer.anatomy.outputs == model.head.out_features
    assert explainer.features(x).shape == (2, 24)


class Switched(nn.Module):
    """Flips its images where it is told so, and counts its calls."""

    def __init__(self, model):
        super().__init__()
        self.model, self.flip, self.change, self.calls = model, False, lambda x: x, 0

    def forward(self, x):
        self.calls += 1
        return self.model(self.change(x.flip(-1) if self.flip else x))


@pytest.mark.parametrize(
    ("name", "value"), [("flip", True), ("change", lambda x: x.flip(-2)), ("change", lambda x: x.mT)]
)
def test_a_setting_that_changes_the_geometry_is_noticed(name, value):
    model = Switched(build("vit")).eval()
    explainer, x = vitscope.Explainer(model), pictures(model.model)
    before = explainer(x, METHODS, target=1)
    setattr(model, name, value)
    found, wanted = explainer(x, METHODS, target=1), vitscope.Explainer(model)(x, METHODS, target=1)
    for label in METHODS.split(","):
        torch.testing.assert_close(found[label].values, wanted[label].values)
        assert not torch.allclose(found[label].values, before[label].values)


def _pool_by_mean(model):
    model.global_pool = "avg"


def _larger_epsilon(model):
    for block in model.blocks:
        block.norm1.eps = 1.0


@pytest.mark.parametrize("change", [_pool_by_mean, _larger_epsilon])
def test_a_setting_of_a_layer_is_noticed(change):
    model = build("vit")
    explainer, x = vitscope.Explainer(model), pictures(model)
    explainer(x, METHODS, target=1)
    change(model)
    assert_explains(explainer, model, x)
    assert explainer.anatomy.rows_read == (None if model.global_pool == "avg" else 1)


def test_a_scale_that_no_longer_fits_is_noticed():
    model = build("vit")
    explainer, x = vitscope.Explainer(model), pictures(model)
    wanted = explainer(x, "cdam", target=1)["cdam"].values
    model.blocks[0].attn.scale *= 3  # which the fused kernel does not read
    torch.testing.assert_close(explainer(x, "cdam", target=1)["cdam"].values, wanted, rtol=1e-3, atol=1e-5)
    with pytest.raises(ModelError, match=r"features needs a description of .*queries differs"):
        explainer.features(x)


def test_a_change_that_cannot_be_described_is_explained_without_until_it_is_undone():
    model = build("vit")
    explainer, x = vitscope.Explainer(model), pictures(model)
    before = explainer(x, "cdam", target=1)["cdam"].values
    hook = model.blocks[1].register_forward_hook(lambda _, __, tokens: tokens.flip(1))
    assert not torch.allclose(explainer(x, "cdam", target=1)["cdam"].values, before)
    for call in (explainer.evidence, explainer.features):
        with pytest.raises(ModelError, match=r"needs a description of .*remove the hooks"):
            call(x)
    hook.remove()
    assert torch.equal(explainer(x, "cdam", target=1)["cdam"].values, before)


def test_a_description_of_ones_own_is_verified_again():
    model = build("vit")
    own = vitscope.adapt(
        model,
        vitscope.Layout(blocks=model.blocks, final_norm=model.norm, head=model.head, patch=8, image_size=32, mlp="mlp"),
    )
    explainer, x = vitscope.Explainer(own), pictures(model)
    add_to_data(model)
    assert_explains(explainer, model, x)
    model.blocks[0].attn.qkv = nn.Linear(24, 72)
    with pytest.raises(ModelError, match="changed after"):
        explainer(x, "cdam", target=1)


def test_an_unchanged_model_is_verified_once(monkeypatch):
    model = build("vit")
    explainer, x = vitscope.Explainer(model), pictures(model)

    def again(*_):
        raise AssertionError("verified again")

    counting = vitscope.Explainer(Switched(build("vit")).eval())
    monkeypatch.setattr("vitscope.explainer.verify", again)
    for _ in range(2):
        counting(x, METHODS, target=1)
    model.train()
    x.requires_grad_()
    for _ in range(2):
        explainer(x, METHODS, target=1)
        explainer.evidence(x)
    model(x).sum().backward()  # gradients are no change
    explainer(x, METHODS)


def test_a_state_keeps_no_weights_alive():
    model = build("vit")
    old = model.blocks[0]
    state = ModelState(model)
    weight = weakref.ref(old.attn.qkv.weight)
    assert state == ModelState(model)
    model.blocks[0] = build("vit", seed=1).blocks[0]
    del old
    assert weight() is None
    assert state != ModelState(model)


def test_a_pickled_state_is_that_of_no_model():
    """So an explainer that was sent to another process verifies its model there."""
    state = ModelState(build("vit"))
    assert pickle.loads(pickle.dumps(state)) != state


def test_a_change_whose_maps_cannot_be_placed_is_refused_until_it_is_undone():
    """The description of the changed model must not stay."""
    model = build("vit")
    layout = vitscope.Layout(blocks=model.blocks, final_norm=model.norm, head=model.head, patch=8, image_size=32)
    explainer, x = vitscope.Explainer(vitscope.adapt(model, layout)), pictures(model)
    before, anatomy = explainer(x, "cdam", target=1)["cdam"].values, explainer.anatomy
    hook = model.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., torch.randperm(32)],))
    with pytest.raises(ModelError, match="changed after this Explainer was built"):
        explainer(x, "cdam", target=1)
    assert explainer.anatomy is anatomy
    hook.remove()
    assert torch.equal(explainer(x, "cdam", target=1)["cdam"].values, before)


@pytest.mark.parametrize("name", ["head.bias", "blocks.0.norm1.weight", "pos_embed"])
def test_a_change_through_data_is_another_state(name):
    """It leaves torch's version counter as it is."""
    model = build("vit")
    state, parameter = ModelState(model), model.get_parameter(name)
    version = parameter._version
    parameter.data.mul_(1.01)
    assert parameter._version == version
    assert state != ModelState(model)
