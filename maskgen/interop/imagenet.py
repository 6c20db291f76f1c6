"""Names of the 1000 classes of ImageNet, which torchvision ships."""

import logging
from collections import Counter
from functools import cache

logger = logging.getLogger(__name__)
IMAGENET_CLASSES = 1000


@cache
def imagenet_names(count: int) -> tuple[str, ...]:
    """A distinct name for each class, in the order of their numbers.

    Args:
        count: Classes of the model. Those of a model with other than 1000 have no known names.

    Returns:
        Names as torchvision gives them; a name of two classes is followed by the class's number, such as "crane (134)". Where there are
        no names, or torchvision is not installed, the numbers themselves.
    """
    numbers = tuple(str(number) for number in range(count))
    if count != IMAGENET_CLASSES:
        return numbers
    try:
        from torchvision.models import AlexNet_Weights
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        logger.warning("the names of the classes need torchvision; without it they are numbers from 0 to %d", count - 1)
        return numbers
    names = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    often = Counter(names)
    return tuple(name if often[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))
