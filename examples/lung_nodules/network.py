"""The model: blocks of a bundled vision transformer, with one logit for malignancy and one output a biomarker."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from examples.lung_nodules.nodules import View
from examples.lung_nodules.study import malignant, pictures, values
from vitscope import Explainer
from vitscope.errors import DatasetError
from vitscope.images import Preprocessing, prepare
from vitscope.models.bundled import FOLDER, scenes_vit

START = "scenes"
"""The bundled model whose weights are the start."""


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Attributes:
        epochs: how often every picture is seen.
        depth: blocks that are kept of the start's twelve.
        frozen: the paper's way: the backbone stays as it is, and a linear head alone learns.
        batch: pictures a step.
        rate: the highest learning rate of AdamW.
        seed: of the head, the order and the augmentation.
    """

    epochs: int = 12
    depth: int = 4
    frozen: bool = False
    batch: int = 32
    rate: float = 5e-4
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """How well a model does on views that it was not trained on.

    Attributes:
        auc, accuracy: of malignancy, by view, those with a mean of 3 left out; NaN without both classes.
        nodule_auc: the same by nodule, its views' logits averaged.
        views, nodules: how many these are.
        errors: biomarker -> mean squared error, in units of the training views' variance.
        trivial: biomarker -> that of the training views' mean.
    """

    auc: float
    accuracy: float
    nodule_auc: float
    views: int
    nodules: int
    errors: dict[str, float]
    trivial: dict[str, float]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model with what its outputs mean: output 0 is malignancy's logit, then the biomarkers, standardised.

    Attributes:
        explainer: of the model.
        biomarkers: the names of the outputs from 1 on.
        mean, spread: of the biomarkers in the training views, (k).
    """

    explainer: Explainer
    biomarkers: tuple[str, ...]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all outputs."""
        return ("malignancy", *self.biomarkers)

    def predict(self, views: Sequence[View]) -> Tensor:
        """The outputs of views, (n 1+k)."""
        with torch.no_grad():
            parts = [self.explainer.anatomy.model(_inputs(views[a : a + 64])) for a in range(0, len(views), 64)]
        return torch.cat(parts)

    def scores(self, views: Sequence[View]) -> Scores:
        """On views of patients that were not trained on."""
        out = self.predict(views).numpy()
        standard = (values(views, self.biomarkers) - self.mean) / self.spread
        label = malignant(views)
        known = np.isfinite(label)
        ids = np.array([view.nodule.id for view in views])[known]
        logit, label = out[known, 0], label[known]
        names, place = np.unique(ids, return_inverse=True)
        count = np.bincount(place)
        return Scores(
            auc=area_under_curve(logit, label),
            accuracy=float(((logit > 0) == (label > 0.5)).mean()) if len(label) else math.nan,
            nodule_auc=area_under_curve(np.bincount(place, logit) / count, np.bincount(place, label) / count),
            views=int(known.sum()),
            nodules=len(names),
            errors=dict(zip(self.biomarkers, ((out[:, 1:] - standard) ** 2).mean(axis=0).tolist(), strict=True)),
            trivial=dict(zip(self.biomarkers, (standard**2).mean(axis=0).tolist(), strict=True)),
        )


def train(
    views: Sequence[View],
    biomarkers: Sequence[str],
    recipe: Recipe,
    progress: Callable[[int, float], object] = lambda epoch, loss: None,
) -> Trained:
    """Train the model on views.

    The loss is malignancy's cross entropy, over views of a clear label, and the mean squared error of the standardised
    biomarkers. Pictures are turned, mirrored and moved by up to 2 mm; the frozen way sees them as they are.

    Args:
        views: to learn from.
        biomarkers: what is regressed.
        recipe: how.
        progress: called with the epochs done and the mean loss of the last one.

    Raises:
        DatasetError: no malignant or no benign nodule among them.
    """
    label = torch.from_numpy(malignant(views))
    if {0.0, 1.0} - set(label.tolist()):
        raise DatasetError(
            f"{len(views) // 3} nodules to learn from, and not both malignant and benign ones among them; "
            "read more scans"
        )
    truth = values(views, biomarkers)
    mean, spread = truth.mean(axis=0), truth.std(axis=0)
    spread[spread < 1e-6] = 1.0  # internal structure is often 1 throughout
    standard = torch.from_numpy((truth - mean) / spread)
    torch.manual_seed(recipe.seed)
    net = backbone(1 + len(biomarkers), recipe.depth)
    images = _inputs(views)
    if recipe.frozen:
        _fit_head(net, images, label, standard, recipe, progress)
    else:
        _fit(net, images, label, standard, recipe, progress)
    net.eval().requires_grad_(False)
    net.pretrained_cfg["label_names"] = ("malignancy", *biomarkers)
    return Trained(Explainer(net), tuple(biomarkers), mean, spread)


