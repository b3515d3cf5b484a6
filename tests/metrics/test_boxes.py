"""Localization by boxes, against OpenCV's own contours, a flood fill, and pixels counted one by one."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

import vitscope
from vitscope import metrics
from vitscope.images import Geometry
from vitscope.metrics import AGCAMLocalization, DAAMLocalization, GridMaps, MaxBoxAccuracy, Truth
from vitscope.metrics.presets import WHOLE
from vitscope.metrics.regions import box_iou, boxes_on_input, component_boxes, largest_box, painted


def smooth(rng, count=4, size=(48, 56)):
    """Maps of blobs, some of them with holes."""
    return GridMaps(torch.tensor(rng.random((count, 6, 7))), size)


def boxes_of(rng, size, count=2):
    y, x = (np.sort(rng.integers(0, side, (count, 2)), axis=1) for side in size)
    return torch.tensor(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1))


def truth_of(rng, maps):
    boxes = [boxes_of(rng, maps.size) for _ in range(len(maps))]
    return Truth(masks=torch.stack([painted(one, maps.size) for one in boxes]), boxes=boxes)


def flooded(mask):
    """Components by filling from each pixel over its 8 neighbours: a list of sets of (y, x)."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    components = []
    while left:
        found, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                found.add((y, x))
                edge += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        components.append(found)
    return components


def scaled_by_hand(maps):
    pixels = maps.bilinear.numpy().astype(np.float64)
    low, high = pixels.min(axis=(1, 2), keepdims=True), pixels.max(axis=(1, 2), keepdims=True)
    return (pixels - low) / (high - low)


def five(predicted, truth, eps=1e-5):
    """The five values, pixel by pixel."""
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    tp = fp = fn = tn = 0
    for at in np.ndindex(truth.shape):
        tp += predicted[at] and truth[at]
        fp += predicted[at] and not truth[at]
        fn += not predicted[at] and truth[at]
        tn += not predicted[at] and not truth[at]
    return {
        "pixel_accuracy": (tp + tn + eps) / (truth.size + eps),
        "iou": (tp + eps) / (tp + fp + fn + eps),
        "dice": (2 * tp + eps) / (2 * tp + fp + fn + eps),
        "precision": (tp + eps) / (tp + fp + eps),
        "recall": (tp + eps) / (tp + fn + eps),
    }


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_agcam_is_opencvs_contours_and_rectangles(threshold):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    rng = np.random.default_rng()
    maps = smooth(rng, 6)
    truth = truth_of(rng, maps)
    found = AGCAMLocalization(threshold)(maps, truth)
    for image, values in enumerate(scaled_by_hand(maps)):
        binary = (values > threshold).astype(np.uint8)
        contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        predicted, real = np.zeros_like(binary), np.zeros_like(binary)
        for contour in contours:
            x, y, width, height = cv2.boundingRect(contour)
            cv2.rectangle(predicted, (x, y), (x + width, y + height), 1, -1)
        for x0, y0, x1, y1 in truth.boxes[image].tolist():
            cv2.rectangle(real, (x0, y0), (x1, y1), 1, -1)
        for name, value in five(predicted, real).items():
            assert float(found.values[name][image]) == pytest.approx(value, abs=1e-9), name


def test_components_are_those_of_a_flood_fill():
    rng = np.random.default_rng()
    for _ in range(20):
        mask = rng.random((14, 11)) < 0.3
        components = flooded(mask)
        boxes = {
            (min(x for _, x in c), min(y for y, _ in c), max(x for _, x in c), max(y for y, _ in c)) for c in components
        }
        assert set(component_boxes(mask)) == boxes
        size = max(map(len, components))
        assert largest_box(mask) in {
            (min(x for _, x in c), min(y for y, _ in c), max(x for _, x in c), max(y for y, _ in c))
            for c in components
            if len(c) == size
        }
    assert largest_box(np.zeros((3, 3), dtype=bool)) is None


