"""Frozen text encoders: a prompt as vectors of a pretrained model, in place of codes or beside them."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import read_text
from maskgen.io.hub import HUB_NAME, local_folder
from maskgen.io.schema import Plain, Record, Table, Text, Whole, record_of
from maskgen.networks.auto import own_tensors
from maskgen.networks.backbone import read_vocabulary
from maskgen.networks.text_model import made_text_model, read_text_model
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind, Modality
from tokenizers import Tokenizer as Engine

logger = logging.getLogger(__name__)
_BUNDLE_KIND = "text_encoder"
KEPT_TEXTS = 64
"""Texts whose features stay in memory."""
KEPT_TYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What is taken from a pretrained text encoder.

    Args:
        layer: Layer whose states are the features: -1 is the model's output after its last norm, 0 its input, -2 the last but one.
        longest: Tokens of a text at most, special tokens included.
        dtype: Precision of the features in shards and batches; bfloat16 where values exceed 65,504.

    Raises:
        ValueError: If a number is out of range.
    """

    layer: int = -1
    longest: int = 77
    dtype: Literal["float16", "bfloat16"] = "float16"

    def __post_init__(self) -> None:
        if self.longest < 1 or self.dtype not in KEPT_TYPES:
            raise ValueError(f"longest must be at least 1 and dtype {' or '.join(KEPT_TYPES)}, got {self.longest} and {self.dtype!r}")


@dataclass(frozen=True, kw_only=True)
class HubPlace:
    """Where an encoder comes from, so that a bundle names it instead of holding it.

    Args:
        name: Hub id, "owner/name".
        revision: Commit.
    """

    name: str
    revision: str


_SETTINGS = record_of(EncoderSettings, layer=Whole(-1024, 1024), longest=Whole(1, 65_536))
_SCHEMA = Record({"settings": _SETTINGS}, {"model": Table(Plain()), "hub": record_of(HubPlace), "weights": Text()})


