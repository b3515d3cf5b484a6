"""How each library is asked for its maps, by its own documentation; for a worker of `benchmarks/peers.py`.

Every call is opened once, outside the time (hooks set, tools made), and then run. It gives, for each target, maps of
all pictures as the library returns them: on the patch grid, on pixels, or one attribution a channel and pixel.
Imports stay within the calls: a worker has one of these libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 2
"""Copies of each picture that go through the model together, where a library samples: as vitscope's own."""


@dataclass(frozen=True)
class Setting:
    """What is explained.

    Attributes:
        model: a timm, torchvision or Hugging Face model.
        images: normalised (b 3 H W).
        targets: one class a picture, for each target.
        grid: rows and columns of patches.
        samples: of methods that sample.
        frozen: whether the parameters take no gradients, so that the pictures must.
    """

    model: nn.Module
    images: Tensor
    targets: Sequence[Sequence[int]]
    grid: tuple[int, int]
    samples: int = 50
    frozen: bool = False

    @property
    def pictures(self) -> Tensor:
        """A copy of the images that takes gradients where nothing else does."""
        return self.images.clone().requires_grad_(self.frozen)

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches."""
        return getattr(self.model, "num_prefix_tokens", 1)

    def on_grid(self, tokens: Tensor) -> Tensor:
        """Tokens (b n D) as a picture (b D rows cols)."""
        return tokens[:, self.prefix :].unflatten(1, self.grid).permute(0, 3, 1, 2)


Call = Callable[[Setting], AbstractContextManager[Callable[[], Sequence[Any]]]]


def of_vitscope(method: str, agnostic: bool = False) -> Call:
    """By the public call, all targets in one pass."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        import vitscope

        explainer = vitscope.Explainer(setting.model)
        label = method.format(samples=setting.samples)
        targets = [None] if agnostic else [list(classes) for classes in setting.targets]

        def run() -> Sequence[Any]:
            found = explainer.each(setting.images, label, targets, strict=False)
            return [_last(one.attributions) for one in found]

        yield run

    return call


def _last(attributions: Mapping[str, Any]) -> Tensor | None:
    """The last method's map; None where it is flat."""
    return list(attributions.values())[-1].values if attributions else None


def of_grad_cam(kind: str) -> Call:
    """pytorch-grad-cam: one call a target."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        import pytorch_grad_cam as library

        layer, images = setting.model.blocks[-1].norm1, setting.pictures
        wrap = library.utils.model_targets.ClassifierOutputTarget
        with getattr(library, kind)(setting.model, [layer], reshape_transform=setting.on_grid) as cam:
            yield lambda: [
                cam(input_tensor=images, targets=[wrap(label) for label in classes]) for classes in setting.targets
            ]

    return call


def of_torch_cam(kind: str, scored: bool = True) -> Call:
    """torch-cam: one forward, then one call a target; where it needs no gradient, `scored` is False."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        import torchcam.methods as library

        layer, images = setting.model.blocks[-1].norm1, setting.pictures
        last = len(setting.targets) - 1
        with getattr(library, kind)(setting.model, layer, reshape_transform=setting.on_grid) as extractor:

            def run() -> Sequence[Any]:
                with torch.set_grad_enabled(scored):
                    scores = setting.model(images)
                    return [
                        extractor(list(classes), scores, **({"retain_graph": slot < last} if scored else {}))[0]
                        for slot, classes in enumerate(setting.targets)
                    ]

            yield run

    return call


