"""Token critics: networks that distinguish sampled codes from real ones, and their bundles."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.fitting import fitted
from maskgen.io.schema import Flag, Maybe, Record, Table, Text
from maskgen.networks.row_by_row import row_by_row
from maskgen.networks.transformer import TRANSFORMER_SCHEMA, MaskTransformer, TransformerConfig
from maskgen.tokens.batch import TokenBatch, condition_cells
from maskgen.tokens.functions import ScoreFn
from maskgen.tokens.space import SPACE_SCHEMA, Segment, TokenSpace

CRITIC_KIND = "critic"
CRITIC_SCHEMA = Record(
    {
        "critic": Text(("token", "self")),
        "generator": Text(),
        "space": SPACE_SCHEMA,
        "target": Text(),
        "see_condition": Flag(),
        "transformer": Maybe(TRANSFORMER_SCHEMA),
    },
    {"labels": Text(), "fingerprints": Table(Text())},
)
TIED_HEAD = "trunk.head.weight"
"""Weight that bundles leave out: the trunk's head is its embedding table and is never used."""


def critic_states(model: MaskTransformer, batch: TokenBatch, target: int) -> Float[Tensor, "batch length dim"]:
    """Hidden states of all cells; `target` is the number of the modality that is not a condition."""
    return model(batch, batch.modality != target if model.config.blind_condition else None)  # type: ignore[no-any-return]


class TokenCritic(nn.Module):
    """Critic with its own transformer and one linear layer, which scores each cell and level of the target.

    It runs on the joint sequence, so a trunk that sees the condition is the text-conditioned selector of TCTS; one that does not
    (`see_condition=False`) is the plain Token-Critic.

    Args:
        transformer: Configuration of the trunk.
        space: The generator's token space.
        target: Modality that it scores.
        see_condition: Whether the trunk sees the cells of other modalities.

    Source: Token-Critic, arXiv:2209.04439; TCTS, arXiv:2304.01515.
    """

    def __init__(self, transformer: TransformerConfig, space: TokenSpace, target: str, see_condition: bool = True) -> None:
        super().__init__()
        self.space, self.target, self.see_condition = space, target, see_condition
        config = replace(transformer, tie_head=True, blind_condition=False)
        self.trunk = MaskTransformer(config, space.size, len(space.modalities), space.feature_width)
        self.score = nn.Linear(config.dim, len(space.of(target)))

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch length levels"]:
        """Logit that the generator sampled the code of each cell, for every level; only defined at cells of the target."""
        index = self.space.index(self.target)
        seen = batch if self.see_condition else batch.hide(condition_cells(batch, index))
        scores: Tensor = self.score(critic_states(self.trunk, seen, index))
        return scores


class SelfCritic(nn.Module):
    """Critic with one linear layer on the hidden states of the frozen generator, whose weights are not part of this module.

    Args:
        generator: The generator; it receives no gradient.
        space: Its token space.
        target: Modality that it scores.
        see_condition: Whether the generator sees the cells of other modalities when it scores.

    Source: the self-critic of the public re-implementations of Token-Critic, arXiv:2209.04439.
    """

    def __init__(self, generator: MaskTransformer, space: TokenSpace, target: str, see_condition: bool = True) -> None:
        super().__init__()
        self.space, self.target, self.see_condition = space, target, see_condition
        self.score = nn.Linear(generator.config.dim, len(space.of(target)))
        self._generator = (generator,)
        """The generator, in a tuple so that it is not a submodule and its weights are not in the critic's checkpoint."""

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch length levels"]:
        """Logits as in `TokenCritic.forward`; the gradient stops at the hidden states."""
        index = self.space.index(self.target)
        seen = batch if self.see_condition else batch.hide(condition_cells(batch, index))
        with torch.no_grad():
            hidden = critic_states(self._generator[0], seen, index)
        scores: Tensor = self.score(hidden.to(self.score.weight.dtype))
        return scores


Critic = TokenCritic | SelfCritic


