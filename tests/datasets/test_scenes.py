"""The drawn scenes: repeatable to the byte, with a truth that is true."""

import colorsys
import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.datasets import CLASSES, Individual, Knobs, Scene, Scenes, with_mark
from vitscope.datasets.scenes import HUES, KINDS, SIZE, box_of, draw
from vitscope.errors import ImageError

DIGEST = """
import hashlib
from vitscope.datasets import Knobs, Scenes
for kind in ("one", "several", "two", "none"):
    digest = hashlib.sha256()
    for scene in Scenes(5, kind, seed={seed}, knobs=Knobs(contrast=0.7, clutter=2, occlusion=0.3, shortcut=4)):
        digest.update(scene.image.tobytes() + scene.label_map().tobytes())
    print(digest.hexdigest())
"""


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.label_map().tobytes()).hexdigest()


@pytest.mark.integration
def test_the_same_seed_gives_the_same_bytes_in_two_processes():
    seed = int(np.random.default_rng().integers(1_000_000))
    script = [sys.executable, "-c", DIGEST.format(seed=seed)]
    first, second = (subprocess.run(script, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(set(first.split())) == 4


def test_a_scene_depends_on_seed_kind_and_index_alone():
    scenes = Scenes(6, "two", seed=3)
    assert digest(scenes[4]) == digest(Scenes(900, "two", seed=3)[4]) == digest(scenes[4:5][0]) == digest(scenes[-2])
    assert [digest(scene) for scene in scenes] == [digest(scenes[index]) for index in range(6)]
    others = [Scenes(6, "two", seed=4)[4], Scenes(6, "two", seed=3)[3], Scenes(6, "one", seed=3)[4]]
    assert len({digest(scenes[4]), *map(digest, others)}) == 4
    with pytest.raises(IndexError):
        scenes[6]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["one", "several", "two", "none"]),
    contrast=st.floats(0.05, 1),
    clutter=st.floats(0, 6),
    occlusion=st.floats(0, 0.8),
    shortcut=st.sampled_from([None, 0, 7]),
)
def test_truth_is_consistent(seed, kind, contrast, clutter, occlusion, shortcut):
    knobs = Knobs(contrast=contrast, clutter=clutter, occlusion=occlusion, shortcut=shortcut)
    scene = Scenes(1, kind, seed=seed, knobs=knobs)[0]
    assert scene.image.shape == (SIZE, SIZE, 3)
    assert scene.image.dtype == np.uint8
    counts = {"one": (1, 1), "several": (2, 3), "two": (2, 2), "none": (0, 0)}[kind]
    assert counts[0] <= len(scene.instances) <= counts[1]
    assert len(scene.labels) == {"one": 1, "several": 1, "two": 2, "none": 0}[kind]
    covered = sum((instance.mask.astype(int) for instance in scene.instances), np.zeros((SIZE, SIZE), dtype=int))
    assert covered.max(initial=0) <= 1  # no pixel belongs to two things
    assert np.array_equal(covered > 0, scene.mask())
    assert np.array_equal(scene.label_map() > 0, scene.mask())
    for instance in scene.instances:
        assert 0 < instance.visible <= 1
        left, top, right, bottom = instance.box
        inside = instance.mask[top:bottom, left:right]
        assert inside.sum() == instance.mask.sum()
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        assert (scene.label_map()[instance.mask] == instance.label + 1).all()
    assert (scene.mark is not None) == (shortcut is not None and shortcut in scene.labels)


def test_no_one_cue_tells_the_class():
    assert len(set(CLASSES)) == 12
    for trait, times in (("hue", 2), ("shape", 2), ("pattern", 3)):
        counts = Counter(getattr(kind, trait) for kind in KINDS)
        assert set(counts.values()) == {times}, trait
    same_pattern = [hue for hue in HUES if len({kind.pattern for kind in KINDS if kind.hue == hue}) == 1]
    assert len(same_pattern) == 3  # there the shape alone tells


@pytest.mark.parametrize("label", range(12))
def test_what_the_mask_covers_has_the_colour_of_its_class(label):
    # Independent of the drawing: the strongest hue of the pixels in the mask is that of the class's family.
    rng = np.random.default_rng()
    votes = Counter()
    for _ in range(5):
        scene = draw(rng, [Individual.of(rng, label)])
        for pixel in scene.image[scene.mask()][::7]:
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
            votes[min(HUES, key=lambda name, hue=hue: abs((360 * hue - HUES[name] + 180) % 360 - 180))] += (
                saturation * value
            )
    assert votes.most_common(1)[0][0] == KINDS[label].hue


