"""The same maps and numbers on another device as on the CPU: on CUDA (`pytest -m gpu`), and on one of pretence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.conditioning import precision
from tests.conftest import LAYOUTS, POOLED, build, pictures
from tests.elsewhere import pretending
from tests.methods.test_contract import LABELS, Joint
from tests.zoo import ZOO, Entry, built, module_of
from vitscope import Explainer, targets
from vitscope.bench import bench, make_plan, plan_maps, store_maps
from vitscope.datasets import Scenes
from vitscope.flow import attention_flow
from vitscope.methods import as_method, list_methods
from vitscope.report import lens_of

BOUND = 1e-3
"""Of the norm of the difference over that of the map, in float32."""

METHODS = [
    *("eigencam:sign=peaked" if label == "eigencam" else label for label in LABELS if label != "eigengradcam"),
    "eigengradcam:sign=peaked",
    *(facts.name for facts in list_methods() if facts.trivial),
]
OF_FAMILIES = ["daam", "agcam", "cdam", "attention", "chefer", "legrad", "gradcam", "libra_fullgrad", "rollout"]
QUICK = (
    "eva02_tiny",
    "t2t_vit_14",
    "cait",
    "convit",
    "torchvision/vit_b_16",
    "Dinov2With",
    "CLIPModel",
    "vitscope.adapt",
)


@pytest.fixture(
    scope="module",
    params=[pytest.param("pretended", marks=pytest.mark.integration), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the model goes; the reference is computed on the CPU."""
    if request.param == "pretended":
        with pretending() as far:
            yield far
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)  # torch's default for convolutions: 10 bits
        yield torch.device("cuda")


def apart(here: torch.Tensor, there: torch.Tensor) -> float:
    """The norm of the difference over the norm."""
    assert here.device.type == "cpu"
    return float((here - there.cpu()).double().norm() / here.double().norm().clamp(min=1e-30))


def on(device: torch.device, tensor: torch.Tensor) -> bool:
    return tensor.device.type == device.type


# -- the pretence itself -----------------------------------------------------------------------------------------------


def test_a_mixture_of_devices_is_an_error_of_the_pretended_one_as_of_cuda():
    with pretending() as far:
        there, here = torch.randn(3, 4, device=far), torch.randn(4, 2)
        for mixture in (
            lambda: there @ here,
            lambda: there + torch.arange(4),
            lambda: torch.cat([there, torch.zeros(1, 4)]),
            lambda: here[there[:, 0].long()],
            lambda: torch.rand(3, generator=torch.Generator(), device=far),
        ):
            with pytest.raises(RuntimeError, match=r"devices|indices|generator"):
                mixture()
        with pytest.raises(RuntimeError):
            there.numpy()
        assert on(far, there[torch.tensor([0, 1])])  # CUDA takes indices from the CPU
        assert on(far, there * torch.tensor(2.0))  # and single numbers
        assert on(far, torch.zeros_like(there))
        assert on(far, torch.tensor([1, 2], device=far))
        assert torch.equal((there @ here.to(far)).cpu(), there.cpu() @ here)


def test_gradients_cross_to_the_pretended_device_and_back():
    x = torch.randn(4, 3, requires_grad=True)
    with pretending() as far:
        layer = torch.nn.Linear(3, 2).to(far)
        layer(x.to(far)).square().sum().backward()
        assert x.grad.device.type == "cpu"
        assert on(far, layer.weight.grad)
        weight, bias = layer.weight.detach().cpu(), layer.bias.detach().cpu()
    assert torch.allclose(x.grad, 2 * (x.detach() @ weight.T + bias) @ weight, atol=1e-6)


def test_the_pretended_device_draws_its_own_random_numbers():
    with pretending() as far:
        drawn = []
        for _ in range(2):
            torch.manual_seed(3)
            drawn.append(torch.randn(5, device=far).cpu())
        after = torch.rand(3)
    torch.manual_seed(3)
    assert not torch.equal(*drawn)
    assert torch.equal(after, torch.rand(3))


# -- maps --------------------------------------------------------------------------------------------------------------


