"""Texts as targets, by the model's own text tower; tiny random models of transformers and open_clip."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitscope
from tests.conftest import build, perturbed, pictures
from vitscope.cli import main
from vitscope.targets import Custom, Text

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def open_clip_model():
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return perturbed(open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text), by=0.1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """What save_pretrained writes of a tiny CLIP, with its tokenizer and its image processor."""
    folder = tmp_path_factory.mktemp("clip")
    tiny = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: index for index, word in enumerate(vocabulary)}, merges=[], model_max_length=16
    )
    config = transformers.CLIPConfig(
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        text_config={
            **tiny,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 16,
            "bos_token_id": len(vocabulary) - 2,
            "eos_token_id": len(vocabulary) - 1,
            "pad_token_id": len(vocabulary) - 1,
        },
        projection_dim=12,
    )
    perturbed(transformers.CLIPModel(config), by=0.1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


@pytest.fixture(params=["open_clip", "transformers"])
def explainer(request, directory):
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    if request.param == "open_clip":
        return vitscope.Explainer(open_clip_model(), preprocessing=prepared)
    return vitscope.Explainer(f"hf/{directory}", preprocessing=prepared)


def test_a_text_is_the_cosine_of_embeddings(explainer):
    cat, dog = explainer.texts(["a photo of a cat", "a photo of a dog"])
    assert torch.allclose(cat.norm(), torch.tensor(1.0))
    assert not torch.allclose(cat, dog)
    for target, vector in (("a photo of a cat", cat), ("a photo of a cat rather than a photo of a dog", cat - dog)):
        found = explainer(IMAGES, "daam,agcam,cdam", target)
        by_hand = Custom(lambda f, v=vector: (f / f.norm(dim=1, keepdim=True)) @ v, of_features=True)
        wanted = explainer(IMAGES, "daam,agcam,cdam", by_hand)
        assert found.subject.asked == f"{target} (cosine)"
        for label in found:
            one, other = found[label].values, wanted[label].values
            # Two texts' difference is brought to length 1: the same map by another scale.
            one, other = one / one.norm(), other / other.norm()
            assert float((one - other).norm()) < 1e-4
    evidence = explainer.evidence(IMAGES).of(cat)
    dot = explainer(IMAGES, "cdam", vitscope.targets.Concept(cat))["cdam"].values
    assert float((evidence - dot).norm() / dot.norm()) < 1e-4


def test_a_second_text_counts_by_the_distance_of_the_two(explainer):
    one, other = explainer.texts(["a photo of a cat", "a photo of a dog"])
    target = explainer.target(Text("a photo of a cat", rather_than="a photo of a dog"))
    features = torch.randn(5, len(one))
    first, second = (torch.nn.functional.cosine_similarity(features, text[None]) for text in (one, other))
    torch.testing.assert_close(target.score(features) * (one - other).norm(), first - second, atol=1e-5, rtol=1e-4)


def test_a_text_tower_is_read_in_evaluation_mode_and_left_as_it_was(directory):
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    for model, options in (
        (open_clip_model(), {}),
        (transformers.CLIPModel.from_pretrained(directory), {"tokenizer": words_of(directory)}),
    ):
        kept = vitscope.Explainer(model.eval(), preprocessing=prepared, **options).texts(["a cat", "a dog"])
        flags = {name: bool(torch.randint(2, ())) for name, _ in model.named_modules()} | {"": True}
        for name, module in model.named_modules():
            module.training = flags[name]
        seen: set[bool] = set()
        for module in model.modules():
            module.register_forward_hook(lambda module, *_, seen=seen: seen.add(module.training))
        again = vitscope.Explainer(model, preprocessing=prepared, **options).texts(["a cat", "a dog"])
        assert seen == {False}
        assert {name: module.training for name, module in model.named_modules()} == flags
        torch.testing.assert_close(again, kept)


def words_of(directory):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)
    return lambda texts: tokenizer(texts, padding=True, return_tensors="pt")


@pytest.mark.parametrize("give", [dict, lambda tokens: tokens["input_ids"]], ids=["dict", "tensor"])
def test_a_tokenizer_of_ones_own_gives_tensors_by_name_or_one(give, directory):
    model, own = transformers.CLIPModel.from_pretrained(directory).eval(), words_of(directory)
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    found, wanted = (
        vitscope.Explainer(model, preprocessing=prepared, tokenizer=tokenizer).texts("a cat")
        for tokenizer in (lambda texts: give(own(texts)), own)
    )
    torch.testing.assert_close(found, wanted)


def test_a_tokenizer_that_gives_lists_is_refused_with_the_way_out(directory):
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)
    explainer = vitscope.Explainer(model, tokenizer=tokenizer, preprocessing={"size": 32})
    with pytest.raises(vitscope.TargetError, match=r"gives no tensors \(BatchEncoding\).*return_tensors=\"pt\""):
        explainer(IMAGES, "cdam", "a cat")


LONG = "a long text " * 20


def test_a_text_that_is_cut_is_told_with_its_numbers(explainer, caplog):
    tokens = 60 if type(explainer.anatomy.model).__module__.startswith("open_clip") else 180
    with caplog.at_level("WARNING"):
        explainer.texts(["a cat", LONG + "end"])
    (line,) = (record.getMessage() for record in caplog.records)
    assert f"{tokens + (1 if tokens == 60 else 3)} tokens, the model reads 16, 2 of which are marks" in line
    assert line.startswith("'a long text a long text")


def test_a_text_that_just_fits_is_not_told(explainer, caplog):
    open_clips = type(explainer.anatomy.model).__module__.startswith("open_clip")
    fits = "cat " * 14 if open_clips else "a" * 14
    with caplog.at_level("WARNING"):
        whole, longer = explainer.texts([fits]), None
        assert not caplog.records
        longer = explainer.texts([fits + "dog" if open_clips else fits + "b"])
    assert len(caplog.records) == 1
    assert whole.shape == longer.shape


def test_a_tokenizer_without_a_length_of_its_own_is_cut_where_the_model_ends(directory, tmp_path, caplog):
    shutil.copytree(directory, tmp_path / "copy")
    file = tmp_path / "copy" / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "model_max_length"}))
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with caplog.at_level("WARNING"):
        vitscope.Explainer(f"hf/{tmp_path / 'copy'}", preprocessing=prepared).texts(LONG)
    assert "the model reads 16" in caplog.text


@pytest.mark.parametrize("memory_limit", [None, 1])
def test_a_text_an_image(directory, memory_limit, tmp_path):
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    explainer = vitscope.Explainer(f"hf/{directory}", preprocessing=prepared, memory_limit=memory_limit)
    texts = ["a photo of a cat", "a dog rather than a cat", "a house"]
    images = torch.randn(3, 3, 32, 32)
    methods = "daam,cdam,rise:masks=20"
    for target in (texts, tuple(texts), [Text.of_words(text) for text in texts]):
        together = explainer(images, methods, target)
        for index, text in enumerate(texts):
            alone = explainer(images[index : index + 1], methods, text)
            assert together.subject.asked_of(index) == alone.subject.asked == f"{text} (cosine)"
            assert together.subject.title(index) == alone.subject.title(0)
            for label in alone:
                one, other = together[label].values[index], alone[label].values[0]
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
    for index, folder in enumerate(together.save(tmp_path)):
        assert json.loads(Path(folder, "manifest.json").read_text())["target"] == f"{texts[index]} (cosine)"
        assert json.loads(Path(folder, "view.json").read_text())["asked"] == f"{texts[index]} (cosine)"
    with pytest.raises(vitscope.TargetError, match="3 targets for 2 images; give one target, or one an image"):
        explainer(images[:2], "cdam", texts)


@pytest.mark.parametrize(
    "target", ["", "  ", "\n", "a cat rather than ", " rather than a cat", ["a cat", ""], ["a cat", " "]]
)
def test_an_empty_text_is_refused(explainer, target):
    with pytest.raises(vitscope.TargetError, match="is an empty text; say what to look for"):
        explainer(IMAGES, "cdam", target)


def test_empty_texts_of_any_kind_are_refused(explainer):
    for make in (lambda: Text(""), lambda: Text("a cat", rather_than=" "), lambda: explainer.texts(["a cat", ""])):
        with pytest.raises(vitscope.TargetError, match="is an empty text"):
            make()


@pytest.mark.parametrize("target", ["7", " 7 ", ["7", "8"], ["a cat", "7"]])
def test_a_number_in_words_is_a_class_and_there_is_none(explainer, target):
    with pytest.raises(vitscope.TargetError, match="has no classifier, so that it has no classes; give a text as the"):
        explainer(IMAGES, "cdam", target)


def test_words_for_a_model_without_classes_or_texts_are_refused():
    explainer = vitscope.Explainer(build(num_classes=0), preprocessing={"size": 32})
    for target in ("7", "cat", "probability of 2", "1 rather than 2", ""):
        with pytest.raises(vitscope.TargetError, match="has no classifier, so that it has no classes; give a memory"):
            explainer.target(target)
    with pytest.raises(vitscope.TargetError, match="no text tower"):
        vitscope.Explainer(build(), preprocessing={"size": 32}).target([Text("a cat"), Text("a dog")])


def test_without_a_text_the_way_out_is_said(explainer):
    with pytest.raises(vitscope.TargetError, match="give a text as the target"):
        explainer(IMAGES, "cdam")


def test_a_model_without_a_text_tower_says_so():
    model = build()
    explainer = vitscope.Explainer(model)
    with pytest.raises(vitscope.TargetError, match="no text tower"):
        explainer(pictures(model), "cdam", Text("a cat"))
    with pytest.raises(vitscope.TargetError, match="no text tower"):
        explainer.texts("a cat")


def test_no_tokenizer_at_hand(directory, tmp_path):
    model = transformers.CLIPModel.from_pretrained(directory)
    model.config._name_or_path = ""
    prepared = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(vitscope.TargetError, match=r"give Explainer\(tokenizer=...\)"):
        vitscope.Explainer(model, preprocessing=prepared).texts("a cat")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)
    own = vitscope.Explainer(
        model, preprocessing=prepared, tokenizer=lambda texts: tokenizer(texts, padding=True, return_tensors="pt")
    )
    assert own.texts("a cat").shape == (1, 12)


def test_the_command_takes_a_text(directory, tmp_path, monkeypatch):
    Image.effect_noise((50, 40), 80).convert("RGB").save(tmp_path / "photo.png")
    words = ["explain", str(tmp_path / "photo.png"), "--model", f"hf/{directory}", "--methods", "daam,cdam"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--target", "a photo of a cat", "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    manifest = json.loads((tmp_path / "o" / "photo" / "manifest.json").read_text())
    assert manifest["target"] == "a photo of a cat (cosine)"


@pytest.mark.parametrize(("target", "code"), [(LONG, 0), ("", 2), ("7", 2)])
def test_the_command_says_in_one_line_what_is_wrong_with_a_text(directory, tmp_path, monkeypatch, capsys, target, code):
    for name in ("one", "two"):
        Image.effect_noise((50, 40), 80).convert("RGB").save(tmp_path / f"{name}.png")
    words = ["explain", str(tmp_path), "--model", f"hf/{directory}", "--methods", "cdam", "--batch-size", "1"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--target", target, "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as done:
        main()
    assert (done.value.code or 0) == code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("vitscope: "))
    says = {LONG: "180 tokens, the model reads 16", "": "is an empty text", "7": "has no classifier"}
    assert says[target] in line
