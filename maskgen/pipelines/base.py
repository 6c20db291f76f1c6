"""The pipeline: known media in, media out."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from maskgen.decoding.acceleration.compiled import CompiledModel
from maskgen.decoding.acceleration.int8 import int8
from maskgen.decoding.decoder import Decoder, Helpers, StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import WEIGHTS_FILE, find_model, load_bundle, read_record, require_fingerprint, save_bundle
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.networks.auto import Network, network_of, own_tensors
from maskgen.networks.critic import load_critic
from maskgen.networks.packed_linear import is_packed, packed
from maskgen.networks.pretrained import BUNDLE_KIND, transformer_of
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.networks.towers import TowerTransformer
from maskgen.processors.image import Edit, make_edit
from maskgen.sampling.base import Trajectory
from maskgen.scoring.features import Pool, embed_rows
from maskgen.scoring.likelihood import Marks, Ranked, Score, Scorer, ScoreSettings, ranked
from maskgen.tokenizers.auto import load_tokenizer as load_tokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes, pack, unpack, until_end
from maskgen.tokens.space import TokenSpace

logger = logging.getLogger(__name__)
DEFAULT_MODEL = "emoji-64"
LONGEST_PROMPT = 64
"""Text cells of the longest prompt that is taken."""


@dataclass(frozen=True)
class GenerationOutput:
    """What a call made, one entry a row.

    Args:
        media: Decoded media of the target.
        codes: Codes [level, *grid] of the target.
        seeds: Seed of each row; the same seed alone gives the same row.
        trajectories: What each step did, one entry a batch and level, in the order of decoding.
        passes: Model passes of each row as they were run: a guided step counts twice, a pass over a part of the cells as its share.
        elapsed_s: Seconds in the model and the sampler, without loading and decoding.
        log_probabilities: Float [level, *grid] like `codes`: log-probability of each code at the step that wrote it for good, in the guided
            logits before temperature and cuts, by which orders rank. 0 where the code was known: given codes are certain.
    """

    media: list[Any]
    codes: list[Codes]
    seeds: list[int]
    trajectories: list[Trajectory]
    passes: list[float]
    elapsed_s: float
    log_probabilities: list[Tensor]

    @property
    def confidence(self) -> list[Tensor]:
        """Probability of each code, shaped like `codes`: exp of `log_probabilities`, so 1 where the code was known."""
        return [one.exp() for one in self.log_probabilities]

    @property
    def passes_a_row(self) -> float:
        """Passes of the average row."""
        return sum(self.passes) / max(len(self.passes), 1)

    @property
    def images(self) -> list[Image.Image]:
        """The media, under the name that diffusers gives them."""
        return self.media


class Pipeline:
    """A model with its tokenizers. In its folder `critic` and `shortcut` may hold networks that some settings ask for.

    Args:
        model: The masked transformer.
        space: Its token space.
        tokenizers: Tokenizer of each modality.
        settings: How each target modality is decoded unless a call says otherwise.
        grids: Default code grid of each target modality.
        helpers: Trained networks that some settings ask for.
    """

    def __init__(
        self,
        model: Network,
        space: TokenSpace,
        tokenizers: Mapping[str, Tokenizer],
        settings: Mapping[str, GenerationSettings] | None = None,
        grids: Mapping[str, Sequence[int]] | None = None,
        helpers: Helpers | None = None,
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.space, self.tokenizers = space, dict(tokenizers)
        self.settings, self.grids = dict(settings or {}), {name: tuple(grid) for name, grid in (grids or {}).items()}
        self.helpers = helpers or Helpers()
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(cls, name: Path | str = DEFAULT_MODEL) -> "Pipeline":
        """Load a model by its folder or its shipped name, without network.

        Raises:
            ValueError: If it is missing or damaged, or was trained with other tokenizers than lie beside it.
        """
        bundle = load_bundle(find_model(name), BUNDLE_KIND)
        config, tokenizers = bundle.config, {}
        for modality in [one["name"] for one in config["space"]["modalities"] if one["name"] in config["tokenizers"]]:
            tokenizers[modality] = load_tokenizer(bundle.folder / config["tokenizers"][modality])
            require_fingerprint(modality, tokenizers[modality].fingerprint, config["fingerprints"][modality], str(bundle.folder))
        model, space = transformer_of(bundle)
        settings = {target: GenerationSettings.from_dict(entry) for target, entry in config["generation"].items()}
        return cls(model, space, tokenizers, settings, config["grids"], _helpers(bundle.folder, model))

    @classmethod
    def from_checkpoint(
        cls, path: Path | str, tokenizers: Mapping[str, Tokenizer], settings: Mapping[str, GenerationSettings] | None = None
    ) -> "Pipeline":
        """A pipeline around the transformer in a checkpoint of MaskedTokenModule (its averaged weights where there are any).

        Raises:
            ValueError: If the checkpoint is damaged, of another module or of an adapter, or was trained with other tokenizers.
        """
        checkpoint = read_checkpoint(path, "masked_transformer")
        if any(".lora_" in name for name in checkpoint["state_dict"]):
            raise ValueError(
                f"checkpoint {path} holds a low-rank adapter that is still trained; give the same maskgen finetune again, "
                "which goes on and writes the merged model"
            )
        made = checkpoint["maskgen"]
        for name, tokenizer in tokenizers.items():
            require_fingerprint(name, tokenizer.fingerprint, made["fingerprints"].get(name, "none"), str(path))
        space = TokenSpace.from_dict(made["space"])
        model = network_of(made["transformer"], space)
        model.load_state_dict(weights(checkpoint, "model."))
        if "grids" in made:
            return cls(model, space, tokenizers, settings, made["grids"])
        target = made["target"]
        grids = {} if made["grid"] is None else {target: made["grid"]}
        return cls(model, space, tokenizers, {target: GenerationSettings(), **(settings or {})}, grids)

    def save_pretrained(self, folder: Path | str, half: bool = True, tokenizers: Mapping[str, Path | str] | None = None) -> str:
        """Write model, settings and tokenizers as one folder and return the fingerprint.

        Args:
            folder: Made if missing.
            half: Store weights in half precision.
            tokenizers: Bundles to refer to by relative path instead of writing the tokenizers inside the folder.

        Raises:
            ValueError: If the weights were packed.
        """
        self._require_plain("save_pretrained()")
        folder = Path(folder)
        places = {}
        for name, tokenizer in self.tokenizers.items():
            given = (tokenizers or {}).get(name)
            places[name] = os.path.relpath(given, folder) if given else f"tokenizers/{name}"
            if not given:
                tokenizer.save(folder / places[name])
        state = {key: tensor.half() if half else tensor for key, tensor in own_tensors(self.model).items()}
        config = {
            "space": self.space.to_dict(),
            "transformer": asdict(self.model.config),
            "tokenizers": places,
            "fingerprints": {name: tokenizer.fingerprint for name, tokenizer in self.tokenizers.items()},
            "generation": {target: entry.to_dict() for target, entry in self.settings.items()},
            "grids": {name: list(grid) for name, grid in self.grids.items()},
        }
        return save_bundle(folder, BUNDLE_KIND, config, state)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Pipeline":
        """Move the model and its helpers or change their precision.

        Sampling noise stays float64 on the CPU, so seeds mean the same everywhere.

        Raises:
            ValueError: If the weights were packed.
        """
        self._require_plain("to()")
        self.device = self.device if device is None else torch.device(device)
        self.model.to(device=self.device, dtype=dtype)
        if self.helpers.critic is not None:
            self.helpers.critic.to(device=self.device)
        if self.helpers.shortcut is not None:
            self.helpers.shortcut.to(device=self.device, dtype=dtype)
        return self

    def compile(self, mode: str | None = None, multiple: int = 32) -> "Pipeline":
        """Put the model behind torch.compile: few static shapes, each compiled at its first use; "reduce-overhead" records CUDA graphs.

        Compiled kernels round differently, so a seed gives another picture than before, the same one alone and in any batch on a CPU.

        Args:
            mode: Of torch.compile.
            multiple: Rows are padded to a multiple of so many cells.

        Raises:
            ValueError: If the network has towers, whose share of the cells is another in every row, or the weights were packed.
        """
        self._require_plain("compile()")
        if isinstance(self.model, TowerTransformer):
            raise ValueError("a network with towers has no static shapes to compile; leave compile off")
        self.helpers = replace(self.helpers, compiled=CompiledModel(self.model, multiple, mode=mode))
        return self

    def pack(self) -> "Pipeline":
        """Keep the model's weights in the order in which oneDNN reads them: faster in float32 on a CPU, exact but for rounding.

        The command line does so by itself. Measured in `docs/samplers.md`. Comes last: what is packed neither moves nor compiles.

        Raises:
            ValueError: If PyTorch has no oneDNN, or the model is compiled, not in float32 or not on a CPU.
        """
        weight = self.model.embed.weight
        if self.helpers.compiled is not None or weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError("weights are packed in float32 on a CPU and without compile; leave pack() out")
        if not is_packed(self.model):
            self.model = packed(self.model)
        return self

    def quantize(self) -> "Pipeline":
        """Run the model's matrix products on 8-bit integers; approximate. Needs torchao: `pip install maskgen[int8]`.

        Raises:
            ValueError: If the weights were packed.
            ImportError: If torchao is missing.
        """
        self._require_plain("quantize()")
        self.model = int8(self.model)
        return self

    def _require_plain(self, call: str) -> None:
        """Refuse what packed weights cannot do."""
        if is_packed(self.model):
            raise ValueError(f"packed weights are for decoding alone; call {call} before pack(), or load the model again")

    def settings_of(self, target: str) -> GenerationSettings:
        """How a modality is decoded unless a call says otherwise.

        Raises:
            ValueError: If the model has no such modality.
        """
        self.space.of(target)
        return self.settings.get(target) or GenerationSettings()

    def generate(
        self,
        known: Sequence[Mapping[str, Any]],
        target: str,
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        negative: Sequence[Mapping[str, Any]] | None = None,
        callback: StepCallback | None = None,
        batch_size: int = 32,
    ) -> GenerationOutput:
        """Fill what is unknown of one modality, given everything else.

        Args:
            known: One entry a row: modality to media or Codes. Codes of the target may hold UNKNOWN (-1) cells; without an entry
                for the target all of its default grid is unknown.
            target: Modality to generate.
            seeds: One a row, in [0, 2**63); a row's result depends on its own seed alone, in float32 on a CPU to the last bit.
            settings: How to decode; the bundle's own if None.
            negative: Per row what guidance leads away from; None leads away from no condition at all.
            callback: Called after every step with the state of the decode.
            batch_size: Rows decoded at once.

        Returns:
            Media, codes and trajectories.

        Raises:
            ValueError: If a modality is unknown or an argument is out of range.
        """
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"a seed must lie in [0, 2**63), got {seed}")
        if len(seeds) != len(known) or (negative is not None and len(negative) != len(known)):
            raise ValueError(f"{len(known)} rows need as many seeds and negatives, got {len(seeds)} and {len(negative or known)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        settings = settings or self.settings_of(target)
        rows = [self._with_target(self._encoded(row), target) for row in known]
        others = None if negative is None else [self._with_target(self._encoded(row), target) for row in negative]
        codes: list[Codes] = []
        trajectories: list[Trajectory] = []
        passes: list[float] = []
        logprobs: list[Tensor] = []
        decode = Decoder(self.model, self.space, target, settings, self.helpers)
        started_s = time.perf_counter()
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
            batch = pack(rows[part], self.space).to(self.device)
            against_batch = None if others is None else pack(others[part], self.space).to(self.device)
            made = decode(batch, generators, against_batch, callback)
            codes += [sample[target] for sample in unpack(made.batch.to("cpu"), self.space)]
            cells = made.batch.cells(self.space.index(target))
            logprobs += [row[chosen].T.cpu() for row, chosen in zip(made.logprobs, cells, strict=True)]
            trajectories += made.trajectories
            passes += made.model_calls
        elapsed_s = time.perf_counter() - started_s
        end = self.space.modality(target).end
        media = [self.tokenizers[target].decode([until_end(made, end)])[0] for made in codes]  # one at a time: a batch rounds differently
        likely = [found[: len(one)].reshape(one.shape) for found, one in zip(logprobs, codes, strict=True)]
        return GenerationOutput(media, codes, list(seeds), trajectories, passes, elapsed_s, likely)

    def score(
        self,
        rows: Sequence[Mapping[str, Any]],
        target: str,
        only: Sequence[Marks | None] | None = None,
        against: Literal["absent"] | Sequence[Mapping[str, Any]] | None = None,
        settings: ScoreSettings | None = None,
    ) -> list[Score]:
        """How likely the model finds a modality of each row, given everything else in the row; `docs/scores.md` has the formulas.

        Args:
            rows: One entry a row: modality to media or Codes, the target among them. UNKNOWN codes are MASK throughout, never scored.
            target: Modality that is scored; the model must have learned to guess it.
            only: Per row what of the target is scored, [*grid] or [level, *grid]; the rest of the target is seen. None scores all.
            against: Another condition whose score is subtracted: "absent", none at all, which gives the pointwise mutual information of
                target and condition; or a row of other modalities for each row.
            settings: Estimator, masks and seed.

        Returns:
            One score a row, each from its own row and the settings alone.

        Raises:
            ValueError: If a modality is unknown, a row lacks the target, or there is nothing to score.
        """
        if isinstance(against, str) and against != "absent":
            raise ValueError(f'against must be "absent", a row for each row, or None, got {against!r}')
        marks = [None] * len(rows) if only is None else only
        others: Sequence[Mapping[str, Any] | None] = [None] * len(rows) if against is None else [{}] * len(rows)
        others = others if against is None or isinstance(against, str) else against
        if not len(rows) == len(marks) == len(others):
            raise ValueError(f"{len(rows)} rows need as many entries of only and against, got {len(marks)} and {len(others)}")
        if any(target in other for other in others if other is not None):
            raise ValueError(f"against is another condition of the same target; leave {target!r} out of it")
        scorer = Scorer(self.model, self.space, target, settings or ScoreSettings(), self.settings.get(target))
        found = []
        for row, mark, other in zip(rows, marks, others, strict=True):
            codes = self._encoded(row)
            same = {target: codes[target]} if target in codes else {}
            found.append(scorer(codes, mark, None if other is None else {**self._encoded(other), **same}))
        return found

    def classify(
        self,
        known: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        target: str,
        only: Marks | None = None,
        against: Literal["absent"] | None = None,
        settings: ScoreSettings | None = None,
    ) -> list[Ranked]:
        """Zero-shot classification: candidates ranked by the score of the row that each makes of what is known.

        With `classify({"image": picture}, [{"text": "a cat"}, {"text": "a dog"}], "image")` each caption is judged by how likely it makes
        the picture. Where the candidates differ in the target itself, `against="absent"` takes off what makes one likely anyway.

        Args:
            known: Media or Codes that all candidates share.
            candidates: What each adds to it, for example a caption.
            target: Modality that is scored, of what is known or of the candidates.
            only: As in `score`, for all candidates alike.
            against: As in `score`.
            settings: Estimator, masks and seed.

        Returns:
            The candidates, best first, with probabilities.

        Raises:
            ValueError: If there is no candidate, or one has a modality that is known already.
        """
        if not candidates:
            raise ValueError("found no candidate, wanted at least one to rank")
        twice = sorted({name for candidate in candidates for name in candidate if name in known})
        if twice:
            raise ValueError(f"candidates and what is known both have {', '.join(twice)}; give each modality once")
        shared = self._encoded(known)
        rows = [{**shared, **candidate} for candidate in candidates]
        return ranked(candidates, self.score(rows, target, None if only is None else [only] * len(rows), against, settings))

    def embed(
        self, rows: Sequence[Mapping[str, Any]], layer: int = -1, pool: Pool = "mean", target: str | None = None
    ) -> list[dict[str, Tensor]]:
        """Features of each modality of each row, with nothing masked: what the model makes of them after some of its blocks.

        Args:
            rows: One entry a row: modality to media or Codes. What else stands in a row is seen too, so give a picture alone where its
                features must not know its caption.
            layer: Blocks that are run: 0 is the input, -1 all of them and the last norm.
            pool: "mean" averages a modality's cells, "none" keeps them.
            target: Modality that takes the place of the target in a model with `blind_condition`; not read by others.

        Returns:
            Modality to features in float32 on the CPU: [dim], or [*grid, dim] with pool "none".

        Raises:
            ValueError: If a modality is unknown, or layer or pool does not exist.
        """
        return embed_rows(self.model, self.space, [self._encoded(row) for row in rows], layer, pool, target)

    def _encoded(self, row: Mapping[str, Any]) -> dict[str, Codes]:
        """Codes of a row's media; what is a tensor already stays."""
        codes = {}
        for name, media in row.items():
            self.space.of(name)
            codes[name] = media if isinstance(media, Tensor) else self.tokenizers[name].encode([media])[0]
        return codes

    def _with_target(self, row: dict[str, Codes], target: str) -> dict[str, Codes]:
        """The row with a blank target where it has none."""
        if target in row:
            if not row[target].numel():
                raise ValueError(f"{target} has no cells to fill, its codes have shape {tuple(row[target].shape)}; give at least one")
            return row
        if target not in self.grids:
            raise ValueError(f"the model has no default grid for {target!r}; give codes of the wanted shape with -1 in every cell")
        return {**row, target: torch.full((len(self.space.of(target)), *self.grids[target]), UNKNOWN)}

    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        strength: float | None = None,
        outpaint: tuple[int, int, int, int] | None = None,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int = 0,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | Sequence[float] | None = None,
        choice_temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        sampler: str | None = None,
        settings: GenerationSettings | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> GenerationOutput:
        """Text to image, and with `image` inpainting, outpainting or variation: one decode with other known cells.

        Argument names follow diffusers where the meaning is the same.

        Args:
            prompt: One caption or several; may be empty only where `image` is given.
            image: Picture to edit; other sizes than the model's are letterboxed, never stretched.
            mask_image: White where the picture is made anew; as large as `image`. Pixels outside come back exactly.
            strength: Share of random cells made anew, in [0, 1]; 0 gives the picture back, 1 makes a new one.
            outpaint: Pixels to add (left, top, right, bottom), multiples of the cell.
            negative_prompt: What guidance leads away from.
            num_images_per_prompt: Pictures a prompt; picture i has seed `seed + i`, whatever the prompt.
            seed: First seed.
            num_inference_steps: Steps of the coarsest level, or one number a level.
            guidance_scale: 1 is off.
            guidance_schedule: constant, linear or cosine.
            temperature: Divides the logits, per level.
            choice_temperature: Noise of the confidence order, per level.
            top_k: Codes that may be drawn.
            top_p: Share of probability that may be drawn.
            sampler: Name of the decoding order.
            settings: How to decode, where the bundle's own settings are not the start for the arguments above.
            callback_on_step_end: Called after every step with the state of the decode.

        Raises:
            ValueError: If an argument is out of range or two contradict each other.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt}")
        settings = (settings or self.settings.get("image", GenerationSettings())).changed(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            choice_temperature=choice_temperature,
            top_k=top_k,
            top_p=top_p,
            sampler=sampler,
        )
        texts = [self.text_codes(text, allow_empty=image is not None) for text in prompts for _ in range(num_images_per_prompt)]
        seeds = [seed + number for _ in prompts for number in range(num_images_per_prompt)]
        edit = self._edit(image, mask_image, strength, outpaint)
        known = [{**text, **({} if edit is None else {"image": edit.codes(one)})} for text, one in zip(texts, seeds, strict=True)]
        negative = None if negative_prompt is None else [self._negative(row, negative_prompt) for row in known]
        output = self.generate(known, "image", seeds, settings, negative, callback_on_step_end)
        return output if edit is None else replace(output, media=[edit.finish(made) for made in output.media])

    def text_codes(self, text: str, allow_empty: bool = False) -> dict[str, Codes]:
        """Known cells of a prompt.

        Raises:
            ValueError: If the prompt is empty or has more than `LONGEST_PROMPT` cells.
        """
        if not text.strip():
            if allow_empty:
                return {}
            raise ValueError("the prompt is empty; say what the picture shows, for example: a red heart, flat style")
        codes = self.tokenizers["text"].encode([text.strip()])[0]
        if codes.shape[1] > LONGEST_PROMPT:
            raise ValueError(f"the prompt has {codes.shape[1]} text tokens, at most {LONGEST_PROMPT} are taken; shorten it")
        return {"text": codes}

    def _negative(self, row: Mapping[str, Codes], text: str) -> dict[str, Codes]:
        """A row with another text, or none, and the same target."""
        return {**{name: codes for name, codes in row.items() if name != "text"}, **self.text_codes(text, allow_empty=True)}

    def _edit(
        self, image: Image.Image | None, mask: Image.Image | None, strength: float | None, outpaint: tuple[int, int, int, int] | None
    ) -> "Edit | None":
        """The edit that the arguments ask for."""
        asked = [name for name, value in (("mask_image", mask), ("strength", strength), ("outpaint", outpaint)) if value is not None]
        if image is None:
            if asked:
                raise ValueError(f"{asked[0]} needs image, the picture to edit")
            return None
        if len(asked) != 1:
            raise ValueError(f"an edit takes exactly one of mask_image, strength and outpaint, got {' and '.join(asked) or 'none'}")
        tokenizer = self.tokenizers["image"]
        if not isinstance(tokenizer, ImageTokenizer):
            raise ValueError(f"editing pictures needs the learned image tokenizer, this model has {type(tokenizer).__name__}")
        return make_edit(tokenizer, image, mask, strength, outpaint)


def _helpers(folder: Path, model: Any) -> Helpers:
    """The networks beside a model, where its folder has them; each refuses another model than its own."""
    found = read_record(folder)["files"][WEIGHTS_FILE]
    critic = load_critic(folder / "critic", model, found) if (folder / "critic").is_dir() else None
    shortcut = ShortcutBlock.from_bundle(folder / "shortcut", found) if (folder / "shortcut").is_dir() else None
    return Helpers(critic, shortcut)
