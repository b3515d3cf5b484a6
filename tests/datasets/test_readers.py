"""Each data set in its exact layout: every field, and every fault in one line that names its file."""

from __future__ import annotations

import csv
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from tests.datasets import layouts
from tests.datasets.layouts import HEIGHT, WIDTH
from vitscope.datasets import (
    CUB,
    IGNORE,
    OBJECT,
    VOC,
    Dataset,
    ImageNet,
    ImageNetS,
    list_datasets,
    open_dataset,
)
from vitscope.datasets.pets import BREEDS
from vitscope.errors import DatasetError, ImageError, VitscopeError

VAL = "ILSVRC2012_val_0000000"


def refused(call, *words: str) -> str:
    """The one line with which something is refused; it holds these words."""
    with pytest.raises(VitscopeError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


def by_id(dataset: Dataset) -> dict:
    return {item.id: item for item in dataset}


def built(name: str, root) -> tuple[str, object]:
    """A tiny one of each data set, and the words that open it."""
    if name == "imagenet-s":
        folder, file = layouts.imagenet_s(root)
        return f"imagenet-s:categories={file}", folder
    if name == "imagenet-segmentation":
        layouts.gtsegs(root / "gtsegs_ijcv.mat")
        return name, root
    if name == "scenes":
        return "scenes:count=3", None
    make = {"imagenet": layouts.imagenet_csv}.get(name) or getattr(layouts, name)
    return name, make(root)


NAMES = [info.name for info in list_datasets()]


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_keeps_the_contract(name, tmp_path):
    source, root = built(name, tmp_path)
    dataset = open_dataset(source, root)
    info = dataset.info
    assert len(dataset) == len(list(dataset)) == len(set(dataset.ids)) == dataset.provenance["count"] > 1
    assert all((info.title, info.source, info.truth, info.terms, info.layout))
    assert bool(info.corners) == ("boxes" in info.truth)
    for item, again in zip(dataset, pickle.loads(pickle.dumps(dataset)), strict=True):
        assert (item.id, item.labels, item.boxes) == (again.id, again.labels, again.boxes)
        opened = item.open()
        assert np.array_equal(np.asarray(opened.picture), np.asarray(again.open().picture))
        assert opened.picture.mode == "RGB"
        assert (opened.boxes is not None) == ("boxes" in info.truth)
        assert (opened.masks is not None) == ("masks" in info.truth)
        if opened.masks is not None:
            size = (opened.picture.height, opened.picture.width)
            assert all(region.mask.shape == size and region.mask.dtype == bool for region in opened.masks.regions)
            assert opened.masks.values().shape == size
        for box in opened.boxes or ():
            x1, y1, x2, y2 = box.edges
            assert 0 <= x1 < x2 <= opened.picture.width
            assert 0 <= y1 < y2 <= opened.picture.height


@pytest.mark.parametrize("name", [name for name in NAMES if name != "scenes"])
def test_a_wrong_folder_is_one_line_that_tells_the_layout(name, tmp_path):
    layout = next(info.layout for info in list_datasets() if info.name == name)
    assert refused(lambda: open_dataset(name, tmp_path), str(tmp_path), " has no ").endswith(f"expected {layout}")
    refused(lambda: open_dataset(name, tmp_path / "nowhere"), "no such folder", layout)
    refused(lambda: open_dataset(name), "needs a root", layout)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("scenes", "imagenet-segmentation")])
