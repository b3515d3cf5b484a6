"""Building a memory bank: streamed, resumed, every bad picture named."""

import copy
import gc
import json
import pickle
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vitscope
from vitscope import bank as building
from vitscope.bank import build_bank
from vitscope.datasets import CLASSES, Scenes
from vitscope.datasets.labelled import ClassFolders, First, LabelledScenes, labelled
from vitscope.errors import ImageError, TargetError, VitscopeError
from vitscope.models.bundled import scenes_vit
from vitscope.targets import MemoryBank, Neighbours, bank


@pytest.fixture(scope="module")
def explainer():
    return vitscope.Explainer("scenes-ssl")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for label in (2, 5, 7):
        (root / CLASSES[label] / "deeper").mkdir(parents=True)
    for index, scene in enumerate(Scenes(60, seed=81)):
        if scene.labels[0] in (2, 5, 7):
            place = root / CLASSES[scene.labels[0]] / ("deeper" if index % 2 else "")
            Image.fromarray(scene.image).save(place / f"{index:02d}.png")
    (root / CLASSES[2] / "bad.png").write_text("no picture")
    (root / "notes.txt").write_text("left alone")
    (root / "empty").mkdir()
    (root / ".thumbnails").mkdir()
    for hidden in (root / ".thumbnails" / "t.png", root / CLASSES[2] / "._0.png"):
        hidden.write_text("left alone too")
    return root


def test_a_bank_holds_every_readable_pictures_features(explainer, folder, tmp_path):
    dataset, done = ClassFolders(folder), []
    assert dataset.names == tuple(sorted(CLASSES[label] for label in (2, 5, 7)))
    built = build_bank(explainer, dataset, tmp_path / "b.safetensors", 4, done.append)
    assert sum(done) == len(dataset)
    assert list(built.failed) == [str(folder / CLASSES[2] / "bad.png")]
    found = MemoryBank.load(tmp_path / "b.safetensors")
    good = [picture for picture in dataset if picture.name not in built.failed]
    assert len(found) == len(good) == len(dataset) - 1
    assert found.labels.tolist() == [picture.label for picture in good]
    wanted = torch.nn.functional.normalize(explainer.features([picture.picture for picture in good]), dim=1)
    torch.testing.assert_close(found.features.float(), wanted, atol=1e-3, rtol=0)
    assert found.facts["dataset"] == f"folder {folder}"
    assert found.facts["pictures"] == len(dataset)
    assert not (tmp_path / "b.parts").exists()


def test_an_interrupted_run_goes_on(explainer, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PART", 4)
    dataset, out = LabelledScenes(14, seed=82), tmp_path / "b.safetensors"

    def stop(done, seen=[]):  # noqa: B006  (kept over the calls on purpose)
        seen.append(done)
        if sum(seen) >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank(explainer, dataset, out, 2, stop)
    assert not out.exists()
    kept = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "b.parts").glob("*.safetensors")}
    assert len(kept) == 2
    with pytest.raises(VitscopeError, match="parts of a bank of another model or other pictures"):
        build_bank(explainer, LabelledScenes(14, seed=83), out)
    read = []
    monkeypatch.setattr(type(dataset), "__getitem__", watched(type(dataset).__getitem__, read))
    again = build_bank(explainer, dataset, out, 2)
    assert sorted(read) == list(range(8, 14))  # the finished parts were not read again
    whole = build_bank(explainer, dataset, tmp_path / "whole.safetensors", 7)
    torch.testing.assert_close(again.bank.features, whole.bank.features, atol=1e-3, rtol=0)
    assert torch.equal(again.bank.labels, whole.bank.labels)


def watched(get, read):
    def getitem(self, index):
        read.append(index)
        return get(self, index)

    return getitem


def test_nothing_readable_is_an_error(explainer, tmp_path):
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "p" / "a" / "x.png").write_text("no picture")
    with pytest.raises(TargetError, match="none of the 1 pictures could be read"):
        build_bank(explainer, ClassFolders(tmp_path / "p"), tmp_path / "b.safetensors")
    with pytest.raises(VitscopeError, match=r"is a \.safetensors file"):
        build_bank(explainer, ClassFolders(tmp_path / "p"), tmp_path / "b.pt")


