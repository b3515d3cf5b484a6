"""Files and names that were made to do harm: whatever they hold, no code runs, and the answer is one line."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

import vitscope
from tests.browser import watched
from vitscope.cli import main
from vitscope.datasets import Scenes, open_dataset
from vitscope.images import prepare
from vitscope.models.weights import read_weights
from vitscope.report.folder import write_report
from vitscope.targets import ClassNames, MemoryBank
from vitscope.view.page import Cell, Section, Table, page

RAN: list[str] = []
"""What code in a file has done."""


def harm(word: str) -> None:
    RAN.append(word)


class Harm:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return harm, ("harm",)


def pickled() -> bytes:
    return pickle.dumps({"state_dict": {"head.weight": torch.zeros(2)}, "harm": Harm()})


def by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"head.weight": torch.zeros(2)}, "harm": Harm()}, buffer)
    return buffer.getvalue()


def by_old_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"harm": Harm()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def by_numpy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def by_numpy_zip() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, features=np.array([Harm()], dtype=object))
    return buffer.getvalue()


HARMFUL = {"pickle": pickled, "torch": by_torch, "old torch": by_old_torch, "npy": by_numpy, "npz": by_numpy_zip}


@pytest.fixture
def harmless():
    """That nothing in a file was called."""
    RAN.clear()
    yield
    assert not RAN


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_the_harmful_pickle_does_harm_where_it_is_trusted():
    """What the other tests show is shown by files that really run code."""
    RAN.clear()
    pickle.loads(pickled())
    torch.load(io.BytesIO(by_torch()), weights_only=False)
    np.load(io.BytesIO(by_numpy()), allow_pickle=True)
    assert len(RAN) == 3


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".safetensors", ".npz", ""])
@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_weights_that_hold_code_are_refused(kind, suffix, tmp_path, harmless):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(HARMFUL[kind]())
    with pytest.raises(vitscope.ModelError, match=r"refused|not a readable weights file") as caught:
        read_weights(file)
    assert str(file) in one_line(caught.value)


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_so_they_are_on_the_command_line(kind, tmp_path, harmless, monkeypatch, capsys):
    (tmp_path / "w.pth").write_bytes(HARMFUL[kind]())
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    words = ["explain", str(tmp_path / "a.png"), "--model", "scenes", "--weights", str(tmp_path / "w.pth")]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_memory_banks_that_hold_code_are_refused(kind, tmp_path, harmless):
    file = tmp_path / "bank.safetensors"
    file.write_bytes(HARMFUL[kind]())
    with pytest.raises(vitscope.TargetError) as caught:
        MemoryBank.load(file)
    assert str(file) in one_line(caught.value)


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_a_models_folder_that_holds_code_is_refused(kind, tmp_path, harmless):
    """A directory as transformers' save_pretrained writes one, but for its weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=7)
    )
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(HARMFUL[kind]())
    with pytest.raises(vitscope.ModelError) as caught:
        vitscope.Explainer(str(tmp_path), preprocessing={"size": 32})
    one_line(caught.value)


