"""Models by name from every source: the right class and weights, the library's own pixels, errors of one line."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from timm.models import save_for_hf

import vitscope
from vitscope import cli
from vitscope.errors import ModelError
from vitscope.images import Preprocessing
from vitscope.models import list_models, load, load_model, of_module
from vitscope.models.sources import SOURCES, from_open_clip
from vitscope.models.sources.translate import crop_share, of_open_clip, of_processor
from vitscope.models.weights import outputs_in

transformers = pytest.importorskip("transformers", reason="extra hf")
open_clip = pytest.importorskip("open_clip", reason="extra clip")

TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
VIT = {**TINY, "intermediate_size": 48}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LABELS = {0: "ant", 1: "bee", 2: "cat"}
CLIP = {"text_config": TEXT, "vision_config": VIT, "projection_dim": 16}
SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 3], "image_size": 32, "patch_size": 4, "window_size": 4}

MODELS = {
    "ViTForImageClassification": lambda: transformers.ViTConfig(**VIT, id2label=LABELS),
    "ViTModel": lambda: transformers.ViTConfig(**VIT),
    "DeiTForImageClassificationWithTeacher": lambda: transformers.DeiTConfig(**VIT, id2label=LABELS),
    "BeitForImageClassification": lambda: transformers.BeitConfig(**VIT, id2label=LABELS),
    "Dinov2Model": lambda: transformers.Dinov2Config(**TINY),
    "Dinov2ForImageClassification": lambda: transformers.Dinov2Config(**TINY, id2label=LABELS),
    "Dinov2WithRegistersModel": lambda: transformers.Dinov2WithRegistersConfig(**TINY),
    "SwinForImageClassification": lambda: transformers.SwinConfig(**SWIN, id2label=LABELS),
    "CLIPModel": lambda: transformers.CLIPConfig(**CLIP),
    "CLIPVisionModel": lambda: transformers.CLIPVisionConfig(**VIT),
    "CLIPVisionModelWithProjection": lambda: transformers.CLIPVisionConfig(**VIT, projection_dim=16),
    "SiglipModel": lambda: transformers.SiglipConfig(text_config=TEXT, vision_config=VIT),
    "SiglipVisionModel": lambda: transformers.SiglipVisionConfig(**VIT),
}


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(MODELS[kind]()).eval()


def same(model, other):
    mine, others = model.state_dict(), other.state_dict()
    return set(mine) == set(others) and all(torch.equal(mine[k], others[k]) for k in mine)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def vit_folder(tmp_path):
    made("ViTForImageClassification").save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_directory_of_save_pretrained_gives_the_same_class_and_weights(kind, tmp_path, capfd):
    model = made(kind)
    model.save_pretrained(tmp_path / "m")
    capfd.readouterr()
    loaded = load(f"hf/{tmp_path / 'm'}")
    assert type(loaded.model).__name__ == kind
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == ("sdpa" if type(model)._supports_sdpa else "eager")
    assert loaded.names == (tuple(LABELS.values()) if "ForImageClassification" in kind else ())
    assert "has no preprocessor_config.json; save its image processor" in loaded.no_preprocessing
    assert same(load(str(tmp_path / "m")).model, model)  # a plain directory will do
    fresh = load_model(f"hf/{tmp_path / 'm'}", pretrained=False)
    assert type(fresh).__name__ == kind
    assert not same(fresh, model)
    assert capfd.readouterr() == ("", "")


def test_a_mae_keeps_every_patch_in_order(tmp_path):
    config = transformers.ViTMAEConfig(**VIT, decoder_hidden_size=24, decoder_num_attention_heads=3, mask_ratio=0.75)
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    model = load_model(f"hf/{tmp_path}")
    assert type(model).__name__ == "ViTMAEModel"
    before = torch.get_rng_state()
    picture = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explainer = vitscope.Explainer(model, preprocessing={"size": 32})
    first, second = explainer.features(picture), explainer.features(picture)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_pooler_is_left_out_and_not_invented(tmp_path):
    """The files of DINO on the hub have none."""
    model = transformers.ViTModel(MODELS["ViTModel"](), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    loaded = load_model(f"hf/{tmp_path}")
    assert loaded.pooler is None
    assert same(loaded, model)


def test_a_directory_without_some_of_its_weights_is_refused(tmp_path):
    model = made("ViTForImageClassification")
    model.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if "classifier" not in name}
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"2 missing \(classifier\.bias, classifier\.weight\)"):
        load(f"hf/{tmp_path}")


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
def test_weights_files_under_old_and_new_names(vit_folder, tmp_path, suffix):
    """transformers writes version 4's names ("encoder.layer.0.attention.attention.query") and has others; all load."""
    config = transformers.ViTConfig(**VIT, num_labels=5)
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "five")
    old = safetensors.torch.load_file(tmp_path / "five" / "model.safetensors")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in old
    for state in (old, model.state_dict()):
        file = tmp_path / f"w.{suffix}"
        safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
        loaded = load(f"hf/{vit_folder}", file)
        assert same(loaded.model, model)
        assert loaded.model.config.num_labels == 5
        assert loaded.names == ()  # the directory's three names are not these five classes'
        assert loaded.preprocessing is not None


