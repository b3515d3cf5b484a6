"""Adapters for transformers: every family against its own model, and against the same weights in timm."""

from __future__ import annotations

import functools

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer

import vitscope
from vitscope.models import anatomy_of
from vitscope.trace import verify

transformers = pytest.importorskip("transformers")

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SEVEN = {"num_labels": 7}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOWERS = {"vision_config": TINY, "text_config": TEXT}
REGISTERS = tuple(f"register {index}" for index in range(1, 5))
CLASS, PATCHES = ("class",), ()

# class, configuration, options, prefix, rows that the head reads, what the untouched model's output is called
FAMILIES = {
    "vit": ("ViTForImageClassification", "ViTConfig", SEVEN, CLASS, 1, "logits"),
    "vit_features": ("ViTModel", "ViTConfig", {}, CLASS, 1, "class"),
    "deit": ("DeiTForImageClassification", "DeiTConfig", SEVEN, ("class", "distillation"), 1, "logits"),
    "deit_teacher": (
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        SEVEN,
        ("class", "distillation"),
        2,
        "logits",
    ),
    "msn": ("ViTMSNForImageClassification", "ViTMSNConfig", SEVEN, CLASS, 1, "logits"),
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", SEVEN, PATCHES, None, "logits"),
    "mae": ("ViTMAEModel", "ViTMAEConfig", {"mask_ratio": 0.0}, CLASS, 1, "class"),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", SEVEN, CLASS, None, "logits"),
    "dinov2_features": ("Dinov2Model", "Dinov2Config", {"use_swiglu_ffn": True}, CLASS, 1, "pooler_output"),
    "dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        SEVEN,
        (*CLASS, *REGISTERS),
        None,
        "logits",
    ),
    "dinov2_registers_features": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {},
        (*CLASS, *REGISTERS),
        1,
        "pooler_output",
    ),
    "dinov3": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {"num_register_tokens": 4, "use_gated_mlp": True},
        (*CLASS, *REGISTERS),
        1,
        "pooler_output",
    ),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        {**SEVEN, "use_relative_position_bias": True},
        CLASS,
        None,
        "logits",
    ),
    "beit_class_token": (
        "BeitForImageClassification",
        "BeitConfig",
        {
            **SEVEN,
            "use_mean_pooling": False,
            "use_shared_relative_position_bias": True,
            "use_absolute_position_embeddings": True,
            "layer_scale_init_value": 0.0,
        },
        CLASS,
        1,
        "logits",
    ),
    "beit_features": ("BeitModel", "BeitConfig", {}, CLASS, None, "pooler_output"),
    "data2vec": (
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        {**SEVEN, "use_relative_position_bias": True},
        CLASS,
        None,
        "logits",
    ),
    "clip_tower": ("CLIPVisionModel", "CLIPVisionConfig", {}, CLASS, 1, "pooler_output"),
    "clip_projected": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        {"projection_dim": 12},
        CLASS,
        1,
        "image_embeds",
    ),
    "clip": ("CLIPModel", "CLIPConfig", {**TOWERS, "projection_dim": 12}, CLASS, 1, "embedding"),
    "clip_classifier": ("CLIPForImageClassification", "CLIPConfig", {**TOWERS, **SEVEN}, CLASS, None, "logits"),
    "siglip_tower": ("SiglipVisionModel", "SiglipVisionConfig", {}, PATCHES, 1, "pooler_output"),
    "siglip": ("SiglipModel", "SiglipConfig", TOWERS, PATCHES, 1, "embedding"),
    "siglip_classifier": (
        "SiglipForImageClassification",
        "SiglipConfig",
        {**TOWERS, **SEVEN},
        PATCHES,
        None,
        "logits",
    ),
}
CLASS_ROW = sorted(family for family, (*_, rows, _) in FAMILIES.items() if rows)
LABELS = [
    "daam",
    "daam:path=skip",
    "agcam",
    "agcam:path=full",
    "cdam",
    "smooth_cdam:samples=3",
    "integrated_cdam:steps=3",
]


def build(family, kernel="sdpa", dtype=torch.float32, seed=0, **options):
    """A random model; all its parameters are moved, so that no scale is 0, 1 or alike by chance."""
    kind, config, own, *_ = FAMILIES[family]
    sizes = {} if "vision_config" in own else TINY
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = getattr(transformers, config)(**{**sizes, **own, **options}, attn_implementation=kernel)
        model = getattr(transformers, kind)(settings)
    return moved(model, seed).to(dtype)


