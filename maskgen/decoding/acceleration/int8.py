"""Matrix products in 8 bits."""

import copy

from torch import nn

from maskgen.networks.transformer import MaskTransformer


def int8(model: MaskTransformer) -> MaskTransformer:
    """A copy whose matrix products run on 8-bit integers. Approximate; measured in docs.

    Weights are rounded once, one scale an output; activations at every pass, one scale a cell. Embeddings, norms, attention and the
    head stay as they are. The copy is for decoding: it neither trains nor goes into a bundle.

    Args:
        model: The transformer; not changed.

    Raises:
        ImportError: If torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ImportError(f"8-bit matrix products need torchao ({error}); install it: pip install maskgen[int8]") from error
    made = copy.deepcopy(model).eval().requires_grad_(False)
    quantize_(made, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda module, name: isinstance(module, nn.Linear))
    return made
