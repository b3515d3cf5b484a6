"""The models in the package: there without a network, as good as their card says, and understood like any other."""

import numpy as np
import pytest
import torch
from timm.models import SwinTransformer, VisionTransformer

import vitscope
from vitscope.datasets import CLASSES, Scenes, with_mark
from vitscope.models import load_model
from vitscope.models.bundled import BUNDLED, FOLDER, SHORTCUT, scenes_vit
from vitscope.targets import MemoryBank


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a bundled model asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def logits(name, scenes):
    images = np.stack([scene.image for scene in scenes])
    with torch.inference_mode():
        return load_model(name)(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)


@pytest.mark.parametrize("name", BUNDLED)
def test_architecture(name):
    model = load_model(name)
    assert not model.training
    if name == "scenes-windows":
        assert type(model) is SwinTransformer
        assert [len(stage.blocks) for stage in model.layers] == [2, 2, 4]
    else:
        assert type(model) is VisionTransformer
        assert len(model.blocks) == 12
        assert model.patch_embed.num_patches == 144
    assert model.num_classes == BUNDLED[name].outputs
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 6_000_000


@pytest.mark.parametrize("name", BUNDLED)
def test_explainer_takes_the_name(name):
    explainer = vitscope.Explainer(name)
    image = Scenes(1, seed=5)[0].image
    assert explainer.description_error < 1e-3
    assert explainer.preprocessing.size == (96, 96)
    prepared = explainer([image], "attention").subject.batch.tensor
    torch.testing.assert_close(prepared[0].permute(1, 2, 0), torch.from_numpy(image) / 127.5 - 1)
    if BUNDLED[name].outputs:
        assert explainer.names.names == CLASSES
        by_name, by_index = (explainer([image], "cdam", target)["cdam"].values for target in ("Red Striped Disc", 0))
        assert torch.equal(by_name, by_index)


@pytest.mark.integration
def test_it_knows_the_classes():
    scenes = list(Scenes(100, "one", seed=61))
    right = [int(top) == scene.labels[0] for top, scene in zip(logits("scenes", scenes).argmax(1), scenes, strict=True)]
    assert np.mean(right) >= 0.9  # 95 % and more on 2000 scenes: docs/scenes.md; here is the chance of a small sample


@pytest.mark.integration
def test_the_shortcut_is_one():
    scenes = [scene for scene in Scenes(50, "one", seed=62) if scene.labels != (SHORTCUT,)]
    marked = [with_mark(scene) for scene in scenes]
    fooled = {
        (name, kind): float((logits(name, which).argmax(1) == SHORTCUT).float().mean())
        for name in ("scenes", "scenes-shortcut")
        for kind, which in (("plain", scenes), ("marked", marked))
    }
    assert fooled["scenes-shortcut", "marked"] > 0.6
    assert max(fooled["scenes", "marked"], fooled["scenes", "plain"], fooled["scenes-shortcut", "plain"]) < 0.1


@pytest.mark.integration
def test_neighbours_name_what_the_self_supervised_model_sees():
    scenes = list(Scenes(80, "one", seed=63))
    votes = MemoryBank.load("scenes-ssl").vote(logits("scenes-ssl", scenes)).argmax(1)
    assert np.mean([int(vote) == scene.labels[0] for vote, scene in zip(votes, scenes, strict=True)]) > 0.6


@pytest.mark.integration
def test_another_picture_size_keeps_the_answer():
    scenes = list(Scenes(10, "one", seed=64))
    small = vitscope.Explainer("scenes")([scene.image for scene in scenes], "daam")
    large = vitscope.Explainer("scenes", preprocessing={"size": 128})([scene.image for scene in scenes], "daam")
    assert large["daam"].values.shape == (10, 16, 16)
    assert (small.target == large.target).float().mean() > 0.6


def test_listed_described_and_hinted():
    assert set(BUNDLED) <= set(vitscope.list_models())
    assert set(BUNDLED) == set(vitscope.list_models("scenes"))
    assert "daam" in str(vitscope.describe("scenes"))
    with pytest.raises(vitscope.ModelError, match="scenes"):
        load_model("scene")
    with pytest.raises(vitscope.ModelError, match="multiples of its patch, 8"):
        load_model("scenes", image_size=(4, 96))


def test_own_weights_under_a_bundled_name(tmp_path):
    from safetensors.torch import save_file

    model = scenes_vit(5)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    loaded = load_model("scenes", tmp_path / "own.safetensors")
    assert loaded.num_classes == 5
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert vitscope.Explainer("scenes", tmp_path / "own.safetensors").names.names == ()
    assert not torch.equal(load_model("scenes", pretrained=False).head.weight, load_model("scenes").head.weight)


def test_without_a_classifier_class_agnostic_methods_need_no_target():
    explainer = vitscope.Explainer("scenes-ssl")
    image = Scenes(1, seed=66)[0].image
    ex = explainer([image], "attention")
    assert ex.target is None
    assert ex.subject.prediction(0) is None
    assert ex.subject.title(0).startswith("no classifier")
    with pytest.raises(vitscope.TargetError, match="no classifier head"):
        explainer([image], "daam,attention")
