"""Options in place of the defaults, where those cost much: one table for all tests that run over the registry."""

CHEAPER = {
    "btt": "btt:steps=3",
    "bth": "bth:steps=3",
    "smooth_cdam": "smooth_cdam:samples=3",
    "integrated_cdam": "integrated_cdam:steps=4",
    "integrated_gradients": "integrated_gradients:steps=4",
    "smoothgrad": "smoothgrad:samples=4",
    "scorecam": "scorecam:max_forwards=8",
    "rise": "rise:masks=16,cells=3",
    "token_ablation": "token_ablation:max_forwards=9",
    "tis": "tis:masks=10,rounds=5",
    "vit_cx": "vit_cx:max_forwards=12",
}


def cheaper(name: str) -> str:
    """The label of a method with options that cost little."""
    return CHEAPER.get(name, name)
