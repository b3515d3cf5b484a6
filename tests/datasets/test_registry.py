"""Data sets by name and options, subsets, and rows that nobody foresaw."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vitscope
from tests.datasets import layouts
from vitscope.datasets import ImageNetS, as_reader, dataset_options, list_datasets, open_dataset, register_dataset
from vitscope.datasets.imagenet import ImageNet, _objects
from vitscope.errors import DatasetError, VitscopeError

ANY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_names_and_options_are_read():
    assert vitscope.list_datasets() == list_datasets()
    assert {info.name for info in list_datasets()} >= {"imagenet", "voc", "cub", "imagenet-s", "pets", "coco", "masks"}
    assert as_reader("imagenet-s:variant=300,split=train-semi") == ImageNetS(variant=300, split="train-semi")
    assert as_reader("imagenet-s:variant=none") == ImageNetS()
    assert dataset_options("imagenet")["truth"] == ("auto | csv | xml | folders", "auto")
    with pytest.raises(ValueError, match="registered already"):
        register_dataset(ImageNet)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagnet", "did you mean imagenet"),
        ("zzz", "there is coco, cub"),
        ("voc:slpit=val", "no option 'slpit'; it takes class"),
        ("voc:split=vla", "takes train | val"),
        ("voc:instances=maybe", "true | false"),
        ("imagenet-s:variant=51", "50 | 300 | 919 or none"),
        ("scenes:count=many", "a whole number"),
        ("imagenet-segmentation:x=1", "takes no options"),
    ],
)
def test_unknown_words_are_refused_in_one_line(text, words, tmp_path):
    with pytest.raises(DatasetError) as caught:
        open_dataset(text, tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(count=st.integers(1, 60), seed=st.integers(0, 2**63), limits=st.tuples(st.integers(1, 70), st.integers(1, 70)))
@ANY
def test_a_subset_is_a_nested_random_choice(count, seed, limits):
    whole = open_dataset(f"scenes:count={count}")
    small, large = (whole.subset(limit, seed) for limit in sorted(limits))
    assert len(large) == min(max(limits), count)
    assert large.ids[: len(small)] == small.ids
    assert set(whole.subset(seed=seed).ids) == set(whole.ids)
    assert whole.subset(min(limits)).ids == whole.ids[: min(limits)]


@pytest.mark.integration
def test_the_same_seed_gives_the_same_subset_in_another_process():
    code = "from vitscope.datasets import open_dataset; print(open_dataset('scenes', limit=20, seed=4).ids)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = open_dataset("scenes", limit=20, seed=4)
    assert printed == str(here.ids)
    assert here.ids != open_dataset("scenes", limit=20, seed=5).ids
    assert here.provenance["of"] == 500
    assert here.provenance["ids"] != open_dataset("scenes", limit=20).provenance["ids"]
    with pytest.raises(DatasetError, match="limit=0"):
        open_dataset("scenes", limit=0)


def test_no_picture_is_read_before_it_is_asked_for(tmp_path):
    layouts.imagenet_csv(tmp_path)
    for file in (tmp_path / "val").iterdir():
        file.write_bytes(b"")
    dataset = open_dataset("imagenet", tmp_path)
    assert [item.label for item in dataset] == [1, 0, 2]


def tried(call):
    """What the call gives, or None and the one line with which it is refused."""
    try:
        return call(), ""
    except VitscopeError as error:
        return None, str(error)


WORDS = st.one_of(st.sampled_from(["n01440764", "1", "2", "-1", "nan", "1e400", "", "x"]), st.text(max_size=6))


@given(st.lists(WORDS, max_size=11))
@ANY
def test_any_row_is_boxes_or_one_line(words):
    text = " ".join(words)
    found, line = tried(lambda: _objects(text, "table.csv, picture"))
    if found is None:
        assert line.startswith("table.csv")
        return
    assert len(found) == len(text.split()) / 5
    for _, (x1, y1, x2, y2) in found:
        assert x1 <= x2
        assert y1 <= y2


@given(table=st.sampled_from(["bounding_boxes.txt", "image_class_labels.txt", "images.txt"]), row=st.text(max_size=20))
@ANY
def test_any_row_of_cub_is_read_or_refused_by_name(tmp_path_factory, table, row):
    root = layouts.cub(tmp_path_factory.mktemp("cub"))
    file = root / "CUB_200_2011" / table
    rest = file.read_text().splitlines()[1:]
    row = row.encode("utf-8", "ignore").decode()
    file.write_text("\n".join([f"1 {row}", *rest]), encoding="utf-8")
    opened, line = tried(lambda: open_dataset("cub:split=all", root)[0].open())
    if opened is None:
        assert str(root) in line
    else:
        assert opened.boxes[0].edges[2] > opened.boxes[0].edges[0]


@given(st.binary(max_size=200))
@ANY
def test_any_bytes_as_an_annotation_are_refused_by_name(tmp_path_factory, content):
    root = layouts.voc(tmp_path_factory.mktemp("voc"))
    file = root / "VOCdevkit" / "VOC2012" / "Annotations" / "2007_000033.xml"
    file.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        _ = open_dataset("voc", root)[0]
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