def test_a_bad_picture_is_the_fault_of_its_item_alone(name, tmp_path):
    source, root = built(name, tmp_path)
    dataset = open_dataset(source, root)
    first, second = list(dataset)[:2]
    first.path.write_bytes(first.path.read_bytes()[:60])
    refused(first.open, str(first.path))
    second.path.unlink()
    refused(second.open, str(second.path))
    if name in ("voc", "cub", "coco"):  # listed in a file, not by the folder
        assert len(open_dataset(source, root)) == len(dataset)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("scenes", "imagenet-segmentation", "imagenet")]
)
def test_a_picture_of_another_size_is_refused(name, tmp_path):
    source, root = built(name, tmp_path)
    item = open_dataset(source, root)[0]
    layouts.picture(item.path, HEIGHT // 2, WIDTH // 2)
    message = refused(lambda: item.open().masks, str(root))
    assert "pixels" in message or "outline" in message


# ImageNet


def test_imagenet_by_its_csv(tmp_path):
    dataset = open_dataset("imagenet", layouts.imagenet_csv(tmp_path))
    assert dataset.ids == (f"{VAL}1", f"{VAL}2", f"{VAL}3")
    assert dataset.names[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    one, two = dataset[0], dataset[1]
    assert (one.labels, one.label, one.split) == ((1,), 1, "val")
    assert one.path == tmp_path / "val" / f"{VAL}1.JPEG"
    assert one.boxes[0].written == (5, 6, 7, 8)
    assert one.boxes[0].edges == (5, 6, 8, 9)
    assert [box.edges for box in two.open().boxes] == [(1, 2, 11, 13), (0, 0, WIDTH, HEIGHT)]
    assert one.open().masks is None


def test_imagenet_reads_a_mapping_of_the_root(tmp_path):
    layouts.imagenet_csv(tmp_path)
    mapping = layouts.text(
        tmp_path / "LOC_synset_mapping.txt", "n01484850 shark\nn01440764 tench\nn01443537 goldfish\n"
    )
    dataset = open_dataset("imagenet", tmp_path)
    assert dataset.names == ("shark", "tench", "goldfish")
    assert [item.label for item in dataset] == [2, 1, 0]
    mapping.write_text("n01484850 shark\nrubbish\n")
    refused(lambda: open_dataset("imagenet", tmp_path), str(mapping), "line 2", "rubbish")


def test_imagenet_by_xml_and_by_folders(tmp_path):
    picture = layouts.picture(tmp_path / "ILSVRC/Data/CLS-LOC/val" / f"{VAL}1.JPEG")
    annotations = tmp_path / "ILSVRC/Annotations/CLS-LOC/val"
    layouts.pascal(annotations / f"{VAL}1.xml", [("n01443537", (0, 2, 29, 19), 0)])
    item = open_dataset("imagenet", tmp_path)[0]
    assert (item.path, item.label, item.boxes[0].edges) == (picture, 1, (0, 2, 30, 20))
    (annotations / f"{VAL}1.xml").unlink()
    layouts.pascal(annotations / "another.xml", [])
    refused(lambda: open_dataset("imagenet", tmp_path)[0], f"{VAL}1.xml", "no such annotation")

    layouts.picture(tmp_path / "folders" / "val" / "n01484850" / "x.JPEG")
    layouts.picture(tmp_path / "folders" / "val" / "n01440764" / "y.JPEG")
    folders = open_dataset("imagenet", tmp_path / "folders")
    assert {item.id: item.labels for item in folders} == {"x": (2,), "y": (0,)}
    assert folders[0].boxes is None
    refused(lambda: open_dataset("imagenet:truth=csv", tmp_path / "folders"), "has no LOC_val_solution.csv; expected")
    layouts.picture(tmp_path / "folders" / "val" / "n01484850" / "y.JPEG")
    refused(lambda: open_dataset("imagenet", tmp_path / "folders"), "y.JPEG", "share one name")


def test_a_malformed_row_spoils_its_picture_alone(tmp_path):
    file = layouts.imagenet_csv(tmp_path) / "LOC_val_solution.csv"
    rows = {
        "n01443537 5 6 7": "is not made of",
        "n01443537 5 6 x 8": "not all numbers",
        "n01443537 5 6 nan 8": "not all numbers",
        "n01443537 5 6 4 8": "ends before it begins",
        "n99999999 5 6 7 8": "none of the 1000 synsets",
        "": "names nothing",
    }
    for row, words in rows.items():
        file.write_text(f"ImageId,PredictionString\n{VAL}1,{row}\n{VAL}2,n01443537 1 1 2 2\n")
        dataset = open_dataset("imagenet", tmp_path)
        refused(lambda dataset=dataset: dataset[0], str(file), words)
        assert dataset[1].label == 1
        refused(lambda dataset=dataset: dataset[2], str(file), f"no row for {VAL}3")
    file.write_text(f"ImageId,PredictionString\n{VAL}1,n01443537 1 1 2 2\n{VAL}1,n01443537 1 1 2 2\n")
    refused(lambda: open_dataset("imagenet", tmp_path), "line 3", "twice")
    file.write_text("id,row\n")
    refused(lambda: open_dataset("imagenet", tmp_path), str(file), "ImageId,PredictionString")


def test_a_box_beyond_its_picture_is_refused_when_that_is_opened(tmp_path):
    file = layouts.imagenet_csv(tmp_path) / "LOC_val_solution.csv"
    for x2, fits in ((WIDTH - 1, True), (WIDTH, True), (WIDTH + 1, False), (500, False)):
        file.write_text(f"ImageId,PredictionString\n{VAL}1,n01443537 20 1 {x2} 9\n")
        item = open_dataset("imagenet", tmp_path)[0]
        if fits:
            assert item.open().boxes[0].edges == (20, 1, WIDTH, 10)
        else:
            refused(item.open, str(file), f"{VAL}1", f"{WIDTH} x {HEIGHT}")


def test_pixels_stay_as_stored_whatever_the_camera_says(tmp_path):
    """The boxes were drawn on these; the picture must not turn later either."""
    from vitscope.images import load_image

    layouts.imagenet_csv(tmp_path)
    item = open_dataset("imagenet", tmp_path)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(item.path).save(item.path, exif=exif)
    assert load_image(item.path).size == (HEIGHT, WIDTH)
    stored = item.open().picture
    assert stored.size == (WIDTH, HEIGHT)
    assert load_image(stored).size == (WIDTH, HEIGHT)


def test_real_imagenet_boxes_are_those_of_the_csv(shared):
    dataset = open_dataset("imagenet", shared / "imagenet")
    with (shared / "imagenet" / "LOC_val_solution.csv").open() as lines:
        rows = {row["ImageId"]: row["PredictionString"].split() for row in csv.DictReader(lines)}
    mapping = [line.split()[0] for line in (shared / "imagenet" / "LOC_synset_mapping.txt").read_text().splitlines()]
    assert len(dataset) == len(rows) == 200
    for item in dataset:
        words = rows[item.id]
        opened = item.open()
        assert item.labels == (mapping.index(words[0]),)
        assert len(opened.boxes) == len(words) // 5
        for i, box in enumerate(opened.boxes):
            x1, y1, x2, y2 = map(int, words[5 * i + 1 : 5 * i + 5])
            assert box.written == (x1, y1, x2, y2)
            assert box.edges == (x1, y1, x2 + 1, y2 + 1)


# VOC


def test_voc_boxes_and_masks_of_classes(tmp_path):
    layouts.voc(tmp_path)
    dataset = open_dataset("voc", tmp_path)
    assert dataset.ids == ("2007_000033", "2007_000042")
    assert len(dataset.names) == 20
    item = dataset[0]
    assert (item.categories, item.labels, item.label) == ((0,), None, None)
    assert [box.edges for box in item.boxes] == [(0, 0, 10, 10), (11, 2, 30, 20)]
    assert [box.aside for box in item.boxes] == [False, True]
    assert item.boxes[0].written == (1, 1, 10, 10)
    values = item.open().masks.values()
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[0:10, 0:10] = expected[2:20, 11:30] = OBJECT
    expected[10, :] = IGNORE
    assert np.array_equal(values, expected)
    both = dataset[1]
    assert both.categories == (14, 18)
    assert both.boxes[0].edges == (1, 2, 8.5, 9)
    person = both.open().masks.values(category=14)
    assert person.sum() == 100
    assert not person[2:9, 1:8].any()


def test_voc_objects_lists_and_single_class_pictures(tmp_path):
    layouts.voc(tmp_path)
    home = tmp_path / "VOCdevkit" / "VOC2012"
    regions = open_dataset(VOC(instances=True), home)[0].open().masks.regions
    assert [region.category for region in regions] == [0, 0]
    assert [int(region.mask.sum()) for region in regions] == [100, 17 * 19]
    assert open_dataset(VOC(classes_per_image=1), home).ids == ("2007_000033",)
    assert open_dataset("voc:classes_per_image=2", tmp_path / "VOCdevkit").ids == ("2007_000042",)
    detection = open_dataset("voc:task=detection", tmp_path)
    assert detection.ids[-1] == "2007_000061"
    assert detection[2].open().masks is None
    refused(lambda: open_dataset("voc:split=train", tmp_path), "Segmentation/train.txt", "no such file")
    refused(lambda: open_dataset("voc:classes_per_image=7", tmp_path), "no picture has 7 classes")
    (home / "Annotations" / "2007_000033.xml").write_text("<annotation><object>")
    kept = open_dataset("voc:classes_per_image=1", tmp_path)
    assert kept.ids == ("2007_000033",)  # kept, to fail for itself
    refused(lambda: kept[0], "2007_000033.xml", "no complete XML")


def test_voc_refuses_what_is_no_annotation_and_no_mask(tmp_path):
    layouts.voc(tmp_path)
    home = tmp_path / "VOCdevkit" / "VOC2012"
    file = home / "Annotations" / "2007_000033.xml"
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
    )
    external = '<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>'
    box = "<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    faults = {
        bomb: "document type",
        external: "document type",
        bomb.encode("utf-16").decode("utf-16"): "document type",
        "<annotations/>": "not <annotation>",
        "<annotation><object><name>cat</name></object></annotation>": "no whole <bndbox>",
        f"<annotation><object>{box.format(1)}</object></annotation>": "no <name>",
        f"<annotation><object><name>kat</name>{box.format(1)}</object></annotation>": "did you mean cat",
        f"<annotation><object><name>cat</name>{box.format('inf')}</object></annotation>": "not all numbers",
        f"<annotation><object><name>cat</name>{box.format(9)}</object></annotation>": "ends before it begins",
    }
    for content, words in faults.items():
        file.write_text(content)
        refused(lambda: open_dataset("voc", tmp_path)[0], str(file), words)
    file.write_bytes(bomb.encode("utf-16"))
    refused(lambda: open_dataset("voc", tmp_path)[0], str(file), "document type")

    mask = home / "SegmentationClass" / "2007_000042.png"
    item = open_dataset("voc", tmp_path)[1]
    layouts.levels(mask, np.full((HEIGHT, WIDTH), 33))
    refused(lambda: item.open().masks, str(mask), "value 33")
    layouts.picture(mask)
    refused(lambda: item.open().masks, str(mask), "coloured")
    mask.write_bytes(mask.read_bytes()[:80])
    with pytest.raises(ImageError, match="damaged"):
        _ = item.open().masks
    lists = home / "ImageSets" / "Segmentation" / "val.txt"
    lists.write_text("../../../secret\n")
    refused(lambda: open_dataset("voc", tmp_path), str(lists), "not below")


