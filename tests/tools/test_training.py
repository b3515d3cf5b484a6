"""The training of the bundled models: an interrupted run ends where an uninterrupted one does."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(monkeypatch):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("training needs torch 2.9 or newer, for torch.optim.Muon")
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "scenes"))
    from timm import layers

    fused = layers.config.use_fused_attn()
    import train

    yield train
    layers.set_fused_attn(bool(fused))
    for name in ("train", "pictures", "objectives"):
        sys.modules.pop(name, None)


class InterruptedTrainingError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("model", ["scenes", "scenes-ssl", "scenes-shortcut", "scenes-windows"])
def test_an_interrupted_run_goes_on(train, tmp_path, model):
    from pictures import drawings

    plan = train.PLANS[model]
    stages = tuple(train.Stage(stage.size, 3 * 8, 8, stage.rate) for stage in plan.stages)
    short = train.Plan(plan.objective, plan.recipe, 1000, stages, plan.outputs, plan.start, windowed=plan.windowed)
    source = drawings(tmp_path, short.recipe, 1000)

    def run(folder, stop=None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(5)
        made = train.Run(short, seed=5, scale=1.0, compiled=False)
        made.resume(folder)
        steps = []
        one = made._one

        def counted(*arguments):
            if stop is not None and len(steps) == stop:
                raise InterruptedTrainingError
            steps.append(1)
            return one(*arguments)

        made._one = counted
        try:
            made.train(source, folder, save_every=1)
        except InterruptedTrainingError:
            return None
        return made.averaged()

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", stop=2) is None
    parts = run(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    fresh = short.network().state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)