@contextmanager
def legrad_of_torch_cam(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
    """Of torchvision's transformer, which alone it takes; read by the class token, as the model's own head reads."""
    from torchcam.methods import LeGrad

    encoder, heads = setting.model.encoder, setting.model.heads
    blocks, images = list(encoder.layers), setting.pictures
    last = len(setting.targets) - 1
    with LeGrad(setting.model, blocks, score_projection=lambda tokens: heads(encoder.ln(tokens)[:, 0])) as extractor:

        def run() -> Sequence[Any]:
            scores = setting.model(images)
            return [
                extractor(list(classes), scores, retain_graph=slot < last)[0]
                for slot, classes in enumerate(setting.targets)
            ]

        yield run


def of_captum(kind: str) -> Call:
    """Captum, at the pixels."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        import captum.attr as library

        images = setting.images.clone().requires_grad_()
        noise = 0.15 * float(setting.images.max() - setting.images.min())

        def run() -> Sequence[Any]:
            return [_by_captum(library, kind, setting, images, list(classes), noise) for classes in setting.targets]

        yield run

    return call


def _by_captum(library: Any, kind: str, setting: Setting, images: Tensor, classes: list[int], noise: float) -> Tensor:
    if kind == "InputXGradient":
        return library.InputXGradient(setting.model).attribute(images, target=classes)
    if kind == "IntegratedGradients":
        return library.IntegratedGradients(setting.model).attribute(
            images, target=classes, n_steps=setting.samples, internal_batch_size=AT_ONCE * len(images)
        )
    return library.NoiseTunnel(library.Saliency(setting.model)).attribute(
        images, target=classes, abs=False, nt_samples=setting.samples, nt_samples_batch_size=AT_ONCE, stdevs=noise
    )


@contextmanager
def of_daam_timm_vit(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
    """daam-timm-vit: one call a target; the last accumulated map."""
    from daam import DAAM

    with DAAM(setting.model) as library:
        yield lambda: [library(setting.images, target=list(classes)).maps[:, -1] for classes in setting.targets]


def of_obzai(kind: str, at: str = "", **options: Any) -> Call:
    """obzai: one call a target; `at` names the layer of its hooks, and an option "samples" is that of the setting."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        from obzai.xai import tools

        filled = {name: setting.samples if value == "samples" else value for name, value in options.items()}
        if at:
            filled["ommit_tokens"] = setting.prefix
        if "internal_batch_size" in filled:
            filled["internal_batch_size"] *= 1 if kind == "SmoothGradTool" else len(setting.images)
        tool = getattr(tools, kind)(setting.model, **filled)
        images = setting.pictures
        if at:
            tool.create_hooks(at.format(last=len(setting.model.blocks) - 1))
        try:
            yield lambda: [tool.explain(images, list(classes)).xai_maps for classes in setting.targets]
        finally:
            if at:
                tool.remove_hooks()

    return call


@contextmanager
def attention_of_obzai(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
    """Of a Hugging Face transformer that returns its attention, which alone it takes."""
    from obzai.xai.tools import AttentionMapTool

    tool = AttentionMapTool(Returning(setting.model))
    yield lambda: [tool.explain(setting.images).xai_maps]


class Returning(nn.Module):
    """A Hugging Face transformer that gives a tuple of logits and attention, as obzai reads it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, output_attentions: bool) -> tuple[Tensor, Any]:
        found = self.model(images, output_attentions=output_attentions)
        return found.logits, found.attentions


def literal(methods: str) -> Call:
    """The papers' own procedure, `benchmarks/literal.py`."""

    @contextmanager
    def call(setting: Setting) -> Iterator[Callable[[], Sequence[Any]]]:
        from benchmarks.literal import explain

        def run() -> Sequence[Any]:
            return [
                maps.unflatten(1, setting.grid)
                for maps in explain(methods, setting.model, setting.images, setting.targets)
            ]

        yield run

    return call


LAST_NORM = "blocks.{last}.norm1"

CALLS: Mapping[str, Mapping[str, Call]] = {
    "vitscope": {
        **{name: of_vitscope(name) for name in ("daam", "agcam", "cdam", "daam,agcam,cdam", "legrad")},
        **{name: of_vitscope(name) for name in ("gradcam", "gradcam_pp", "xgradcam", "layercam", "hirescam")},
        **{name: of_vitscope(name) for name in ("eigengradcam", "scorecam", "input_x_gradient")},
        **{name: of_vitscope(name, agnostic=True) for name in ("eigencam", "attention")},
        "smooth_cdam": of_vitscope("smooth_cdam:at=norm,samples={samples}"),
        "integrated_cdam": of_vitscope("integrated_cdam:at=norm,steps={samples}"),
        "integrated_gradients": of_vitscope("integrated_gradients:steps={samples}"),
        "smoothgrad": of_vitscope("smoothgrad:samples={samples}"),
    },
    "literal": {name: literal(name) for name in ("daam", "agcam", "cdam", "daam,agcam,cdam")},
    "pytorch-grad-cam": {
        "gradcam": of_grad_cam("GradCAM"),
        "gradcam_pp": of_grad_cam("GradCAMPlusPlus"),
        "xgradcam": of_grad_cam("XGradCAM"),
        "layercam": of_grad_cam("LayerCAM"),
        "hirescam": of_grad_cam("HiResCAM"),
        "eigencam": of_grad_cam("EigenCAM"),
        "eigengradcam": of_grad_cam("EigenGradCAM"),
        "scorecam": of_grad_cam("ScoreCAM"),
    },
    "Captum": {
        "input_x_gradient": of_captum("InputXGradient"),
        "integrated_gradients": of_captum("IntegratedGradients"),
        "smoothgrad": of_captum("SmoothGrad"),
    },
    "torch-cam": {
        "gradcam": of_torch_cam("GradCAM"),
        "gradcam_pp": of_torch_cam("GradCAMpp"),
        "xgradcam": of_torch_cam("XGradCAM"),
        "layercam": of_torch_cam("LayerCAM"),
        "scorecam": of_torch_cam("ScoreCAM", scored=False),
        "legrad": legrad_of_torch_cam,
    },
    "daam-timm-vit": {"daam": of_daam_timm_vit},
    "obzai": {
        "cdam": of_obzai("VanillaCDAMTool", LAST_NORM),
        "smooth_cdam": of_obzai("SmoothCDAMTool", LAST_NORM, num_steps="samples"),
        "integrated_cdam": of_obzai("IntegratedCDAMTool", LAST_NORM, num_steps="samples"),
        "gradcam": of_obzai("GradCAMViTTool", LAST_NORM),
        "input_x_gradient": of_obzai("InputXGradientTool"),
        "integrated_gradients": of_obzai("IntegratedGradientsTool", n_steps="samples", internal_batch_size=AT_ONCE),
        "smoothgrad": of_obzai("SmoothGradTool", abs=False, noising_steps="samples", internal_batch_size=AT_ONCE),
        "attention": attention_of_obzai,
    },
}
"""Who makes which maps, by vitscope's names of the methods."""

TWINS: Mapping[str, str] = {"legrad": "torchvision", "attention": "huggingface"}
"""Whose transformer a method's peers take, where it is not timm's."""