def test_classes_carry_own_classes_to_outputs(tmp_path):
    layouts.voc(tmp_path)
    rows = layouts.text(tmp_path / "map.csv", "# VOC to a model\naeroplane,404\nperson, 7\n")
    dataset = open_dataset(f"voc:classes={rows}", tmp_path)
    assert [item.labels for item in dataset] == [(404,), (7,)]
    assert [box.label for box in dataset[1].boxes] == [None, 7]
    assert {region.label for region in dataset[1].open().masks.regions} == {None, 7}
    as_json = layouts.text(tmp_path / "map.json", '{"aeroplane": 3}')
    assert [item.labels for item in open_dataset(f"voc:classes={as_json}", tmp_path)] == [(3,), ()]
    assert [item.labels for item in open_dataset("voc:classes=own", tmp_path)] == [(0,), (14, 18)]
    for content, words in (("kat,3", "did you mean cat"), ("cat", "line 1"), ("cat,1\ncat,2", "line 2")):
        rows.write_text(content)
        refused(lambda: open_dataset(f"voc:classes={rows}", tmp_path), str(rows), words)
    for content in ("{", "[1]", '{"cat": "x"}', '{"cat": -1}', '{"cat": true}'):
        as_json.write_text(content)
        refused(lambda: open_dataset(f"voc:classes={as_json}", tmp_path), str(as_json))


