"""Tokenizers of classes: the values that an attribute has in the sources of a recipe."""

from maskgen.data.build.recipe import Recipe
from maskgen.data.sources.folder import read_sources
from maskgen.tokenizers.attribute import AttributeTokenizer

MOST_CLASSES = 65_536


def label_tokenizer(recipe: Recipe, field: str = "label") -> AttributeTokenizer:
    """A tokenizer of the classes of a data set, in alphabetical order; no medium is decoded.

    Args:
        recipe: Its sources; a folder of pictures by class names the attribute in `labels`.
        field: Attribute that holds the class.

    Raises:
        ValueError: If a source cannot be listed, no sample has the attribute, or it has too many values.
    """
    specs = [{key: value for key, value in spec.items() if key != "name"} for spec in recipe.sources]
    items = (item for source in read_sources(specs, recipe.root) for item in source.items())
    values = sorted({str(item.attributes[field]) for item in items if field in item.attributes})
    if not 1 <= len(values) <= MOST_CLASSES:
        raise ValueError(
            f"the sources have {len(values):,} values of {field!r}, wanted 1 to {MOST_CLASSES:,}; "
            f"for a folder of pictures by class write labels: {field} beside its path"
        )
    return AttributeTokenizer(field, values, len(values))