def test_datasets_by_name(folder, tmp_path):
    assert len(labelled("scenes", limit=30)) == 30
    some = labelled("folder", folder, limit=6)
    assert isinstance(some, First)
    assert len(some) == 6
    assert len({picture.label for picture in some}) == 3  # spread over the classes
    for call, error, words in (
        (lambda: labelled("scene"), VitscopeError, "did you mean scenes"),
        (lambda: labelled("folder"), VitscopeError, "needs --root"),
        (lambda: labelled("folder", tmp_path / "none"), ImageError, "no such folder"),
        (lambda: labelled("folder", folder / "empty"), ImageError, "holds no folder with pictures"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_poor_neighbours_are_told_with_figures(explainer, caplog):
    known = MemoryBank.load("scenes-ssl")
    usual, right = known.typical()
    assert 0.3 < usual < 1
    assert right > 0.7
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    explainer([Scenes(1, seed=84)[0].image], "daam", Neighbours(known))
    assert caplog.text == ""
    explainer([noise], "daam", Neighbours(known))
    assert f"at least {usual:.2f}" in caplog.text
    assert "poor match" in caplog.text


def test_typical_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(int(np.random.default_rng().integers(2**31)))
    features = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)
    labels = torch.randint(3, (30,), generator=generator)
    known = MemoryBank.of(features, labels, vitscope.ClassNames(("a", "b", "c")))
    means, right = [], []
    for i in range(30):
        similar = features @ features[i]
        similar[i] = -2
        nearest = similar.argsort(descending=True)[:4]
        means.append(float(similar[nearest].mean()))
        votes = torch.zeros(3).scatter_add_(0, labels[nearest], (similar[nearest] / 0.07).softmax(0))
        right.append(int(votes.argmax()) == int(labels[i]))
    usual, share = known.typical(k=4)
    assert usual == pytest.approx(float(torch.tensor(means).quantile(0.01)), abs=1e-5)
    assert share == pytest.approx(np.mean(right), abs=1e-6)


@pytest.mark.parametrize("sliced", [True, False])
def test_a_large_bank_is_searched_in_slices_or_by_faiss_and_exactly(monkeypatch, sliced):
    if not sliced:
        pytest.importorskip("faiss", reason="the extra `faiss` is not installed")
        monkeypatch.setattr(bank, "FAISS_ABOVE", 10)
    known = MemoryBank.of(torch.randn(50, 6), torch.randint(3, (50,)), vitscope.ClassNames(("a", "b", "c")))
    queries = torch.randn(4, 6)
    whole = known.nearest(queries, 5) if sliced else (queries.new_zeros(0), queries.new_zeros(0))
    monkeypatch.setattr(bank, "_SLICE", 7)
    similar, index = known.nearest(queries, 5)
    unit = torch.nn.functional.normalize(queries, dim=1)
    wanted = (unit @ known.features.T).topk(5, dim=1)
    torch.testing.assert_close(similar, wanted.values)
    assert torch.equal(index, wanted.indices)
    assert not sliced or torch.equal(whole[1], index)


def test_neighbours_of_a_class_and_eq_13(explainer):
    known = MemoryBank.load("scenes-ssl")
    images = [scene.image for scene in Scenes(3, seed=85)]
    features = explainer.features(images)
    official, equation = Neighbours(known).weights(features), Neighbours(known, weighting="equation").weights(features)
    assert float(official.min()) == 0
    assert float(official.max()) == 1
    for image in range(3):  # Eq. 13 by a loop
        similar, index = known.nearest(features[image : image + 1])
        voted = int(Neighbours(known).voted(features)[image])
        terms = []
        for closeness, at in zip(similar[0], index[0], strict=True):
            if int(known.labels[at]) == voted:
                z = known.features[at].float()
                terms.append(features[image] * z / (closeness.abs() * features[image].norm() * z.norm()))
        torch.testing.assert_close(equation[image], torch.stack(terms).mean(0), rtol=1e-3, atol=1e-5)
    asked = int(Neighbours(known).voted(features)[0])
    both = (
        explainer(images[:1], "daam", Neighbours(known, label=asked)),
        explainer(images[:1], "daam", Neighbours(known)),
    )
    torch.testing.assert_close(both[0]["daam"].values, both[1]["daam"].values)
    with pytest.raises(TargetError, match="none of the 2 nearest neighbours of image 0"):
        explainer(images, "daam", Neighbours(known, k=2, label=(asked + 6) % 12))


def test_facts_survive_the_file(tmp_path):
    known = MemoryBank.of(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), vitscope.ClassNames(("ä",)))
    facts = {"model": {"name": "x"}, "pictures": 5}
    MemoryBank(known.features, known.labels, known.names, facts).save(tmp_path / "b.safetensors")
    assert MemoryBank.load(tmp_path / "b.safetensors").facts == facts
    assert json.loads(json.dumps(facts)) == facts


def interrupted(explainer, dataset, out):
    """A build that ends behind its first part."""

    def stop(done, seen=[]):  # noqa: B006  (kept over the calls on purpose)
        seen.append(done)
        if sum(seen) > building.PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank(explainer, dataset, out, 2, stop)