# CUB


def test_cub_tables_boxes_and_masks(tmp_path):
    dataset = open_dataset("cub", layouts.cub(tmp_path))
    assert dataset.names == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert dataset.ids == ("1", "3")
    assert open_dataset(CUB(split="train"), tmp_path / "CUB_200_2011").ids == ("2",)
    assert open_dataset("cub:split=all", tmp_path).ids == ("1", "2", "3")
    item = dataset[0]
    assert (item.categories, item.labels, item.split) == ((0,), None, "test")
    assert item.boxes[0].written == (4, 3, 4, 6)
    assert item.boxes[0].edges == (4, 3, 8, 9)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[3:9, 4:8] = expected[1, 1] = True
    assert np.array_equal(item.open().masks.regions[0].mask, expected)
    assert open_dataset("cub:truth=boxes", tmp_path)[0].open().masks is None
    home = tmp_path / "CUB_200_2011"
    shutil.move(home / "segmentations", tmp_path / "segmentations")
    assert np.array_equal(open_dataset("cub:classes=own", tmp_path)[0].open().masks.values(label=0), expected)
    (tmp_path / "segmentations" / dataset.names[0] / "c.png").unlink()
    refused(lambda: open_dataset("cub", tmp_path)[1].open().masks, "c.png", "no such file")
    shutil.rmtree(tmp_path / "segmentations")
    assert open_dataset("cub", tmp_path)[0].open().masks is None
    refused(lambda: open_dataset("cub:truth=masks", tmp_path), "segmentations", "truth=boxes")


