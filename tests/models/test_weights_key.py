"""Checkpoints with several sets of weights: which one is used is timm's choice or the user's, and never silent."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models import load_checkpoint

import vitscope
from vitscope import cli
from vitscope.bank import build_bank
from vitscope.bench import bench, make_plan
from vitscope.datasets import Scenes
from vitscope.datasets.labelled import labelled
from vitscope.errors import ModelError, VitscopeError
from vitscope.models import load
from vitscope.models.weights import read_weights

RAW, EMA = ({"blocks.0.weight": torch.full((2, 2), float(value)), "head.weight": torch.zeros(3, 2)} for value in (1, 2))


def saved(folder, content, name="w.pth"):
    torch.save(content, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bundled model as a training checkpoint, whose raw weights differ from the averaged ones."""
    ema = load("scenes").model.state_dict()
    raw = {name: tensor + 0.01 for name, tensor in ema.items()}
    content = {"epoch": 9, "arch": "scenes", "state_dict": raw, "state_dict_ema": ema}
    return saved(tmp_path_factory.mktemp("weights"), content)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(Scenes(1, seed=7)[0].image).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("state_dict", "ema_state_dict"),
        ("model_state_dict", "ema_state_dict"),
        ("model", "ema"),
        ("student", "teacher"),
    ],
)
def test_the_averaged_weights_are_used_and_the_log_says_so(raw, averaged, tmp_path, caplog):
    for content in ({raw: RAW, averaged: EMA}, {averaged: EMA, raw: RAW, "optimizer": {"state": {0: {"step": RAW}}}}):
        file = saved(tmp_path, content)
        caplog.clear()
        found = read_weights(file)
        assert found.key == averaged
        assert torch.equal(found.tensors["blocks.0.weight"], EMA["blocks.0.weight"])
        (line,) = caplog.messages
        assert all(word in line for word in (str(file), raw, f"{averaged} is used", "--weights-key"))
        assert torch.equal(read_weights(file, raw).tensors["blocks.0.weight"], RAW["blocks.0.weight"])


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "model")])
def test_timms_own_loader_makes_the_same_choice(keys, tmp_path):
    models = [timm.create_model("vit_tiny_patch16_224", num_classes=4).eval() for _ in range(3)]
    file = saved(tmp_path, {key: model.state_dict() for key, model in zip(keys, models, strict=False)})
    load_checkpoint(models[2], str(file))
    explainer = vitscope.Explainer("timm/vit_tiny_patch16_224", file)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(explainer(x, "cdam").logits, models[2](x), atol=1e-4)


def test_one_set_is_used_without_a_message(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loss = {"center": torch.zeros(1)}
    many = {f"blocks.{index}.weight": torch.zeros(1) for index in range(20)}
    for content, key in (
        (RAW, None),
        ({"state_dict": many, "epoch": torch.tensor(3)}, "state_dict"),
        ({"net": RAW, "epoch": 3}, "net"),
        ({"model": {"state_dict": RAW}}, "model.state_dict"),
        ({"teacher": many, "dino_loss": loss}, "teacher"),
    ):
        assert read_weights(saved(tmp_path, content)).key == key
    assert not caplog.messages


def test_a_nested_set_and_torchs_own_averages(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2)).state_dict()
    found = read_weights(saved(tmp_path, {"model": {"weight": RAW["head.weight"]}, "ema": {"shadow": averaged}}))
    assert found.key == "ema.shadow"
    assert found.tensors.keys() == {"weight", "bias"}


def test_torchs_own_averages_of_a_wrapped_model(tmp_path):
    averaged = {f"module.{name}": value for name, value in torch.nn.Linear(2, 2).state_dict().items()}
    content = {"state_dict": {"module.n_averaged": torch.tensor(3), **averaged}}
    assert read_weights(saved(tmp_path, content)).tensors.keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    "averaged", [{"ema": {"decay": 0.99, "shadow_params": [*RAW.values()]}}, {"ema": [*RAW.values()]}]
)
def test_averages_without_names_are_told(averaged, tmp_path, caplog):
    """As torch_ema saves them: a list in the order of the parameters."""
    found = read_weights(saved(tmp_path, {"model": RAW, **averaged}))
    assert found.key == "model"
    assert "averaged weights without their names (ema" in caplog.text
    caplog.clear()
    read_weights(saved(tmp_path, {"model": RAW, **averaged}), "model")
    assert not caplog.messages


def test_a_file_that_holds_itself_is_read(tmp_path):
    content = {"state_dict": RAW}
    content["again"] = content
    assert read_weights(saved(tmp_path, content)).key == "state_dict"


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    file = saved(tmp_path, {"state_dict": RAW, "state_dict_ema": EMA, "epoch": 3})
    with pytest.raises(ModelError, match="weights_key='model'; its keys are state_dict, state_dict_ema"):
        read_weights(file, "model")
    safetensors.torch.save_file(RAW, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="holds its weights under no key; leave weights_key out"):
        read_weights(tmp_path / "w.safetensors", "model")
    with pytest.raises(ModelError, match="none is given; add weights="):
        vitscope.Explainer("scenes", weights_key="model")
    with pytest.raises(ModelError, match="weights_key=model is for a model given by name"):
        vitscope.Explainer(load("scenes").model, weights_key="model")


