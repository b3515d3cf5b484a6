"""Maps in Parquet parts are the explainer's own, and come back as they were."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vitscope import Explainer
from vitscope.bench import plan_maps, read_maps, store_maps
from vitscope.datasets import Scenes
from vitscope.errors import VitscopeError
from vitscope.targets import Class, Concept, Predicted


@pytest.fixture(scope="module")
def explainer():
    return Explainer("scenes")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    for index, scene in enumerate(Scenes(5, seed=int(np.random.default_rng().integers(1000)))):
        Image.fromarray(scene.image).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "2.png").write_bytes(b"none")
    return sorted((tmp_path / "in").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_maps_are_the_explainers(explainer, pictures, tmp_path, dtype):
    plan = plan_maps(explainer, pictures, "cdam,attention", Predicted(), dtype=dtype, part_size=2)
    seen = []
    outcome = store_maps(
        plan, explainer, Predicted(), tmp_path / "o", progress=lambda done, total: seen.append((done, total))
    )
    assert (outcome.images, outcome.failed, outcome.computed) == (5, 1, 3)
    assert seen[-1] == (5, 5)
    found = list(read_maps(tmp_path / "o"))
    assert [(one.image, one.method) for one in found] == [(str(p), m) for p in pictures for m in ("attention", "cdam")]
    for one in found:
        if one.image.endswith("2.png"):
            assert "not a picture" in one.error
            assert (one.values, one.logits, one.target) == (None, {}, None)
            continue
        ex = explainer(one.image, one.method)
        assert one.values.dtype == dtype
        expected = ex[one.method].values[0].to(getattr(torch, dtype)).numpy()
        np.testing.assert_allclose(one.values, expected, rtol=1e-3 if dtype == "float16" else 1e-4, atol=1e-6)
        top = int(ex.logits.argmax())
        assert one.target == one.prediction == top
        assert one.probability == pytest.approx(float(ex.logits[0].softmax(0)[top]), rel=1e-4)
        assert one.logits == {i: pytest.approx(v, abs=1e-4) for i, v in enumerate(ex.logits[0].tolist())}
        assert one.target_logit == pytest.approx(float(ex.logits[0, top]), rel=1e-4)
    assert {one.method for one in read_maps(tmp_path / "o", ["cdam"])} == {"cdam"}
    columns = pq.read_metadata(tmp_path / "o" / "parts" / "part-00000.parquet").row_group(0)
    by_name = {(column := columns.column(place)).path_in_schema: column for place in range(columns.num_columns)}
    assert by_name["method"].has_dictionary_page
    assert not by_name["values.list.element"].has_dictionary_page  # nearly all differ
    kept = json.loads(pq.read_schema(tmp_path / "o" / "parts" / "part-00000.parquet").metadata[b"vitscope.provenance"])
    assert kept["preprocessing"] == explainer.preprocessing.describe()
    assert kept["plan"]["asked"] == "the predicted class"


def test_a_class_is_asked_of_all_and_deaf_methods_fail_where_it_is_not_predicted(explainer, pictures, tmp_path):
    plan = plan_maps(explainer, pictures[:2], "cdam,attention", Class(3))
    outcome = store_maps(plan, explainer, Class(3), tmp_path / "o")
    found = list(read_maps(tmp_path / "o"))
    assert [one.target for one in found] == [3] * 4
    wrong = [one for one in found if one.error]
    assert all(one.method == "attention" and "class-agnostic" in one.error and one.values is None for one in wrong)
    assert outcome.failed == sum(one.prediction != 3 for one in found if one.method == "cdam")


def test_a_run_of_maps_goes_on_and_refuses_another(explainer, pictures, tmp_path):
    plan = plan_maps(explainer, pictures, "cdam", Predicted(), part_size=2)
    store_maps(plan, explainer, Predicted(), tmp_path / "o")
    before = [one.values for one in read_maps(tmp_path / "o")]
    (tmp_path / "o" / "parts" / "part-00001.parquet").unlink()
    with pytest.raises(VitscopeError, match="add --resume"):
        store_maps(plan, explainer, Predicted(), tmp_path / "o")
    assert store_maps(plan, explainer, Predicted(), tmp_path / "o", resume=True).computed == 1
    for a, b in zip(before, (one.values for one in read_maps(tmp_path / "o")), strict=True):
        np.testing.assert_equal(a, b)
    other = plan_maps(explainer, pictures[:4], "cdam", Predicted(), part_size=2)
    with pytest.raises(VitscopeError, match=r"another run \(other images\)"):
        store_maps(other, explainer, Predicted(), tmp_path / "o", resume=True)
    with pytest.raises(VitscopeError, match="no picture"):
        plan_maps(explainer, [], "cdam", Predicted())
    with pytest.raises(VitscopeError, match="named twice"):
        plan_maps(explainer, [pictures[0]] * 2, "cdam", Predicted())
    with pytest.raises(VitscopeError, match="holds no parts"):
        list(read_maps(tmp_path))


def test_targets_that_are_called_the_same_are_other_runs(explainer, pictures, tmp_path):
    """Of what is behind them: the examples of a concept, the content of a bank."""
    good = [path for path in pictures if path.name != "2.png"]
    first, second = (Concept(torch.randn(3, 192)) for _ in range(2))
    assert first.describe() == second.describe()
    plans = [plan_maps(explainer, good, "cdam", one) for one in (first, second, Concept(first.features.clone()))]
    assert plans[0].hash == plans[2].hash != plans[1].hash
    store_maps(plans[0], explainer, first, tmp_path / "o")
    for resume in (False, True):
        with pytest.raises(VitscopeError, match=r"another run \(other target\)"):
            store_maps(plans[1], explainer, second, tmp_path / "o", resume=resume)
    assert store_maps(plans[2], explainer, Concept(first.features.clone()), tmp_path / "o", resume=True).computed == 0
    with pytest.raises(VitscopeError, match="the target is another than when the run was planned"):
        store_maps(plans[0], explainer, second, tmp_path / "p")


@pytest.mark.parametrize("readers", [1, 2])
def test_maps_are_the_same_however_pictures_are_read(explainer, pictures, tmp_path, readers):
    plan = plan_maps(explainer, pictures, "cdam,attention", Predicted(), part_size=2)
    tables = []
    for name, count in (("here", 0), ("ahead", readers)):
        outcome = store_maps(plan, explainer, Predicted(), tmp_path / name, batch_size=2, readers=count)
        assert (outcome.images, outcome.failed) == (5, 1)
        tables.append(pq.read_table(tmp_path / name / "parts"))
    assert tables[0].equals(tables[1])


def test_maps_within_a_memory_limit(explainer, pictures, tmp_path):
    free = plan_maps(explainer, pictures, "cdam,daam", Predicted())
    limited = Explainer("scenes", memory_limit="1MB")
    assert plan_maps(limited, pictures, "cdam,daam", Predicted()).hash == free.hash
    for name, one in (("free", explainer), ("limited", limited)):
        store_maps(free, one, Predicted(), tmp_path / name)
    for one, other in zip(read_maps(tmp_path / "limited"), read_maps(tmp_path / "free"), strict=True):
        assert (one.image, one.method, one.error) == (other.image, other.method, other.error)
        if one.values is not None:
            np.testing.assert_allclose(one.values, other.values, rtol=1e-3, atol=1e-6)