def test_agcam_by_hand():
    values = torch.zeros(1, 6, 6)
    values[0, 1, 1] = values[0, 3, 2] = 1.0  # two components; "beyond" paints (1..2, 1..2) and (2..3, 3..4)
    truth = Truth(masks=painted([(1, 1, 2, 2)], (6, 6))[None])
    beyond = AGCAMLocalization(eps=0)(GridMaps(values, (6, 6)), truth).values
    assert beyond["iou"].item() == pytest.approx(4 / 8)
    assert beyond["precision"].item() == pytest.approx(4 / 8)
    assert beyond["recall"].item() == 1
    assert beyond["dice"].item() == pytest.approx(2 * 4 / 12)
    assert beyond["pixel_accuracy"].item() == pytest.approx(32 / 36)
    tight = AGCAMLocalization(eps=0, corner="tight")(GridMaps(values, (6, 6)), truth).values
    assert tight["iou"].item() == pytest.approx(1 / 5)


def test_agcam_predicts_nothing_where_no_value_is_above_the_threshold():
    values = torch.tensor([[[-1.0, -1.0], [-1.0, -1.0]], [[0.0, 1.0], [2.0, 2.0]]])  # flat, and 1 of 2 is .5 itself
    truth = Truth(masks=torch.tensor([[[True, False], [False, False]], [[False, True], [False, False]]]))
    found = AGCAMLocalization(corner="tight")(GridMaps(values, (2, 2)), truth).values
    assert found["precision"].tolist() == pytest.approx([1.0, 0.0], abs=1e-4)
    assert found["iou"].tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_daam_finds_a_picture_at_an_iou_of_one_half():
    values = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    truth = Truth(masks=torch.tensor([[[True, False], [False, False]]]))
    found = DAAMLocalization(corner="tight")(GridMaps(values, (2, 2)), truth).values
    assert (found["iou"].item(), found["accuracy"].item()) == (0.5, 1.0)


@pytest.mark.parametrize("corner", ["tight", "beyond"])
def test_daam_is_the_largest_components_box(corner):
    rng = np.random.default_rng()
    maps = smooth(rng, 5)
    truth = truth_of(rng, maps)
    found = DAAMLocalization(0.6, corner=corner)(maps, truth).values
    for image, values in enumerate(scaled_by_hand(maps)):
        best = max(flooded(values >= 0.6), key=len)
        ys, xs = zip(*best, strict=True)
        more = corner == "beyond"
        predicted = np.zeros(values.shape, dtype=bool)
        predicted[min(ys) : max(ys) + 1 + more, min(xs) : max(xs) + 1 + more] = True
        iou = five(predicted, truth.masks[image].numpy(), eps=0)["iou"]
        assert found["iou"][image].item() == pytest.approx(iou, abs=1e-9)
        assert found["accuracy"][image].item() == (iou >= 0.5)


