"""The public contract of the README: images in, Explanation out, folders written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.conftest import build, pictures
from vitscope.errors import MethodError, ModelError, TargetError
from vitscope.models import anatomy_of


@pytest.fixture
def photos(tmp_path):
    """Two drawn pictures of different sizes, on disk."""
    rng = np.random.default_rng(3)
    paths = []
    for name, (height, width) in (("a b.png", (60, 40)), ("c.jpg", (36, 50))):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


@pytest.fixture
def explainer():
    return vitscope.Explainer(build(), labels=vitscope.ClassNames(tuple("abcdefg")))


def test_the_contract(explainer, photos):
    ex = explainer(photos, methods=["daam", "agcam", "cdam"], target=None)
    assert ex.logits.shape == (2, 7)
    assert torch.equal(ex.target, ex.logits.argmax(1))
    assert list(ex) == ["daam", "agcam", "cdam"]
    assert len(ex) == len(ex["daam"]) == 2
    assert ex["cdam"].signed
    assert ex["cdam"].blocks is ex["cdam"].flow is None
    shown = ex["daam"].to_pixels()
    assert [tuple(m.shape) for m in shown] == [(60, 40), (36, 50)]
    assert explainer(photos[:1])["daam"].to_pixels("nearest").shape == (1, 60, 40)
    assert ex["daam"].provenance["method"]["options"] == {"path": "full", "rows": "read", "blocks": "raw"}


def test_one_line():
    model = build()
    attribution = vitscope.explain(model, pictures(model), method="agcam", target=3)
    assert isinstance(attribution, vitscope.Attribution)
    assert attribution.label == "agcam"


def test_logits_are_the_models_own(explainer, layout):
    model = build(layout)
    images = pictures(model)
    with torch.no_grad():
        assert torch.allclose(vitscope.Explainer(model)(images).logits, model(images), atol=1e-5)


def test_under_no_grad_and_inference_mode(explainer):
    images = pictures(explainer.anatomy.model)
    wanted = explainer(images)["daam"].values
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(explainer(images.clone())["daam"].values, wanted)
    with torch.inference_mode():
        frozen = build()
    with pytest.raises(vitscope.ModelError, match="inference_mode"):
        vitscope.Explainer(frozen)
    late = vitscope.Explainer(build())
    late(images, "daam")
    with torch.inference_mode():
        late.anatomy.model.load_state_dict(frozen.state_dict(), assign=True)
    with pytest.raises(vitscope.ModelError, match="inference_mode"):
        late(images, "daam")


def test_frozen_weights_and_tracked_inputs(explainer):
    model = build()
    images = pictures(model)
    wanted = explainer(images)["daam"].values
    model.requires_grad_(False)
    tracked = images.clone().requires_grad_()
    found = vitscope.Explainer(model)(tracked)["daam"].values
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not found.requires_grad
    assert tracked.grad is None


def test_a_model_that_gives_nan_is_named():
    model = build()
    explainer = vitscope.Explainer(model)
    with torch.no_grad():
        model.norm.bias[0] = torch.nan
    with pytest.raises(vitscope.ModelError, match="output for image 0 is not finite"):
        explainer(pictures(model))


def test_an_output_that_is_no_table_is_named():
    model = build()
    model.head.forward = lambda x: x.unsqueeze(1)
    explainer = vitscope.Explainer(model)
    with pytest.raises(
        vitscope.TargetError, match=r"the output is output \(\d, 1, 24\); give a function of the output"
    ):
        explainer(pictures(model))
    assert explainer(pictures(model), target=lambda output: output[:, 0, 3])["daam"].values.std() > 0


def test_saving(explainer, photos, tmp_path):
    ex = explainer(photos, "daam,cdam,attention,agcam:scores=softmax")
    folders = ex.save(tmp_path / "out", video="gif")
    assert folders == [str(tmp_path / "out" / "a-b"), str(tmp_path / "out" / "c")]
    folder = tmp_path / "out" / "a-b"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted([*manifest["files"], "manifest.json"]) == sorted(p.name for p in folder.iterdir())
    assert {
        "daam.png",
        "daam-evolution.png",
        "daam-evolution.gif",
        "attention-heads.png",
        "sheet.png",
        "values.npz",
        "agcam-scores=softmax.png",
    } <= set(manifest["files"])
    assert "cdam-evolution.png" not in manifest["files"]
    assert manifest["schema_version"] == 1
    assert manifest["versions"]["vitscope"] == vitscope.__version__
    assert manifest["image"]["size"] == [60, 40]
    assert manifest["explained"]["name"] in "abcdefg"
    published = {"path": "skip", "heads": "sum", "layers": "sum"}
    assert manifest["methods"][3]["options"] == {**published, "scores": "softmax"}
    for name in ("daam", "cdam"):
        assert Image.open(folder / f"{name}.png").size == (40, 60)
    with np.load(folder / "values.npz") as values:
        assert np.array_equal(values["cdam"], ex["cdam"].values[0].numpy())
        assert np.array_equal(values["daam.blocks"], ex["daam"].blocks[0].numpy())
    assert Image.open(folder / "daam-evolution.gif").n_frames == 3


def test_overwriting_takes_away_what_was_saved_before(explainer, photos, tmp_path):
    explainer(photos[:1], "daam,cdam").save(tmp_path / "out")
    keep = tmp_path / "out" / "a-b" / "my notes.txt"
    keep.write_text("mine")
    explainer(photos[:1])["cdam"].save(tmp_path / "out", overwrite=True)
    names = {p.name for p in (tmp_path / "out" / "a-b").iterdir()}
    assert names == {"cdam.png", "sheet.png", "values.npz", "view.json", "manifest.json", "my notes.txt"}


def test_same_names_get_folders_of_their_own(explainer, photos, tmp_path):
    folders = explainer([photos[1], photos[1]], "cdam").save(tmp_path / "out")
    assert [f.rsplit("/", 1)[1] for f in folders] == ["c", "c-2"]


def test_a_folder_that_cannot_be_is_named(explainer, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(vitscope.VitscopeError, match="cannot be made a folder"):
        explainer(photos[:1], "cdam").save(tmp_path / "file" / "out")


def test_title_tells_prediction_and_target(explainer, photos):
    ex = explainer(photos, "cdam")
    predicted = int(ex.target[0])
    assert ex.subject.title(0).startswith(f"predicted: {'abcdefg'[predicted]} ({predicted}) · p = ")
    other = (predicted + 1) % 7
    assert f"explained: {'abcdefg'[other]}" in explainer(photos[:1], "cdam", other).subject.title(0)
    assert "explained: the function" in explainer(photos[:1], "cdam", lambda y: y[:, 0]).subject.title(0)


def test_flat_attention_names_the_map():
    model = build(depth=1)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[:48] = 0
        model.blocks[0].attn.qkv.bias[:48] = 0
    with pytest.raises(vitscope.FlatMapError, match="attention map of image 0 is flat"):
        vitscope.Explainer(model)(pictures(model), "attention")


def test_a_constant_target_is_flat_and_says_so():
    model = build()
    with pytest.raises(vitscope.FlatMapError, match="gradient at the model's output is zero"):
        vitscope.Explainer(model)(pictures(model), "cdam", lambda output: 0 * output[:, 0])


def test_a_target_of_complex_values_is_refused(explainer, photos):
    with pytest.raises(TargetError, match=r"real values, got torch\.complex64"):
        explainer(photos, "cdam", lambda output: output[:, 0].to(torch.complex64))


def test_no_name_leads_out_of_the_folder_or_onto_the_manifest(explainer, photos, tmp_path):
    source = photos[0].read_bytes()
    odd = [tmp_path / name for name in ("...png", "..png", ".png", "manifest.json.png")]
    for path in odd:
        path.write_bytes(source)
    folders = explainer(odd, "cdam").save(tmp_path / "deep" / "out")
    inside = [f.removeprefix(f"{tmp_path}/deep/out/") for f in folders]
    assert inside == ["image", "image-2", "png", "manifest.json-2"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize(
    "make",
    [
        vitscope.Explainer,
        lambda model, weights: vitscope.Explainer(anatomy_of(model), weights=weights),
        lambda model, weights: vitscope.explain(model, pictures(model), "cdam", weights=weights),
        vitscope.describe,
        lambda model, weights: vitscope.describe(vitscope.Explainer(model), weights),
    ],
)
def test_weights_are_for_a_name_alone(make, tmp_path):
    for weights in (tmp_path / "none.safetensors", "also/none.pth"):
        with pytest.raises(ModelError, match="are for a model given by name") as error:
            make(build(), weights)
        assert str(weights) in str(error.value)


def test_a_device_that_a_module_is_not_on_is_said(caplog):
    model = build()
    for there in ("cpu", "cpu:0", torch.device("cpu"), None):
        vitscope.Explainer(model, device=there)
    assert "stays on" not in caplog.text
    for other in ("cuda", "meta", "cuda:9"):
        caplog.clear()
        explainer = vitscope.Explainer(model, device=other)
        assert f"stays on cpu, move it by model.to('{other}')" in caplog.text
        assert next(explainer.anatomy.model.parameters()).device.type == "cpu"
    with pytest.raises(ModelError, match="device 'gpu9' cannot be used"):
        vitscope.Explainer(model, device="gpu9")


def test_what_is_no_list_of_methods_or_targets_is_one_line(explainer):
    images = pictures(explainer.anatomy.model)
    for wanted, says in (
        ({}, "no method is named"),
        ([], "no method is named"),
        ({"a": "daam"}, r"'a': str is no method; give an instance such as AGCAM\(\)"),
        ({"a": vitscope.methods.DAAM}, "'a': the class DAAM is no method"),
        ({"a": None}, "'a': NoneType is no method"),
    ):
        with pytest.raises(MethodError, match=says):
            explainer(images, wanted)
    for targets in (3, "b", None, vitscope.targets.Class(1)):
        with pytest.raises(TargetError, match="is one target and no list; give"):
            explainer.each(images, "daam", targets)
    one, other = explainer.each(images, {"mine": vitscope.methods.DAAM()}, torch.tensor([1, 2]))
    assert (list(one), one.target.tolist(), other.target.tolist()) == (["mine"], [1, 1], [2, 2])


def test_no_label_takes_the_place_of_another_or_of_a_file(photos, explainer, tmp_path):
    labels = [
        "logits",
        "file",
        "allow_pickle",
        "sheet",
        "a b",
        "a-b",
        "A/B",
        "a-b-2",
        "c",
        "c.blocks",
        "c-evolution",
        "",
    ]
    made = [vitscope.methods.DAAM(), vitscope.methods.CDAM(), vitscope.methods.AGCAM()]
    order = np.random.default_rng().permutation(len(labels))
    ex = explainer(photos[:1], {labels[at]: made[at % 3] for at in order}, target=2)
    folder = Path(ex.save(tmp_path / "out")[0])
    manifest = json.loads((folder / "manifest.json").read_text())
    named = {one["label"]: one["files_as"] for one in manifest["methods"]}
    assert set(named) == set(labels)
    assert len({name.casefold() for name in named.values()}) == len(labels)
    with np.load(folder / "values.npz") as values:
        np.testing.assert_array_equal(values["logits"], ex.logits[0])
        for label, name in named.items():
            np.testing.assert_array_equal(values[name], ex[label].values[0])
            assert (f"{name}.blocks" in values) == (ex[label].blocks is not None)
            if ex[label].blocks is not None:
                np.testing.assert_array_equal(values[f"{name}.blocks"], ex[label].blocks[0])
    files = manifest["files"]
    assert len(files) == len({name.casefold() for name in files})
    assert {f"{name}.png" for name in named.values()} < set(files)


def test_labels_that_collide_with_nothing_keep_their_names(photos, explainer, tmp_path):
    ex = explainer(photos[:1], "daam,agcam:scores=softmax", target=1)
    manifest = json.loads((Path(ex.save(tmp_path / "out")[0]) / "manifest.json").read_text())
    assert [one["files_as"] for one in manifest["methods"]] == ["daam", "agcam-scores=softmax"]