def moved(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter.sign() * 0.3 + spread if parameter.abs().max() < 1e-4 else parameter + spread)
    return model.eval()


def pictures(count=2, size=(32, 32), dtype=torch.float32):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


@functools.cache
def explained(family, kernel="sdpa"):
    return vitscope.Explainer(build(family, kernel), preprocessing={"size": (32, 32)})


def target_of(explainer, index=2):
    return index if explainer.anatomy.outputs else lambda output: output[:, index]


@torch.no_grad()
def untouched(family, model, images):
    """The model's own output, without vitscope."""
    name = FAMILIES[family][-1]
    other = (
        {}
        if images.shape[-2:] == (32, 32) or family.startswith(("dino", "beit", "data2vec"))
        else {"interpolate_pos_encoding": True}
    )
    if family == "mae":  # otherwise it shuffles its patches at random
        other["noise"] = torch.linspace(0, 1, (images.shape[-2] // 8) * (images.shape[-1] // 8)).expand(len(images), -1)
    if name == "embedding":
        return model.get_image_features(images, **other).pooler_output
    found = model(images, **other)
    return found.last_hidden_state[:, 0] if name == "class" else found[name]


def relative(found, wanted):
    return float((found - wanted).norm().detach() / wanted.norm().detach())


@pytest.mark.parametrize("kernel", ["sdpa", pytest.param("eager", marks=pytest.mark.integration)])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_described_traced_and_explained(family, kernel):
    explainer, images = explained(family, kernel), pictures()
    anatomy = explainer.anatomy
    *_, prefix, rows, name = FAMILIES[family]
    assert anatomy.prefix == prefix
    assert anatomy.rows_read == rows
    assert anatomy.outputs == (7 if name == "logits" else 0)
    assert explainer.description_error < 1e-5
    assert verify(anatomy, images).error < 1e-5
    ex = explainer(images, LABELS, target_of(explainer))
    assert relative(ex.logits, untouched(family, anatomy.model, images)) < 1e-5
    for label in LABELS:
        values = ex[label].values
        assert values.shape == (2, 4, 4)
        assert torch.isfinite(values).all()
        assert values.std() > 0
    for index in range(2):
        alone = explainer(images[index], LABELS, target_of(explainer))
        for label in LABELS:
            assert relative(alone[label].values[0], ex[label].values[index]) < 2e-4
    if anatomy.outputs:
        assert explainer(images, "attention")["attention"].values.std() > 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_kernels_agree_in_float64(family):
    images = pictures(dtype=torch.float64)
    maps = []
    for kernel in ("sdpa", "eager"):
        explainer = vitscope.Explainer(build(family, kernel, torch.float64), preprocessing={"size": 32})
        maps.append(explainer(images, LABELS, target_of(explainer)))
    for label in LABELS:
        assert relative(maps[1][label].values, maps[0][label].values) < 1e-5  # given in float32


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_cdam_is_each_token_times_its_gradient(family, kernel):
    """By autograd through the untouched model, from the tokens that enter its last attention."""
    model, images = build(family, kernel, torch.float64), pictures(dtype=torch.float64)
    explainer = vitscope.Explainer(model, preprocessing={"size": 32})
    tokens = []

    def keep(_, __, output):
        tokens.append(output.detach().requires_grad_())
        return tokens[0]

    handle = explainer.anatomy.blocks[-1].norm.register_forward_hook(keep)
    with torch.enable_grad():
        output = untouched.__wrapped__(family, model, images)
        (gradient,) = torch.autograd.grad(output[:, 2].sum(), tokens[0])
    handle.remove()
    wanted = (tokens[0] * gradient).sum(dim=-1)[:, len(explainer.anatomy.prefix) :].detach().view(2, 4, 4)
    assert relative(explainer(images, "cdam", target_of(explainer))["cdam"].values, wanted) < 1e-5


def test_weights_that_the_pool_is_asked_for():
    explainer, images = explained("siglip"), pictures()
    seen = []
    pool = explainer.anatomy.blocks[-1].attention
    handle = pool.register_forward_hook(lambda _, __, output: seen.append(output[1].detach()))
    untouched("siglip", explainer.anatomy.model, images)
    explainer(images, "cdam", target_of(explainer))
    handle.remove()
    assert seen[0].shape == (2, 1, 16)
    assert relative(seen[-1], seen[0]) < 1e-5  # between them: the model with its hook is verified again


@pytest.mark.parametrize(
    "size", [(37, 26), *(pytest.param(size, marks=pytest.mark.integration) for size in ((24, 40), (48, 48)))]
)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_other_sizes(family, size):
    explainer, images = explained(family), pictures(size=size)
    ex = explainer(images, "daam,agcam,cdam", target_of(explainer))
    assert relative(ex.logits, untouched(family, explainer.anatomy.model, images)) < 1e-5
    for label in ("daam", "agcam", "cdam"):
        assert ex[label].values.shape == (2, size[0] // 8, size[1] // 8)
        seen = ~ex[label].to_pixels("nearest")[0].isnan()
        assert seen.shape == size
        assert seen.sum() == (size[0] // 8 * 8) * (size[1] // 8 * 8)
        assert seen[: size[0] // 8 * 8, : size[1] // 8 * 8].all()  # the rest is beyond the last whole patch


def test_a_model_built_for_pictures_that_are_not_square():
    model = build("vit", image_size=(32, 48))
    explainer = vitscope.Explainer(model, preprocessing={"size": (32, 48)})
    assert explainer(pictures(size=(32, 48)), "cdam", 1)["cdam"].values.shape == (2, 4, 6)
    with pytest.raises(vitscope.ModelError, match="takes pictures of 32 x 48 pixels, got 32 x 32"):
        explainer(pictures(), "cdam", 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_model_is_left_as_it_was_found(family):
    model = build(family).train()
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    explainer = vitscope.Explainer(model, preprocessing={"size": (32, 32)})
    explainer(pictures(), "daam,agcam,cdam", target_of(explainer))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("family", CLASS_ROW)
def test_evidence_is_cdam_class_by_class(family):
    explainer, images = explained(family), pictures()
    evidence = explainer.evidence(images)
    for index in (0, 3):
        if explainer.anatomy.outputs:
            assert relative(evidence[index], explainer(images, "cdam", index)["cdam"].values) < 1e-4
        else:
            vector = torch.eye(evidence.features.shape[1])[index]
            wanted = explainer(images, "cdam", target_of(explainer, index))["cdam"].values
            assert relative(evidence.of(vector), wanted) < 1e-4


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip_tower", "dinov2"])
def test_a_block_without_its_attention(family, kernel):
    explainer, images = explained(family, kernel), pictures()
    anatomy = explainer.anatomy
    before = anatomy.forward(images)
    with vitscope.trace.ablate.without_attention(anatomy, 1):
        assert relative(anatomy.forward(images), before) > 1e-3
    assert torch.equal(anatomy.forward(images), before)


def test_mae_keeps_its_patches_in_order_and_draws_no_random_numbers():
    """Without `noise` the model shuffles its patches at random; the class token does not see in which order."""
    model, images = build("mae"), pictures()
    with torch.no_grad():
        shuffled = model(images)
        assert not torch.equal(shuffled.ids_restore[0], torch.arange(16))
    random = torch.get_rng_state()
    found = anatomy_of(model).forward(images)
    assert torch.equal(torch.get_rng_state(), random)
    assert relative(found, shuffled.last_hidden_state[:, 0]) < 1e-5
    explainer = vitscope.Explainer(model, preprocessing={"size": 32})
    wanted = explainer(images, "cdam", target_of(explainer))["cdam"].values
    flipped = explainer(images.flip(-1), "cdam", target_of(explainer))["cdam"].values
    assert relative(flipped, wanted) > 1e-3


def test_a_classifier_that_is_not_linear():
    model = build("vit")
    model.classifier = torch.nn.Sequential(torch.nn.Linear(24, 9), torch.nn.GELU(), torch.nn.Linear(9, 7))
    explainer, images = vitscope.Explainer(model, preprocessing={"size": 32}), pictures()
    assert explainer.anatomy.classifier is None
    assert explainer.anatomy.outputs == 7
    assert relative(explainer(images, "cdam", 3).logits, untouched("vit", model, images)) < 1e-5


def test_without_labels_there_is_no_head():
    model = build("dinov2", num_labels=0)
    explainer = vitscope.Explainer(model, preprocessing={"size": 32})
    assert explainer.anatomy.outputs == 0
    assert explainer.features(pictures()).shape == (2, 48)


def test_a_class_of_ones_own():
    class Mine(transformers.ViTForImageClassification):
        pass

    model = moved(Mine(transformers.ViTConfig(**TINY, **SEVEN)))
    assert vitscope.Explainer(model, preprocessing={"size": 32}).anatomy.outputs == 7


def test_after_a_run_in_inference_mode():
    """DINOv3 and BEiT keep what they computed there for later."""
    for family in ("dinov3", "beit"):
        model, images = build(family, image_size=40), pictures(size=(40, 40))
        with torch.inference_mode():
            model(images)
        explainer = vitscope.Explainer(model, preprocessing={"size": 40})
        assert explainer(images, "agcam", target_of(explainer))["agcam"].values.std() > 0


def test_bfloat16():
    for family in ("vit", "dinov3", "siglip_tower"):
        explainer = vitscope.Explainer(build(family, dtype=torch.bfloat16), preprocessing={"size": 32})
        assert explainer(pictures(), "agcam", target_of(explainer))["agcam"].values.std() > 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: build("mae", mask_ratio=0.75),
            r"hides 75% of the patches at random; set model\.config\.mask_ratio = 0",
        ),
    ],
)
def test_refusals_say_what_to_do(make, says):
    with pytest.raises(vitscope.ModelError, match=says):
        vitscope.Explainer(make())


SIGLIP_2 = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (
            lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**TINY)),
            lambda output: output.reconstruction.mean((1, 2, 3)),
        ),
        (
            lambda: transformers.Dinov2Backbone(transformers.Dinov2Config(**TINY)),
            lambda output: output.feature_maps[0].mean((1, 2, 3)),
        ),
        (
            lambda: transformers.DINOv3ViTBackbone(transformers.DINOv3ViTConfig(**TINY, num_register_tokens=2)),
            lambda output: output.feature_maps[0][:, 1].mean((1, 2)),
        ),
        (
            lambda: build("siglip_tower", vision_use_head=False),
            lambda output: output.last_hidden_state[:, :, 3].mean(1),
        ),
    ],
)
def test_classes_without_an_adapter_are_explained_by_a_function_of_their_output(make, target):
    explainer = vitscope.Explainer(moved(make().eval()), preprocessing={"size": 32})
    found = explainer(pictures(), "daam,agcam,cdam,input_x_gradient", target)
    for label in found:
        assert found[label].values.isfinite().all()
        assert found[label].values.flatten(1).std(dim=1).min() > 0
    with pytest.raises(vitscope.TargetError, match="give a function of the output"):
        explainer(pictures())


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_kernels_that_torch_does_not_show_are_refused(kernel):
    model = build("vit")
    model.config._attn_implementation = kernel
    with pytest.raises(
        vitscope.ModelError, match=f'by {kernel}, which torch does not show.*attn_implementation="sdpa"'
    ):
        vitscope.Explainer(model)


