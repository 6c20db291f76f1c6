"""Image-to-label retrieval: an image head on EfficientNet-Lite0 and a text head on MiniLM, contrastive, trained on real images."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

VERSION = "retrieval 2"
EPOCHS = 12
BATCH_SIZE = 512
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05


class RetrievalHeads(nn.Module):
    """Two small heads that map images and labels into one space, where matching ones are close.

    Args:
        image_dim: Width of the image's features.
        text_dim: Width of the label's embedding.
        dim: Width of the shared space.
        hidden: Hidden width of the heads.
        dropout: Dropout probability of hidden units.
    """

    def __init__(self, image_dim: int = 1280, text_dim: int = 384, dim: int = 256, hidden: int = 768, dropout: float = 0.3) -> None:
        super().__init__()
        self.image = _head(image_dim, hidden, dim, dropout)
        self.text = _head(text_dim, hidden, dim, dropout)
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def fit(self, pictures: Float[Tensor, "batch image_dim"], labels: Float[Tensor, "gallery text_dim"]) -> None:
        """Fix the statistics by which both inputs are standardised."""
        for head, features in ((self.image, pictures), (self.text, labels)):
            standardise = head[0]
            assert isinstance(standardise, Standardise), "a head must start with its statistics"
            standardise.fit(features)

    def forward(
        self, pictures: Float[Tensor, "batch image_dim"], labels: Float[Tensor, "gallery text_dim"]
    ) -> Float[Tensor, "batch gallery"]:
        """Scaled cosine of every image and every label."""
        left = nn.functional.normalize(self.image(pictures), dim=-1)
        right = nn.functional.normalize(self.text(labels), dim=-1)
        return self.log_scale.exp() * left @ right.T


def train_retrieval(
    features: Float[Tensor, "batch image_dim"],
    labels: Float[Tensor, "gallery text_dim"],
    target: Int[Tensor, " batch"],
    seed: int,
    epochs: int = EPOCHS,
) -> RetrievalHeads:
    """Train both heads on real training images.

    Each image is contrasted with *all* training labels, not only those of its batch, so that the hard negatives (the same subject in
    another tone) are present at every step. Labels of held-out rows are not used.

    Args:
        features: Features of the training images.
        labels: Embeddings of the distinct training labels.
        target: Which of them is each image's own.
        seed: Seed of initialisation, order and dropout; the global generator is not changed.
        epochs: Epochs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = RetrievalHeads(features.shape[1], labels.shape[1])
        heads.fit(features, labels)
        steps = epochs * -(-len(features) // BATCH_SIZE)
        optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        warm = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        heads.train()
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(features)), BATCH_SIZE):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    scores = heads(features[part], labels)
                nn.functional.cross_entropy(scores.float(), target[part]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                warm.step()
    return heads.eval()


@torch.inference_mode()
def retrieval_ranks(
    heads: RetrievalHeads,
    features: Float[Tensor, "batch image_dim"],
    gallery: Float[Tensor, "gallery text_dim"],
    target: Int[Tensor, " batch"],
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Rank of each image's own label among all labels, and the best label.

    Args:
        heads: Trained heads.
        features: Features of the images.
        gallery: Embeddings of all labels of the corpus.
        target: Place of each image's own label in the gallery.

    Returns:
        Rank of the own label (0 is first; labels with an equal score count as better), and index of the best label.
    """
    scores = heads(features, gallery)
    own = scores.gather(1, target[:, None])
    return (scores >= own).sum(dim=1) - 1, scores.argmax(dim=1)


class Standardise(nn.Module):
    """Standardisation of features by mean and standard deviation of training rows.

    Args:
        width: Width of the features.
        smallest: Lower bound of the standard deviation.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, smallest: float = 1e-6) -> None:
        super().__init__()
        self.smallest = smallest
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def fit(self, features: Float[Tensor, "batch dim"]) -> None:
        """Set the statistics to those of these rows."""
        self.mean.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0).clamp(min=self.smallest))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Features with mean 0 and standard deviation 1 over the training rows."""
        return (features - self.mean) / self.spread


def _head(wide: int, hidden: int, dim: int, dropout: float) -> nn.Sequential:
    """Standardise, one hidden layer, out."""
    return nn.Sequential(Standardise(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