def compare(layout: str, device: torch.device, dtype: torch.dtype, labels: list[str]) -> None:
    """All methods at once, here and there: the same maps, and the same failures."""
    here, there = (Explainer(build(layout, dtype=dtype).to(where)) for where in ("cpu", device))
    images = pictures(here.anatomy.model, 2, dtype=dtype)
    one, other = (Joint.of(explainer, images, labels, (None, 1, [1, 3])) for explainer in (here, there))
    for mine, theirs in zip(one.explanations, other.explanations, strict=True):
        assert on(device, theirs.logits)
        assert len(mine.attributions) > 2
        for label in labels:
            if label in mine.failures:
                assert theirs.failures[label].split(";")[0] == mine.failures[label].split(";")[0]
                continue
            assert on(device, theirs[label].values)
            assert apart(mine[label].values, theirs[label].values) < BOUND, label
            if mine[label].blocks is not None:
                assert apart(mine[label].blocks, theirs[label].blocks) < BOUND, label


def compare_all(layout: str, device: torch.device) -> None:
    for dtype in (torch.float32, torch.float64):
        labels = [label for label in METHODS if precision(label) == dtype]
        compare(layout, device, dtype, list(dict.fromkeys(["daam", *labels])))


QUICK_LAYOUTS = ["vit", "mean_no_class_token"]


@pytest.mark.parametrize("layout", ["vit", pytest.param("mean_no_class_token", marks=pytest.mark.integration)])
def test_maps_of_every_method(layout, device):
    compare_all(layout, device)


@pytest.mark.slow
@pytest.mark.parametrize("layout", sorted({*LAYOUTS, *POOLED} - {*QUICK_LAYOUTS, "one_block", "dynamic"}))
def test_maps_of_every_method_on_every_layout(layout, device):
    compare_all(layout, device)


def of_family(entry: Entry, device: torch.device) -> None:
    if entry.extra:
        pytest.importorskip(entry.extra)
    here, moved = built(entry), built(entry)
    module_of(moved).to(device)
    one, other = Explainer(here), Explainer(moved)
    images = torch.randn(2, 3, *one.anatomy.input_size, generator=torch.Generator().manual_seed(0))
    applying = [name for name in OF_FAMILIES if not one.why_not(name, as_method(name))]
    target = None if one.anatomy.classifier is not None else targets.Custom(lambda output: output[:, 0])
    maps, theirs = (explainer(images, applying, target, strict=False) for explainer in (one, other))
    assert set(maps) == set(theirs)
    for label in maps:
        assert on(device, theirs[label].values)
        assert apart(maps[label].values, theirs[label].values) < BOUND, label


@pytest.mark.parametrize("entry", [one for one in ZOO if any(w in one.name for w in QUICK)], ids=lambda e: e.name)
def test_maps_of_families_with_an_adapter_of_their_own(entry, device):
    of_family(entry, device)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ZOO, ids=lambda e: f"{e.family}, {e.name}")
def test_maps_of_every_family(entry, device):
    of_family(entry, device)


# -- what else is computed from a model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene.image for scene in Scenes(3, seed=int(torch.randint(1000, ())))]


@pytest.fixture(scope="module")
def both(device):
    """The bundled model here and there."""
    return Explainer("scenes"), Explainer("scenes", device=device)


def test_evidence_of_every_class(both, scenes, device):
    one, other = (explainer.evidence(scenes) for explainer in both)
    vector = torch.randn(one.weight.shape[1])
    assert on(device, other[1])
    assert apart(one[1], other[1]) < BOUND
    assert apart(one.contrast(1, 2), other.contrast(1, 2)) < BOUND
    assert apart(one.of(vector), other.of(vector)) < BOUND
    (classes, maps), (theirs, their_maps) = one.top(3), other.top(3)
    assert torch.equal(classes, theirs.cpu())
    assert apart(maps, their_maps) < BOUND
    assert other.patch(2, 1)


TARGETS = [
    1,
    [1, 2, 0],
    torch.tensor([1, 2, 0]),
    targets.Contrast(1, 2),
    targets.Output(1),
    targets.Probability(1),
    targets.Custom(lambda output: output[:, 0] - output[:, 1]),
]