@pytest.mark.parametrize(
    ("table", "content", "words"),
    [
        ("bounding_boxes.txt", "1 4.0 3.0 4.0\n2 1 1 2 2\n3 1 1 2 2\n", "no x y width height"),
        ("bounding_boxes.txt", "1 4.0 3.0 0 6\n2 1 1 2 2\n3 1 1 2 2\n", "no x y width height"),
        ("bounding_boxes.txt", "1 4.0 a 4.0 6\n2 1 1 2 2\n3 1 1 2 2\n", "not all numbers"),
        ("bounding_boxes.txt", "3 0 0 5 5\n", "no row for picture 1"),
        ("image_class_labels.txt", "1 3\n2 1\n3 1\n", "no number from 1 to 2"),
        ("train_test_split.txt", "1 yes\n2 1\n3 0\n", "no number from 0 to 1"),
        ("images.txt", "1 ../x.jpg\n2 x.jpg\n3 001.Black_footed_Albatross/c.jpg\n", "not below"),
    ],
)
def test_a_malformed_row_of_cub_spoils_its_picture_alone(tmp_path, table, content, words):
    file = layouts.text(layouts.cub(tmp_path) / "CUB_200_2011" / table, content)
    dataset = open_dataset("cub", tmp_path)
    assert dataset.ids == ("1", "3")
    refused(lambda: dataset[0], str(file), words)
    assert dataset[1].open().picture.size == (WIDTH, HEIGHT)


# ImageNet-S


def test_imagenet_s_ids_are_synsets(tmp_path):
    root, file = layouts.imagenet_s(tmp_path)
    dataset = open_dataset(ImageNetS(categories=str(file)), root)
    items = by_id(dataset)
    shark = items["ILSVRC2012_val_n01484850"]
    assert dataset.names[1].startswith("great white shark")
    assert (shark.categories, shark.labels, shark.split, shark.boxes) == ((1,), (2,), "validation", None)
    masks = shark.open().masks
    assert [(region.category, region.label, int(region.mask.sum())) for region in masks.regions] == [
        (1, 2, 25),
        (2, 274, 9),
    ]
    assert int(masks.ignore.sum()) == 4
    assert (masks.values(label=274) == OBJECT).sum() == 9
    refused(lambda: open_dataset("imagenet-s", root), "2 class folders", "categories=FILE")
    mask = root / "ImageNetS50/validation-segmentation/n01484850/ILSVRC2012_val_n01484850.png"
    layouts.levels(mask, np.zeros((HEIGHT, WIDTH)))
    refused(lambda: shark.open().masks, str(mask), "not RGB")
    layouts.levels(mask, np.full((HEIGHT, WIDTH, 3), 2))
    refused(lambda: shark.open().masks, str(mask), "class id 514")


