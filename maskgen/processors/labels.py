"""Labels as requests: the class of a class-conditional model, by name or number, becomes known cells."""

import difflib
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch

from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import Codes
from maskgen.tokens.micro import NAME as MICRO

MOST_NAMED = 8
"""Values that an error lists."""


def label_codes(tokenizers: Mapping[str, Tokenizer], label: Any) -> dict[str, Codes]:
    """Known cells of a label, {modality: codes [1, 1]}; nothing for None.

    Args:
        tokenizers: Of a model; those of kind "attribute" hold its classes.
        label: Name or number of a class; a mapping of modality to name or number where a model has several attributes.

    Raises:
        TypeError: If a label is neither a name nor a number.
        ValueError: If the model has no attribute, several and no mapping is given, or none of that name or number.
    """
    if label is None:
        return {}
    attributes = {name: one for name, one in tokenizers.items() if one.kind == "attribute" and name != MICRO}
    if not attributes:
        raise ValueError(f"this model has no classes, it has {', '.join(tokenizers)}; leave label out")
    if not isinstance(label, Mapping):
        if len(attributes) > 1:
            raise ValueError(f"this model has the attributes {', '.join(attributes)}; say which: label={{{next(iter(attributes))!r}: ...}}")
        label = {next(iter(attributes)): label}
    if unknown := [str(name) for name in label if name not in attributes]:
        raise ValueError(f"this model has no attribute {', '.join(unknown)}; it has {', '.join(attributes)}")
    return {name: torch.tensor([[_code_of(name, attributes[name], value)]]) for name, value in label.items()}


def _code_of(name: str, tokenizer: Tokenizer, value: Any) -> int:
    """Code of one value: by its name, or else by its number."""
    values = getattr(tokenizer, "values", None)
    if isinstance(value, str) and (values is None or value in values) and not (values is None and value.isdecimal()):
        return int(tokenizer.encode([value])[0])
    if not isinstance(value, str) and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise TypeError(f"label must be the name or the number of a {name}, got {value!r}")
    count = tokenizer.codebook_size if values is None else len(values)
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        near = difflib.get_close_matches(value, values or (), MOST_NAMED, 0.5) or list(values or ())[:MOST_NAMED]
        more = ", ..." if count > len(near) else ""
        raise ValueError(f"there is no {name} {value!r}; there are {', '.join(near)}{more}, or give a number from 0 to {count - 1}")
    if not 0 <= int(value) < count:
        raise ValueError(f"the number of a {name} must lie in 0 to {count - 1}, got {value}")
    return int(value)