def test_a_models_folder_runs_no_code_of_its_own(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "odd",
                "auto_map": {"AutoConfig": "harm.Config", "AutoModelForImageClassification": "harm.Model"},
                "architectures": ["Model"],
            }
        )
    )
    (tmp_path / "harm.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(vitscope.ModelError) as caught:
        vitscope.Explainer(str(tmp_path))
    one_line(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_a_matlab_file_that_holds_code_is_refused(kind, tmp_path, harmless):
    pytest.importorskip("h5py")
    (tmp_path / "gtsegs_ijcv.mat").write_bytes(HARMFUL[kind]())
    with pytest.raises(vitscope.DatasetError) as caught:
        open_dataset("imagenet-segmentation", tmp_path)
    one_line(caught.value)


# -- bombs and archives ------------------------------------------------------------------------------------------------


def test_a_text_in_a_picture_that_grows_without_end_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 80_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "bomb.png", pnginfo=info)
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(vitscope.ImageError) as caught:
        vitscope.Explainer("scenes")([str(tmp_path / "bomb.png")], "attention")
    one_line(caught.value)


def test_a_checkpoint_is_no_archive_to_unpack(tmp_path):
    """Names within it that lead elsewhere are not written to, and what it claims to hold is not made room for."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/bomb", bytes(200_000_000))
    with pytest.raises(vitscope.ModelError) as caught:
        read_weights(inside / "w.pth")
    one_line(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "w.pth"]


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path):
    claim = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file = tmp_path / "bank.safetensors"
    file.write_bytes(len(claim).to_bytes(8, "little") + claim)
    for read, error in ((read_weights, vitscope.ModelError), (MemoryBank.load, vitscope.TargetError)):
        with pytest.raises(error) as caught:
            read(file)
        one_line(caught.value)


# -- paths -------------------------------------------------------------------------------------------------------------


def folder_of_masks(root: Path, count: int = 2) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, scene in enumerate(Scenes(count, seed=1)):
        Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
        Image.fromarray(scene.mask().astype(np.uint8) * 255).save(root / "masks" / f"{index}.png")
    return root


def test_names_in_a_data_set_cannot_lead_out_of_it(tmp_path):
    """PASCAL's list of pictures is a text: what it names is looked for below the root, or refused."""
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (8, 8)).save(secret)
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (home / name).mkdir(parents=True)
    for word in ("../../../secret", str(secret.with_suffix("")), "a/../../../../secret"):
        (home / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{word}\n")
        with pytest.raises(vitscope.VitscopeError) as caught:
            [item.open() for item in open_dataset("voc", tmp_path)]
        one_line(caught.value)


@pytest.mark.parametrize(
    "name", ["../../escaped", "..", ".", "/etc/passwd", "a\0b", "CON", "a/../../b", "-" * 300, "猫" * 200]
)
def test_results_stay_in_their_folder(name, tmp_path):
    """Whatever a picture is called."""
    explainer = vitscope.Explainer("scenes")
    batch = prepare([Scenes(1, seed=1)[0].image], explainer.preprocessing)
    explanation = explainer(dataclasses.replace(batch, names=(name,)), "attention")
    (folder,) = map(Path, explanation.save(tmp_path / "deep" / "out"))
    assert folder.parent == tmp_path / "deep" / "out"
    assert (folder / "manifest.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}


def test_a_manifest_of_an_earlier_run_deletes_nothing_elsewhere(tmp_path):
    """It lists what may be taken away; it may have been written by somebody else."""
    explainer = vitscope.Explainer("scenes")
    keep = tmp_path / "keep.png"
    keep.write_bytes(b"mine")
    out = tmp_path / "out"
    (folder,) = map(Path, explainer([Scenes(1, seed=1)[0].image], "attention").save(out))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] += ["../../keep.png", str(keep), "..", "../"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    explainer([Scenes(1, seed=1)[0].image], "attention").save(out)
    assert keep.read_bytes() == b"mine"


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(tmp_path):
    explainer = vitscope.Explainer("scenes")
    keep = tmp_path / "keep.png"
    keep.write_bytes(b"mine")
    (folder,) = map(Path, explainer([Scenes(1, seed=1)[0].image], "attention").save(tmp_path / "out"))
    (folder / "attention.png").unlink()
    (folder / "attention.png").symlink_to(keep)
    explainer([Scenes(1, seed=1)[0].image], "attention").save(tmp_path / "out")
    assert keep.read_bytes() == b"mine"
    assert not (folder / "attention.png").is_symlink()


def test_folders_that_hold_themselves_end(tmp_path):
    root = folder_of_masks(tmp_path / "data")
    (root / "images" / "loop").symlink_to(root / "images", target_is_directory=True)
    assert len(open_dataset("masks", root)) == 2


# -- names in pages ----------------------------------------------------------------------------------------------------

NASTY = (
    '<img src=x onerror="ran()">',
    "<script>ran()</script>",
    '"><svg onload=ran()>',
    "</script><script>ran()</script>",
    "<!--<script>",
    "' onmouseover='ran()' x='",
    "javascript:ran()",
    "{{ran()}}${ran()}",
)


def quiet(browser, path: Path) -> str:
    """The text of a page in which nothing that a name holds has run."""
    with watched(browser) as seen:
        ran: list[None] = []
        seen.page.expose_function("ran", lambda: ran.append(None))
        seen.page.goto(path.as_uri())
        seen.page.wait_for_timeout(300)
        for element in seen.page.locator("button, summary, th, img, canvas").all()[:20]:
            if element.is_visible():
                element.hover(timeout=2000, force=True)
        text = seen.page.inner_text("body")
        assert not seen.page.locator("img[src=x], svg[onload], [onmouseover], [onerror]").count()
    assert not ran
    assert not [line for line in seen.said if line.startswith("error")]
    assert {url.partition(":")[0] for url in seen.asked} <= {"file", "data", "blob"}
    return text


@pytest.mark.parametrize("many", [False, True])
def test_no_name_runs_in_the_report(many, browser, tmp_path):
    """Of pictures, of classes, of the model, and of a target."""
    names = ClassNames(tuple((NASTY * 2)[:12]))
    explainer = vitscope.Explainer("scenes", labels=names)
    chosen = NASTY if many else NASTY[:1]
    batch = prepare([scene.image for scene in Scenes(len(chosen), seed=1)], explainer.preprocessing)
    explanation = explainer(dataclasses.replace(batch, names=chosen), "daam,cdam", 0)
    explanation.save(tmp_path)
    (path,) = write_report(tmp_path)
    text = quiet(browser, path)
    assert NASTY[0] in text


def test_no_name_runs_in_a_page_of_results(browser, tmp_path):
    cells = [Cell(name, note=name) for name in NASTY]
    sections = [Section(name, [name], [Table(NASTY, [cells, cells], note=name, sortable=True)]) for name in NASTY]
    (tmp_path / "page.html").write_text(page(NASTY[0], list(NASTY), sections, NASTY[1]), encoding="utf-8")
    assert NASTY[0] in quiet(browser, tmp_path / "page.html")


def test_no_name_runs_in_the_page_of_a_benchmark(browser, tmp_path, monkeypatch):
    """Its pictures' names come from files, its classes' from a labels file."""
    root = folder_of_masks(tmp_path / "data", 4)
    for index, name in enumerate(["<img src=x onerror=ran()>", "<svg onload=ran()>", "'onmouseover='ran()'", "a&b"]):
        for kind in ("images", "masks"):
            (root / kind / f"{index}.png").rename(root / kind / f"{name}.png")
    (tmp_path / "labels.txt").write_text("\n".join((NASTY * 2)[:12]))
    words = ["bench", "--dataset", "masks", "--root", str(root), "--model", "scenes", "--methods", "cdam,random"]
    words += ["--labels", str(tmp_path / "labels.txt"), "--metrics", "energy", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "cdam" in quiet(browser, tmp_path / "run" / "page.html")


def test_a_bank_whose_facts_are_no_facts_is_refused(tmp_path):
    tensors = {"features": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}
    for metadata in ({}, {"names": "no json"}, {"names": json.dumps(["a"])}):
        save_file(tensors, tmp_path / "bank.safetensors", metadata=metadata)
        with pytest.raises(vitscope.TargetError) as caught:
            MemoryBank.load(tmp_path / "bank.safetensors")
        one_line(caught.value)