def test_imagenet_s_derives_the_order_of_its_folders(tmp_path):
    from vitscope.datasets import Synsets

    root, _ = layouts.imagenet_s(tmp_path)
    validation = root / "ImageNetS50" / "validation"
    wanted = {"n01443537", "n01484850"}
    others = [
        synset for synset in np.random.default_rng().permutation(Synsets.of_imagenet().ids) if synset not in wanted
    ]
    for synset in others[:48]:
        (validation / synset).mkdir()
    dataset = open_dataset("imagenet-s:variant=50", root)
    order = sorted([*wanted, *others[:48]])
    assert {item.id[-9:]: item.categories for item in dataset} == {name: (order.index(name),) for name in wanted}
    assert sorted(item.label for item in dataset) == [1, 2]
    (root / "ImageNetS300").mkdir()
    shutil.copytree(validation, root / "ImageNetS300" / "validation")
    (root / "ImageNetS300" / "validation-segmentation").mkdir()
    refused(lambda: open_dataset("imagenet-s", root), "ImageNetS50, ImageNetS300", "variant=")


# ImageNet-Segmentation


def test_imagenet_segmentation_reads_the_matlab_file(tmp_path):
    file = tmp_path / "gtsegs_ijcv.mat"
    pictures, masks = layouts.gtsegs(file)
    dataset = open_dataset("imagenet-segmentation", tmp_path)
    assert dataset.ids == ("n01440764_10040", "n00007846_2")
    assert [item.labels for item in dataset] == [(0,), None]  # the second is none of the thousand
    for item, pixels, mask in zip(open_dataset("imagenet-segmentation", file), pictures, masks, strict=True):
        opened = item.open()
        assert np.array_equal(np.asarray(opened.picture), pixels)
        assert np.array_equal(opened.masks.values(), mask)
        assert item.path is None


def test_imagenet_segmentation_names_a_damaged_file(tmp_path, monkeypatch):
    import h5py

    file = tmp_path / "gtsegs_ijcv.mat"
    layouts.gtsegs(file)
    with h5py.File(file, "r+") as content:
        content["#refs#/mask0"][0, 0] = 7
        content["value/img"][1, 0] = content["value/gt"][1, 0]
    dataset = open_dataset("imagenet-segmentation", tmp_path)
    refused(lambda: dataset[0].open().masks, str(file), "picture 0", "more than 0 and 1")
    refused(dataset[1].open, str(file), "picture 1")
    with h5py.File(file, "r+") as content:
        content["value/target"][0, 0] = h5py.Reference()
        content["value/id"][1, 0] = h5py.Reference()
    renamed = open_dataset("imagenet-segmentation", tmp_path)
    assert renamed.ids == ("n01440764_10040", "picture-1")
    refused(lambda: renamed[0], str(file), "picture 0", "synset")
    with h5py.File(file, "r+") as content:
        del content["value/target"], content["value/id"]
    assert [item.labels for item in open_dataset("imagenet-segmentation", tmp_path)] == [None, None]
    with h5py.File(file, "r+") as content:
        del content["value/gt"]
    refused(lambda: open_dataset("imagenet-segmentation", tmp_path), str(file), "/value/gt")
    file.write_bytes(file.read_bytes()[:500])
    refused(lambda: open_dataset("imagenet-segmentation", tmp_path), str(file), "MATLAB 7.3")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    refused(lambda: open_dataset("imagenet-segmentation", tmp_path), "vitscope[mat]")


# Pets


def test_pets_in_the_official_layout(tmp_path):
    dataset = open_dataset("pets", layouts.pets(tmp_path))
    assert dataset.ids == ("Abyssinian_100", "yorkshire_terrier_9")
    assert [item.categories for item in dataset] == [(0,), (36,)]
    assert dataset.names[36] == "yorkshire_terrier"
    assert list(BREEDS) == sorted(BREEDS, key=str.lower)
    masks = dataset[0].open().masks
    assert int(masks.regions[0].mask.sum()) == 25
    assert int(masks.ignore.sum()) == 64 - 25
    assert open_dataset("pets:split=test", tmp_path).ids == ("yorkshire_terrier_9",)
    refused(lambda: open_dataset("pets:split=trainval", tmp_path), "trainval.txt")
    trimap = tmp_path / "annotations" / "trimaps" / "Abyssinian_100.png"
    layouts.levels(trimap, np.zeros((HEIGHT, WIDTH)))
    refused(lambda: dataset[0].open().masks, str(trimap), "no trimap")
    listed = layouts.text(tmp_path / "annotations" / "list.txt", "Abyssinian_100 38 1 1\nyorkshire_terrier_9 1\n")
    broken = open_dataset("pets", tmp_path)
    refused(lambda: broken[0], str(listed), "38")
    refused(lambda: broken[1], str(listed), "breed id")