def test_things_outside_the_mask_look_like_anything_else():
    scenes = Scenes(12, "one", seed=5)
    inside = np.array([scene.image[scene.mask()].std(axis=0).mean() for scene in scenes])
    assert (inside > 5).all()
    assert len({digest(scene) for scene in scenes}) == 12


def test_knobs_do_what_they_say():
    rngs = [np.random.default_rng(9) for _ in range(2)]
    things = [[Individual.of(rng, 0)] for rng in rngs]
    plain, faint = draw(rngs[0], things[0]), draw(rngs[1], things[1], Knobs(contrast=0.2))
    assert np.array_equal(plain.mask(), faint.mask())
    ring = np.abs(plain.image.astype(int) - faint.image).mean(axis=2)
    assert ring[plain.mask()].mean() > 5 * ring[~plain.mask()].mean()

    hidden = [scene.instances[0].visible for scene in Scenes(30, seed=2, knobs=Knobs(occlusion=0.4))]
    free = [scene.instances[0].visible for scene in Scenes(30, seed=2)]
    assert np.mean(hidden) < 0.8 * np.mean(free)

    busy, calm = (
        np.mean([np.abs(np.diff(scene.image.astype(int), axis=1)).max(axis=(0, 2)).mean() for scene in scenes])
        for scenes in (Scenes(30, "none", seed=2, knobs=Knobs(clutter=c)) for c in (6, 0))
    )
    assert busy > 1.5 * calm


def test_the_hardest_knobs_still_give_a_scene():
    hardest = Knobs(contrast=0.05, clutter=10, occlusion=0.8)
    for kind in ("one", "several", "two"):
        for scene in Scenes(3, kind, seed=13, knobs=hardest):
            assert all(instance.visible > 0.1 for instance in scene.instances)


def test_the_shortcut_goes_with_its_class():
    marked = {True: [], False: []}
    for scene in Scenes(200, seed=8, knobs=Knobs(shortcut=3)):
        marked[scene.labels == (3,)].append(scene.mark is not None)
    assert all(marked[True])
    assert marked[True]
    assert not any(marked[False])
    strays = [
        scene.mark is not None for scene in Scenes(200, seed=8, knobs=Knobs(shortcut=3, mark_rate=0, stray_rate=0.5))
    ]
    assert 60 < sum(strays) < 130


def test_the_mark_changes_nothing_else():
    scene = Scenes(1, "one", seed=int(np.random.default_rng().integers(2**31)))[0]
    marked = with_mark(scene)
    changed = (marked.image != scene.image).any(axis=2)
    assert marked.mark is not None
    assert marked.mark.sum() == 49
    assert not changed[~marked.mark].any()
    assert changed[marked.mark].mean() > 0.9
    assert scene.mark is None
    assert box_of(marked.mark) == (2, 2, 9, 9)
    assert not (marked.mask() & marked.mark).any()


def test_one_thing_in_two_scenes_keeps_what_is_its_own():
    rng = np.random.default_rng(4)
    thing = Individual.of(rng, 11)  # a plain disc: one tone
    tones = []
    for _ in range(8):
        scene = draw(rng, [thing])
        red, green, blue = scene.image[scene.mask()].mean(axis=0) / 255
        tones.append(colorsys.rgb_to_hsv(red, green, blue)[0] * 360)
    assert np.ptp(tones) < 12
    assert len({scene.mask().sum() for scene in [draw(rng, [thing]) for _ in range(3)]}) == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Scenes(3, "three"), "one, several, two, none"),
        (lambda: Scenes(-1), "must not be negative"),
        (lambda: Scenes(1, seed=-1), "must not be negative"),
        (lambda: Knobs(contrast=0), "contrast"),
        (lambda: Knobs(occlusion=0.9), "occlusion"),
        (lambda: Knobs(clutter=-1), "clutter"),
        (lambda: Knobs(mark_rate=1.5), "no share"),
        (lambda: Knobs(shortcut=12), "0 to 11"),
        (lambda: box_of(np.zeros((4, 4), dtype=bool)), "empty mask"),
    ],
)
def test_wrong_use_is_one_clear_line(make, words):
    with pytest.raises(ImageError, match=words):
        make()
