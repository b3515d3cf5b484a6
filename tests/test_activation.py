"""What turns outputs into probabilities: as the head declares it, wherever a probability is shown or stored."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import vitscope
from tests.browser import watched
from tests.conftest import build, perturbed, pictures
from vitscope.bench import plan_maps, read_maps, store_maps
from vitscope.bench.tasks import groups_of
from vitscope.cli import main
from vitscope.metrics import AverageDrop, Forwards, GridMaps, InsertionDeletion, ModelScorer, as_presets, evaluate
from vitscope.metrics import Pictures as MetricPictures
from vitscope.report import content_of
from vitscope.targets import Class, Custom, Output, Probability

transformers = pytest.importorskip("transformers")

PHOTO = Image.effect_noise((64, 64), 90).convert("RGB")


def of_transformers(outputs, problem_type):
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=outputs,
        problem_type=problem_type,
    )
    return perturbed(transformers.ViTForImageClassification(config), by=0.1).eval()


def saved(model, folder):
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A directory of `save_pretrained` for a kind of head."""
    heads = {
        "single label": (4, "single_label_classification"),
        "undeclared": (4, None),
        "multi-label": (4, "multi_label_classification"),
        "one label": (1, "multi_label_classification"),
        "regression": (1, "regression"),
        "regressions": (4, "regression"),
        "one output": (1, None),
    }
    return {
        name: saved(of_transformers(*head), tmp_path_factory.mktemp(name.replace(" ", "-")))
        for name, head in heads.items()
    }


