"""Features of a frozen encoder as part of a cell's input embedding."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class FeatureEmbedding(nn.Module):
    """Projects the vector of each cell to the width of a network; a cell without one gets 0.

    Vectors are scaled to a root mean square of 1 first, so that encoders of any scale start alike.

    Args:
        width: Numbers in a vector.
        dim: Width of the network.

    Source: Muse, arXiv:2301.00704 (text embeddings of a frozen T5, projected linearly). Differs: the cells are positions of the one
        sequence, where Muse attends to them across.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, features: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length dim"]:
        scaled = functional.rms_norm(features.float(), features.shape[-1:], eps=torch.finfo(torch.float32).tiny)
        return functional.linear(scaled.to(self.weight.dtype), self.weight)
