"""Micro-conditions of a call as known cells of a model that was trained with a `MicroTokenizer`."""

from collections.abc import Sequence

from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.micro import FIELDS
from maskgen.tokens.batch import Codes
from maskgen.tokens.micro import told_conditions


def learned_micro(
    tokenizer: Tokenizer,
    size: tuple[int, int],
    original_size: Sequence[int] | None,
    crop: Sequence[int] | None,
    aesthetic_score: float | None,
) -> Codes:
    """Known cells [1, 5] of a call's micro-conditions.

    Args:
        tokenizer: The model's tokenizer of them.
        size: (width, height) of the generated image, the default of `original_size`.
        original_size: (width, height) of the image that the model is asked to imitate.
        crop: Top left corner of a crop out of it; (0, 0) unless given.
        aesthetic_score: 0 to 10; the tokenizer's default unless given.

    Raises:
        ValueError: If one is out of range.
        TypeError: If one is no pair of whole numbers.
    """
    told = told_conditions(size, original_size, crop, aesthetic_score)
    score = getattr(tokenizer, "default_score", None) if aesthetic_score is None else told.aesthetic
    numbers = (told.width, told.height, *told.crop, score)
    return tokenizer.encode([dict(zip(FIELDS, numbers, strict=True))])[0]
