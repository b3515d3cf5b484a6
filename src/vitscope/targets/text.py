"""Targets in words, for models with a text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitscope.errors import TargetError

_RATHER = " rather than "


@dataclass(frozen=True)
class Text:
    """How much an image is like a text, by the model's own text tower: the cosine of their embeddings.

    `Explainer` turns it into a `Concept` of the text's embedding, which CLIP-like models share with images.

    Attributes:
        prompt: the text, such as "a photo of a cat".
        rather_than: a second text; the cosine is then with the first embedding less the second, each of length 1. That
            is the first likeness less the second over the distance of the two embeddings, the same for every image.

    Raises:
        TargetError: a text is empty.
    """

    prompt: str
    rather_than: str | None = None

    def __post_init__(self) -> None:
        for text in self.parts:
            check_text(text)

    def __str__(self) -> str:
        return _RATHER.join(self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """The one text, or both."""
        return (self.prompt,) if self.rather_than is None else (self.prompt, self.rather_than)

    @classmethod
    def of_words(cls, words: str) -> Text:
        """ "a photo of a cat", or "a photo of a cat rather than a photo of a dog".

        Raises:
            TargetError: a text is empty.
        """
        prompt, rather, other = words.partition(_RATHER)
        return cls(prompt.strip(), other.strip() if rather else None)


def check_text(text: str) -> None:
    """Raise TargetError where a text has no words."""
    if not text.strip():
        raise TargetError(f"{text!r} is an empty text; say what to look for, such as 'a photo of a cat'")


def tokens_on(device: torch.device, tokens: Any) -> Any:
    """What a tokenizer gives, on the device of the model.

    Raises:
        TargetError: it is neither a tensor nor tensors by name, such as the lists of a tokenizer of transformers.
    """
    if isinstance(tokens, Tensor):
        return tokens.to(device)
    if isinstance(tokens, Mapping) and tokens and all(isinstance(value, Tensor) for value in tokens.values()):
        return {name: value.to(device) for name, value in tokens.items()}
    raise TargetError(
        f"the tokenizer gives no tensors ({type(tokens).__name__}); of one of transformers give "
        'tokenizer=lambda texts: tokenizer(texts, padding=True, truncation=True, return_tensors="pt")'
    )