# The same weights in timm's form.


def as_timm(state, layers, names):
    """transformers' weights under timm's names; queries, keys and values in one matrix."""
    found = {}
    for theirs, ours in names.items():
        for which in (
            ([theirs, ours],)
            if "{}" not in theirs
            else ([theirs.replace("{}", str(index)), ours.replace("{}", str(index))] for index in range(layers))
        ):
            for part in ("", ".weight", ".bias"):
                sources = [source + part for source in which[0].split("|")]
                if all(source in state for source in sources):
                    found[which[1] + part] = torch.cat([state[source] for source in sources])
    return found


def layer_names(layer, qkv, out, norms):
    prefix = f"{layer}.{{}}."
    return {
        "|".join(f"{prefix}{qkv}.{which}_proj" for which in "qkv"): "blocks.{}.attn.qkv",
        f"{prefix}{out}": "blocks.{}.attn.proj",
        f"{prefix}{norms[0]}": "blocks.{}.norm1",
        f"{prefix}{norms[1]}": "blocks.{}.norm2",
        f"{prefix}mlp.fc1": "blocks.{}.mlp.fc1",
        f"{prefix}mlp.fc2": "blocks.{}.mlp.fc2",
        f"{prefix}mlp.gate_proj|{prefix}mlp.up_proj": "blocks.{}.mlp.fc1",
        f"{prefix}mlp.down_proj": "blocks.{}.mlp.fc2",
        f"{prefix}layer_scale1.lambda1": "blocks.{}.ls1.gamma",
        f"{prefix}layer_scale2.lambda1": "blocks.{}.ls2.gamma",
    }


TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}


def twin_vit():
    theirs = build("vit", dtype=torch.float64, layer_norm_eps=1e-6)
    ours = VisionTransformer(**TIMM, num_classes=7)
    names = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.layernorm": "norm",
        "classifier": "head",
        **layer_names("vit.layers", "attention", "attention.o_proj", ("layernorm_before", "layernorm_after")),
    }
    return theirs, ours, as_timm(theirs.state_dict(), 3, names)


def twin_dinov2():
    theirs = build("dinov2_registers_features", dtype=torch.float64, use_swiglu_ffn=True, mlp_ratio=3)
    ours = VisionTransformer(
        **{**TIMM, "mlp_ratio": 4},
        num_classes=0,
        reg_tokens=4,
        no_embed_class=False,
        init_values=1.0,
        mlp_layer=lambda **options: SwiGLUPacked(**{**options, "hidden_features": 96, "act_layer": torch.nn.SiLU}),
    )
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.register_tokens": "reg_token",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
        **layer_names("encoder.layer", "attention", "attention.o_proj", ("norm1", "norm2")),
    }
    state = theirs.state_dict()
    found = as_timm(state, 3, names)
    at_class, at_patches = state["embeddings.position_embeddings"].split([1, 16], dim=1)
    found["pos_embed"] = torch.cat([at_class, at_class.new_zeros(1, 4, 24), at_patches], dim=1)
    return theirs, ours, found


