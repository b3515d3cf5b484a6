"""Models of Hugging Face transformers: one file a family; none imports transformers unless a model comes from it."""

from vitscope.models.hf import beit, clip, dinov2, dinov3, siglip, swin, vit  # noqa: F401  (register their adapters)