def test_weights_without_a_head_give_the_bare_model(vit_folder, tmp_path):
    model = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert same(load_model(f"hf/{vit_folder}", tmp_path / "w.pth"), model)


def test_weights_that_do_not_fit_show_the_first_differences(vit_folder, tmp_path):
    other = transformers.ViTForImageClassification(transformers.ViTConfig(**{**VIT, "hidden_size": 48}, num_labels=3))
    torch.save(other.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"of another shape \(classifier\.weight \(3, 48\) for \(3, 24\), ") as caught:
        load(f"hf/{vit_folder}", tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(caught.value)
    torch.save({"layers.0.odd": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"missing \(.*1 unknown \(layers\.0\.odd\)"):
        load(f"hf/{vit_folder}", tmp_path / "w.pth")


def test_mistakes_with_directories_are_one_line(vit_folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for name, files in {
        "no_json": {"config.json": "{"},
        "no_type": {"config.json": json.dumps({"hidden_size": 3})},
        "odd_type": {"config.json": json.dumps({"model_type": "frobnicator"})},
        "text": {"config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]})},
        "no_weights": {"config.json": (vit_folder / "config.json").read_text()},
        "damaged": {"config.json": (vit_folder / "config.json").read_text(), "model.safetensors": "hello"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    for name, says in (
        ("empty", "has no config.json; give one made by save_pretrained"),
        ("no_json", "config.json is no JSON"),
        ("no_type", "transformers cannot read its config"),
        ("odd_type", "frobnicator"),
        ("text", "BertModel takes no pictures; give a vision transformer"),
        ("no_weights", "its weights cannot be loaded"),
        ("damaged", "its weights cannot be loaded"),
        ("nowhere", "no such directory"),
    ):
        for form in (f"hf/{tmp_path / name}", str(tmp_path / name)):
            with pytest.raises(ModelError, match=says) as caught:
                load(form)
            assert "\n" not in str(caught.value)
            assert form in str(caught.value)


def test_no_network_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'. Try again.\nmore")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(ModelError, match=r"\(We couldn't connect .*check the name and the network.*did you mean") as e:
        load("hf/google/vit-bse-patch16-224")
    assert "\n" not in str(e.value)


def test_other_sizes_where_the_model_takes_them(vit_folder, tmp_path):
    with pytest.raises(ModelError, match=r"does not take pictures of 64 x 64 pixels \(.*its size is 32"):
        load(f"hf/{vit_folder}", image_size=(64, 64))
    assert load(f"hf/{vit_folder}", image_size=(32, 32)).preprocessing.size == (32, 32)
    made("Dinov2Model").save_pretrained(tmp_path / "dino")
    transformers.BitImageProcessor().save_pretrained(tmp_path / "dino")
    assert load(f"hf/{tmp_path / 'dino'}", image_size=(48, 64)).preprocessing.size == (48, 64)


# -- preprocessing -----------------------------------------------------------------------------------------------------

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "vit": ("ViTImageProcessor", {}),
    "vit_rectangle": ("ViTImageProcessor", {"size": {"height": 96, "width": 160}, "resample": 3}),
    "deit": ("DeiTImageProcessor", {}),
    "beit": ("BeitImageProcessor", {}),
    "clip": ("CLIPImageProcessor", {}),
    "siglip": ("SiglipImageProcessor", {}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": 224, **IMAGENET}),
    "shortest_518": ("BitImageProcessor", {"size": {"shortest_edge": 71}, "crop_size": 62, "resample": 2}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "convnext_384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}),
    "levit": ("LevitImageProcessor", {}),
    "no_rescale": ("ViTImageProcessor", {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3}),
    "no_normalise": ("ViTImageProcessor", {"do_normalize": False}),
    "factor": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
}


def processor_of(name, backend):
    kind, options = PROCESSORS[name]
    return getattr(transformers, kind + ("Pil" if backend == "pil" else ""))(**options)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_pixels_are_the_image_processors_own(name):
    """Every remainder of the crop, both ways up. The tolerance is float32's rounding, in grey levels."""
    processor = processor_of(name, "pil")
    preprocessing = of_processor(processor, "m")
    std = torch.tensor(preprocessing.std)[:, None, None]
    for index, (height, width) in enumerate(
        [(301, 455), (455, 301), (257, 262), (260, 257), (259, 257), (258, 257), (91, 333), (77, 77), (640, 481)]
    ):
        picture = noise(height, width, index)
        theirs = torch.tensor(processor(picture, return_tensors="np")["pixel_values"][0])
        ours, geometry = preprocessing(picture)
        assert ours.shape == theirs.shape == (3, *preprocessing.size)
        assert float(((ours - theirs).abs() * std).max()) * 255 < 1e-3
        assert geometry.original == (height, width)


@pytest.mark.parametrize("name", ["vit", "deit", "clip", "dinov2"])
def test_the_torchvision_processors_differ_from_pil_by_grey_levels(name):
    """They resize in another order and round in between: on smooth pictures two levels, on noise more, rarely."""
    fast, preprocessing = processor_of(name, "torchvision"), of_processor(processor_of(name, "pil"), "m")
    assert of_processor(fast, "m") == preprocessing
    std = torch.tensor(preprocessing.std)[:, None, None]
    for height, width in ((301, 455), (455, 302)):
        rough = noise(height, width)
        for picture, largest, mean in ((noise(9, 9).resize(rough.size), 2.001, 0.5), (rough, 20, 0.5)):
            theirs = torch.as_tensor(np.asarray(fast(picture, return_tensors="np")["pixel_values"][0]))
            levels = (preprocessing(picture)[0] - theirs).abs() * std * 255
            assert levels.max() < largest
            assert levels.mean() < mean


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("ViTImageProcessorPil", {"do_resize": False}, "it does not resize"),
        ("ViTImageProcessorPil", {"size": {"shortest_edge": 224}}, "keeps the aspect and does not crop"),
        ("ViTImageProcessorPil", {"size": {"shortest_edge": 224, "longest_edge": 448}}, "it resizes to "),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 200}}, "it crops 224 x 224 after resizing the shorter"),
        ("CLIPImageProcessorPil", {"crop_size": {"height": 224, "width": 112}}, "it crops 224 x 112"),
        ("CLIPImageProcessorPil", {"size": {"height": 256, "width": 300}}, "of another shape"),
        ("EfficientNetImageProcessorPil", {"rescale_offset": True}, r"its rescaling has an offset \(rescale_offset\)"),
        ("MobileViTImageProcessorPil", {}, r"it swaps red and blue \(do_flip_channel_order\)"),
        ("ViTImageProcessorPil", {"do_pad": True, "pad_size": 300}, r"it pads \(do_pad\)"),
    ],
)
def test_what_cannot_be_said_is_named(kind, options, says):
    with pytest.raises(ModelError, match=says) as caught:
        of_processor(getattr(transformers, kind)(**options), "m")
    assert str(caught.value).endswith("give preprocessing= of your own")


def test_a_processor_that_does_more_is_found_out_by_its_pixels():
    class Inverting(transformers.ViTImageProcessorPil):
        def normalize(self, image, *arguments, **options):
            return super().normalize(1 - image, *arguments, **options)

    with pytest.raises(ModelError, match=r"Inverting does more than resize, crop and normalise \(its pixels differ"):
        of_processor(Inverting(), "m")


def test_preprocessing_comes_with_the_model(vit_folder):
    preprocessing = load(f"hf/{vit_folder}", pretrained=False).preprocessing
    assert preprocessing == Preprocessing(
        (32, 32), "bilinear", 1.0, "squash", (0.5,) * 3, (0.5,) * 3, crop_start="down"
    )


def test_crop_shares_resize_exactly():
    for crop in range(8, 640, 7):
        for resize in range(crop, crop + 90, 3):
            assert int(crop / crop_share(crop, resize)) == resize


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "vit_h_14"])
def test_torchvisions_pixels(name):
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    from vitscope.models.sources.from_torchvision import _preprocessing

    preprocessing = _preprocessing(name)
    for height, width in ((301, 455), (455, 302), (259, 262)):
        picture = noise(height, width)
        assert torch.allclose(preprocessing(picture)[0], transform(picture), atol=1e-6)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_open_clips_pixels(mode):
    config = {"size": 64, "mode": "RGB", "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "fill_color": 0}
    config |= {"interpolation": "bicubic", "resize_mode": mode}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**config), is_train=False)
    for height, width in ((301, 455), (455, 302), (65, 67)):
        picture = noise(height, width)
        assert torch.allclose(of_open_clip(config, "m")(picture)[0], transform(picture), atol=1e-6)