def test_targets(both, scenes, subtests):
    methods = ["daam", "agcam", "cdam", "integrated_gradients:steps=3", "token_ablation:max_forwards=5"]
    here, there = (explainer.each(scenes, methods, TARGETS) for explainer in both)
    for one, other in zip(here, there, strict=True):
        with subtests.test(target=one.subject.title(0)):
            assert one.subject.title(0) == other.subject.title(0)
            for label in methods:
                assert apart(one[label].values, other[label].values) < BOUND


def test_concepts_neighbours_and_features(device, scenes):
    bank = targets.MemoryBank.load("scenes-ssl")
    found = []
    for where in ("cpu", device):
        explainer = Explainer("scenes-ssl", device=where)
        features = explainer.features(scenes)
        assert on(torch.device(where), features)
        concept = explainer(scenes, "cdam", targets.Concept(features[:2]))["cdam"].values
        found.append((features, concept, explainer(scenes, "daam", targets.Neighbours(bank))["daam"].values))
    for one, other in zip(*found, strict=True):
        assert apart(one, other) < BOUND


def test_the_flow_of_evidence(both, scenes):
    one, other = (attention_flow(explainer, scenes[:1], "daam") for explainer in both)
    assert torch.allclose(one.share, other.share, atol=1e-4)
    assert torch.allclose(one.drop, other.drop, atol=1e-3)


def test_pixels_saved_folders_and_the_lens(both, scenes, device, tmp_path):
    one, other = (explainer(scenes, "daam,agcam") for explainer in both)
    assert np.allclose(one["daam"].to_pixels()[0], other["daam"].to_pixels()[0], atol=1e-4, equal_nan=True)
    assert other.save(tmp_path)
    assert lens_of(both[1], other.subject.batch)


def test_maps_in_parts(both, scenes, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(len(scenes))]
    for path, scene in zip(paths, scenes, strict=True):
        Image.fromarray(scene).save(path)
    found = []
    for name, explainer in zip(("here", "there"), both, strict=True):
        plan = plan_maps(explainer, paths, "daam,cdam,random", targets.Predicted())
        store_maps(plan, explainer, targets.Predicted(), tmp_path / name)
        found.append(pq.read_table(tmp_path / name / "parts").to_pylist())
    for one, other in zip(*found, strict=True):
        assert (one["image"], one["method"], one["target"]) == (other["image"], other["method"], other["target"])
        assert np.allclose(one["values"], other["values"], atol=1e-4)


@pytest.mark.parametrize(
    "metrics",
    [
        "agcam,daam,energy,compactness",
        "abpc:steps=3,srg:steps=4,mif_lif:steps=3,fill=blur",
        "rise:steps=5,drop,infidelity:squares=8",
    ],
)
def test_rows_of_a_benchmark(metrics, device, tmp_path, monkeypatch):
    rows_agree(metrics, device, tmp_path, monkeypatch)


@pytest.mark.slow
def test_rows_of_every_metric(device, tmp_path, monkeypatch):
    rows_agree("all", device, tmp_path, monkeypatch)


def rows_agree(metrics: str, device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(error: BaseException) -> str:
        raise error  # the runner would go on picture by picture, where single numbers pass between devices

    monkeypatch.setattr("vitscope.bench.worker.text_of", told)
    found = []
    for where in ("cpu", device):
        explainer = Explainer(build(dtype=torch.float64).to(where), preprocessing={"size": (32, 32)})
        plan = make_plan(explainer, "scenes:count=3", methods="cdam,agcam,random,frame", metrics=metrics, part_size=2)
        bench(plan, folder / str(where), explainer=explainer)
        rows = pq.read_table(folder / str(where) / "parts").to_pylist()
        found.append({(row["image"], row["method"], row["metric"]): row for row in rows})
    one, other = found
    assert one.keys() == other.keys()
    for key, row in one.items():
        there = other[key]
        assert (row["target"], row["prediction"]) == (there["target"], there["prediction"])
        assert (row["error"] is None) == (there["error"] is None), there["error"]
        if row["value"] is not None:
            assert np.isclose(row["value"], there["value"], rtol=1e-4, atol=1e-4, equal_nan=True), key
