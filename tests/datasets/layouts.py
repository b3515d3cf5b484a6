"""The folders of published data sets, tiny, written by hand in their exact layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 30
RNG = np.random.default_rng()


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def levels(path: Path, values: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = image.convert("L")
        image.putpalette([int(v) for v in RNG.integers(0, 256, 768)])
    image.save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def pascal(path: Path, objects: list[tuple[str, tuple[float, ...], int]]) -> Path:
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
        for name, (x1, y1, x2, y2), difficult in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return text(path, f"<annotation><filename>{path.stem}.jpg</filename>{size}{body}</annotation>")


def imagenet_csv(root: Path) -> Path:
    for name in ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002", "ILSVRC2012_val_00000003"):
        picture(root / "val" / f"{name}.JPEG")
    text(
        root / "LOC_val_solution.csv",
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n01440764 1 2 10 12 n01440764 0 0 29 19 \n"
        "ILSVRC2012_val_00000001,n01443537 5 6 7 8 \n"
        "ILSVRC2012_val_00000003,n01484850 0 0 3 3 \n",
    )
    return root


def voc(root: Path) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    for name in ("2007_000033", "2007_000042", "2007_000061"):
        picture(home / "JPEGImages" / f"{name}.jpg")
    pascal(
        home / "Annotations" / "2007_000033.xml", [("aeroplane", (1, 1, 10, 10), 0), ("aeroplane", (12, 3, 30, 20), 1)]
    )
    pascal(home / "Annotations" / "2007_000042.xml", [("train", (2, 3, 8.5, 9), 0), ("person", (11, 11, 20, 20), 0)])
    pascal(home / "Annotations" / "2007_000061.xml", [("boat", (5, 5, 6, 6), 0)])
    text(home / "ImageSets" / "Segmentation" / "val.txt", "2007_000033\n2007_000042\n")
    text(home / "ImageSets" / "Main" / "val.txt", "2007_000033\n2007_000042\n2007_000061\n")
    classes, objects = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    classes[0:10, 0:10], objects[0:10, 0:10] = 1, 1
    classes[2:20, 11:30], objects[2:20, 11:30] = 1, 2
    classes[10, :], objects[10, :] = 255, 255
    levels(home / "SegmentationClass" / "2007_000033.png", classes, palette=True)
    levels(home / "SegmentationObject" / "2007_000033.png", objects, palette=True)
    classes, objects = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    classes[2:9, 1:8], objects[2:9, 1:8] = 19, 1
    classes[10:20, 10:20], objects[10:20, 10:20] = 15, 2
    levels(home / "SegmentationClass" / "2007_000042.png", classes, palette=True)
    levels(home / "SegmentationObject" / "2007_000042.png", objects, palette=True)
    return root


def cub(root: Path) -> Path:
    home = root / "CUB_200_2011"
    names = (
        "001.Black_footed_Albatross/a_0001.jpg",
        "002.Laysan_Albatross/b_0002.jpg",
        "001.Black_footed_Albatross/c.jpg",
    )
    for index, name in enumerate(names):
        picture(home / "images" / name)
        shades = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        shades[3:9, 4 : 8 + index] = 153
        shades[0, 0], shades[1, 1] = 102, 255
        levels((home / "segmentations" / name).with_suffix(".png"), shades)
    text(home / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    text(home / "image_class_labels.txt", "1 1\n2 2\n3 1\n")
    text(home / "train_test_split.txt", "1 0\n2 1\n3 0\n")
    text(home / "bounding_boxes.txt", "1 4.0 3.0 4.0 6.0\n2 4.0 3.0 5.0 6.0\n3 0.0 0.0 30.0 20.0\n")
    text(home / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return root


def imagenet_s(root: Path) -> tuple[Path, Path]:
    """The folder, and the file of its three synsets."""
    home = root / "ImageNetS50"
    synsets = ("n01443537", "n01484850", "n02115913")
    for synset in synsets[:2]:
        picture(home / "validation" / synset / f"ILSVRC2012_val_{synset}.JPEG")
        ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
        ids[0:5, 0:5], ids[6:9, 6:9], ids[10:12, 10:12] = synsets.index(synset) + 1, 3, 1000
        colours = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)
        levels(home / "validation-segmentation" / synset / f"ILSVRC2012_val_{synset}.png", colours)
    return root, text(root / "categories.txt", "".join(f"{synset}\n" for synset in synsets))


def gtsegs(file: Path, names: tuple[str, ...] = ("n01440764_10040", "n00007846_2")) -> tuple[list, list]:
    """The file by h5py as MATLAB writes it; the pictures (H W 3) and the masks (H W) that are in it."""
    import h5py

    pictures = [RNG.integers(0, 256, (HEIGHT + i, WIDTH, 3), dtype=np.uint8) for i in range(len(names))]
    masks = [RNG.integers(0, 2, (HEIGHT + i, WIDTH), dtype=np.uint8) for i in range(len(names))]
    letters = h5py.special_dtype(ref=h5py.Reference)
    with h5py.File(file, "w") as out:
        refs = {field: np.empty((len(names), 1), dtype=letters) for field in ("img", "gt", "id", "target")}
        for i, name in enumerate(names):
            held = {
                "img": pictures[i].transpose(2, 1, 0),
                "mask": masks[i].T,
                "id": np.array([[ord(c)] for c in name], dtype=np.uint16),
                "target": np.array([[ord(c)] for c in name.partition("_")[0]], dtype=np.uint16),
            }
            for field, values in held.items():
                out[f"#refs#/{field}{i}"] = values
            cell = np.empty((1, 1), dtype=letters)
            cell[0, 0] = out[f"#refs#/mask{i}"].ref
            out.create_dataset(f"#refs#/gt{i}", data=cell, dtype=letters)
            for field in refs:
                refs[field][i, 0] = out[f"#refs#/{field}{i}"].ref
        for field, values in refs.items():
            out.create_dataset(f"value/{field}", data=values, dtype=letters)
    return pictures, masks


def pets(root: Path) -> Path:
    for name in ("Abyssinian_100", "yorkshire_terrier_9"):
        picture(root / "images" / f"{name}.jpg")
        trimap = np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)
        trimap[4:12, 4:12], trimap[5:10, 5:10] = 3, 1
        levels(root / "annotations" / "trimaps" / f"{name}.png", trimap)
    rows = "Abyssinian_100 1 1 1\nyorkshire_terrier_9 37 2 25\n"
    text(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n" + rows)
    text(root / "annotations" / "test.txt", "yorkshire_terrier_9 37 2 25\n")
    return root


def coco(root: Path) -> Path:
    for name in ("000000000139.jpg", "000000000285.jpg"):
        picture(root / "val2017" / name)
    crowd = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    crowd[0:2, 0:3] = 1
    flat, counts, last = crowd.ravel(order="F"), [0], 0
    for value in flat:
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    square = {"id": 1, "image_id": 139, "category_id": 18, "iscrowd": 0, "area": 40, "bbox": [2, 3, 10, 4]}
    square["segmentation"] = [[2, 3, 12, 3, 12, 7, 2, 7]]
    group = {"id": 2, "image_id": 139, "category_id": 1, "iscrowd": 1, "area": 6, "bbox": [0, 0, 3, 2]}
    group["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    content = {
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 285, "file_name": "000000000285.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [square, group],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    text(root / "annotations" / "instances_val2017.json", json.dumps(content))
    return root


def masks(root: Path) -> Path:
    for name in ("a", "b"):
        picture(root / "images" / f"{name}.png")
        values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        values[2:5, 3:9], values[10, :] = 255, 128
        levels(root / "masks" / f"{name}.png", values)
    text(root / "labels.csv", "image,label\na.png,7\nb,3\nb,1\n")
    return root
