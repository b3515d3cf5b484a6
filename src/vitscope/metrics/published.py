"""The numbers that papers print, to be shown beside measured ones: another model or other pictures give others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        metric: the full name of the value that measures it here.
        method: vitscope's name, or the paper's where there is no such method.
        value: as a share where the paper has per cent.
        dataset: what it was measured on.
        model: of which model.
        source: the paper that prints it.
        note: in what the protocol differs or is unknown; "" where it is the same.
    """

    metric: str
    method: str
    value: float
    dataset: str
    model: str
    source: str
    note: str = ""


_AGCAM = "arXiv 2402.04563"
_LOCALIZED = ("pixel_accuracy", "iou", "dice", "precision", "recall")
_TABLES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "ILSVRC2012 val": {
        "rollout": (0.6209, 0.3597, 0.4893, None, 0.4657),
        "chefer_lrp": (0.5863, 0.2029, 0.3055, 0.9110, 0.2176),
        "agcam": (0.7341, 0.5212, 0.6515, 0.8299, 0.6276),
    },
    "VOC 2012 val": {
        "rollout": (0.5592, 0.1645, 0.2431, 0.5802, 0.2115),
        "chefer_lrp": (0.5750, 0.1574, 0.2348, 0.7651, 0.1716),
        "agcam": (0.7521, 0.5335, 0.6646, 0.8167, 0.6647),
    },
    "CUB-200-2011 test": {
        "rollout": (0.7273, 0.3097, None, None, None),
        "chefer_lrp": (0.7039, 0.1997, None, None, None),
        "agcam": (0.8351, 0.5836, 0.7220, None, 0.6438),
    },
}
_SRG: dict[str, tuple[float, float]] = {
    "reslrp": (3.20, 0.62),
    "legrad": (3.18, 0.53),
    "libra_fullgrad": (2.72, 0.54),
    "chefer_lrp": (2.74, 0.62),
    "chefer": (2.74, 0.50),
    "attnlrp": (1.51, 0.32),
    "integrated_gradients": (1.23, 0.45),
    "input_x_gradient": (0.45, 0.40),
    "random": (-0.11, 0.37),
}


def _localization() -> list[Published]:
    notes = {
        "VOC 2012 val": "single-class pictures, against segmentations",
        "CUB-200-2011 test": "against boxes: cub:truth=boxes",
    }
    return [
        Published(f"agcam/{name}@0.5", method, value, dataset, "ViT-B/16", _AGCAM, notes.get(dataset, ""))
        for dataset, table in _TABLES.items()
        for method, row in table.items()
        for name, value in zip(_LOCALIZED, row, strict=True)
        if value is not None
    ]


def _perturbation() -> list[Published]:
    areas = {
        ("abpc", "rollout"): 0.2685,
        ("abpc", "chefer_lrp"): 0.3404,
        ("abpc", "agcam"): 0.3691,
        ("lerf", "agcam"): 0.5298,
        ("morf", "agcam"): 0.1607,
    }
    return [
        Published(f"abpc/{name}", method, value, "ILSVRC2012 val", "ViT-B/16", _AGCAM)
        for (name, method), value in areas.items()
    ]


def _leaderboard() -> list[Published]:
    where = ("500 ImageNet images", "ViT-B/16", "the common leaderboard of 2026")
    note = "which mean colour, and how signs count in the mask, is unknown"
    return [
        Published(metric, method, value, *where, note)
        for method, values in _SRG.items()
        for metric, value in zip(("srg/srg", "loc/mass"), values, strict=True)
    ]


def _daam() -> list[Published]:
    where = ("ILSVRC2012 val", "DeiT-S/16", "arXiv 2503.14640", "box rule and threshold are unknown")
    return [Published("daam/iou@0.05", "daam", 0.5645, *where), Published("daam/accuracy@0.05", "daam", 0.6158, *where)]


def _cdam() -> list[Published]:
    where = ("1000 ILSVRC2012 val images", "DINO ViT-S/8", "arXiv 2312.02364v1")
    shares = {"cdam": 0.838, "token_ablation": 0.656, "attention": 0.543, "chefer": 0.491}  # nosec B105  # a number of a table
    return [Published("compactness/share@0.05", method, value, *where) for method, value in shares.items()]


PUBLISHED: tuple[Published, ...] = (*_localization(), *_daam(), *_perturbation(), *_leaderboard(), *_cdam())


def published(metric: str | None = None, method: str | None = None) -> list[Published]:
    """The printed numbers of one value, of one method, or all.

    Args:
        metric: full name, as in a table of results.
        method: its name, without options.
    """
    return [
        one
        for one in PUBLISHED
        if (metric is None or one.metric == metric) and (method is None or one.method == method)
    ]