def test_open_clips_padding_is_refused_by_name():
    config = {"size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3, "fill_color": 0, "interpolation": "bicubic"}
    with pytest.raises(ModelError, match="pads pictures with the grey level 0"):
        of_open_clip(config | {"resize_mode": "longest"}, "m")
    with pytest.raises(ModelError, match="resizes by shortest, random"):
        of_open_clip(config | {"resize_mode": "shortest", "interpolation": "random"}, "m")


# -- timm, torchvision, open_clip, torch.hub ---------------------------------------------------------------------------


def test_a_directory_of_timm(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.3)}
    labels = {"label_names": ["n1", "bee", "cat"], "label_descriptions": {"n1": "ant"}}
    save_for_hf(model, tmp_path / "t", model_config=labels, model_args={"img_size": 32, "depth": 1})
    for name in (str(tmp_path / "t"), f"hf/{tmp_path / 't'}"):
        loaded = load(name)
        assert same(loaded.model, model)
        assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
        assert loaded.preprocessing.size == (32, 32)
        assert loaded.names == tuple(LABELS.values())
    (tmp_path / "t" / "model.safetensors").write_text("hello")
    with pytest.raises(ModelError, match=r"cannot be built .*weights belong together"):
        load(str(tmp_path / "t"))


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "levit_128s", "crossvit_tiny_240", "xcit_nano_12_p16_224"]
)
def test_classes_of_weights_of_other_timm_families(name, tmp_path):
    model = timm.create_model(name, num_classes=5)
    safetensors.torch.save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    assert same(load_model(f"timm/{name}", tmp_path / "w.safetensors"), model)


