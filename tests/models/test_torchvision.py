"""torchvision's ViT against timm's, with the same weights; and the command on a directory of transformers'."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

import vitscope
from tests.conftest import TINY, perturbed, pictures
from vitscope.cli import main

LABELS = ["daam", "agcam", "cdam", "integrated_cdam:steps=4", "smooth_cdam:samples=2", "attention"]


def in_torchvision(timm_model: VisionTransformer) -> TorchvisionViT:
    """The same network in torchvision's form."""
    model = TorchvisionViT(
        image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=96, num_classes=7
    )
    names = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj.": "conv_proj.",
        "norm.": "encoder.ln.",
        "head.": "heads.head.",
    }
    inner = {
        "norm1.": "ln_1.",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj.": "self_attention.out_proj.",
        "norm2.": "ln_2.",
        "mlp.fc1.": "mlp.0.",
        "mlp.fc2.": "mlp.3.",
    }
    state = {}
    for name, tensor in timm_model.state_dict().items():
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            (old,) = [part for part in inner if rest.startswith(part)]
            state[f"encoder.layers.encoder_layer_{index}.{rest.replace(old, inner[old])}"] = tensor
        else:
            (old,) = [part for part in names if name.startswith(part)]
            state[name.replace(old, names[old])] = tensor
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_weights_give_the_same_maps(dtype):
    ours = perturbed(VisionTransformer(**TINY)).to(dtype)
    theirs = in_torchvision(ours).to(dtype)
    images = pictures(ours, 3, dtype=dtype)
    prepared = {"size": 32}
    explainer = vitscope.Explainer(theirs, preprocessing=prepared)
    found = explainer(images, LABELS)
    wanted = vitscope.Explainer(ours, preprocessing=prepared)(images, LABELS)
    assert torch.allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    for label in LABELS:
        one, other = found[label].values, wanted[label].values
        assert float((one - other).norm() / other.norm()) < 1e-5, label
    evidence = explainer.evidence(images)
    assert torch.allclose(evidence[3], explainer(images, "cdam", 3)["cdam"].values, rtol=1e-3, atol=1e-5)


def test_explain_with_a_directory_of_transformers(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "sea snake", 2: "tench"},
    )
    model = perturbed(transformers.ViTForImageClassification(config), by=0.1)
    model.save_pretrained(tmp_path / "model")
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.2, 0.3, 0.4])
    processor.save_pretrained(tmp_path / "model")
    photo = np.random.default_rng(3).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    words = ["explain", "photo.png", "--model", "hf/model", "--methods", "daam,cdam", "--target", "sea snake"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--out", "o"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    manifest = json.loads((tmp_path / "o" / "photo" / "manifest.json").read_text())
    values = np.load(tmp_path / "o" / "photo" / "values.npz")
    pixels = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        assert np.allclose(values["logits"], model(pixels).logits[0].numpy(), atol=1e-4)
    assert (manifest["target"], values["daam"].shape) == ("sea snake", (4, 4))
    wanted = vitscope.Explainer(model, preprocessing={"size": 32})(pixels, "daam,cdam", 1)
    assert np.allclose(values["cdam"], wanted["cdam"].values[0].numpy(), rtol=1e-3, atol=1e-6)
