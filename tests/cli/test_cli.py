"""The command line as a user types it: what is written, what is said, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from vitscope import cli
from vitscope.datasets import CLASSES, Scenes
from vitscope.methods import Facts, list_methods

MODEL = "timm/test_vit"
VIT = "timm/vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Weights of a small input size, labels, three good pictures and three bad ones."""
    folder = tmp_path_factory.mktemp("desk")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=3, img_size=64)
    safetensors.torch.save_file(model.state_dict(), folder / "w.safetensors")
    (folder / "labels.txt").write_text("cat\ndog\nsea snake\n")
    (folder / "pics").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (70, 90)), ("b.jpg", (64, 64)), ("c.png", (100, 40))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / "pics" / name)
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.jpg").write_bytes((folder / "pics" / "b.jpg").read_bytes()[:900])
    return folder


@pytest.fixture
def run(desk, capsys, monkeypatch):
    """Run `vitscope ARGUMENTS`; returns exit code, output, error stream."""

    def call(*arguments, model=True):
        given = ["--model", MODEL, "--weights", desk / "w.safetensors", "--labels", desk / "labels.txt", "--size", "64"]
        words = [str(word) for word in (*arguments, *(given if model else ()))]
        monkeypatch.setattr(sys, "argv", ["vitscope", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_explain(run, desk, tmp_path):
    code, out, err = run("explain", desk / "pics", "--out", tmp_path / "o", "--batch-size", "2")
    assert (code, err.strip()) == (0, "")
    assert out.count("predicted: ") == 3
    listed = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert list(listed["written"].values()) == ["a", "b", "c"]
    assert listed["failed"] == {}
    for name, size in (("a", (90, 70)), ("c", (40, 100))):
        assert Image.open(tmp_path / "o" / name / "agcam.png").size == size
        assert (tmp_path / "o" / name / "daam-evolution.png").is_file()
        assert not list((tmp_path / "o" / name).glob("*.gif"))  # which nobody asked for


def test_explain_in_another_precision(run, desk, tmp_path):
    maps = []
    for precision in ("float32", "bf16"):
        out = tmp_path / precision
        words = ["--out", out, "--methods", "cdam", "--precision", precision]
        assert run("explain", desk / "pics" / "a.png", *words)[0] == 0
        manifest = json.loads((out / "a" / "manifest.json").read_text())
        assert manifest["running"]["precision"] == precision
        maps.append(np.load(out / "a" / "values.npz")["cdam"])
    assert maps[1].dtype == np.float32
    assert 0.98 < np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] < 1


def test_bad_pictures_are_named_and_the_others_done(run, desk, tmp_path):
    bad = [desk / "text.jpg", desk / "missing.jpg", desk / "cut.jpg"]
    code, out, err = run(
        "explain", *bad[:2], desk / "pics" / "a.png", bad[2], "--out", tmp_path / "o", "--methods", "cdam"
    )
    assert code == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 3
    assert all(line.startswith("vitscope: ") and str(path) in err for line, path in zip(lines, bad, strict=True))
    assert out.count("predicted: ") == 1
    listed = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert set(listed["failed"]) == set(map(str, bad))
    assert listed["written"] == {str(desk / "pics" / "a.png"): "a"}


def test_pictures_are_read_by_processes_and_within_a_memory_limit(run, desk, tmp_path):
    bad = desk / "cut.jpg"
    values = []
    for name, words in (("a", []), ("b", ["--workers", "2", "--batch-size", "2", "--memory-limit", "1KB"])):
        code, out, err = run("explain", desk / "pics", bad, "--out", tmp_path / name, "--methods", "cdam,daam", *words)
        assert code == 1
        assert str(bad) in err
        assert out.count("predicted: ") == 3
        listed = json.loads((tmp_path / name / "manifest.json").read_text())
        assert list(listed["failed"]) == [str(bad)]
        values.append([dict(np.load(tmp_path / name / folder / "values.npz")) for folder in listed["written"].values()])
    assert err.count("more than the limit of 0.001 MB; going on one at a time") == 1
    for one, other in zip(*values, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-3, atol=1e-6)
    code, _, err = run("explain", desk / "pics", "--out", tmp_path / "c", "--memory-limit", "lots")
    assert (code, err) == (
        2,
        "vitscope: memory limit 'lots': give a number of bytes, or one with a unit: 4GB, 512MB, 1.5GiB\n",
    )


def test_a_comparison_and_a_bank_within_a_memory_limit(run, desk, tmp_path):
    says = "more than the limit of 0.001 MB; going on one at a time"
    written = []
    for name, words in (("a", []), ("b", ["--memory-limit", "1KB"])):
        code, _, err = run("compare", desk / "pics", "--out", tmp_path / f"{name}.png", "--methods", "cdam", *words)
        assert (code, err.count(says)) == (0, len(words) // 2)
        written.append(np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int))
    assert np.abs(written[0] - written[1]).max() <= 2
    for label, picture in (("x", "a.png"), ("y", "b.jpg")):
        (tmp_path / "p" / label).mkdir(parents=True)
        (tmp_path / "p" / label / picture).write_bytes((desk / "pics" / picture).read_bytes())
    words = ("bank", "build", "--root", tmp_path / "p", "--model", "scenes-ssl", "--out", tmp_path / "b.safetensors")
    code, _, err = run(*words, "--memory-limit", "1KB", model=False)
    assert (code, err.count(says)) == (0, 1)
    assert run(*words, "--memory-limit", "lots", model=False)[0] == 2


def test_one_method_that_fails_leaves_the_others(run, desk, tmp_path):
    probed = [
        run(
            "explain", desk / "pics" / "a.png", "--out", tmp_path / str(t), "--methods", "daam,attention", "--target", t
        )
        for t in ("cat", "1", "sea snake")
    ]
    assert sorted(code for code, _, _ in probed) == [0, 1, 1]
    assert all("class-agnostic" in err for code, _, err in probed if code)
    assert all((tmp_path / t / "a" / "daam.png").is_file() for t in ("cat", "1", "sea snake"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--target", "3"], "class 3 is out of range: the model has outputs 0 to 2"),
        (["--target", "sea snak"], "did you mean sea snake"),
        (["--target", "cat rather than 7"], "class 7 is out of range"),
        (["--methods", "dam"], "unknown method 'dam'; did you mean daam"),
        (["--methods", "cdam:x=1"], "no option 'x'"),
        (["--crop-pct", "3"], "crop_pct 3 is impossible"),
        (["--size", "12a"], "--size 12a"),
        (["--mean", "1,2"], "--mean 1,2"),
        (["--precision", "half"], "--precision half: give float32 or bf16 or fp16"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run, desk, tmp_path, words, says):
    model = ["--model", MODEL, "--weights", desk / "w.safetensors", "--labels", desk / "labels.txt"]
    size = [] if "--size" in words else ["--size", "64"]
    code, out, err = run(
        "explain", desk / "pics" / "a.png", "--out", tmp_path / "o", *model, *size, *words, model=False
    )
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert re.search(says, err)


def test_wrong_models(run, desk, tmp_path):
    picture = desk / "pics" / "a.png"
    for model, says in (
        ("timm/vit_small_patch16_224", "of another shape"),
        ("timm/vit_tinny_patch16_224", "did you mean vit_tiny"),
        ("jax/vit", "'jax' is neither a source of models"),
    ):
        code, _, err = run(
            "explain",
            picture,
            "--model",
            model,
            "--weights",
            desk / "w.safetensors",
            "--out",
            tmp_path / "o",
            model=False,
        )
        assert (code, says in err, len(err.strip().splitlines())) == (2, True, 1)


@pytest.mark.integration
def test_a_model_without_a_class_token(run, desk, tmp_path):
    name = "vit_wee_patch16_reg1_gap_256"
    torch.save(timm.create_model(name, num_classes=3).state_dict(), tmp_path / "w.pth")
    options = ["--model", f"timm/{name}", "--weights", tmp_path / "w.pth", "--out", tmp_path / "o"]
    code, out, err = run("explain", desk / "pics" / "a.png", *options, model=False)
    assert (code, err) == (0, "")
    assert (tmp_path / "o" / "a" / "daam.png").is_file()
    code, out, _ = run("describe", f"timm/{name}", model=False)
    assert code == 0
    assert "every row" in out
    assert out.count("  yes") == len(list_methods())


def test_a_model_without_rows(run, desk, tmp_path):
    model = ["--model", "timm/levit_128s", "--weights", tmp_path / "w.pth", "--out", tmp_path / "o"]
    torch.save(timm.create_model("levit_128s", num_classes=3).state_dict(), tmp_path / "w.pth")
    code, out, err = run("explain", desk / "pics" / "a.png", *model, "--methods", "legrad", model=False)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert "legrad is not defined for levit_128s" in err
    assert "use attention" in err
    code, out, _ = run("describe", "timm/levit_128s", model=False)
    assert code == 0
    follows = [facts for facts in list_methods() if facts.of_rows and (facts.chained or not facts.any_network)]
    assert out.count("no: it follows rows") == len(follows)


def test_a_rest_that_makes_no_patch_is_outside(run, desk, tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64).state_dict(), tmp_path / "w.pth")
    options = ["--model", VIT, "--weights", tmp_path / "w.pth", "--size", "72", "--crop-pct", "1"]
    code, _, err = run(
        "explain", desk / "pics" / "b.jpg", *options, "--out", tmp_path, "--methods", "cdam", model=False
    )
    assert (code, err.strip()) == (0, "")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["grid"] == [4, 4]
    assert manifest["image"]["geometry"] == {"original": [64, 64], "resized": [72, 72], "crop": [0, 0, 64, 64]}


def test_compare(run, desk, tmp_path):
    code, out, _ = run("compare", desk / "pics", desk / "text.jpg", "--out", tmp_path / "new" / "c.png")
    assert code == 1
    assert out.strip() == str(tmp_path / "new" / "c.png")
    width, height = Image.open(tmp_path / "new" / "c.png").size
    assert width > 800
    assert height > 500
    code, _, err = run("compare", desk / "pics", "--out", tmp_path / "c.pdf")
    assert (code, ".png" in err) == (2, True)


@pytest.mark.integration
def test_compare_models_and_their_evolutions(run, desk, tmp_path):
    names = ["timm/test_vit", "timm/cait_xxs24_224", "timm/levit_128s", "timm/test_vit2"]
    words = ["compare", desk / "pics" / "a.png", "--random", "--methods", "daam", "--evolution"]
    models = [word for name in names for word in ("--model", name)]
    code, out, err = run(*words, *models, "--out", tmp_path / "e.png", model=False)
    assert (code, err) == (0, "")
    assert out.strip() == str(tmp_path / "e.png")
    one = run(*words, *models[:2], "--out", tmp_path / "one.png", model=False)
    assert (one[0], one[2]) == (0, "")
    assert Image.open(tmp_path / "e.png").height > 2.5 * Image.open(tmp_path / "one.png").height
    code, _, _ = run(*words[:-1], *models[:4], "--out", tmp_path / "rows.png", model=False)
    assert (code, (tmp_path / "rows.png").is_file()) == (0, True)
    code, _, err = run(*words, *models, "--weights", "w.pth", "--out", tmp_path / "x.png", model=False)
    assert (code, "belongs to one model" in err) == (2, True)
    code, _, err = run(*words, "--model", names[0], "--methods", "cdam", "--out", tmp_path / "none.png", model=False)
    assert (code, "cdam gives no map a block" in err) == (1, True)


@pytest.mark.integration
def test_a_group_that_does_not_apply_whole_is_no_failure(run, desk, tmp_path):
    pictures = [desk / "pics" / name for name in ("a.png", "b.jpg")]
    probed = {}
    for target in ("cat", "dog", "sea snake"):
        words = ("--methods", "papers,family:attention,trivial", "--target", target, "--out", tmp_path / target)
        probed[target] = run("explain", *pictures, *words)
    assert all(code == 0 for code, _, _ in probed.values())
    other = [err for _, out, err in probed.values() if "explained: " in out]
    assert other
    for err in other:  # one line for both pictures and all methods
        assert len(err.strip().splitlines()) == 1
        assert re.search(r"left out: .*rollout.*random; each is class-agnostic", err)
    code, out, err = run(
        "compare", pictures[0], "--methods", "all", "--max-forwards", "8", "--out", tmp_path / "all.png"
    )
    assert (code, out.strip()) == (0, str(tmp_path / "all.png"))
    model = ["--random", "--model", "timm/levit_128s", "--out", tmp_path / "levit.png"]
    code, _, err = run("compare", *pictures, *model, "--methods", "papers,trivial", model=False)
    assert (code, err.count("left out: "), len(err.strip().splitlines())) == (0, 1, 1)
    code, _, err = run("compare", *pictures, *model, "--methods", "legrad,papers,trivial", model=False)
    assert (code, err.count("legrad is not defined for levit_128s")) == (1, 2)
    code, _, err = run("compare", *pictures, *model, "--methods", "legrad", model=False)
    assert code == 2
    words = ["--evolution", "--out", tmp_path / "e.png"]
    assert run("compare", pictures[0], *words, "--methods", "papers")[::2] == (0, "")
    assert run("compare", pictures[0], *words, "--methods", "papers,cdam")[0] == 1


def test_nothing_but_what_a_target_leaves_out_is_a_failure(run, desk, tmp_path):
    picture = desk / "pics" / "a.png"
    codes = [
        run("explain", picture, "--methods", "trivial", "--target", target, "--out", tmp_path / target)[0]
        for target in ("cat", "dog", "sea snake")
    ]
    assert sorted(codes) == [0, 1, 1]


def test_listings(run):
    code, out, _ = run("methods", model=False)
    assert code == 0
    assert "Class-Discriminative Attention Map (2023, arXiv 2312.02364)" in out
    headings = [line for line in out.splitlines() if line.isupper() or line.partition(":")[0].isupper()]
    families = list(dict.fromkeys(facts.family for facts in list_methods()))
    assert [line.partition(":")[0].lower() for line in headings] == families
    assert "option scores = sigmoid | softmax | minmax | instance_norm | layer_norm [sigmoid]" in out
    assert "family:attention" in out.splitlines()[-1]
    entries = json.loads(run("methods", "--json", model=False)[1])
    assert [entry["name"] for entry in entries] == [facts.name for facts in list_methods()]
    assert all(entry.keys() >= {f.name for f in dataclasses.fields(Facts)} | {"options"} for entry in entries)
    code, out, _ = run("methods", "agcam", model=False)
    assert (code, "alpha_b^h[n] = dY / da_b^h[n]" in out, "Attributes:" in out) == (0, True, True)
    one = json.loads(run("methods", "agcam", "--json", model=False)[1])
    assert one["options"]["path"]["default"] == "skip"
    assert "full" in one["options"]["path"]["text"]
    assert one["description"].startswith("Attention Guided CAM (Leem")
    code, out, err = run("methods", "agcm", model=False)
    assert (code, out, "did you mean agcam" in err) == (2, "", True)
    assert "timm/vit_tiny_patch16_224" in json.loads(run("models", "tiny", "--json", model=False)[1])
    assert "timm/vit_tiny_patch16_224" in run("models", "tiny", model=False)[1]
    assert run("models", "zzz", model=False)[0] == 2
    assert json.loads(run("doctor", "--json", model=False)[1])["versions"]["torch"] == torch.__version__.split("+")[0]
    code, out, _ = run("doctor", model=False)
    assert (code, "optional extras:" in out, out.rstrip().splitlines()[-1]) == (0, True, "  none")
    facts = json.loads(run("describe", "--model", MODEL, "--json", model=False)[1])
    assert facts["prefix_tokens"] == ["class"]
    assert run("describe", model=False)[0] == 2


def test_from_a_shell():
    """The installed entry point, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from vitscope.cli import main; main()", "explain"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("vitscope: Missing ")
    assert line.endswith("explain --help")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("explian",), "explain"),
        (("explain", "a.png", "--metod", "daam"), "--methods"),
        (("explain", "a.png", "--model", "scenes", "--out", "o", "--resume", "--overwrite"), "give one of them"),
        (("explain", "a.png", "--model", "scenes", "--out", "o", "--dtype", "float16"), "--store parquet"),
        (("explain", "a.png", "--model", "scenes-ssl", "--out", "o"), "--bank"),
        (("explain", "a.png", "--model", "scenes-ssl", "--out", "o", "--target", "3"), "--bank"),
        (("explain", "a.png", "--model", "scenes", "--out", "o", "--target", "tabby"), "'red striped disc'"),
        (("describe", "scenes", "--model", "scenes-ssl"), "two models are named"),
        (("flow", "a.png", "--model", "scenes", "--method", "daam,agcam"), "give one"),
        (("bench", "--dataset", "scenes:count=2", "--root", "r", "--model", "scenes", "--out", "o"), "leave the root"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(words, says, run):
    code, _, said = run(*words, model=False)
    assert code == 2
    (line,) = said.strip().splitlines()
    assert says in line


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_what_memory_does_not_hold_is_one_line(run, monkeypatch, error):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("vitscope.explainer.Explainer", load)
    code, _, said = run("explain", "a.png", "--model", "scenes", "--out", "o", model=False)
    assert code == 1
    (line,) = said.strip().splitlines()
    assert line.startswith("vitscope: out of memory; use a smaller --batch-size")


def test_an_error_of_another_kind_is_not_hidden(run, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("vitscope.explainer.Explainer", load)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("explain", "a.png", "--model", "scenes", "--out", "o", model=False)


def test_the_papers_photographs(run, shared, tmp_path):
    """The main job: real photographs, the real network, every file at its place."""
    photos = [shared / "imagenet" / "val" / f"ILSVRC2012_val_0000000{n}.JPEG" for n in (1, 4, 9)]
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    code, out, _ = run("explain", *photos, "--model", VIT, "--weights", weights, "--out", tmp_path, model=False)
    assert code == 0
    assert "sea snake (65)" in out
    for photo in photos:
        files = {path.name for path in (tmp_path / photo.stem).iterdir()}
        assert files >= {
            "daam.png",
            "agcam.png",
            "cdam.png",
            "daam-evolution.png",
            "sheet.png",
            "values.npz",
            "manifest.json",
        }
        with Image.open(photo) as original, Image.open(tmp_path / photo.stem / "cdam.png") as overlay:
            assert overlay.size == original.size


@pytest.mark.integration
def test_demo_writes_one_page_and_prints_where(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path / "new" / "demo", "--scenes", "10", model=False)
    assert (code, out.strip()) == (0, str(tmp_path / "new" / "demo" / "index.html"))
    assert "</html>" in (tmp_path / "new" / "demo" / "index.html").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("in the way")
    code, out, err = run("demo", "--out", tmp_path / "file", model=False)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_explain_with_a_bundled_model(run, tmp_path):
    Image.fromarray(Scenes(1, seed=3)[0].image).save(tmp_path / "scene.png")
    words = ("explain", tmp_path / "scene.png", "--model", "scenes", "--out", tmp_path / "o")
    code, out, err = run(*words, model=False)
    assert (code, err.strip()) == (0, "")
    assert f"predicted: {CLASSES[Scenes(1, seed=3)[0].labels[0]]}" in out
    weighed = f"{CLASSES[3]} rather than {CLASSES[5]}"
    code, out, _ = run(*words[:-1], tmp_path / "q", "--methods", "cdam", "--target", weighed, model=False)
    assert (code, json.loads((tmp_path / "q" / "scene" / "manifest.json").read_text())["target"]) == (0, weighed)
    code, out, _ = run(
        *words[:-1], tmp_path / "p", "--methods", "attention", "--target", "blue dotted rong", model=False
    )
    assert (code, out) == (2, "")


def test_a_group_goes_on_without_a_classifier(run, tmp_path):
    """With those of its methods that ask for no class."""
    Image.fromarray(Scenes(1)[0].image).save(tmp_path / "a.png")
    words = ("explain", tmp_path / "a.png", "--model", "scenes-ssl", "--out", tmp_path / "o")
    code, out, _ = run(*words, "--methods", "family:cam", model=False)
    assert code == 0
    assert "sheet.png" in out


def test_a_memory_bank_is_built_told_of_and_used(run, tmp_path):
    for index, scene in enumerate(Scenes(40, seed=3)):
        (tmp_path / "p" / CLASSES[scene.labels[0]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(tmp_path / "p" / CLASSES[scene.labels[0]] / f"{index}.png")
    words = ("bank", "build", "--root", tmp_path / "p", "--model", "scenes-ssl", "--out", tmp_path / "b.safetensors")
    code, out, _ = run(*words, model=False)
    assert code == 0
    assert "40 pictures of" in out
    code, out, _ = run("bank", "info", tmp_path / "b.safetensors", "--json", model=False)
    told = json.loads(out)
    assert (code, told["pictures"], told["width"]) == (0, 40, 128)
    assert sum(told["classes"].values()) == 40
    picture = next((tmp_path / "p").rglob("*.png"))
    words = ("explain", picture, "--model", "scenes-ssl", "--methods", "daam", "--bank", tmp_path / "b.safetensors")
    code, out, _ = run(*words, "--out", tmp_path / "o", model=False)
    assert code == 0
    assert "nearest neighbours" in out
    for others, says in (
        (("--model", "scenes"), "another model"),
        ((*words[2:4], "--crop-pct", "0.8"), "prepared otherwise"),
    ):
        asked = ("explain", picture, *others, "--methods", "daam", "--bank", tmp_path / "b.safetensors")
        code, _, err = run(*asked, "--out", tmp_path / "x", model=False)
        assert (code, says in err) == (2, True)
    assert run("bank", "info", tmp_path / "none", model=False)[0] == 2
    (tmp_path / "p" / "bad").mkdir()
    (tmp_path / "p" / "bad" / "x.png").write_text("no")
    words = ("bank", "build", "--root", tmp_path / "p", "--model", "scenes-ssl", "--out", tmp_path / "c.safetensors")
    code, out, err = run(*words, model=False)
    assert code == 1
    told = json.loads(run("bank", "info", tmp_path / "c.safetensors", "--json", model=False)[1])
    assert (told["pictures"], told["pictures_not_read"]) == (40, 1)
    assert "x.png" in err


def test_flow_prints_and_draws(run, tmp_path):
    for index, scene in enumerate(Scenes(2, seed=3)):
        Image.fromarray(scene.image).save(tmp_path / f"{index}.png")
    code, out, _ = run("flow", tmp_path, "--model", "scenes", "--out", tmp_path / "chart" / "flow.png", model=False)
    assert code == 0
    assert re.search(r"half of the evidence is there: \d+\.\d+ \[.*\] \(2 pictures\)", out)
    assert "rank correlation of share and drop" in out
    assert Image.open(tmp_path / "chart" / "flow.png").mode == "RGB"
    (tmp_path / "z.png").write_text("no")
    code, out, err = run("flow", tmp_path, "--model", "scenes", "--json", "--method", "agcam", model=False)
    told = json.loads(out)
    assert (code, told["images"], len(told["blocks"])) == (1, 2, 12)
    assert "z.png" in err
    assert sum(row["share"] for row in told["blocks"]) == pytest.approx(1)
    assert run("flow", tmp_path, "--model", "scenes", "--out", "x.jpg", model=False)[0] == 2


def test_a_budget_of_forwards(run, desk, tmp_path):
    picture = desk / "pics" / "a.png"
    words = ["--methods", "rise,token_ablation,tis:max_forwards=3,cdam", "--max-forwards", "5"]
    code, _, err = run("explain", picture, "--out", tmp_path / "o", "--target", "1", *words)
    assert (code, err.strip()) == (0, "")
    manifest = tmp_path / "o" / "a" / "manifest.json"
    budgets = re.findall(r'"max_forwards": (\d+)', json.dumps(json.loads(manifest.read_text())))
    assert sorted(budgets) == ["3", "5", "5"]
    words = ["--methods", "token_ablation", "--max-forwards"]
    code, _, err = run("compare", picture, "--out", tmp_path / "s.png", *words, 4)
    assert (code, err.strip()) == (0, "")
    assert (tmp_path / "s.png").is_file()
    code, _, err = run("explain", picture, "--out", tmp_path / "p", *words, 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "it needs at least 4" in err


def test_a_slow_method_has_a_bar_of_its_own():
    from rich.progress import Progress

    from vitscope.cli.run_over import _Bars

    with Progress(disable=True) as progress:
        bars = _Bars(progress)
        bars("rise", 2, 9)
        bars("tis", 1, 3)
        assert {task.description: (task.completed, task.total) for task in progress.tasks} == {
            "rise": (2, 9),
            "tis": (1, 3),
        }
        bars("rise", 9, 9)
        assert [task.description for task in progress.tasks] == ["tis"]