def test_outputs_in_every_layout():
    for name in ("classifier.weight", "heads.head.weight", "head.fc.weight", "head.weight", "fc.weight"):
        assert outputs_in({name: torch.zeros(4, 3), "x.blocks.0.w": torch.zeros(1)}) == 4
    assert outputs_in({"vit.encoder.layer.0.w": torch.zeros(1)}) == 0
    assert outputs_in({"stages.0.w": torch.zeros(1)}) == 0
    assert outputs_in({"head.0.weight": torch.zeros(4, 3), "head.1.weight": torch.zeros(4, 5)}) == 4
    assert outputs_in({"head.0.weight": torch.zeros(4, 3), "blocks.0.w": torch.zeros(1)}) is None
    assert outputs_in({"conv.weight": torch.zeros(1)}) is None


def test_torchvision(tmp_path):
    loaded = load("torchvision/swin_t", pretrained=False)
    assert loaded.names[281] == "tabby"
    assert loaded.preprocessing.size == (224, 224)
    model = torchvision.models.swin_t(num_classes=4)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    loaded = load("torchvision/swin_t", tmp_path / "w.pth", image_size=(96, 64))
    assert same(loaded.model, model)
    assert (loaded.names, loaded.preprocessing.size) == ((), (96, 64))
    torch.save({k: v for k, v in model.state_dict().items() if "head" not in k}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"2 missing \(head\.weight, head\.bias\)"):
        load("torchvision/swin_t", tmp_path / "w.pth")
    for name, size, says in (
        ("torchvision/resnet18", None, "no such vision transformer"),
        ("torchvision/vit_b_61", None, "did you mean vit_b_16"),
        ("torchvision/maxvit_t", (96, 96), "takes 224 x 224 pixels alone"),
        ("torchvision/vit_b_16", (96, 64), "takes square sizes of whole patches"),
    ):
        with pytest.raises(ModelError, match=says):
            load(name, pretrained=False, image_size=size)