def test_max_box_accuracy_is_the_loop_over_thresholds_and_boxes():
    rng = np.random.default_rng()
    maps = smooth(rng, 4, (24, 28))
    truth = truth_of(rng, maps)
    metric = MaxBoxAccuracy(steps=11)
    found = metric(maps, truth)
    table = np.zeros((4, 11))
    for image, values in enumerate(scaled_by_hand(maps)):
        for t in range(11):
            for component in flooded(values >= t / 10):
                ys, xs = zip(*component, strict=True)
                mine = np.zeros(values.shape, dtype=bool)
                mine[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = True
                for box in truth.boxes[image]:
                    real = painted(box[None], maps.size).numpy()
                    table[image, t] = max(table[image, t], (mine & real).sum() / (mine | real).sum())
    np.testing.assert_allclose(found.curves["box_iou"].y, table, atol=1e-9)
    state, halves = metric.state(), (metric.state(), metric.state())
    state.update(found)
    for half, part in zip(halves, (slice(0, 1), slice(1, 4)), strict=True):
        half.update(metric(GridMaps(maps.values[part], maps.size), Truth(boxes=truth.boxes[part])))
    halves[0].merge(halves[1])
    expected = {f"{delta:g}": max((table >= delta).mean(axis=0)) for delta in (0.3, 0.5, 0.7)}
    expected["v2"] = sum(expected.values()) / 3
    assert state.compute() == pytest.approx(expected)
    assert halves[0].compute() == pytest.approx(expected)


def test_painted_boxes_are_those_of_a_loop_and_cut_at_the_edges():
    """Boxes that lie wholly outside paint nothing: an end before -1 is no index from behind."""
    rng = np.random.default_rng()
    height, width = size = tuple(rng.integers(1, 15, 2).tolist())
    corners = rng.integers(-20, 20, (30, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 12, (30, 2))], axis=1)
    for left, top, right, bottom in [*boxes.tolist(), (-10, -10, -5, -5), (-1, -1, -1, -1)]:
        found = painted([(left, top, right, bottom)], size)
        for y in range(height):
            for x in range(width):
                assert found[y, x].item() == (left <= x <= right and top <= y <= bottom)


def test_box_iou_counts_pixels():
    rng = np.random.default_rng()
    ours, theirs = boxes_of(rng, (20, 17), 5), boxes_of(rng, (20, 17), 4)
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            one, two = (painted(box[None], (20, 17)) for box in (a, b))
            assert box_iou(ours, theirs)[i, j].item() == pytest.approx(((one & two).sum() / (one | two).sum()).item())


@pytest.mark.parametrize("metric", [AGCAMLocalization(corner="tight"), DAAMLocalization(0.5, corner="tight")])
def test_the_box_itself_is_perfect_its_inverse_is_not_and_units_do_not_matter(metric):
    rng = np.random.default_rng()
    size = (40, 44)
    boxes = torch.tensor([[5, 7, 20, 22], [12, 3, 30, 33], [2, 2, 38, 38]])
    masks = torch.stack([painted(box[None], size) for box in boxes])
    truth = Truth(masks=masks)
    perfect = metric(GridMaps(masks.float(), size), truth).values
    inverted = metric(GridMaps(1 - masks.float(), size), truth).values
    for name, value in perfect.items():
        assert (value > 1 - 1e-6).all(), name
    assert (inverted["iou"] < perfect["iou"]).all()
    whole = torch.tensor(rng.integers(0, 256, (3, 5, 11)))  # exact in float32, enlarged by 8 and 4 as well
    maps, moved = GridMaps(whole.double(), size), GridMaps(whole.double() * 4 - 512, size)
    for name, value in metric(maps, truth).values.items():
        torch.testing.assert_close(metric(moved, truth).values[name], value)


@pytest.mark.parametrize("metric", [AGCAMLocalization(), DAAMLocalization()])
def test_a_constant_map_is_the_whole_frame_and_zeros_are_nothing(metric):
    size = (20, 20)
    masks = torch.stack([painted([(3, 3, 8, 8)], size), torch.ones(size, dtype=torch.bool)])
    frame = metric(GridMaps(torch.full((2, 4, 4), 0.1), size), Truth(masks=masks)).values["iou"]
    torch.testing.assert_close(frame, masks.double().mean(dim=(1, 2)), atol=1e-5, rtol=0)
    assert (metric(GridMaps(torch.zeros(2, 4, 4), size), Truth(masks=masks)).values["iou"] < 1e-6).all()
    empty = Truth(masks=torch.zeros(1, *size, dtype=torch.bool))
    assert metric(GridMaps(torch.rand(1, 4, 4), size), empty).values["iou"].item() < 1e-6