def twin_clip():
    theirs = build("clip_projected", dtype=torch.float64, hidden_act="gelu")
    ours = VisionTransformer(**TIMM, num_classes=12, pre_norm=True, norm_layer=functools.partial(torch.nn.LayerNorm))
    tower = "vision_model"
    names = {
        f"{tower}.embeddings.patch_embedding": "patch_embed.proj",
        f"{tower}.pre_layrnorm": "norm_pre",
        f"{tower}.post_layernorm": "norm",
        "visual_projection": "head",
        **layer_names(f"{tower}.encoder.layers", "self_attn", "self_attn.out_proj", ("layer_norm1", "layer_norm2")),
    }
    state = theirs.state_dict()
    found = as_timm(state, 3, names)
    found["cls_token"] = state[f"{tower}.embeddings.class_embedding"][None, None]
    found["pos_embed"] = state[f"{tower}.embeddings.position_embedding.weight"][None]
    found["head.bias"] = torch.zeros(12)
    return theirs, ours, found


def twin_siglip():
    theirs = build("siglip_tower", dtype=torch.float64, hidden_act="gelu")
    ours = VisionTransformer(**TIMM, num_classes=0, global_pool="map", class_token=False)
    names = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "head.probe": "attn_pool.latent",
        "head.attention.out_proj": "attn_pool.proj",
        "head.layernorm": "attn_pool.norm",
        "head.mlp.fc1": "attn_pool.mlp.fc1",
        "head.mlp.fc2": "attn_pool.mlp.fc2",
        **layer_names("encoder.layers", "self_attn", "self_attn.out_proj", ("layer_norm1", "layer_norm2")),
    }
    state = theirs.state_dict()
    found = as_timm(state, 3, names)
    found["pos_embed"] = state["embeddings.position_embedding.weight"][None]
    for part in ("weight", "bias"):
        packed = state[f"head.attention.in_proj_{part}"]
        found[f"attn_pool.q.{part}"], found[f"attn_pool.kv.{part}"] = packed[:24], packed[24:]
    return theirs, ours, found


@pytest.mark.parametrize("twins", [twin_vit, twin_dinov2, twin_clip, twin_siglip])
def test_the_same_weights_in_timm_give_the_same_maps(twins):
    theirs, ours, weights = twins()
    ours.double().load_state_dict(weights)
    for module in ours.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = theirs.config.layer_norm_eps
    images = pictures(3, dtype=torch.float64)
    one, other = (vitscope.Explainer(model.eval(), preprocessing={"size": (32, 32)}) for model in (theirs, ours))
    if other.anatomy.outputs and not one.anatomy.outputs:  # the projection is timm's head
        targets = [lambda output: output[:, 2], 2]
    else:
        targets = [target_of(one), target_of(other)]
    labels = [*LABELS[:-2], "integrated_cdam:steps=3"]
    found, wanted = (each(images, labels, target) for each, target in zip((one, other), targets, strict=True))
    assert relative(found.logits, wanted.logits) < 1e-10
    for label in labels:
        assert relative(found[label].values, wanted[label].values) < 1e-5
