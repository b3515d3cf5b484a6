"""The same folders, read by torchvision and by pycocotools."""

from __future__ import annotations

import numpy as np
from pycocotools.coco import COCO
from torchvision.datasets import OxfordIIITPet, VOCDetection, VOCSegmentation

from tests.datasets import layouts
from vitscope.datasets import OBJECT, VOC, open_dataset
from vitscope.datasets.voc import CLASSES


def test_voc_as_torchvision_reads_it(tmp_path):
    root = layouts.voc(tmp_path)
    boxes = VOCDetection(str(root), year="2012", image_set="val")
    for item, (picture, found) in zip(open_dataset(VOC(task="detection"), root), boxes, strict=True):
        assert np.array_equal(np.asarray(item.open().picture), np.asarray(picture))
        objects = found["annotation"]["object"]
        assert [CLASSES[box.category] for box in item.boxes] == [one["name"] for one in objects]
        corners = [[float(one["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
        assert [list(box.written) for box in item.boxes] == corners
    masks = VOCSegmentation(str(root), year="2012", image_set="val")
    for item, (_, values) in zip(open_dataset("voc", root), masks, strict=True):
        stored = np.asarray(values)
        mine = item.open().masks
        assert np.array_equal(mine.ignore, stored == 255)
        for category in item.categories:
            assert np.array_equal(mine.values(category=category) == OBJECT, stored == category + 1)


def test_pets_as_torchvision_reads_them(tmp_path):
    layouts.pets(tmp_path / "oxford-iiit-pet")
    theirs = OxfordIIITPet(str(tmp_path), split="test", target_types=["category", "segmentation"])
    mine = open_dataset("pets:split=test,classes=own", tmp_path)
    (picture, (_, trimap)), (item,) = theirs[0], mine
    assert np.array_equal(np.asarray(item.open().picture), np.asarray(picture))
    assert np.array_equal(item.open().masks.values() == OBJECT, np.asarray(trimap) == 1)


def test_coco_as_its_own_library_reads_it(tmp_path, capsys):
    root = layouts.coco(tmp_path)
    theirs = COCO(str(root / "annotations" / "instances_val2017.json"))
    for item in open_dataset("coco", root):
        records = theirs.loadAnns(theirs.getAnnIds(imgIds=int(item.id), iscrowd=False))
        names = [theirs.loadCats(one["category_id"])[0]["name"] for one in records]
        masks = item.open().masks
        dataset_names = open_dataset("coco", root).names
        assert [dataset_names[region.category] for region in masks.regions] == names
        for region, one in zip(masks.regions, records, strict=True):
            assert np.array_equal(region.mask, theirs.annToMask(one).astype(bool))
        for crowd in theirs.loadAnns(theirs.getAnnIds(imgIds=int(item.id), iscrowd=True)):
            assert np.array_equal(masks.ignore, theirs.annToMask(crowd).astype(bool))
    assert "loading" in capsys.readouterr().out  # theirs prints; the reader does not
    list(open_dataset("coco", root))
    assert capsys.readouterr().out == ""