class TextEncoder(Tokenizer):
    """Features of a text by a frozen encoder of transformers: vectors [width, tokens], special tokens included.

    Texts are encoded one by one on a CPU, so the features of one do not depend on the others. `decode` does not exist: features are a
    condition alone.

    Args:
        network: Encoder, as `read_text_model` gives it.
        config: Its configuration as plain data.
        vocabulary: Content of its tokenizer.json.
        settings: What is taken from it.
        hub: Where it comes from; None keeps its weights in every bundle.

    Raises:
        ValueError: If the encoder has no such layer or fewer positions than `longest`, or the vocabulary is damaged.

    Source: Muse, arXiv:2301.00704; Imagen, arXiv:2205.11487 (frozen text encoders).
    """

    kind: ClassVar[Kind] = "features"

    def __init__(
        self, network: nn.Module, config: dict[str, Any], vocabulary: str, settings: EncoderSettings, hub: HubPlace | None = None
    ) -> None:
        self.network, self.config, self.settings, self.hub = network, config, settings, hub
        sizes: Any = network.config
        self.num_levels, self.codebook_size, self.width = 1, 1, int(sizes.hidden_size)
        self.longest_prompt = settings.longest
        layers, positions = int(sizes.num_hidden_layers), getattr(sizes, "max_position_embeddings", None)
        if not -layers - 1 <= settings.layer <= layers:
            raise ValueError(f"the encoder has layers 0 (its input) to {layers}, or {-layers - 1} to -1 from the end; got {settings.layer}")
        if isinstance(positions, int) and settings.longest > positions:
            raise ValueError(f"the encoder has {positions} positions, longest is {settings.longest}; give at most {positions}")
        self._vocabulary, self._engine, self._warned = vocabulary, _engine(vocabulary), False
        self._kept: dict[tuple[int, ...], Tensor] = {}
        if self._engine.get_vocab_size() > int(sizes.vocab_size):
            raise ValueError(
                f"the vocabulary has {self._engine.get_vocab_size()} tokens, the encoder {sizes.vocab_size}; give both from one folder"
            )

    @classmethod
    def from_transformers(
        cls, source: Path | str, revision: str | None = None, settings: EncoderSettings | None = None, *, inside: bool = False
    ) -> "TextEncoder":
        """Load an encoder that `save_pretrained` of transformers wrote; safetensors and JSON only.

        Args:
            source: Folder or hub id.
            revision: Branch, tag or commit of a hub id.
            settings: What is taken from it; None takes the defaults.
            inside: Whether bundles hold the weights of a hub id too, instead of naming it and its commit.

        Raises:
            ImportError: If transformers is missing.
            ValueError: If there is no such encoder, or it has no tokenizer.json.
            OSError: If the hub cannot be reached.
        """
        folder = local_folder(source, revision)
        network, config = read_text_model(folder)
        found = read_vocabulary(str(folder))
        if found is None:
            raise ValueError(f"{folder} has no {VOCABULARY_FILE}; save the fast tokenizer of the encoder there with save_pretrained")
        from_hub = not Path(source).exists() and HUB_NAME.fullmatch(str(source)) is not None
        hub = HubPlace(name=str(source), revision=folder.name) if from_hub and not inside else None
        return cls(network, config, found.text, settings or EncoderSettings(), hub)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TextEncoder":
        """Load an encoder that `save` wrote; one that is named by hub id is fetched, and refused if it is another than the one saved.

        Raises:
            ImportError: If transformers is missing.
            ValueError: If the bundle is missing, of another kind or damaged, or the encoder of the hub is another one.
            OSError: If the hub cannot be reached and the encoder is not in the cache.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, _SCHEMA)
        config, settings = bundle.config, EncoderSettings(**bundle.config["settings"])
        if ("hub" in config) == ("model" in config) or ("hub" in config and "weights" not in config):
            raise ValueError(f"{folder} must name an encoder of the hub with the hash of its weights, or hold one; copy the bundle again")
        if "model" in config:
            vocabulary = bundle.folder / VOCABULARY_FILE
            if not vocabulary.is_file():
                raise ValueError(f"bundle {folder} is incomplete: {VOCABULARY_FILE} is missing; copy the bundle again")
            network = made_text_model(config["model"], bundle.tensors, str(folder))
            return cls(network, dict(config["model"]), vocabulary.read_text(encoding="utf-8"), settings)
        hub = HubPlace(**config["hub"])
        if not HUB_NAME.fullmatch(hub.name):
            raise ValueError(f"{folder} names the encoder {hub.name[:60]!r}, wanted a hub id, owner/name; copy the bundle again")
        try:
            made = cls.from_transformers(hub.name, hub.revision, settings)
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"the text encoder {hub.name} ({hub.revision[:12]}) of {folder} cannot be loaded: {error}") from error
        if made.weights != config["weights"]:
            raise ValueError(
                f"{hub.name} has weights {made.weights[:12]}…, {folder} was saved with {config['weights'][:12]}…; "
                f"restore revision {hub.revision} of it"
            )
        return made

    @cached_property
    def weights(self) -> str:
        """Hash of the encoder: weights, configuration and vocabulary."""
        digest = hashlib.sha256(fingerprint_of(_BUNDLE_KIND, self.config, {}).encode() + self._vocabulary.encode())
        for name, tensor in sorted(own_tensors(self.network).items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hash of the encoder and of what is taken from it; the same whether a bundle holds or names the encoder."""
        return fingerprint_of(_BUNDLE_KIND, {"settings": asdict(self.settings), "weights": self.weights}, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle that holds the encoder, or names it where it comes from the hub, and return the fingerprint."""
        settings = {"settings": asdict(self.settings)}
        if self.hub is not None:
            save_bundle(folder, _BUNDLE_KIND, {**settings, "hub": asdict(self.hub), "weights": self.weights}, {})
        else:
            files = {VOCABULARY_FILE: self._vocabulary.encode()}
            save_bundle(folder, _BUNDLE_KIND, {**settings, "model": self.config}, own_tensors(self.network), files)
        return self.fingerprint

    def to(self, device: torch.device | str) -> None:
        """Move the encoder to a device. Features stay on the CPU."""
        self.network.to(device)
        self._kept.clear()

    def read(self, path: Path | str) -> str:
        """Read a UTF-8 text file, without the line break at its end.

        Raises:
            ValueError: If the file is missing, over 1 MiB or not UTF-8.
        """
        return read_text(path)

    def write(self, media: Any, path: Path | str) -> None:
        """Features are no medium.

        Raises:
            ValueError: Always.
        """
        raise ValueError("features of a frozen encoder can't be written as a medium; they are a condition alone")

    def num_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens included, before it is cut to `longest`."""
        return len(self._engine.encode(text).ids)

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Features of each text: [width, tokens] in the precision of the settings. Longer texts are cut, with one warning.

        Raises:
            ValueError: If a text is no Unicode, or a feature is too large for the precision.
        """
        texts = list(media)
        if any(not isinstance(text, str) for text in texts):
            raise ValueError(f"features are made of texts, got {next(text for text in texts if not isinstance(text, str))!r:.60}")
        return [self._remembered(tuple(self._ids(text))) for text in texts]

    def _remembered(self, ids: tuple[int, ...]) -> Float[Tensor, "width tokens"]:
        """Features of one text, those of the last few texts from memory: prompts and negative prompts repeat."""
        found = self._kept.get(ids)
        if found is None:
            found = self._kept[ids] = self._states(ids)
            for oldest in list(self._kept)[:-KEPT_TEXTS]:  # requests of several threads come here
                self._kept.pop(oldest, None)
        return found

    def _ids(self, text: str) -> list[int]:
        """Token ids of one text; special tokens at its end survive a cut."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the text has a lone surrogate at character {error.start}, so it is no Unicode text; cut it") from error
        found = self._engine.encode(text)
        if len(found.ids) <= self.settings.longest:
            return list(found.ids)
        if not self._warned:
            logger.warning("a text of %d tokens is cut to %d, as are others; raise longest", len(found.ids), self.settings.longest)
            self._warned = True
        added = self._engine.num_special_tokens_to_add(False)
        behind = next((n for n in range(added + 1) if not found.special_tokens_mask[len(found.ids) - 1 - n]), 0)
        end = list(found.ids[len(found.ids) - behind :])
        return [*found.ids[: self.settings.longest - len(end)], *end][: self.settings.longest]

    @torch.no_grad()
    def _states(self, ids: Sequence[int]) -> Float[Tensor, "width tokens"]:
        """Features of one text."""
        device = next(self.network.parameters()).device
        inside = self.settings.layer != -1
        answer = self.network(input_ids=torch.tensor([list(ids)], device=device), output_hidden_states=inside, return_dict=True)
        states: Tensor = answer.hidden_states[self.settings.layer] if inside else answer.last_hidden_state
        kept = states[0].T.to(KEPT_TYPES[self.settings.dtype]).cpu().contiguous()
        if not bool(kept.isfinite().all()):
            raise ValueError(f"the encoder gives features beyond {self.settings.dtype}; set dtype to bfloat16")
        return kept

    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        """Features have no way back to a text.

        Raises:
            ValueError: Always.
        """
        raise ValueError("features of a frozen encoder can't be decoded; they are a condition alone")

    def modality(self, name: str) -> Modality:
        """Describe the features as a modality of a token space, with their width."""
        return Modality(name=name, kind=self.kind, num_levels=1, codebook_size=1, width=self.width)


def _engine(vocabulary: str) -> Engine:
    """The tokenizer of the encoder with its special tokens, without truncation and padding.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        engine = Engine.from_str(vocabulary)
    except Exception as error:  # the tokenizers library raises no narrower type
        raise ValueError(f"{VOCABULARY_FILE} is damaged or of another format ({error}); save the tokenizer again") from error
    engine.no_truncation()
    engine.no_padding()
    return engine
