"""Callback that generates sample sheets from fixed prompts and seeds, and warns when a model collapses."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.images import contact_sheet, to_pixels, write_picture
from maskgen.processors.text import told_codes
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.image_geometry import image_size, pixels_per_cell
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.packing import pack, unpack
from maskgen.training.modules.masked import MaskedTokenModule

logger = logging.getLogger(__name__)
LEAST_PERPLEXITY_SHARE = 0.02
"""Samples whose codes use less than this share of the codebook count as collapsed."""


def perplexity(codes: Tensor, size: int) -> float:
    """Perplexity of the codes: exp of the entropy of their frequencies, the number of codes in even use."""
    share = torch.bincount(codes.flatten(), minlength=size).double()
    share = share / share.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


class SampleSheet(L.Callback):
    """Generates the same prompts with the same seeds at every validation, writes a PNG and logs it to TensorBoard.

    It runs at the first batch of a validation, when averaged weights are in place whatever the order of the callbacks. Too few different
    codes log a warning.

    Args:
        prompts: Captions.
        text_tokenizer: Folder of the text tokenizer; None for a model that reads its prompts by `encoders` alone.
        image_tokenizer: Folder of the image tokenizer.
        folder: Where the PNGs go.
        variants: Images per prompt.
        guidance_scale: Guidance of the samples; 1 is off.
        steps: Decode steps of each level.
        encoders: Modality to the folder of its frozen text encoder, for a model with such features.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        text_tokenizer: str | None,
        image_tokenizer: str,
        folder: str,
        variants: int = 4,
        guidance_scale: float = 3.0,
        steps: Sequence[int] = (12, 4, 2, 1),
        encoders: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        readers = {} if text_tokenizer is None else {"text": text_tokenizer}
        self.readers = {name: load_tokenizer(place) for name, place in {**readers, **(encoders or {})}.items()}
        self.image = load_tokenizer(image_tokenizer)
        self.prompts, self.folder, self.variants = list(prompts), Path(folder), variants
        self.settings = GenerationSettings(steps=tuple(steps), guidance_scale=guidance_scale)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Generate the sheet with the weights that are being validated."""
        if trainer.sanity_checking or batch_idx or dataloader_idx:
            return
        assert isinstance(pl_module, MaskedTokenModule), f"SampleSheet draws from a MaskedTokenModule, not {type(pl_module).__name__}"
        codes = self.sample(pl_module)
        segments = pl_module.segments
        used = [perplexity(torch.stack([grid[segment.level] for grid in codes]), segment.size) for segment in segments]
        _log_scalars(trainer, {f"samples/perplexity_level{level}": value for level, value in enumerate(used)})
        for level, value in enumerate(used):
            if value < LEAST_PERPLEXITY_SHARE * min(segments[level].size, codes[0][0].numel() * len(codes)):
                logger.warning(
                    "samples at step %d use only %.1f codes of level %d: the model may have collapsed", trainer.global_step, value, level
                )
        sheet = contact_sheet(self.image.decode(codes), self.variants)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_picture(sheet, self.folder / f"step-{trainer.global_step:06d}.png")
        writer = getattr(pl_module.logger, "experiment", None)
        if writer is not None and hasattr(writer, "add_image"):
            writer.add_image("samples", to_pixels([sheet])[0], trainer.global_step)

    @torch.no_grad()
    def sample(self, module: MaskedTokenModule) -> list[Codes]:
        """Codes for every prompt and variant; variant i has seed i."""
        space, index = module.space, module.segments[0].index
        blank = torch.full((len(module.segments), *self._grid(module)), UNKNOWN)
        told = [told_codes(self.readers, prompt, allow_empty=True) for prompt in self.prompts for _ in range(self.variants)]
        batch = pack([{**one, module.target: blank} for one in told], space).to(module.device)
        generators = [torch.Generator().manual_seed(row % self.variants) for row in range(len(told))]
        conditions = tuple(space.index(m.name) for m in space.modalities if space.index(m.name) != index)
        logits_fn = guided_model(module.model, hide_condition(conditions), self.settings.guidance())
        for segment in module.segments:
            batch, _ = self.settings.at(segment.level).sample(logits_fn, batch, segment, generators)
        return [sample[module.target] for sample in unpack(batch.to("cpu"), space)]

    def _grid(self, module: MaskedTokenModule) -> Sequence[int]:
        """The module's code grid; without one, rows and columns of the tokenizer's own image size.

        Raises:
            ValueError: If neither is known.
        """
        if module.grid is not None:
            return module.grid
        size = image_size(self.image)
        if size is None:
            raise ValueError("SampleSheet doesn't know how large its images are; give the model a grid, such as grid: [16, 16]")
        side = pixels_per_cell(self.image)
        return size[1] // side, size[0] // side


def _log_scalars(trainer: L.Trainer, values: dict[str, Any]) -> None:
    """Scalars outside a step, where `self.log` does not reach."""
    if trainer.logger is not None:
        trainer.logger.log_metrics(values, step=trainer.global_step)