def test_boxes_come_to_the_input_scaled_truncated_and_cut():
    squash = Geometry((375, 500), (224, 224), (0, 0, 224, 224))
    boxes = torch.tensor([[111, 108, 265, 494], [499, 374, 600, 700], [0, 0, 1, 1]])
    by_hand = [
        [int(111 * 224 / 500), int(108 * 224 / 375), int(265 * 224 / 500), 223],
        [int(499 * 224 / 500), int(374 * 224 / 375), 223, 223],
        [0, 0, 0, 0],
    ]
    assert boxes_on_input(boxes, squash).tolist() == by_hand
    cropped = Geometry((100, 200), (50, 100), (5, 30, 40, 40))
    assert boxes_on_input(torch.tensor([[0, 0, 40, 40], [80, 20, 199, 99]]), cropped).tolist() == [[10, 5, 39, 39]]


def test_truth_that_is_missing_is_named():
    maps = GridMaps(torch.rand(1, 3, 3), (9, 9))
    with pytest.raises(vitscope.MetricError, match="agcam needs the masks"):
        AGCAMLocalization()(maps, Truth())
    with pytest.raises(vitscope.MetricError, match="no picture was seen"):
        MaxBoxAccuracy().state().compute()


@pytest.mark.slow
def test_the_papers_protocol_on_real_photographs(shared):
    """145 of the 200 photographs are classified correctly; the numbers are those of the official code on this model."""
    rows = list(csv.DictReader((shared / "imagenet" / "LOC_val_solution.csv").open()))
    synsets = [line.split()[0] for line in (shared / "imagenet" / "LOC_synset_mapping.txt").open()]
    files = {path.stem: path for path in (shared / "imagenet" / "val").rglob("*") if path.is_file()}
    explainer = vitscope.Explainer(
        "timm/vit_tiny_patch16_224", shared / "weights" / "vit_tiny_patch16_224.safetensors", preprocessing=WHOLE
    )
    wanted = metrics.as_metrics("agcam,daam")
    results: dict[str, list[torch.Tensor]] = {}
    rows = [row for row in rows if row["ImageId"] in files]
    for start in range(0, len(rows), 20):
        part = rows[start : start + 20]
        explanation = explainer([str(files[row["ImageId"]]) for row in part], "agcam,daam,frame")
        words = [row["PredictionString"].split() for row in part]
        right = explanation.logits.argmax(dim=1) == torch.tensor([synsets.index(word[0]) for word in words])
        masks = []
        for word, geometry in zip(words, explanation.subject.batch.geometries, strict=True):
            numbers = [[int(n) for n in word[at + 1 : at + 5]] for at in range(0, len(word), 5)]
            masks.append(painted(boxes_on_input(torch.tensor(numbers), geometry), (224, 224)))
        truth = Truth(masks=torch.stack(masks)[right])
        for metric in metrics.computations(wanted):
            maps = explanation[metrics.registry.group_of(metric)].values[right]
            for name, column in metrics.rows_of(metric, metric(GridMaps(maps, (224, 224)), truth)).items():
                results.setdefault(name, []).append(column)
        frame = GridMaps(explanation["frame"].values[right], (224, 224))
        results.setdefault("frame", []).append(AGCAMLocalization()(frame, truth).values["iou"])
    columns = {name: torch.cat(parts) for name, parts in results.items()}
    assert {len(column) for column in columns.values()} == {145}
    expected = {
        "agcam/pixel_accuracy@0.5": 0.636,
        "agcam/iou@0.5": 0.375,
        "agcam/dice@0.5": 0.5145,
        "agcam/precision@0.5": 0.828,
        "agcam/recall@0.5": 0.447,
        "daam/iou@0.05": 0.593,
        "daam/accuracy@0.05": 0.669,
        "frame": 0.52,
    }
    assert {name: column.mean().item() for name, column in columns.items()} == pytest.approx(expected, abs=5e-3)
    localized = {name: value for name, value in expected.items() if name.startswith("agcam/")}
    assert {name: columns[name].mean().item() for name in localized} == pytest.approx(localized, abs=5e-4)
