"""Targets in words, for models with a text tower."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """How much an image is like a text, by the model's own text tower: the cosine of their embeddings.

    `Explainer` turns it into a `Concept` of the text's embedding, which CLIP-like models share with images.

    Attributes:
        prompt: the text, such as "a photo of a cat".
        rather_than: a second text; the cosine is then with the first embedding less the second, each of length 1. That
            is the first likeness less the second over the distance of the two embeddings, the same for every image.
    """

    prompt: str
    rather_than: str | None = None

    def __str__(self) -> str:
        return self.prompt if self.rather_than is None else f"{self.prompt} rather than {self.rather_than}"

    @classmethod
    def of_words(cls, words: str) -> Text:
        """ "a photo of a cat", or "a photo of a cat rather than a photo of a dog"."""
        prompt, _, other = words.partition(" rather than ")
        return cls(prompt.strip(), other.strip() or None)
