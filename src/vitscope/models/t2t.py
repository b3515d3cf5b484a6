"""T2T-ViT, which timm does not have: a timm VisionTransformer behind a tokens-to-token module.

After the paper (Yuan et al., "Tokens-to-Token ViT", ICCV 2021, arXiv 2101.11986, Section 3.1) and the names and sizes
of the published checkpoints, which load as they are. The backbone is timm's own, so timm's adapter describes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vitscope.errors import ModelError, nearest
from vitscope.models.guard import without_autocast

Kind = Literal["performer", "transformer"]

SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Window, stride and padding of the three soft splits, in pixels or tokens of the step before."""
PATCH = 16
"""Pixels from one final token to the next, the product of the strides."""


@dataclass(frozen=True)
class Shape:
    """A published architecture: the token transformers' kind and the backbone's width, depth and heads."""

    kind: Kind
    embed_dim: int
    depth: int
    num_heads: int


T2T: dict[str, Shape] = {
    "t2t_vit_14": Shape("performer", 384, 14, 6),
    "t2t_vit_19": Shape("performer", 448, 19, 7),
    "t2t_vit_24": Shape("performer", 512, 24, 8),
    "t2t_vit_t_14": Shape("transformer", 384, 14, 6),
    "t2t_vit_t_19": Shape("transformer", 448, 19, 7),
    "t2t_vit_t_24": Shape("transformer", 512, 24, 8),
}
"""The names that `t2t_vit` takes; those with a t have exact attention in the token transformers."""


class PerformerTokens(nn.Module):
    """A token transformer with linear attention, (b n dim) -> (b n width), and the values as the way past it.

    y = v + proj(A), out = y + mlp(norm2(y)), where A is Performer's attention (Choromanski et al., ICLR 2021,
    arXiv 2009.14794, Section 2.2): A_i = φ(q_i)ᵀ Σ_j φ(k_j) v_jᵀ / (φ(q_i)ᵀ Σ_j φ(k_j) + 1e-8), with the positive
    random features φ(x) = exp(w x - |x|²/2) / √m of its Lemma 1. In T2T-ViT queries and keys are not scaled, there is
    one head, and the m = width/2 directions w are fixed orthogonal ones of length √m, kept in the checkpoint.

    It has no dropout; the official training has 0.1 here.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.kqv = nn.Linear(dim, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        directions = nn.init.orthogonal_(torch.empty(width // 2, width)) * (width // 2) ** 0.5
        self.w = nn.Parameter(directions, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b n dim) -> (b n width)."""
        keys, queries, values = self.kqv(self.norm1(x)).chunk(3, dim=-1)  # in this order, as the name says
        y: Tensor = values + self.proj(self.attend(queries, keys, values))
        out: Tensor = y + self.mlp(self.norm2(y))
        return out

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Linear attention of queries, keys and values (b n width) -> (b n width); O(n) in time and memory."""
        with without_autocast(values.device.type):  # a quotient of sums of exponentials
            phi_q, phi_k = self.features(queries), self.features(keys)
            summed = phi_k.transpose(1, 2) @ values.to(phi_k.dtype)  # (b m width)
            share = phi_q @ phi_k.sum(dim=1).unsqueeze(-1)  # (b n 1)
            attended: Tensor = phi_q @ summed / (share + 1e-8)
        return attended.to(values.dtype)

    def features(self, x: Tensor) -> Tensor:
        """φ of (b n width) -> (b n m); in float32 at least, for the exponential, also under autocast."""
        with without_autocast(x.device.type):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            exponents = wide @ self.w.to(wide.dtype).T - wide.square().sum(dim=-1, keepdim=True) / 2
            positive: Tensor = torch.exp(exponents) / len(self.w) ** 0.5
        return positive


class _ValueSkipAttention(nn.Module):
    """One head of softmax attention with the values as the way past it, (b n dim) -> (b n width).

    The products are scaled by 1/√dim, the input's width, as in the official model; not by that of queries and keys.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.qkv = nn.Linear(dim, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)  # each (b 1 n width)
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        added: Tensor = (values + self.proj(attended)).squeeze(1)
        return added


