"""Targets in words, for models with a text tower."""

from __future__ import annotations

from dataclasses import dataclass

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
