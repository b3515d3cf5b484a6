"""Nodules: outlines, readers' agreement, crops of 1 mm, three views; and the phantoms that they are tested on."""

from dataclasses import replace

import numpy as np
import pytest
from examples.lung_nodules.annotations import Contour, Reading, read_annotations
from examples.lung_nodules.nodules import ROOM, SIDE, VIEWS, nodules_of, painted, view_of, views_of, windowed
from examples.lung_nodules.phantom import LUNG, Nodule, random_scan
from examples.lung_nodules.scans import read_scan
from examples.lung_nodules.study import off_middle
from examples.lung_nodules.tree import outlines, ratings
from scipy import ndimage

from tests.examples.phantoms import BALL, ball_scan, change, written
from vitscope.errors import DatasetError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def scan(folder):
    return read_scan(folder)


def blob(seed: int) -> np.ndarray:
    """A connected shape without holes, (40 40) bool."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((40, 40)), 3.5)
    noise[[0, 1, 2, -1, -2, -3]] = noise[:, [0, 1, 2, -1, -2, -3]] = -9
    labels, count = ndimage.label(noise > 0.02)
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + np.argmax(sizes))


def contours(scan, mask: np.ndarray, index: int = 9, inclusion: bool = True) -> tuple[Contour, ...]:
    uid = next(uid for uid, place in scan.slices.items() if place == index)
    return tuple(Contour(uid, tuple(line), inclusion) for line in outlines(mask))


def whole(scan, patch) -> np.ndarray:
    (z, y, x), mask = patch
    volume = np.zeros(scan.volume.shape, dtype=bool)
    volume[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] = mask
    return volume


@pytest.mark.parametrize("seed", range(12))
def test_outlines_enclose_what_they_were_drawn_around(scan, seed):
    mask = np.zeros(scan.volume.shape[1:], dtype=bool)
    mask[8:48, 8:48] = blob(seed)
    lines = outlines(mask)
    assert not any(mask[y, x] for line in lines for x, y in line), "an outline runs outside of what it encloses"
    steps = [np.abs(np.diff(line, axis=0)).max(axis=1) for line in lines]
    assert all((step == 1).all() for step in steps), "each point is beside the next"
    found = whole(scan, painted(scan, contours(scan, mask)))
    assert found[:9].sum() == found[10:].sum() == 0
    # A cleft of one pixel is all outline, and cannot be told from nodule that is as thin.
    assert (found[9] != mask).sum() <= 0.02 * mask.sum()


def test_an_excluding_outline_takes_a_hole_out(scan):
    rows, columns = np.ogrid[:60, :60]
    disk, hole = ((rows - 30) ** 2 + (columns - 30) ** 2 <= radius**2 for radius in (12, 4))
    found = whole(scan, painted(scan, contours(scan, hole, inclusion=False) + contours(scan, disk)))[9]
    assert np.array_equal(found, disk & ~hole)


def test_a_ball_comes_out_as_a_ball_of_its_size_in_all_three_views(folder, scan):
    (nodule,), left_out = nodules_of(scan, read_annotations(next(folder.glob("*.xml"))))
    assert left_out == []
    assert nodule.diameter == pytest.approx(14, abs=1.0)
    for view in views_of(nodule):
        assert 2 * np.sqrt(view.mask.sum() / np.pi) == pytest.approx(14, abs=1.2), view.name
        middle = np.argwhere(view.mask).mean(axis=0)
        assert np.abs(middle - SIDE / 2).max() <= 1.0
        inside, outside = view.picture[view.mask].mean(), view.picture[~view.mask].mean()
        assert inside > 150 > 60 > outside
        assert (view.picture[..., 0] == view.picture[..., 2]).all()


def test_views_are_slices_across_z_y_and_x():
    hu = np.random.default_rng(0).uniform(-1000, 400, (SIDE, SIDE, SIDE)).astype(np.float32)
    found = views_of(nodule_of(hu))
    half = SIDE // 2
    assert np.array_equal(found[0].picture[..., 0], windowed(hu[half]))
    assert np.array_equal(found[1].picture[..., 0], windowed(hu[::-1, half]))
    assert np.array_equal(found[2].picture[..., 0], windowed(hu[::-1, :, half]))


@pytest.mark.parametrize(("down", "right"), [(ROOM, -3), (-5, ROOM), (-ROOM, -ROOM), (0, 0)])
def test_a_view_off_the_middle_is_the_same_slice_moved(down, right):
    side = SIDE + 2 * ROOM
    hu = np.random.default_rng(0).uniform(-1000, 400, (side, side, side)).astype(np.float32)
    for axis, name in enumerate(VIEWS):
        found = view_of(nodule_of(hu), name, down, right)
        whole = hu.take(side // 2, axis)[:: -1 if axis else 1]
        expected = np.roll(whole, (down, right), axis=(0, 1))[ROOM:-ROOM, ROOM:-ROOM]
        assert np.array_equal(found.picture[..., 1], windowed(expected))
        assert np.array_equal(found.mask, expected > 0)
        assert np.array_equal(found.calcium, expected > 200)


def test_every_view_can_be_moved_off_the_middle_with_its_nodule(folder, scan):
    (nodule,), _ = nodules_of(scan, read_annotations(next(folder.glob("*.xml"))))
    views = views_of(nodule) * 4
    moved = off_middle(views, seed=1)
    centres = np.array([np.argwhere(view.mask).mean(axis=0) for view in moved]) - SIDE / 2
    assert np.hypot(*centres.T) == pytest.approx(ROOM, abs=2.5)
    assert len({tuple(np.sign(centre)) for centre in centres.round()}) > 2, "in all directions"
    assert [view.name for view in moved] == [view.name for view in views]
    sizes = [[view.mask.sum() for view in some] for some in (views, moved)]
    assert np.allclose(*sizes, rtol=0.1)


def nodule_of(hu):
    from examples.lung_nodules.nodules import Nodule as Cut

    return Cut("a", "p", {"malignancy": 3.0}, 4, 10.0, hu, hu > 0)


def test_the_window_is_the_papers():
    assert windowed(np.array([-2000, -1000, -300, 400, 3000], dtype=np.float32)).tolist() == [0, 0, 128, 255, 255]


def test_a_mean_of_three_is_neither_malignant_nor_benign():
    hu = np.zeros((SIDE, SIDE, SIDE), dtype=np.float32)
    said = [replace(nodule_of(hu), ratings={"malignancy": mean}).malignant for mean in (2.75, 3.0, 3.25)]
    assert said == [False, None, True]


def test_two_readers_must_agree_and_each_has_one_voice(scan):
    rows, columns = np.ogrid[:60, :60]

    def reading(reader, centre, radius=6):
        disk = (rows - 30) ** 2 + (columns - centre) ** 2 <= radius**2
        lines = tuple(c for index in (8, 9, 10) for c in contours(scan, disk, index))
        return Reading(reader, f"n{reader}", dict.fromkeys(ratings(BALL), 3), lines)

    (agreed,), none = nodules_of(scan, [reading(0, 28), reading(1, 30), reading(2, 32)])
    (alone,), _ = nodules_of(scan, [reading(1, 30), reading(0, 30)])
    assert none == []
    assert agreed.readers == 3
    assert agreed.mask.sum() == pytest.approx(alone.mask.sum(), rel=0.15), "where two of the three overlap"
    assert nodules_of(scan, [reading(0, 30)]) == ([], ["PHANTOM-0001-1: 1 reader of the 2 that are asked for"])
    assert "in two parts" in nodules_of(scan, [reading(0, 24, 4), reading(1, 30, 8), reading(0, 36, 4)])[1][0]
    apart, _ = nodules_of(scan, [reading(0, 15), reading(1, 15), reading(0, 45), reading(1, 45)])
    assert len(apart) == 2


def test_readings_are_averaged_and_calcium_is_a_share_of_readers(scan):
    disk = (np.ogrid[:60, :60][0] - 30) ** 2 + (np.ogrid[:60, :60][1] - 30) ** 2 <= 36
    lines = tuple(c for index in (8, 9, 10) for c in contours(scan, disk, index))
    said = [dict.fromkeys(ratings(BALL), 2) | {"calcification": 6}, dict.fromkeys(ratings(BALL), 5)]
    (nodule,), _ = nodules_of(scan, [Reading(k, "n", one, lines) for k, one in enumerate(said)])
    assert nodule.ratings["malignancy"] == 3.5
    assert nodule.ratings["calcified"] == 0.5


@pytest.mark.parametrize(
    ("contour", "words"),
    [
        (Contour("9.9", ((1, 1), (5, 1), (5, 5)), True), "is not in the series"),
        (Contour("", ((1, 1), (500, 1), (5, 5)), True), "leaves its picture"),
    ],
)
def test_an_outline_that_does_not_fit_the_scan_is_an_error(scan, contour, words):
    contour = replace(contour, slice=contour.slice or next(iter(scan.slices)))
    with pytest.raises(DatasetError, match=words):
        painted(scan, [contour])


def test_a_scan_stored_upside_down_gives_the_same_nodule_turned(tmp_path, folder, scan):
    turned = written(tmp_path)
    change(turned, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    readings = read_annotations(next(folder.glob("*.xml")))
    (plain,), _ = nodules_of(scan, readings)
    (other,), _ = nodules_of(read_scan(turned), readings)
    assert np.array_equal(other.mask, plain.mask[:, ::-1, ::-1])


def test_phantoms_are_the_same_for_the_same_seed_and_differ_for_another():
    assert np.array_equal(random_scan(3).render(), random_scan(3).render())
    assert not np.array_equal(random_scan(3).render(), random_scan(4).render())


def drawn(nodule: Nodule) -> np.ndarray:
    return ball_scan(nodule, spacing=(1.0, 1.0, 1.0)).render().astype(float)


@pytest.mark.parametrize(
    ("field", "value", "low", "high"),
    [
        ("texture", 0.2, -2, 20),
        ("calcified", True, 2.5, 20),
        ("spiculation", 1.0, -8, 1),
        ("lobulation", 1.0, -5, 3),
        ("margin", 0.0, -4, 4),
    ],
)
def test_each_property_changes_its_own_part_of_the_picture(field, value, low, high):
    scan = ball_scan(spacing=(1.0, 1.0, 1.0))
    _, offsets = scan.around(BALL, 100)
    depth = BALL.body(offsets)
    changed = np.abs(drawn(replace(BALL, **{field: value})) - drawn(BALL)) > 60
    assert changed.sum() > 30
    assert low < depth[changed].min() < depth[changed].max() < high
    if field == "spiculation":
        assert (depth[changed] < 0).mean() > 0.9


def test_malignancy_hangs_on_spikes_and_size_alone():
    for name, value in {"texture": 0.0, "calcified": True, "margin": 0.0, "lobulation": 1.0, "seed": 9}.items():
        assert replace(BALL, **{name: value}).malignancy == BALL.malignancy
    assert replace(BALL, spiculation=1.0).malignancy > BALL.malignancy + 2.9
    assert replace(BALL, diameter=20.0).malignancy == pytest.approx(2.0)
    assert drawn(BALL)[20, 2, 2] == pytest.approx(LUNG, abs=200)


def test_a_reader_who_never_errs_says_what_was_drawn():
    said = ratings(replace(BALL, spiculation=0.5, texture=0.25, calcified=True))
    assert (said["spiculation"], said["texture"], said["calcification"], said["margin"]) == (3, 2, 3, 5)
    assert said["malignancy"] == round(1 + 1.5 + 7 / 13)
