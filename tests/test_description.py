"""What `describe` prints of networks without rows to follow: input, output, attention sites and paths."""

from __future__ import annotations

import pytest
import torch

import vitscope
from tests.conftest import build, perturbed
from tests.models.test_windowed import MODELS
from tests.recording.test_literal import Encoder, TwoBackbones, TwoHeads
from vitscope import cli

ENCODER = "encoder.layers.0.self_attn to encoder.layers.1.self_attn: 2 calls, self, "


@pytest.mark.parametrize(("channels", "shape"), [(3, (3, 224, 224)), (12, (12, 24, 32))])
def test_sites_output_and_paths(channels, shape):
    explainer = vitscope.Explainer(perturbed(Encoder(True, channels=channels)))
    found = vitscope.describe(explainer, images=torch.randn(1, *shape))
    rows, cols = shape[1] // 8, shape[2] // 8
    assert found.facts["sites"][0].startswith(f"{ENCODER}grid {rows} x {cols}, 1 prefix token, fit ")
    assert found.facts["output"] == "output (1, 5)"
    assert found.facts["cam_layer"] == f"encoder, grid {rows} x {cols}"
    assert found.paths["daam"] == found.paths["rise"] == "general"
    assert found.paths.keys() == {name for name, reason in found.methods.items() if not reason}
    assert f"sites of       an input of {' x '.join(map(str, shape))}, with places along 2 axes" in str(found)


def test_channels_are_those_of_the_first_convolution():
    found = vitscope.describe(vitscope.Explainer(perturbed(Encoder(True, channels=12))))
    assert found.facts["sites_of"].startswith("an input of 12 x 224 x 224,")


def test_a_volume_is_described_by_an_input():
    explainer = vitscope.Explainer(perturbed(Encoder(True, channels=1, volume=True)))
    assert "describe(..., images=, inputs=)" in vitscope.describe(explainer).facts["sites"]
    found = vitscope.describe(explainer, images=torch.randn(1, 1, 16, 24, 16))
    assert found.facts["sites"][0].startswith(f"{ENCODER}grid 2 x 3 x 2, 1 prefix token, fit ")


def test_sites_of_different_keys_have_lines_of_their_own():
    images = torch.randn(1, 3, 32, 32)
    fine, coarse = vitscope.describe(vitscope.Explainer(perturbed(TwoBackbones())), images=images).facts["sites"]
    assert "fine.blocks.0.attn to fine.blocks.1.attn: 2 calls, self, grid 4 x 4, 1 prefix token" in fine
    assert "coarse.blocks.0.attn: 1 call, self, grid 2 x 2, fit" in coarse
    outputs = vitscope.describe(vitscope.Explainer(perturbed(TwoHeads())), images=images).facts["output"]
    assert outputs.count("(1, ") == 2


def test_windows_are_counted_without_heads():
    found = vitscope.describe(vitscope.Explainer(perturbed(MODELS["swin"]())))
    assert "grid 14 x 14, 4 windows of 49 keys, fit" in found.facts["sites"][0]
    assert found.paths["daam"] == "general"
    assert found.paths["attention"] == "fast"
    text = str(found)
    assert text.count("\n               layers.") == 3  # a line for each stage


def test_a_described_model_runs_no_probe():
    found = vitscope.describe(vitscope.Explainer(build()))
    assert "sites" not in found.facts
    assert set(found.paths.values()) == {"fast"}


def test_the_command_prints_paths_as_json(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vitscope", "describe", "scenes", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert '"paths": {' in capsys.readouterr().out