def test_real_pets_with_their_masks(shared):
    root = shared / "pets"
    dataset = open_dataset("pets:classes=own", root)
    assert len(dataset) == 74
    assert sorted(item.label for item in dataset) == sorted(2 * list(range(37)))
    for item in dataset:
        stored = np.asarray(Image.open(root / "masks" / f"{item.id}.png"))
        assert np.array_equal(item.open().masks.values(), (stored == 255).astype(np.uint8))
    refused(lambda: open_dataset("pets:split=test", root), "split=all")


# COCO


def test_a_crowd_without_a_pixel_spoils_no_picture(tmp_path):
    root = layouts.coco(tmp_path)
    (listed,) = (root / "annotations").glob("*.json")
    content = json.loads(listed.read_text())
    for one in content["annotations"]:
        if one["iscrowd"]:
            one["bbox"][2] = 0
    listed.write_text(json.dumps(content))
    opened = open_dataset("coco", root)[0].open()
    assert [box.aside for box in opened.boxes] == [False]


def test_coco_boxes_outlines_and_crowds(tmp_path):
    dataset = open_dataset("coco", layouts.coco(tmp_path))
    assert (dataset.ids, dataset.names) == (("139", "285"), ("person", "dog"))
    item, empty = dataset
    assert (item.categories, item.labels) == ((1,), None)
    assert [(box.edges, box.category, box.aside) for box in item.boxes] == [
        ((2, 3, 12, 7), 1, False),
        ((0, 0, 3, 2), 0, True),
    ]
    assert item.boxes[0].written == (2, 3, 10, 4)
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:7, 2:12] = OBJECT
    expected[0:2, 0:3] = IGNORE
    assert np.array_equal(item.open().masks.values(), expected)
    assert empty.boxes == ()
    assert not empty.open().masks.values().any()
    assert open_dataset("coco:classes_per_image=1", tmp_path).ids == ("139",)
    shutil.move(tmp_path / "val2017", tmp_path / "images" / "val2017")
    assert open_dataset("coco:classes=own", tmp_path)[0].label == 1


def test_coco_reads_compressed_runs_and_refuses_broken_ones(tmp_path, monkeypatch):
    import json

    file = layouts.coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text())
    mask = layouts.RNG.integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8)
    packed = rle.encode(np.asfortranarray(mask))

    def with_object(**fields):
        content = json.loads(json.dumps(whole))
        content["annotations"][0].update(fields)
        file.write_text(json.dumps(content))
        return open_dataset("coco", tmp_path)[0]

    item = with_object(segmentation={"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()})
    assert np.array_equal(item.open().masks.regions[0].mask, mask.astype(bool))
    for outline in (
        {"size": [HEIGHT + 1, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()[:-4]},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "abc"},
        {"size": [HEIGHT, WIDTH], "counts": 5},
        {"size": [HEIGHT, WIDTH], "counts": [3, 4]},
        {"size": [HEIGHT, WIDTH], "counts": [-3, HEIGHT * WIDTH + 3]},
        [[1, 2, 3, 4]],
        [],
        [["a"] * 6],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        None,
    ):
        item = with_object(segmentation=outline)
        refused(lambda item=item: item.open().masks, str(file), "picture 139", "outline")
    for fields in (
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, -3, 4]},
        {"bbox": [1, "a", 3, 4]},
        {"category_id": 5},
        {"category_id": [1]},
    ):
        refused(lambda fields=fields: with_object(**fields), str(file), "picture 139")
    for content in (file.read_text()[:50], "[]", '{"images": []}', '{"images": [3]}'):
        file.write_text(content)
        refused(lambda: open_dataset("coco", tmp_path), str(file), "no whole file")
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    refused(lambda: open_dataset("coco", tmp_path), "vitscope[coco]")


# A folder with masks