def test_torchvisions_vit_for_another_size(tmp_path, monkeypatch):
    small = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    make = torchvision.models.VisionTransformer

    def get_model(name, weights, image_size=224, num_classes=1000):
        return make(image_size=image_size, num_classes=num_classes, **small)

    monkeypatch.setattr("vitscope.models.sources.from_torchvision.get_model", get_model)
    torch.save(get_model("", None, num_classes=3).state_dict(), tmp_path / "w.pth")
    loaded = load("torchvision/vit_b_16", tmp_path / "w.pth", image_size=(64, 64))
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert loaded.preprocessing.size == (64, 64)


def test_torchvision_without_a_network(monkeypatch):
    def offline(*_, **__):
        raise OSError("<urlopen error>\nmore")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        ModelError, match=r"cannot fetch its published weights \(<urlopen error> more\); pass --weights"
    ):
        load("torchvision/swin_t")


@pytest.fixture
def tiny_clip(monkeypatch, tmp_path):
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "ViT-Wee.json").write_text(json.dumps(config))
    before = (list(open_clip.factory._MODEL_CONFIG_PATHS), dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "ViT-Wee.json")
    yield "open_clip/ViT-Wee"
    open_clip.factory._MODEL_CONFIG_PATHS[:] = before[0]
    open_clip.factory._rescan_model_configs()


def test_open_clip(tiny_clip, tmp_path, caplog):
    model = load_model(tiny_clip, pretrained=False)
    assert caplog.text == ""  # it is not news that the weights are random
    assert not logging.getLogger().filters
    assert model.visual.image_size == (32, 32)
    assert load(tiny_clip, pretrained=False).preprocessing.size == (32, 32)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load(tiny_clip, tmp_path / "w.safetensors")
    assert same(loaded.model, model)
    assert loaded.preprocessing.crop_mode == "center"
    custom = {f"text.{k}" if not k.startswith(("visual", "logit")) else k: v for k, v in model.state_dict().items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    assert same(load_model(tiny_clip, tmp_path / "w.pth"), model)
    bigger = load(tiny_clip, tmp_path / "w.pth", image_size=(64, 64))
    assert bigger.model.visual.positional_embedding.shape[0] == 65
    assert bigger.preprocessing.size == (64, 64)
    torch.save(custom, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"not weights of open_clip/ViT-Wee: .*missing .*unknown \(text\."):
        load(tiny_clip, tmp_path / "w.pth")


def test_open_clips_names(tiny_clip):
    for name, says in (
        ("open_clip/ViT-B-23", "did you mean ViT-B-32"),
        ("open_clip/ViT-B-32:laion2b_s34b_b79", "did you mean laion2b_s34b_b79k"),
        ("open_clip/ViT-B-32", "which weights is not said; say open_clip/ViT-B-32:openai or another tag"),
        (tiny_clip, "say --weights FILE"),
    ):
        with pytest.raises(ModelError, match=says):
            load(name)


def test_open_clip_uses_the_activation_that_the_weights_were_trained_with():
    model = load_model("open_clip/ViT-B-32:openai", pretrained=False)
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert from_open_clip._is_vit(open_clip, "ViT-B-32")
    assert not from_open_clip._is_vit(open_clip, "RN50")
    assert not from_open_clip._is_vit(open_clip, "convnext_base")


def test_torch_hub(monkeypatch, tmp_path):
    asked = []

    def from_hub(repository, name, **options):
        asked.append((repository, name, options["pretrained"]))
        return timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)

    monkeypatch.setattr(torch.hub, "load", from_hub)
    loaded = load("hub/dino_vits16")
    assert asked == [("facebookresearch/dino:main", "dino_vits16", True)]
    assert loaded.preprocessing.crop_pct == 0.875
    torch.save({"teacher": {f"backbone.{k}": v for k, v in loaded.model.state_dict().items()}}, tmp_path / "w.pth")
    assert same(load_model("hub/dino_vits16", tmp_path / "w.pth"), loaded.model)
    assert not asked[1][2]

    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load", offline)
    with pytest.raises(ModelError, match=r"\(no route\); connect to the network, or use timm's copy"):
        load("hub/dino_vits16")
    with pytest.raises(ModelError, match="did you mean dino_vits16"):
        load("hub/dino_vits61")


# -- names, the Explainer, modules handed over -------------------------------------------------------------------------


