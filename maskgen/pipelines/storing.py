"""Loading and saving: a name becomes the pipeline class that it is for, a pipeline becomes a folder or a hub repository."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from maskgen.decoding.decoder import Helpers
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import LoadOptions
from maskgen.interop.families import export_family
from maskgen.interop.fetching import fetched
from maskgen.io.bundle import require_fingerprint
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.fitting import fitted
from maskgen.io.hub import push_folder
from maskgen.networks.auto import Network, network_of
from maskgen.networks.durations import DurationPredictor
from maskgen.networks.pretrained import CHECKPOINT_SCHEMA
from maskgen.pipelines.loading import load_parts, save_parts, write_specialists
from maskgen.pipelines.machine import as_device, as_dtype
from maskgen.pipelines.moving import Moving
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.space import TokenSpace

Stored = TypeVar("Stored", bound="Storing")


def names_of(space: TokenSpace) -> list[str]:
    """Names of the modalities, in order."""
    return [one.name for one in space.modalities]


class Storing(Moving):
    """What a pipeline is made of, where it comes from and where it goes."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Modalities that a call of this class uses."""
    speaks: ClassVar[bool] = False
    """Whether a call of this class needs durations."""
    makes: ClassVar[str | None] = None
    """Modality that a call generates, which the model must have settings for."""
    does: ClassVar[str] = "any known cells to any target, by generate()"
    """What a call of this class does, for errors."""
    default_model: ClassVar[str] = "emoji-64"
    _kinds: ClassVar[list[type["Storing"]]] = []

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Storing._kinds.append(cls)

    def __init__(
        self,
        model: Network,
        space: TokenSpace,
        tokenizers: Mapping[str, Tokenizer],
        settings: Mapping[str, GenerationSettings] | None = None,
        grids: Mapping[str, Sequence[int]] | None = None,
        helpers: Helpers | None = None,
        durations: DurationPredictor | None = None,
        specialists: Mapping[str, Any] | None = None,
    ) -> None:
        if missing := self._missing([one.name for one in space.modalities], durations is not None):
            raise ValueError(f"a {type(self).__name__} needs {', '.join(missing)}; this model has {', '.join(names_of(space))}")
        self.model: Any = model.eval().requires_grad_(False)
        self.space, self.tokenizers = space, dict(tokenizers)
        self.settings, self.grids = dict(settings or {}), {name: tuple(grid) for name, grid in (grids or {}).items()}
        self.helpers, self.durations, self.specialists = helpers or Helpers(), durations, dict(specialists or {})
        self.device = torch.device("cpu")
        self.name_or_path = ""
        self.family = ""
        self._bar: bool | None = None

    @classmethod
    def from_pretrained(
        cls: type[Stored],
        name: Path | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        *,
        variant: str | None = None,
        local_files_only: bool = False,
        specialists: bool = True,
        torch_dtype: torch.dtype | str | None = None,
        use_safetensors: bool = True,
    ) -> Stored:
        """Load a model and return the pipeline class that it is for.

        Args:
            name: Shipped name ("emoji-64"), folder, or hub id ("owner/name"); None takes the class's default model.
            device: Where it runs: "cpu", "cuda", "cuda:1"; None is "cpu".
            dtype: Precision of the model: a torch dtype, its name, or "auto", which measures whether bfloat16 is faster here. None is
                float32.
            revision: Branch, tag or commit of a hub id.
            variant: Part of the name of the file that is meant, where a folder or repository holds several published models, such as
                "384_large".
            local_files_only: Take a hub id from the cache alone and ask no server.
            specialists: Load the models that the folder names for single targets, which then generate them in its place.
            torch_dtype: The name that diffusers gives `dtype`.
            use_safetensors: Must stay True: weights are read from safetensors alone.

        Returns:
            A TextToImagePipeline, TextToSpeechPipeline, TextGenerationPipeline or AnyToAnyPipeline; called on one of these classes, that
            class.

        Raises:
            ValueError: If the model is missing or damaged, was trained with other tokenizers than it names, or is not for this class; if
                the device cannot be used.
            ImportError: If a hub id is given and huggingface_hub is missing.
            OSError: If the hub cannot be reached, or `local_files_only` is True, and the model is not in the cache.
        """
        if not use_safetensors:
            raise ValueError("use_safetensors is False; weights in pickles run code when they are read and are never loaded")
        place, precision = as_device(device or "cpu"), as_dtype(torch_dtype if dtype is None else dtype, device or "cpu")
        wanted = cls.default_model if name is None else name
        folder = fetched(wanted, revision, variant or "", local_files_only=local_files_only)
        hub = {"from_hub": not Path(wanted).exists(), "local_files_only": local_files_only}
        options = LoadOptions(dtype=precision, device=place, variant=variant or "", **hub)
        parts = load_parts(folder, options)
        kind = cls.kind_for(parts.space, parts.settings, parts.durations is not None, str(folder))
        others = {}
        for target, place_or_name in parts.specialists.items() if specialists else ():
            others[target] = Storing._kinds[0].from_pretrained(
                place_or_name, device, precision, local_files_only=local_files_only, specialists=False
            )
        made = kind(
            parts.model, parts.space, parts.tokenizers, parts.settings, parts.grids, parts.helpers, parts.durations, specialists=others
        )
        made.name_or_path = str(wanted)
        made.family = parts.family
        return made if (place.type, precision) == ("cpu", torch.float32) else made.to(place, precision)

    @classmethod
    def kind_for(
        cls: type[Stored], space: TokenSpace, settings: Mapping[str, GenerationSettings], speaks: bool, folder: str
    ) -> type[Stored]:
        """The class that a model is for: the most demanding one among this class and those below it.

        Raises:
            ValueError: If the model lacks what this class needs.
        """
        names = names_of(space)
        fitting = [kind for kind in Storing._kinds if not kind._missing(names, speaks) and (kind.makes is None or kind.makes in settings)]
        ours = [kind for kind in fitting if issubclass(kind, cls)]
        if ours:
            return max(ours, key=lambda kind: (len(kind.needs), kind.makes == "image"))
        missing = cls._missing(names, speaks)
        if missing or cls.makes is not None:
            others = [kind.__name__ for kind in fitting if kind.needs]
            missing = missing or [f"settings to generate {cls.makes}"]
            raise ValueError(
                f"{folder} is no model for {cls.does}: it has {', '.join(names)} and lacks {', '.join(missing)}; "
                f"load it with {' or '.join(others or ['Pipeline'])}, or give another, such as {cls.default_model}"
            )
        return cls

    @classmethod
    def _missing(cls, names: Sequence[str], speaks: bool) -> list[str]:
        """What a model lacks to be of this class."""
        return [*sorted(cls.needs - set(names)), *(["durations"] if cls.speaks and not speaks else [])]

    @classmethod
    def from_checkpoint(
        cls: type[Stored], path: Path | str, tokenizers: Mapping[str, Tokenizer], settings: Mapping[str, GenerationSettings] | None = None
    ) -> Stored:
        """A pipeline around the transformer in a checkpoint of a token training (its averaged weights where there are any).

        Raises:
            ValueError: If the checkpoint is damaged, of another module or of an adapter, or was trained with other tokenizers.
        """
        checkpoint = read_checkpoint(path, "masked_transformer")
        if any(".lora_" in name for name in checkpoint["state_dict"]):
            raise ValueError(
                f"checkpoint {path} holds a low-rank adapter that is still being trained; give the same maskgen finetune command again, "
                "which continues and writes the merged model"
            )
        made, found = checkpoint["maskgen"], weights(checkpoint, "model.")
        CHECKPOINT_SCHEMA.check(made, f"checkpoint {path}")
        for name, tokenizer in tokenizers.items():
            require_fingerprint(name, tokenizer.fingerprint, made["fingerprints"].get(name, "none"), str(path))
        space = TokenSpace.from_dict(made["space"])
        model = fitted(lambda: network_of(made["transformer"], space), found, str(path))
        model.load_state_dict(found)
        if "grids" in made:
            grids, decoded = made["grids"], dict(settings or {})
        else:
            target = made["target"]
            grids = {**made.get("seen_grids", {}), **({} if made["grid"] is None else {target: made["grid"]})}
            decoded = {target: GenerationSettings(), **(settings or {})}
        return cls.kind_for(space, decoded, False, str(path))(model, space, tokenizers, decoded, grids)

    def save_pretrained(self, folder: Path | str, half: bool | None = None, tokenizers: Mapping[str, Path | str] | None = None) -> str:
        """Write everything that was loaded as one folder: model, tokenizers, settings, durations, critic, shortcut and specialists.

        A published model is written in its family's own layout, in the precision that it has, so that the authors' code loads it.

        Args:
            folder: Made if missing.
            half: Store weights in half precision; None does so where no weight changes by it, so nothing is lost.
            tokenizers: Bundles to refer to by relative path instead of writing the tokenizers inside the folder.

        Returns:
            The fingerprint.

        Raises:
            ValueError: If the weights were packed or quantized.
        """
        self._require_plain("save_pretrained()")
        folder = Path(folder)
        parts = Parts(
            model=self.model,
            space=self.space,
            tokenizers=self.tokenizers,
            settings=self.settings,
            grids=self.grids,
            helpers=self.helpers,
            durations=self.durations,
            family=self.family,
        )
        if self.family:
            return export_family(parts, folder)
        fingerprint = save_parts(folder, parts, half, tokenizers or {})
        if self.specialists:
            for target, pipeline in self.specialists.items():
                pipeline.save_pretrained(folder / "specialists" / target, half)
            write_specialists(folder, {target: f"specialists/{target}" for target in self.specialists})
        return fingerprint

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None, commit_message: str | None = None) -> str:
        """Save everything and upload it to a hub repository.

        Args:
            repo_id: "owner/name"; made if missing.
            private: Whether a new repository is private.
            token: Access token; None takes the one that huggingface_hub has stored.
            commit_message: Message of the commit.

        Returns:
            What `maskgen.io.hub.push_folder` says of the upload.

        Raises:
            ValueError: If the hub refuses or cannot be reached, or the weights were packed.
            ImportError: If huggingface_hub is missing.
        """

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repo_id, private=private, token=token, commit_message=commit_message or "maskgen model")

    @property
    def components(self) -> dict[str, Any]:
        """Everything that the pipeline was made of, by constructor argument: `TextToImagePipeline(**other.components)` shares it."""
        names = ("model", "space", "tokenizers", "settings", "grids", "helpers", "durations", "specialists")
        return {name: getattr(self, name) for name in names}