def test_sets_that_nothing_tells_apart_are_the_users_choice(tmp_path):
    file = saved(tmp_path, {"generator": RAW, "encoder_q": EMA})
    with pytest.raises(ModelError, match=re.escape("(generator, encoder_q); choose one by weights_key=")):
        read_weights(file)
    assert read_weights(file, "encoder_q").key == "encoder_q"


def test_weights_that_do_not_fit_name_the_key(tmp_path):
    file = saved(tmp_path, {"state_dict": load("scenes").model.state_dict(), "ema": EMA})
    with pytest.raises(ModelError, match=r"w\.pth \(ema\): these are not weights of scenes"):
        load("scenes", file, weights_key="ema")


def test_the_choice_is_in_manifests_and_plans_and_decides_a_run(checkpoint, tmp_path, picture):
    explainer = vitscope.Explainer("scenes", checkpoint)
    ex = explainer([picture], "cdam")
    ex.save(tmp_path / "out")
    (manifest,) = (tmp_path / "out").glob("a/manifest.json")
    assert json.loads(manifest.read_text())["model"]["weights_key"] == "state_dict_ema"
    plan = make_plan(explainer, "scenes:count=2", methods="cdam", metrics="energy")
    assert plan.describe()["weights_key"] == "state_dict_ema"
    assert plan.load().source["weights_key"] == "state_dict_ema"
    bench(plan, tmp_path / "run", explainer=explainer)
    raw = vitscope.Explainer("scenes", checkpoint, weights_key="state_dict")
    other = make_plan(raw, "scenes:count=2", methods="cdam", metrics="energy")
    with pytest.raises(VitscopeError, match=r"holds another run .*weights_key"):
        bench(other, tmp_path / "run", explainer=raw, resume=True)


def test_the_same_weights_under_another_key_go_on_with_a_run(checkpoint, tmp_path):
    averaged = vitscope.Explainer("scenes", checkpoint)
    alone = vitscope.Explainer("scenes", saved(tmp_path, {"model": averaged.anatomy.model.state_dict()}))
    plans = [make_plan(one, "scenes:count=2", methods="cdam", metrics="energy") for one in (averaged, alone)]
    assert plans[0].weights_key != plans[1].weights_key
    assert plans[0].hash == plans[1].hash


def test_a_bank_of_another_key_is_not_gone_on_with(checkpoint, tmp_path):
    pictures = labelled("scenes", None, 4)
    built = build_bank(vitscope.Explainer("scenes", checkpoint), pictures, tmp_path / "bank.safetensors")
    assert built.bank.facts["model"]["weights_key"] == "state_dict_ema"
    raw = vitscope.Explainer("scenes", checkpoint, weights_key="state_dict")
    with pytest.raises(vitscope.TargetError, match="with other weights"):
        vitscope.bank.check_fits(raw, built.bank)


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "PICTURE", "--out", "OUT"),
        ("explain", "PICTURE", "--out", "OUT", "--store", "parquet"),
        ("compare", "PICTURE", "--out", "OUT.png"),
        ("flow", "PICTURE"),
        ("describe",),
        ("bench", "--dataset", "scenes:count=2", "--methods", "cdam", "--metrics", "energy", "--out", "OUT"),
        ("bank", "build", "--dataset", "scenes", "--limit", "4", "--out", "OUT.safetensors"),
        ("serve", "--port", "0"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_that_takes_weights_takes_their_key(words, checkpoint, tmp_path, picture, monkeypatch, capsys):
    filled = [word.replace("PICTURE", picture).replace("OUT", str(tmp_path / "out")) for word in words]
    common = [*filled, "--model", "scenes", "--weights", str(checkpoint)]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["vitscope", *common, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    code, said = run("--weights-key", "nothing")
    assert code == 2
    assert "has no weights under weights_key='nothing'; its keys are state_dict, state_dict_ema" in said
    if words[0] == "serve":  # it would go on for ever
        return
    code, said = run()
    assert not code
    assert said.count("state_dict_ema is used") == 1


def test_on_the_command_line_the_other_set_gives_other_maps(checkpoint, tmp_path, picture, monkeypatch):
    manifests = {}
    for key in ("state_dict", "state_dict_ema"):
        out = tmp_path / key
        words = ["explain", picture, "--model", "scenes", "--weights", str(checkpoint), "--weights-key", key]
        monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--methods", "cdam", "--out", str(out)])
        with pytest.raises(SystemExit):
            cli.main()
        manifests[key] = json.loads((out / "a" / "manifest.json").read_text())
        assert manifests[key]["model"]["weights_key"] == key
    assert manifests["state_dict"]["prediction"] != manifests["state_dict_ema"]["prediction"]
