"""The general engine gives what the closed forms of a description give, in float64, for every model with blocks."""

from __future__ import annotations

import logging
from functools import reduce

import pytest
import torch

import vitscope
from tests.zoo import ZOO, built, marks_of, module_of
from vitscope.errors import MethodError
from vitscope.methods import as_method
from vitscope.network import probe
from vitscope.recording import Network, record_network
from vitscope.trace import Needs

CAMS = {"gradcam", "gradcam_pp", "xgradcam", "layercam", "hirescam", "eigencam", "eigengradcam"}
CHAINS = {"rollout", "gradient_rollout", "chefer"}
LABELS = [
    "daam", "daam:rows=all", "agcam", "agcam:scores=softmax", "cdam", "attention", "grad_sam", "input_x_gradient",
    *sorted(CHAINS), *sorted(CAMS), "agcam:path=full",
    *(f"{name}:path=libra" for name in ("daam", "agcam", "chefer", "grad_sam", "hirescam")),
]  # fmt: skip
OTHER_ROWS = {"agcam:path=full", "agcam:path=libra"}
"""AG-CAM along paths that reach rows that the skip path does not."""

TOLERANCE = 1e-9


def by_name(*parts):
    return lambda name: any(part in name for part in parts)


EXCEPTIONS = [
    # a distilled model is read by two rows; the closed forms follow the class token's alone
    (by_name("distilled", "WithTeacher"), {"daam", "agcam", "agcam:scores=softmax", "attention", *CHAINS}),
    # of pooled models with prefix tokens, the closed form counts the prefix rows of inner blocks, which the head reads
    # through later attention alone; rows=all are all rows in both
    (
        by_name(
            "huge_patch14_224.mae", "small_patch16_dinov3", "reg4_gap", "beit_base_patch16_224", "eva_giant",
            "eva02_tiny", "Dinov2WithRegistersForImage", "transformers Beit", "tower, average pool",
        ),
        {"daam", *OTHER_ROWS},
    ),
    # the head reads the class token beside the mean of the patches: their shares count in the closed forms, all rows
    # alike in the general engine
    (by_name("ForImageClassification DINOv2"), {"attention", *CHAINS}),
    # activation maps are read at the last located tokens before pooling, and at a block's norm in the closed forms
    (
        by_name(
            "huge_patch14_224.mae", "small_patch16_dinov3", "gap_", "beit_base_patch16_224", "eva_giant", "eva02_tiny",
            "ForImageClassification DINOv2", "transformers Beit", "tower, average pool", "mean of their tokens",
        ),
        CAMS,
    ),
    # the description begins where a class token enters; attention among patches before it is a site too
    (by_name("cait", "convit", "t2t_vit_t"), {"daam", "daam:rows=all", *OTHER_ROWS}),
    (by_name("cait", "xcit", "convit", "t2t_vit_t"), {"grad_sam", *CHAINS}),
    (by_name("t2t_vit_t"), {"agcam", "agcam:scores=softmax", "input_x_gradient"}),  # on the finest grid, 16 x 16
    # an attention pool has a query of its own, so that matrices of different tokens would be multiplied
    (by_name("siglip_224", "siglip_256", "pe_core", "SiglipModel"), CHAINS),
    # the pool is given a query first, whose input has no place: the tokens are read one attention earlier
    (by_name("SiglipModel"), {"cdam", *CAMS}),
]  # fmt: skip
"""Where the general engine's definition is another than that of version 0.9."""


def name_of(entry):
    return f"{entry.name} {entry.family}"


def is_exception(entry, label):
    """Whether it is one by the label, or for another path of the gradient by the method's name."""
    plain = label.partition(":path=")[0]
    return any(applies(name_of(entry)) and {label, plain} & labels for applies, labels in EXCEPTIONS)


@pytest.fixture(
    scope="module",
    params=[pytest.param(entry, id=f"{entry.family}-{entry.name}", marks=marks_of(entry)) for entry in ZOO],
)
def both(request):
    """Maps of the closed forms, and of the general engine, by label; None or an error where there are none."""
    entry = request.param
    if entry.extra:
        pytest.importorskip(entry.extra)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # maps stay in float64
        made = built(entry)
        model = module_of(made).double()
        logging.disable(logging.WARNING)
        explainer = vitscope.Explainer(made)
        logging.disable(logging.NOTSET)
        if not explainer.anatomy.blocks:
            pytest.skip("no blocks are described")
        size = tuple(entry.size or explainer.preprocessing.size)
        if size == (224, 224):
            pytest.skip("too large for a test of every method")
        generator = torch.Generator().manual_seed(len(entry.name))
        images = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        classes = [3, 1]
        methods = {label: as_method(label) for label in LABELS}
        yield entry, described(explainer, images, classes), general(entry, model, images, classes, methods)


def described(explainer, images, classes):
    target = classes if explainer.anatomy.outputs else lambda output: output[:, classes].diagonal()
    agnostic = [label for label in LABELS if not as_method(label).facts.class_specific]
    specific = [label for label in LABELS if label not in agnostic]
    found = [explainer(images, agnostic, strict=False), explainer(images, specific, target, strict=False)]
    return {label: torch.as_tensor(one[label].values) for one in found for label in one.attributions}


def general(entry, model, images, classes, methods):
    network = Network(model, entry.output, probe(model, entry.output, images[:1]))
    needs = reduce(Needs.__or__, (method.needs for method in methods.values()))
    recording = record_network(network, images, needs, [lambda output: output[:, classes].diagonal()], None)
    found = {}
    for label, method in methods.items():
        try:
            values = method(recording).values
            found[label] = values[:, 0] if method.facts.class_specific else values
        except MethodError as error:
            found[label] = error
    return found


def test_general_is_fast(both):
    """Of a random model some maps are flat, and not compared."""
    entry, fast, general = both
    assert {"daam", "cdam", "attention"} <= fast.keys()
    for label, wanted in fast.items():
        found = general[label]
        if is_exception(entry, label):
            assert isinstance(found, MethodError) or differ(found, wanted), f"{label}: an exception that is none"
            continue
        assert not isinstance(found, MethodError), f"{label}: {found}"
        assert found.shape == wanted.shape, label
        assert float((found - wanted).norm() / wanted.norm()) < TOLERANCE, label


def differ(one, other):
    return one.shape != other.shape or float((one - other).norm() / other.norm()) > 1e-6