def test_unknown_names_and_missing_extras_say_what_to_do(monkeypatch):
    for name, says in (
        ("google/vit-base-patch16-224", "for a model on the Hugging Face hub say hf/google/vit-base-patch16-224"),
        ("jax/a/b", "neither a source of models"),
        ("./nowhere", "no such directory"),
        ("torchvision/", "say e.g. torchvision/vit_b_16"),
        ("vit_tinny_patch16_224", "did you mean vit_tiny"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            load(name)
        assert "\n" not in str(caught.value)
    for package, name, extra in (
        ("transformers", "hf/google/vit-base-patch16-224", "hf"),
        ("open_clip", "open_clip/ViT-B-32:openai", "clip"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModelError, match=rf'needs {package} .*pip install "vitscope\[{extra}\]"'):
            load(name)
    assert from_open_clip.names() == []


def test_listed_names_are_known_to_their_sources():
    names = list_models()
    assert len(set(names)) == len(names)
    for source, of in SOURCES.items():
        assert f"{source}/{of.names()[0]}" in names
        assert of.example in names
    for name in ("timm/cait_s24_224", "torchvision/maxvit_t", "hub/dino_vitb8", "open_clip/ViT-B-16:laion2b_s34b_b88k"):
        assert name in names
    assert not any("resnet" in name or "RN50" in name for name in names)
    assert list_models("torchvision/vit_b") == ["torchvision/vit_b_16", "torchvision/vit_b_32"]


def test_a_folder_called_like_a_source_or_a_model(vit_folder, monkeypatch):
    monkeypatch.chdir(vit_folder.parent)
    vit_folder.rename(vit_folder.parent / "scenes")
    assert type(load_model("./scenes")).__name__ == "ViTForImageClassification"
    assert type(load_model("scenes")).__name__ == "VisionTransformer"
    assert type(load_model("hf/scenes")).__name__ == "ViTForImageClassification"


def test_what_a_module_knows_of_itself(vit_folder, tiny_clip, caplog):
    loaded = of_module(transformers.AutoModelForImageClassification.from_pretrained(vit_folder))
    assert loaded.names == tuple(LABELS.values())
    assert loaded.preprocessing == load(str(vit_folder)).preprocessing
    assert of_module(load_model(tiny_clip, pretrained=False)).preprocessing.mean[0] == pytest.approx(0.48145466)
    with caplog.at_level(logging.WARNING):
        fresh = of_module(made("ViTForImageClassification"))
    assert "how its pictures are prepared is unknown" in caplog.text
    assert (fresh.preprocessing.size, fresh.names) == ((32, 32), tuple(LABELS.values()))
    assert of_module(made("ViTModel")).names == ()


def test_what_stands_in_torchs_wrappers_knows_it_too(caplog):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, pretrained_cfg_overlay={"crop_pct": 0.7})
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert of_module(wrapped).preprocessing == of_module(model).preprocessing
        assert of_module(wrapped).preprocessing.crop_pct == 0.7
    assert caplog.text == ""


def test_preprocessing_may_be_given_where_a_model_has_none(tmp_path):
    made("ViTModel").save_pretrained(tmp_path)
    loaded = load(f"hf/{tmp_path}")
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json"):
        loaded.preprocessing_with({"size": 32})
    given = {"size": 32, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"}
    given |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert loaded.preprocessing_with(given).size == (32, 32)


def test_the_explainer_uses_names_and_preprocessing_of_the_model(tmp_path, monkeypatch):
    """Through a timm directory, whose adapter is there."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
    model.pretrained_cfg = {**model.pretrained_cfg, "std": (0.1, 0.2, 0.3)}
    labels = {"label_names": list(LABELS.values())}
    save_for_hf(model, tmp_path / "t", model_config=labels, model_args={"img_size": 32, "depth": 2})
    explainer = vitscope.Explainer(str(tmp_path / "t"))
    assert explainer.preprocessing.std == (0.1, 0.2, 0.3)
    assert explainer.names.names == tuple(LABELS.values())
    explanation = explainer(noise(50, 40), "cdam", target="bee")
    assert explanation.subject.provenance["model"]["source"].startswith("timm ")


@pytest.mark.parametrize("words", [["describe"], ["explain", "x.png", "--out", "o"]])
def test_the_command_line_says_it_in_one_line(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--model", f"hf/{tmp_path / 'bad'}"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert len(err.strip().splitlines()) == 1
    assert "has no config.json" in err