ACTIVATIONS = {
    "single label": "softmax",
    "undeclared": "softmax",
    "multi-label": "sigmoid",
    "one label": "sigmoid",
    "regression": "none",
    "regressions": "none",
    "one output": "none",
}
BY_HAND = {"softmax": lambda row: row.softmax(0), "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("head", ACTIVATIONS)
def test_files_and_titles_say_what_transformers_own_pipeline_says(folders, head, tmp_path, monkeypatch, capsys):
    activation = ACTIVATIONS[head]
    PHOTO.save(tmp_path / "photo.png")
    words = ["explain", str(tmp_path / "photo.png"), "--model", str(folders[head]), "--methods", "cdam", "--report"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    line = capsys.readouterr().out.splitlines()[0]
    manifest, view = (json.loads((tmp_path / f"out/photo/{name}.json").read_text()) for name in ("manifest", "view"))
    theirs = transformers.pipeline("image-classification", model=str(folders[head]), top_k=1)(PHOTO)[0]["score"]
    for found in (manifest["prediction"], manifest["explained"], view["prediction"], view["explained"]):
        if activation == "none":
            assert found["probability"] is None
        else:
            assert found["probability"] == pytest.approx(theirs, rel=0.02)  # it resizes by torchvision's kernels
    assert manifest["activation"] == view["provenance"]["activation"] == activation
    predicted = manifest["prediction"]
    said = f"= {predicted['logit']:.3g}" if activation == "none" else f"p = {predicted['probability']:.2f}"
    assert said in line
    assert said in view["title"]
    assert ("p = " in line) == (activation != "none")


@pytest.mark.parametrize("head", ["multi-label", "regression", "regressions"])
def test_the_page_shows_them(browser, folders, head, tmp_path):
    explainer = vitscope.Explainer(str(folders[head]))
    ex, index = explainer([PHOTO], "cdam"), 0
    (tmp_path / "page.html").write_text(ex.html(explainer.evidence([PHOTO])), encoding="utf-8")
    found = ex.subject.prediction(index)
    with watched(browser) as seen:
        seen.page.goto((tmp_path / "page.html").as_uri())
        facts = seen.page.locator("table.facts").first.text_content()
        seen.page.get_by_role("combobox", name="class", exact=True).click()
        listed = seen.page.locator(".options li").first.text_content()
        assert not [line for line in seen.said if line.startswith("error")]
    if head == "multi-label":
        likely = float(torch.tensor(found["logit"]).sigmoid())
        for place in (facts, listed):
            assert float(re.search(r"p = ([\d.]+)", place)[1]) == pytest.approx(likely, rel=5e-3)
    else:
        assert "p = " not in facts + listed
        for place, value in ((facts, r"\) = ([−\d.]+)"), (listed, r"value ([−\d.]+)")):
            number = re.search(value, place)[1].replace("−", "-")
            assert float(number) == pytest.approx(found["logit"], rel=5e-3)


def test_a_server_answers_with_them(folders):
    client = pytest.importorskip("fastapi.testclient")
    from benchmarks.serve import encoded

    from vitscope.serve import Limits, create_app

    explainers = {head: vitscope.Explainer(str(folders[head])) for head in ("multi-label", "regression")}
    app = create_app(explainers, Limits())
    with client.TestClient(app, base_url="http://localhost") as http:
        for head, explainer in explainers.items():
            files = [("images", ("photo.png", encoded(PHOTO)))]
            answer = http.post("/api/explain", files=files, data={"model": head, "methods": "cdam"}).json()
            (picture,) = answer["pictures"]
            wanted = explainer([PHOTO], "cdam").subject
            assert picture["prediction"]["probability"] == (
                None if head == "regression" else pytest.approx(wanted.prediction(0)["probability"])
            )
            assert picture["title"] == wanted.title(0)
            assert picture["provenance"]["activation"] == ACTIVATIONS[head]
        files = [("images", ("photo.png", encoded(PHOTO)))]
        refused = http.post("/api/explain", files=files, data={"model": "regression", "target": "probability of 0"})
        assert "are no probabilities" in refused.json()["error"]


def test_a_timm_head():
    assert vitscope.Explainer(build()).activation == "softmax"
    single = build(num_classes=1)
    ex = vitscope.Explainer(single)(pictures(single), "cdam")
    assert ex.subject.prediction(0)["probability"] is None
    assert ex.subject.title(0) == f"predicted: output 0 (0) = {float(ex.logits[0, 0]):.3g}"
    assert ex.subject.asked == "output 0"
    several = build()
    several.pretrained_cfg = {**getattr(several, "pretrained_cfg", {}), "problem_type": "multi_label_classification"}
    assert vitscope.Explainer(several, preprocessing={"size": 32}).activation == "sigmoid"
    assert vitscope.Explainer(build(num_classes=0)).activation == "none"


def test_a_timm_model_that_transformers_saved(tmp_path):
    config = transformers.TimmWrapperConfig.from_dict(
        {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 3,
            "label_names": ["a", "b", "c"],
            "problem_type": "multi_label_classification",
            "pretrained_cfg": {"input_size": [3, 32, 32]},
            "model_args": {"img_size": 32, "patch_size": 8, "depth": 1},
        }
    )
    model = transformers.TimmWrapperForImageClassification(config)
    model.save_pretrained(tmp_path)
    loaded = vitscope.models.load(str(tmp_path), pretrained=False)
    assert loaded.activation == "sigmoid"


class Around(nn.Module):
    """A model in a module of one's own, with or without a new head."""

    def __init__(self, model, head=None):
        super().__init__()
        self.inner, self.head = model, head

    def forward(self, images):
        output = self.inner(images)
        logits = getattr(output, "logits", output)
        return logits if self.head is None else self.head(logits)


def test_a_wrapper_keeps_what_its_inner_model_declares_unless_it_has_a_head_of_its_own():
    own = {"preprocessing": {"size": 32}}
    model = of_transformers(3, "multi_label_classification")
    assert vitscope.Explainer(model, **own).activation == "sigmoid"
    assert vitscope.Explainer(Around(model), **own).activation == "sigmoid"
    assert vitscope.Explainer(nn.DataParallel(model), **own).activation == "sigmoid"
    backbone = build(num_classes=0)
    backbone.pretrained_cfg = {"problem_type": "multi_label_classification"}
    assert vitscope.Explainer(Around(backbone, nn.Linear(24, 5)), **own).activation == "softmax"
    assert vitscope.Explainer(Around(backbone, nn.Linear(24, 1)), **own).activation == "none"


def test_the_user_decides_in_the_end(folders, tmp_path, monkeypatch):
    model = build(num_classes=5)
    images = pictures(model)
    for activation in ("softmax", "sigmoid", "none"):
        subject = vitscope.Explainer(model, activation=activation)(images, "cdam").subject
        found = subject.prediction(0)
        row = subject.logits[0].double()
        wanted = None if activation == "none" else pytest.approx(float(BY_HAND[activation](row)[found["index"]]))
        assert found["probability"] == wanted
        assert subject.activation == activation
    assert subject.title(0).startswith("highest output: ")
    assert subject.asked == "the highest output"
    for outputs, activation, says in (
        (5, "sofmax", "did you mean softmax"),
        (1, "softmax", "always 1; give sigmoid, or none"),
        (0, "sigmoid", "no classifier head"),
    ):
        with pytest.raises(vitscope.ModelError, match=says):
            vitscope.Explainer(build(num_classes=outputs), activation=activation)
    PHOTO.save(tmp_path / "photo.png")
    words = ["explain", str(tmp_path / "photo.png"), "--model", str(folders["one output"]), "--methods", "cdam"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--activation", "sigmoid", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    found = json.loads((tmp_path / "out/photo/manifest.json").read_text())["prediction"]
    assert found["probability"] == pytest.approx(1 / (1 + torch.e ** -found["logit"]), rel=1e-5)


def test_a_probability_is_explained_by_the_heads_own_activation(folders):
    explainer = vitscope.Explainer(str(folders["multi-label"]))
    image = torch.randn(2, 3, 32, 32)
    wanted = explainer(image, "cdam", lambda output: output[:, 2].sigmoid())["cdam"].values
    for target in ("probability of 2", Probability(2), Probability((2, 2))):
        found = explainer(image, "cdam", target)["cdam"].values
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    softmax = explainer(image, "cdam", Probability(2, activation="softmax"))["cdam"].values
    assert not torch.allclose(softmax, wanted, rtol=1e-2)
    for head in ("regression", "regressions", "one output"):
        with pytest.raises(vitscope.TargetError, match="are no probabilities"):
            vitscope.Explainer(str(folders[head])).target("probability of 0")


@pytest.mark.parametrize("label", ["rise:masks=40", "tis:masks=12", "vit_cx"])
def test_methods_that_alter_pictures_weigh_by_it(folders, label):
    images = torch.randn(1, 3, 32, 32)
    explainer = vitscope.Explainer(str(folders["multi-label"]))
    likely = Custom(lambda output: output[:, 1].sigmoid())
    by_class, by_hand = (explainer(images, label, target)[label].values for target in (Class(1), likely))
    # A function has no zero of its own, and is counted from the lowest score: the same up to the masks' own sum.
    softmax = vitscope.Explainer(str(folders["multi-label"]), activation="softmax")(images, label, Class(1))[label]
    assert not torch.allclose(by_class, softmax.values, rtol=1e-3)
    assert correlation(by_class, by_hand) > 0.9 or label != "vit_cx"
    regression = vitscope.Explainer(str(folders["regression"]))
    found, wanted = (regression(images, label, target)[label].values for target in (None, Output(0)))
    torch.testing.assert_close(found, wanted)


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_metrics_read_it_and_refuse_a_head_without():
    model = build()
    x, explained = pictures(model, 2), torch.tensor([2, 5])
    maps = GridMaps(torch.randn(2, 4, 4), (32, 32))
    mine = MetricPictures(x, (8, 8), (0.5,) * 3, (0.5,) * 3, explained, explained, (1, 2), activation="sigmoid")
    (found,) = evaluate([(AverageDrop("normalised"), maps)], Forwards(ModelScorer(model), mine))
    low, high = maps.bilinear.flatten(1).aminmax(dim=1)
    dimmer = (maps.bilinear - low[:, None, None]) / (high - low)[:, None, None]
    with torch.no_grad():
        before, after = (model(each).sigmoid().gather(1, explained[:, None])[:, 0] for each in (x, x * dimmer[:, None]))
    torch.testing.assert_close(
        found.values["average_drop"].float(), ((before - after).clamp(min=0) / before), atol=1e-4, rtol=1e-3
    )
    bare = dataclasses.replace(mine, activation="none", made={})
    for metric in (AverageDrop(), InsertionDeletion(steps=2)):
        with pytest.raises(vitscope.MetricError, match="defined on probabilities"):
            evaluate([(metric, maps)], Forwards(ModelScorer(model), bare))


def test_a_benchmark_leaves_out_what_a_regression_has_not():
    presets = as_presets("drop,srg,rise")
    groups, skipped = groups_of(presets, ["label"], "none")
    assert {task.facts.name.split("/")[0] for group in groups for task in group.tasks} == {"srg"}
    of_probability = {name.split("/")[0] for name, reason in skipped.items() if "defined on probabilities" in reason}
    assert of_probability == {"drop", "rise"}
    assert not of_probability & {name.split("/")[0] for name in groups_of(presets, ["label"], "sigmoid")[1]}


@pytest.mark.parametrize("head", ["multi-label", "regressions"])
def test_stored_maps_hold_it(folders, head, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    explainer = vitscope.Explainer(str(folders[head]))
    target = explainer.target("1")
    plan = plan_maps(explainer, [tmp_path / "photo.png"], "cdam", target)
    store_maps(plan, explainer, target, tmp_path / "maps")
    (one,) = read_maps(tmp_path / "maps")
    wanted = torch.tensor(one.target_logit).sigmoid() if head == "multi-label" else None
    assert one.probability == (None if wanted is None else pytest.approx(float(wanted), rel=1e-5))
    assert plan.activation == ACTIVATIONS[head]
    other = vitscope.Explainer(str(folders[head]), activation="softmax")
    assert plan_maps(other, [tmp_path / "photo.png"], "cdam", target).hash != plan.hash


def test_a_record_of_a_regression_is_plain_json(folders):
    record = content_of(vitscope.Explainer(str(folders["regression"]))([PHOTO], "cdam"))["pictures"][0]
    assert json.loads(json.dumps(record, allow_nan=False))["prediction"]["probability"] is None


def test_a_description_names_it():
    assert vitscope.describe(vitscope.Explainer(build(num_classes=1))).facts["activation"] == "none"