def test_a_folder_with_masks_and_labels(tmp_path):
    root = layouts.masks(tmp_path)
    dataset = open_dataset("masks:ignore=128", root)
    assert [item.labels for item in dataset] == [(7,), (1, 3)]
    assert [item.label for item in dataset] == [7, None]
    values = dataset[0].open().masks.values()
    assert (values == OBJECT).sum() == 18
    assert (values == IGNORE).sum() == WIDTH
    assert (open_dataset("masks", root)[0].open().masks.values() == OBJECT).sum() == 18 + WIDTH
    (root / "masks" / "a.png").rename(root / "masks" / "a.jpg")
    refused(lambda: open_dataset("masks", root)[0], "lossy a.jpg", "expected a.png")
    (root / "masks" / "a.jpg").unlink()
    refused(lambda: open_dataset("masks", root)[0], "no mask for a.png")
    listed = layouts.text(root / "labels.csv", "image,label\nb,dog\n")
    layouts.levels(root / "masks" / "a.png", np.zeros((HEIGHT, WIDTH)))
    refused(lambda: open_dataset("masks", root)[0], str(listed), "no row")
    refused(lambda: open_dataset("masks", root)[1], str(listed), "'dog'")
    listed.write_text("b,3\n")
    refused(lambda: open_dataset("masks", root), str(listed), "image,label")
    listed.unlink()
    assert [item.labels for item in open_dataset("masks", root)] == [None, None]
    refused(lambda: open_dataset("masks:ignore=0", root), "ignore=0")


def test_the_folder_of_masks_turns_pictures_upright(tmp_path):
    root = layouts.masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images" / "a.png").save(root / "images" / "a.png", exif=exif)
    refused(lambda: open_dataset("masks", root)[0].open().masks, "a.png")
    layouts.levels(root / "masks" / "a.png", np.ones((WIDTH, HEIGHT)))
    opened = open_dataset("masks", root)[0].open()
    assert opened.picture.size == (HEIGHT, WIDTH)
    assert opened.masks.values().all()


# The drawn scenes


def test_the_scenes_are_read_as_they_are_drawn():
    from vitscope.datasets import Scenes

    dataset = open_dataset("scenes:count=4,kind=two,drawing=9")
    for item, scene in zip(dataset, Scenes(4, "two", seed=9), strict=True):
        opened = item.open()
        assert np.array_equal(np.asarray(opened.picture), scene.image)
        assert item.labels == scene.labels
        for label in scene.labels:
            assert np.array_equal(opened.masks.values(label=label) == OBJECT, scene.mask(label))
        assert [box.edges for box in opened.boxes] == [thing.box for thing in scene.instances]
    refused(lambda: open_dataset("scenes:count=0"), "count=0")


def test_lists_with_a_name_twice_or_of_another_code_are_refused(tmp_path):
    voc = layouts.voc(tmp_path / "voc")
    listed = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("2007_000033\n2007_000033\n")
    refused(lambda: open_dataset("voc", voc), str(listed), "twice")
    listed.write_bytes(b"\xff\xfe\x00")
    refused(lambda: open_dataset("voc", voc), str(listed), "as text")
    listed.write_text("")
    refused(lambda: open_dataset("voc", voc), "holds nothing to read as voc")
    images = layouts.cub(tmp_path / "cub") / "CUB_200_2011" / "images.txt"
    images.write_text("1 a.jpg\n1 b.jpg\n")
    refused(lambda: open_dataset("cub", tmp_path / "cub"), str(images), "line 2", "twice")
    classes = layouts.text(images.parent / "classes.txt", "2 b\n1 a\n")
    images.write_text("1 a.jpg\n")
    refused(lambda: open_dataset("cub", tmp_path / "cub"), str(classes), "1, 2, 3")
    shutil.rmtree(layouts.coco(tmp_path / "coco") / "val2017")
    refused(lambda: open_dataset("coco", tmp_path / "coco"), "has no val2017")
    refused(lambda: open_dataset("coco:classes_per_image=9", layouts.coco(tmp_path / "coco")), "no picture has 9")
    layouts.picture(layouts.pets(tmp_path / "pets") / "images" / "Dodo_1.jpg")
    shutil.rmtree(tmp_path / "pets" / "annotations")
    (tmp_path / "pets" / "masks").mkdir()
    dodo = open_dataset("pets", tmp_path / "pets")
    refused(lambda: dodo[dodo.ids.index("Dodo_1")], "Dodo_1.jpg", "no breed")


def test_the_default_truth_is_named_by_its_class():
    with pytest.raises(DatasetError, match=r"truth=tables is not understood; it takes auto \| csv"):
        open_dataset(ImageNet(truth="tables"), ".")  # type: ignore[arg-type]
