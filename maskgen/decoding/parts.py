"""Everything that a pipeline is made of, as one record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maskgen.decoding.decoder import Helpers
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.auto import Network
from maskgen.networks.durations import DurationPredictor
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.space import TokenSpace


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a pipeline is made of.

    Args:
        model: The network that generates: our own, or a published family's over our token space.
        space: Its token space.
        tokenizers: Tokenizer of each modality.
        settings: How each target modality is decoded unless a call says otherwise.
        grids: Default code grid of each target modality.
        helpers: Trained networks that some settings ask for.
        durations: How long each phoneme lasts, in a model that speaks.
        specialists: Target modality to the name or folder of a model that generates it in this one's place.
        family: Name of the published family that the model belongs to; "" for a model of maskgen's own.
    """

    model: Network
    space: TokenSpace
    tokenizers: Mapping[str, Tokenizer]
    settings: Mapping[str, GenerationSettings]
    grids: Mapping[str, tuple[int, ...]]
    helpers: Helpers = field(default_factory=Helpers)
    durations: DurationPredictor | None = None
    specialists: Mapping[str, Path | str] = field(default_factory=dict)
    family: str = ""