def critic_scores(critic: Critic) -> ScoreFn:
    """ScoreFn of a critic, see `maskgen.tokens.functions`. In float32 on a CPU each row is scored alone, bit-identical in any batch.

    Args:
        critic: A trained critic; it is set to evaluation mode.

    Returns:
        A function of a filled batch and a segment. It raises ValueError for a segment that the critic cannot score: one of another
        modality or space, or with levels decoded together, on which it was not trained.
    """
    critic.eval()

    def scores(batch: TokenBatch, segment: Segment) -> Tensor:
        if segment not in critic.space.of(critic.target) or batch.ids.shape[2] != critic.space.num_levels:
            raise ValueError(
                f"the critic judges single levels of {critic.target} in the space it was trained in, got level {segment.level} of "
                f"{segment.modality} at offset {segment.offset}; decode {critic.target} with that generator, level by level"
            )
        with torch.no_grad():
            return row_by_row(lambda rows: critic(rows)[..., segment.level].float(), batch)

    return scores


def export_critic(checkpoint: Path | str, folder: Path | str) -> str:
    """Write the critic in a checkpoint of CriticModule (averaged weights where there are any) as a bundle in half precision.

    Returns:
        The fingerprint.

    Raises:
        ValueError: If the checkpoint is damaged or holds another module.
    """
    found = read_checkpoint(checkpoint, CRITIC_KIND)
    config = {name: value for name, value in found["maskgen"].items() if name != "kind"}
    CRITIC_SCHEMA.check(config, f"checkpoint {checkpoint}")
    tensors = {name: tensor.half() for name, tensor in weights(found, "critic.").items() if name != TIED_HEAD}
    return save_bundle(folder, CRITIC_KIND, config, tensors)


def save_critic(critic: Critic, folder: Path | str, weights_sha256: str) -> str:
    """Write a loaded critic as a bundle in half precision, as `export_critic` does.

    Args:
        critic: The critic.
        folder: Created if missing.
        weights_sha256: Hash of the weights file of its generator's bundle.

    Returns:
        The fingerprint.
    """
    kind = "token" if isinstance(critic, TokenCritic) else "self"
    config = {
        "critic": kind,
        "generator": weights_sha256,
        "space": critic.space.to_dict(),
        "target": critic.target,
        "see_condition": critic.see_condition,
        "transformer": asdict(critic.trunk.config) if isinstance(critic, TokenCritic) else None,
    }
    tensors = {name: tensor.half() for name, tensor in critic.state_dict().items() if name != TIED_HEAD}
    return save_bundle(folder, CRITIC_KIND, config, tensors)


def load_critic(folder: Path | str, generator: MaskTransformer | None = None, weights_sha256: str | None = None) -> Critic:
    """Load a critic that `export_critic` wrote.

    Args:
        folder: The critic's bundle.
        generator: The generator that it was trained for; a self-critic needs it, a token critic does not.
        weights_sha256: Hash of the weights file of the generator's bundle; None skips the check. A token critic may score another
            generator of the same space.

    Returns:
        A frozen critic in evaluation mode, in float32.

    Raises:
        ValueError: If the bundle is missing or damaged, or a self-critic is given no generator, or not the one it was trained on.
    """
    bundle = load_bundle(folder, CRITIC_KIND, CRITIC_SCHEMA)
    made, tensors = bundle.config, {name: tensor.float() for name, tensor in bundle.tensors.items()}
    if made["critic"] == "self" and weights_sha256 not in (None, made["generator"]):
        raise ValueError(
            f"{folder} is a self-critic of the generator with weights {made['generator'][:12]}…, this one has {str(weights_sha256)[:12]}…; "
            "train one on this generator, as configs/critic_emoji64.yaml does with kind: self"
        )
    critic = fitted(
        lambda: build_critic(made, generator),
        tensors,
        str(folder),
        lambda one: {name: tensor for name, tensor in one.state_dict().items() if name != TIED_HEAD},
    )
    if isinstance(critic, TokenCritic):
        tensors[TIED_HEAD] = tensors["trunk.embed.weight"]
    critic.load_state_dict(tensors)
    return critic.eval().requires_grad_(False)


def build_critic(made: Mapping[str, Any], generator: MaskTransformer | None) -> Critic:
    """Create an untrained critic from the metadata of a checkpoint or bundle: critic, space, target, see_condition, transformer.

    Raises:
        ValueError: If a self-critic is given no generator.
    """
    space, target, see_condition = TokenSpace.from_dict(made["space"]), made["target"], made["see_condition"]
    if made["critic"] == "token":
        return TokenCritic(TransformerConfig(**made["transformer"]), space, target, see_condition)
    if generator is None:
        raise ValueError("a self-critic stands on its generator's hidden states; give generator, the model of the pipeline")
    return SelfCritic(generator, space, target, see_condition)
