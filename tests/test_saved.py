"""Several runs into one folder: methods are added to one explanation, anything else is refused, nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import build
from vitscope import Explainer, VitscopeError, cli, save
from vitscope.datasets import Scenes
from vitscope.report import lens_of
from vitscope.report.folder import write_report
from vitscope.save import save_explanation
from vitscope.targets import ClassNames, Contrast, Probability


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def explainer():
    return Explainer(build())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_a_method_that_is_added_leaves_what_one_run_would_have_left(explainer, tmp_path):
    for methods in ("cdam,attention", "daam", "agcam,cdam"):
        explainer(picture(), methods).save(tmp_path / "several")
    explainer(picture(), "cdam,attention,daam,agcam").save(tmp_path / "one")
    several, one = tmp_path / "several" / "image-0", tmp_path / "one" / "image-0"
    assert {path.name for path in several.iterdir()} == {path.name for path in one.iterdir()}
    for name in {path.name for path in one.glob("*.png")}:
        drawn, expected = (np.asarray(Image.open(folder / name)).astype(int) for folder in (several, one))
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).max() <= 2, name
    with np.load(several / "values.npz") as found, np.load(one / "values.npz") as expected:
        assert set(found) == set(expected)
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-6)
    found, expected = (json.loads((folder / "view.json").read_text()) for folder in (several, one))
    assert [entry["label"] for entry in found["methods"]] == [entry["label"] for entry in expected["methods"]]
    found, expected = manifest_of(several), manifest_of(one)
    assert (
        sorted(found.pop("files"))
        == sorted(expected.pop("files"))
        == sorted(path.name for path in one.iterdir() if path.name != "manifest.json")
    )
    assert found["methods"] == expected["methods"]
    assert found["failed"] == expected["failed"] == {}


def with_other_weights():
    model = build()
    with torch.no_grad():
        model.head.weight.mul_(1.1)
    return model


def made(model, **options):
    return Explainer(model, **options)(picture(), "daam")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda explainer: explainer(picture(1), "daam"), "of another image"),
        (lambda explainer: explainer(picture(), "daam", Probability(0)), "another target"),
        (lambda explainer: explainer(picture(), "daam", Contrast(0, 1)), "another target"),
        (lambda explainer: made(build(), preprocessing={"crop_pct": 0.5}), "preprocessing crop_pct"),
        (lambda explainer: made(build(), labels=ClassNames(tuple("abcdefg"))), "explained name"),
        (lambda explainer: made(build(), running="bf16"), "running precision"),
        (lambda explainer: made("scenes"), "with another model"),
        (lambda explainer: made(with_other_weights()), "a model with other outputs"),
    ],
)
def test_what_explains_something_else_is_refused_and_changes_nothing(explainer, tmp_path, other, says):
    explainer(picture(), "cdam").save(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(VitscopeError, match=says) as caught:
        other(explainer).save(tmp_path)
    assert str(tmp_path / "image-0") in str(caught.value)
    assert "overwrite=True" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    other(explainer).save(tmp_path, overwrite=True)
    folder = tmp_path / "image-0"
    assert {path.name for path in folder.iterdir()} == {*manifest_of(folder)["files"], "manifest.json"}
    assert not (folder / "cdam.png").exists()


def test_weights_that_were_trained_on_are_told_by_the_outputs(tmp_path):
    model = build()
    explainer = Explainer(model)
    explainer(picture(), "cdam", 1).save(tmp_path)
    with torch.no_grad():
        model.head.weight.mul_(1.01)
    with pytest.raises(VitscopeError, match="a model with other outputs for this image"):
        Explainer(model)(picture(), "daam", 1).save(tmp_path)


def test_the_same_method_with_other_options_is_refused(explainer, tmp_path):
    explainer(picture(), "rise", max_forwards=8).save(tmp_path)
    with pytest.raises(VitscopeError, match="methods rise max_forwards"):
        explainer(picture(), "rise", max_forwards=16).save(tmp_path)


def test_a_target_that_only_its_words_tell_is_replaced_as_a_whole_or_not_at_all(explainer, tmp_path):
    def ask(methods, index):
        return explainer(picture(), methods, lambda output: output[:, index])

    ask("cdam", 0).save(tmp_path)
    with pytest.raises(VitscopeError, match="which is no class"):
        ask("daam", 1).save(tmp_path)
    ask("cdam,daam", 1).save(tmp_path)
    expected = ask("cdam", 1)["cdam"].values[0]
    with np.load(tmp_path / "image-0" / "values.npz") as values:
        np.testing.assert_allclose(values["cdam"], expected, rtol=1e-4, atol=1e-6)


def test_a_failure_is_forgotten_where_there_is_a_map_and_kept_where_there_is_none(explainer, tmp_path):
    target = (int(explainer(picture(), "cdam").target) + 1) % 7
    explainer(picture(), "cdam,family:attention", target).save(tmp_path)
    failed = manifest_of(tmp_path / "image-0")["failed"]
    assert "attention" in failed
    explainer(picture(), "daam", target).save(tmp_path)
    assert manifest_of(tmp_path / "image-0")["failed"] == failed
    view = json.loads((tmp_path / "image-0" / "view.json").read_text())
    assert sorted(label for one in view["failures"] for label in one["methods"]) == sorted(failed)


def test_the_class_lens_of_an_earlier_run_stays(explainer, tmp_path):
    explanation = explainer(picture(), "cdam")
    save_explanation(explanation, tmp_path, lens=lens_of(explainer, explanation.subject.batch))
    explainer(picture(), "daam").save(tmp_path)
    view = json.loads((tmp_path / "image-0" / "view.json").read_text())
    assert view["lens"]["form"] != "none"
    assert [one["label"] for one in view["methods"]] == ["cdam", "daam"]
    assert write_report(tmp_path)


@pytest.mark.parametrize("last", ["values.npz", "view.json", "manifest.json", "sheet.png"])
def test_a_run_that_is_interrupted_while_it_adds_loses_nothing(explainer, tmp_path, monkeypatch, last):
    explainer(picture(), "cdam").save(tmp_path)
    folder, write = tmp_path / "image-0", save._write

    def interrupted(path, saving):
        if path.name == last:
            raise KeyboardInterrupt
        write(path, saving)

    monkeypatch.setattr(save, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explainer(picture(), "daam").save(tmp_path)
    monkeypatch.undo()
    assert (folder / "cdam.png").is_file()
    explainer(picture(), "daam").save(tmp_path)
    assert [entry["label"] for entry in manifest_of(folder)["methods"]] == ["cdam", "daam"]
    with np.load(folder / "values.npz") as values:
        assert {"cdam", "daam", "daam.blocks", "logits"} <= set(values)


@pytest.mark.parametrize("damage", ["manifest.json", "values.npz", "view.json"])
def test_results_that_cannot_be_read_are_refused_in_one_line(explainer, tmp_path, damage):
    explainer(picture(), "cdam").save(tmp_path)
    (tmp_path / "image-0" / damage).write_text("{")
    with pytest.raises(VitscopeError, match="cannot be read") as caught:
        explainer(picture(), "daam").save(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "image-0" / "cdam.png").is_file()
    explainer(picture(), "daam").save(tmp_path, overwrite=True)


@pytest.mark.parametrize("entry", [{"files_as": "../../x"}, {"files_as": ""}, {"family": None}, {"files_as": "daam"}])
def test_a_manifest_of_somebody_else_leads_nowhere(explainer, tmp_path, entry):
    out = tmp_path / "deep" / "out"
    explainer(picture(), "cdam").save(out)
    manifest = manifest_of(out / "image-0")
    for key, value in entry.items():
        if value is None:
            del manifest["methods"][0][key]
        else:
            manifest["methods"][0][key] = value
    (out / "image-0" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VitscopeError, match="its results cannot be read"):
        explainer(picture(), "cdam,daam").save(out)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """`vitscope explain IMAGES --model scenes --out o ARGUMENTS`: exit code, output, error stream."""

    def call(*arguments):
        words = ["explain", *map(str, arguments), "--model", "scenes", "--out", str(tmp_path / "o")]
        monkeypatch.setattr(sys, "argv", ["vitscope", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def scenes(tmp_path):
    """Scenes of one name in different folders."""
    paths = []
    for index, scene in enumerate(Scenes(3, seed=5)):
        paths.append(tmp_path / str(index) / "x.png")
        paths[-1].parent.mkdir()
        Image.fromarray(scene.image).save(paths[-1])
    return paths


def test_two_runs_of_the_command_keep_both_methods(run, scenes, tmp_path):
    assert run(scenes[0], "--methods", "cdam")[0] == 0
    assert run(scenes[0], "--methods", "daam")[0] == 0
    assert (tmp_path / "o" / "x" / "cdam.png").is_file()
    assert (tmp_path / "o" / "x" / "daam.png").is_file()


def test_images_of_one_name_keep_their_folders_from_run_to_run(run, scenes, tmp_path):
    assert run(*scenes[:2], "--methods", "cdam")[0] == 0
    assert run(scenes[1], "--methods", "daam")[0] == 0
    assert not (tmp_path / "o" / "x" / "daam.png").exists()
    assert (tmp_path / "o" / "x-2" / "daam.png").is_file()
    written = {str(scenes[0]): "x", str(scenes[1]): "x-2"}
    assert manifest_of(tmp_path / "o")["written"] == written
    before = contents(tmp_path / "o")
    code, out, err = run(scenes[2], "--methods", "cdam")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "holds maps of another image" in err
    assert contents(tmp_path / "o") == before
    assert run(scenes[2], "--methods", "cdam", "--overwrite")[0] == 0
    assert manifest_of(tmp_path / "o")["written"] == {**written, str(scenes[2]): "x"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--target", "0"], "another target"),
        (["--crop-pct", "0.5"], "preprocessing crop_pct"),
        (["--precision", "bf16"], "running precision"),
        (["--methods", "rise", "--max-forwards", "16"], "methods rise max_forwards"),
    ],
)
def test_what_differs_is_named_before_any_pass(run, scenes, tmp_path, monkeypatch, words, says):
    assert run(scenes[0], "--methods", "rise,cdam", "--max-forwards", "8")[0] == 0
    before = contents(tmp_path / "o")
    monkeypatch.setattr("vitscope.cli.run_over.run_over", lambda *args: pytest.fail("a pass was begun"))
    code, out, err = run(scenes[0], *(words if "--methods" in words else ["--methods", "daam", *words]))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert "--overwrite" in err
    assert contents(tmp_path / "o") == before


def test_earlier_failures_stay_until_the_image_is_explained(run, scenes, tmp_path):
    late = tmp_path / "late.png"
    assert run(scenes[0], late, "--methods", "cdam")[0] == 1
    assert run(scenes[0], "--methods", "daam")[0] == 0
    assert list(manifest_of(tmp_path / "o")["failed"]) == [str(late)]
    Image.fromarray(Scenes(1, seed=9)[0].image).save(late)
    assert run(late, "--methods", "cdam")[0] == 0
    found = manifest_of(tmp_path / "o")
    assert (found["failed"], len(found["written"])) == ({}, 2)


def test_a_folder_of_another_kind_is_refused(run, scenes, tmp_path):
    assert run(scenes[0], "--methods", "cdam", "--store", "parquet")[0] == 0
    before = contents(tmp_path / "o")
    code, _, err = run(scenes[0], "--methods", "cdam", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "is no manifest of explained images; choose another folder" in err
    assert contents(tmp_path / "o") == before