class _Mlp(nn.Module):
    """Two layers of one width with GELU between, under the names of the official checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TransformerTokens(nn.Module):
    """A token transformer with exact attention, (b n dim) -> (b n width): the paper's Eq. 1, MLP(MSA(T)).

    y = v + proj(softmax(q kᵀ / √dim) v), out = y + mlp(norm2(y)); one head, values as the way past the attention.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _ValueSkipAttention(dim, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b n dim) -> (b n width)."""
        y: Tensor = self.attn(self.norm1(x))
        out: Tensor = y + self.mlp(self.norm2(y))
        return out


class TokensToToken(nn.Module):
    """The tokens-to-token module in the place of a patch embedding, (b 3 H W) -> (b n D), n = (H/16) (W/16).

    Three soft splits into overlapping windows (the paper's Eq. 3), a token transformer and a return to the grid after
    each of the first two (Eqs. 1, 2 and 4), and a linear projection of the last windows.

    Token i of a row sees pixels 16 i - 14 to 16 i + 16 through its windows, 31 of them around 16 i + 1, and through
    the token transformers any pixel. A map draws it on the cell 16 i to 16 i + 15, as for every patch grid: its
    windows lie half a cell further left and up.

    Args:
        img_size: picture size in pixels, a side or (height, width), in multiples of 16.
        embed_dim: D.
        kind: of the token transformers.
        token_dim: their width.

    Raises:
        ModelError: a size that is not made of whole cells of 16 x 16 pixels, or an unknown kind.
    """

    def __init__(self, img_size: int | tuple[int, int], embed_dim: int, kind: Kind, token_dim: int = 64) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if any(side < PATCH or side % PATCH for side in (height, width)):
            raise ModelError(
                f"T2T-ViT cannot be built for {height} x {width} pixels; give multiples of {PATCH}, {PATCH} at least"
            )
        if kind not in ("performer", "transformer"):
            raise ModelError(f"T2T-ViT has no '{kind}' token transformer; use performer or transformer")
        token_transformer = PerformerTokens if kind == "performer" else TransformerTokens
        self.img_size = (height, width)
        self.patch_size = (PATCH, PATCH)
        self.grid_size = (height // PATCH, width // PATCH)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        sides = [window * window for window, _, _ in SPLITS]
        self.attention1 = token_transformer(3 * sides[0], token_dim)
        self.attention2 = token_transformer(token_dim * sides[1], token_dim)
        self.project = nn.Linear(token_dim * sides[2], embed_dim)

    def forward(self, pictures: Tensor) -> Tensor:
        """(b 3 H W) -> (b n D).

        Raises:
            ModelError: pictures of another size than the module was built for.
        """
        rows, cols = pictures.shape[-2:]
        if (rows, cols) != self.img_size:
            raise ModelError(
                f"the model takes pictures of {self.img_size[0]} x {self.img_size[1]} pixels, got {rows} x {cols}; "
                "resize them, or build the model with another img_size"
            )
        plane = pictures
        for (window, stride, padding), transform in zip(SPLITS[:2], (self.attention1, self.attention2), strict=True):
            rows, cols = rows // stride, cols // stride
            tokens: Tensor = transform(F.unfold(plane, window, padding=padding, stride=stride).transpose(1, 2))
            plane = tokens.transpose(1, 2).unflatten(2, (rows, cols))
        window, stride, padding = SPLITS[2]
        out: Tensor = self.project(F.unfold(plane, window, padding=padding, stride=stride).transpose(1, 2))
        return out

    def feat_ratio(self) -> int:
        """Pixels from one token to the next; timm asks for it."""
        return PATCH


class T2TViT(VisionTransformer):  # type: ignore[misc]  # timm is untyped
    """T2T-ViT: timm's VisionTransformer with a tokens-to-token module as `patch_embed` (the paper's Eq. 5).

    Fixed sinusoidal position embedding, no bias on queries, keys and values, LayerNorm's eps 1e-5. Attention is
    scaled by the square root of a head's width, as in the official evaluation. The state dict has the official names:
    the tokens-to-token module is `tokens_to_token` there.

    Args:
        kind: of the token transformers, "performer" or "transformer".
        img_size: picture size in pixels, a side or (height, width), in multiples of 16.
        num_classes: of the classifier; 0 for none.
        embed_dim, depth, num_heads, mlp_ratio: of the backbone.
        token_dim: width of the token transformers.

    Raises:
        ModelError: an impossible picture size or an unknown kind.
    """

    def __init__(
        self,
        kind: Kind = "performer",
        *,
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        token_dim: int = 64,
    ) -> None:
        tokens = TokensToToken(img_size, embed_dim, kind, token_dim)
        super().__init__(
            img_size=tokens.img_size,
            patch_size=PATCH,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=False,
            norm_layer=nn.LayerNorm,
            embed_layer=lambda **_: tokens,
        )
        self.tokens_to_token = self._modules.pop("patch_embed")
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        positions = sinusoid(tokens.num_patches + 1, embed_dim)
        self.pos_embed = nn.Parameter(positions.unsqueeze(0), requires_grad=False)

    @property
    def patch_embed(self) -> TokensToToken:
        """The tokens-to-token module by timm's name, and so out of the state dict under that name."""
        modules = self._modules
        tokens: TokensToToken = modules["tokens_to_token" if "tokens_to_token" in modules else "patch_embed"]
        return tokens


def sinusoid(positions: int, width: int) -> Tensor:
    """Position embedding (n D) float32 of Vaswani et al. (2017, Section 3.5): sines on even channels, cosines on odd.

    Position 0 is the class token's; the patches follow row by row.
    """
    channel = torch.arange(width, dtype=torch.float64)
    wavelengths = torch.pow(10000, 2 * (channel // 2) / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / wavelengths
    return torch.where(channel % 2 == 0, torch.sin(angles), torch.cos(angles)).float()


def t2t_vit(
    name: str, *, num_classes: int = 1000, img_size: int | tuple[int, int] = 224, depth: int | None = None
) -> T2TViT:
    """A published T2T-ViT with random weights, in training mode.

    The official checkpoints are at github.com/yitu-opensource/T2T-ViT; `load_state_dict` takes the tensors of
    T2T-ViT-14, -19, -24 and T2T-ViT_t-14, -19, -24 as they are. The one trained with token labeling has another head.

    Args:
        name: "t2t_vit_14", "t2t_vit_19", "t2t_vit_24", or with exact token attention "t2t_vit_t_14" and so on.
        num_classes: of the classifier; 0 for none.
        img_size: picture size in pixels, a side or (height, width), in multiples of 16.
        depth: number of blocks, where it shall differ from the published one.

    Raises:
        ModelError: an unknown name or an impossible size.
    """
    if name not in T2T:
        hint = nearest(name, T2T) or f"; use {', '.join(T2T)}"
        raise ModelError(f"{name}: no such T2T-ViT{hint}")
    shape = T2T[name]
    model = T2TViT(
        shape.kind,
        img_size=img_size,
        num_classes=num_classes,
        embed_dim=shape.embed_dim,
        depth=shape.depth if depth is None else depth,
        num_heads=shape.num_heads,
    )
    model.pretrained_cfg = model.default_cfg = {
        "architecture": name,
        "num_classes": num_classes,
        "input_size": (3, *model.tokens_to_token.img_size),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "classifier": "head",
    }
    return model