def backbone(outputs: int, depth: int) -> VisionTransformer:
    """The first `depth` blocks of the bundled model `START`, with a new linear head."""
    net = scenes_vit(outputs, depth=depth)
    weights = {name: value.float() for name, value in load_file(FOLDER / f"{START}.safetensors").items()}
    own = net.state_dict()
    net.load_state_dict({n: v for n, v in weights.items() if n in own and not n.startswith("head")}, strict=False)
    return net


def area_under_curve(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """The chance that a malignant one has the higher score, ties counting half; NaN without both kinds."""
    high, low = scores[labels > 0.5], scores[labels <= 0.5]
    if not len(high) or not len(low):
        return math.nan
    return float((high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean())


def _fit(
    net: VisionTransformer,
    images: Tensor,
    label: Tensor,
    standard: Tensor,
    recipe: Recipe,
    progress: Callable[[int, float], object],
) -> None:
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=0.05)
    per_epoch = math.ceil(len(images) / recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * per_epoch, pct_start=0.15
    )
    net.train()
    for epoch in range(recipe.epochs):
        losses = []
        for index in torch.randperm(len(images), generator=generator).split(recipe.batch):
            loss = _loss(net(_altered(images[index], generator)), label[index], standard[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        progress(epoch + 1, float(np.mean(losses)))


def _fit_head(
    net: VisionTransformer,
    images: Tensor,
    label: Tensor,
    standard: Tensor,
    recipe: Recipe,
    progress: Callable[[int, float], object],
) -> None:
    """The linear head alone, on features that are computed once, to convergence by L-BFGS."""
    with torch.no_grad():
        net.eval()
        parts = [net.forward_head(net.forward_features(part), pre_logits=True) for part in images.split(64)]
    features = torch.cat(parts)
    optimizer = torch.optim.LBFGS(net.head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = 3e-3 * net.head.weight.square().sum()
        loss = _loss(net.head(features), label, standard) + penalty
        loss.backward()
        return loss

    for epoch in range(recipe.epochs):
        progress(epoch + 1, float(optimizer.step(closure).detach()))


def _loss(out: Tensor, label: Tensor, standard: Tensor) -> Tensor:
    loss = F.mse_loss(out[:, 1:], standard)
    known = label.isfinite()
    if bool(known.any()):
        loss = loss + F.binary_cross_entropy_with_logits(out[known, 0], label[known])
    return loss


def _altered(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch turned, mirrored and moved, alike for all in it."""
    mirrored, turns, down, right = (int(torch.randint(n, (1,), generator=generator)) for n in (2, 4, 5, 5))
    if mirrored:
        images = images.flip(-1)
    step = images.shape[-1] // 32  # pixels in a millimetre
    moved = F.pad(images, [2 * step] * 4, mode="replicate")
    height, width = images.shape[-2:]
    moved = moved[..., down * step : down * step + height, right * step : right * step + width]
    return torch.rot90(moved, turns, (2, 3))


def _inputs(views: Sequence[View]) -> Tensor:
    """Views as the model takes them, (n 3 H W): by the very preprocessing that the explainer will use."""
    return prepare(pictures(views), Preprocessing.of_model(scenes_vit(0, depth=1))).tensor