@pytest.mark.parametrize("change", ["another module", "a file written over", "one weight"])
def test_parts_of_other_weights_are_refused_whatever_their_source_is_called(change, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PART", 4)
    dataset, out, file = LabelledScenes(8, seed=86), tmp_path / "b.safetensors", tmp_path / "w.safetensors"
    first, second = scenes_vit(0).eval(), scenes_vit(0).eval()
    if change == "one weight":
        second.load_state_dict(first.state_dict())
        with torch.no_grad():
            second.norm.bias[int(torch.randint(second.norm.bias.numel(), ()))] += 1e-3
    made = []
    for model in (first, second):
        if change == "a file written over":
            save_file(model.state_dict(), file)
            made.append(vitscope.Explainer("scenes-ssl", file))
        else:
            made.append(vitscope.Explainer(model))
    interrupted(made[0], dataset, out)
    with pytest.raises(VitscopeError, match="parts of a bank of another model"):
        build_bank(made[1], dataset, out, 2)
    again = build_bank(made[0], dataset, out, 2).bank
    wanted = torch.nn.functional.normalize(made[0].features([one.picture for one in dataset]), dim=1)
    torch.testing.assert_close(again.features.float(), wanted, atol=2e-3, rtol=0)


class Counted(torch.Tensor):
    """A table that keeps how many numbers of it were brought to another type."""

    cast: list[int]

    def to(self, *args, **kwargs):
        self.cast.append(self.numel())
        return super().to(*args, **kwargs)

    def __getitem__(self, index):
        found = super().__getitem__(index)
        found.cast = self.cast
        return found


@pytest.mark.parametrize("weighting", ["official", "equation"])
@pytest.mark.parametrize("label", [None, 1])
def test_the_weights_search_once_and_read_the_found_rows_alone(weighting, label, monkeypatch):
    features, labels = torch.randn(300, 5), torch.arange(300) % 2
    known = MemoryBank.of(features, labels, vitscope.ClassNames(("a", "b")))
    target = Neighbours(known, k=30, weighting=weighting, label=label)
    queries = torch.randn(3, 5)
    similar, index = known.nearest(queries, 30)
    voted = torch.full((3,), 1) if label == 1 else known.vote(queries, 30).argmax(1)
    searches, search = [], MemoryBank.nearest
    known.typical(30)
    wanted = target.weights(queries)
    table = known.features.clone().as_subclass(Counted)
    table.cast = []
    object.__setattr__(known, "features", table)
    monkeypatch.setattr(MemoryBank, "nearest", lambda *args: searches.append(1) or (similar, index))
    torch.testing.assert_close(target.weights(queries), wanted)
    assert len(searches) == 1
    assert max(table.cast) == 3 * 30 * 5
    monkeypatch.setattr(MemoryBank, "nearest", search)
    object.__setattr__(known, "features", table.as_subclass(torch.Tensor))
    torch.testing.assert_close(target.voted(queries), known.vote(queries, 30).argmax(1))
    for image in range(3):  # by a loop
        chosen = [at for at in index[image].tolist() if int(labels[at]) == int(voted[image])]
        unit = torch.nn.functional.normalize(queries[image], dim=0)
        terms = [
            unit * known.features[at] / (1 if weighting == "official" else abs(float(unit @ known.features[at])))
            for at in chosen
        ]
        mean = torch.stack(terms).mean(0)
        if weighting == "official":
            mean = mean / mean.sum().abs()
            mean = (mean - mean.min()) / (mean.max() - mean.min())
        torch.testing.assert_close(wanted[image], mean, atol=1e-4, rtol=1e-3)


def test_what_is_found_once_is_kept_by_the_bank_alone(monkeypatch):
    known = MemoryBank.of(torch.randn(50, 6), torch.arange(50) % 3, vitscope.ClassNames(("a", "b", "c")))
    built = []

    class Index:
        def __init__(self, width):
            built.append(width)
            self.rows = torch.empty(0, width)

        def add(self, rows):
            self.rows = torch.cat([self.rows, torch.from_numpy(rows)])

        def search(self, queries, k):
            similar, index = (torch.from_numpy(queries) @ self.rows.T).topk(k, dim=1)
            return similar.numpy(), index.numpy()

        def __deepcopy__(self, memo):
            raise AssertionError("an index is not copied")

    wanted = [known.nearest(queries, 4) for queries in (torch.ones(1, 6), torch.eye(6))]
    usual = known.typical(4)
    monkeypatch.setattr(bank, "FAISS_ABOVE", 10)
    monkeypatch.setattr(bank, "_faiss", lambda: SimpleNamespace(IndexFlatIP=Index))
    for queries, (similar, index) in zip((torch.ones(1, 6), torch.eye(6)), wanted, strict=True):
        found = known.nearest(queries, 4)
        torch.testing.assert_close(found[0], similar)
        assert torch.equal(found[1], index)
    assert built == [6]
    monkeypatch.setattr(MemoryBank, "nearest", lambda *args: pytest.fail("searched again"))
    assert known.typical(4) == usual
    for other in (copy.deepcopy(known), pickle.loads(pickle.dumps(known))):
        assert torch.equal(other.features, known.features)
        assert other.names == known.names


def test_a_bank_that_nobody_holds_is_let_go():
    known = MemoryBank.of(torch.randn(50, 6), torch.arange(50) % 3, vitscope.ClassNames(("a", "b", "c")))
    Neighbours(known, k=5).weights(torch.randn(2, 6))
    seen = weakref.ref(known)
    del known
    gc.collect()
    assert seen() is None
