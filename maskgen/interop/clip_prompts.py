"""CLIP features of prompts that are given as token ids, each computed once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK

IMAGE_HALF = ("vision_model.", "visual_projection.", "logit_scale")
"""Tensors of a whole CLIP that its text encoder does without."""
KEPT = 1024
"""Prompts whose features are kept."""
Prompt = tuple[int, ...]


class ClipPrompts(nn.Module):
    """Hidden states and pooled embedding of prompts by CLIP's text encoder.

    Prompts are encoded one by one, so the features of one do not depend on the others of a batch.

    Args:
        encoder: CLIPTextModelWithProjection of transformers.
        begin: Id that begins a text.
        end: Id that ends a text.
        pad: Id that fills a text up to `length`.
        length: Ids of a whole text, those at its ends included.
        layer: Entry of the encoder's hidden states; -2 are those before the last layer.
    """

    encoder: Any

    def __init__(self, encoder: nn.Module, begin: int, end: int, pad: int, length: int = 77, layer: int = -2) -> None:
        super().__init__()
        self.encoder = encoder
        self.begin, self.end, self.pad, self.length, self.layer = begin, end, pad, length, layer
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def forward(self, prompts: Sequence[Prompt]) -> tuple[Float[Tensor, "batch words width"], Float[Tensor, "batch dim"]]:
        """Hidden states and pooled embeddings, one row a prompt; the empty prompt is the null condition."""
        found = [self._features(prompt) for prompt in prompts]
        return torch.cat([states for states, _ in found]), torch.cat([pooled for _, pooled in found])

    def ids(self, prompt: Prompt) -> Int[Tensor, "1 words"]:
        """A prompt between the ids at its ends, cut and padded to the model's length as CLIP's tokenizer does."""
        whole = [self.begin, *prompt[: self.length - 2], self.end]
        return torch.tensor([[*whole, *[self.pad] * (self.length - len(whole))]])

    @torch.inference_mode(False)  # what a validation computes is kept for training
    @torch.no_grad()
    def _features(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        weight = next(self.encoder.parameters())
        key = prompt, weight.device, weight.dtype, weight.data_ptr(), weight._version
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            found = self.encoder(self.ids(prompt).to(weight.device), output_hidden_states=True, return_dict=True)
            self._kept[key] = found.hidden_states[self.layer], found.text_embeds
        return self._kept[key]


def prompts_of(batch: TokenBatch, index: int, offset: int) -> list[Prompt]:
    """The visible text of each row as ids of the text tokenizer; empty where it is hidden, masked or absent.

    Args:
        batch: Rows.
        index: Number of the text modality.
        offset: First shared id of its level.
    """
    cells = batch.cells(index) & (batch.ids[..., 0] != MASK)
    return [tuple((batch.ids[row, here, 0] - offset).tolist()) for row, here in enumerate(cells)]


def read_clip(
    folder: Path, encoder: str = "text_encoder", tokenizer: str = "tokenizer", dtype: torch.dtype = torch.float32
) -> tuple[ClipPrompts, TransformersTextTokenizer]:
    """Read CLIP's text encoder and tokenizer from the folders of a diffusers pipeline; no code is run and nothing is downloaded.

    Args:
        folder: Folder of the pipeline.
        encoder: Folder of the CLIPTextModelWithProjection inside it.
        tokenizer: Folder of the CLIPTokenizer inside it.
        dtype: Precision of the encoder.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If one of them is missing, damaged or of another class.
    """
    try:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer
    except ImportError as error:
        raise ImportError("CLIP's text encoder needs transformers: pip install maskgen[diffusers]") from error
    try:
        words: Any = CLIPTokenizer.from_pretrained(folder / tokenizer, local_files_only=True)
        read: Any = CLIPTextModelWithProjection.from_pretrained
        model, info = read(folder / encoder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(
            f"{folder} has no CLIP text encoder and tokenizer that can be read ({reason}); copy the whole folder again"
        ) from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *(one[0] for one in info["mismatched_keys"])]
    wrong = [name for name in wrong if not name.endswith("position_ids") and not name.startswith(IMAGE_HALF)]
    if wrong:
        raise ValueError(f"the weights in {folder / encoder} don't match their configuration at {wrong[0]}; copy the model again")
    length = min(int(words.model_max_length), int(model.config.max_position_embeddings))
    pad = words.pad_token_id if words.pad_token_id is not None else words.eos_token_id
    prompts = ClipPrompts(model.eval().requires_grad_(False), words.bos_token_id, words.eos_token_id, pad, length)
    text = TransformersTextTokenizer(words.backend_tokenizer.to_str())
    text.longest_prompt = length - 2
    return prompts, text


def write_clip_tokenizer(text: Tokenizer, prompts: ClipPrompts, folder: Path) -> None:
    """Write the tokenizer of `read_clip` as a folder that transformers loads.

    Args:
        text: The text tokenizer.
        prompts: Knows the ids at the ends of a text.
        folder: Made if missing.
    """
    from transformers import CLIPTokenizer

    assert isinstance(text, TransformersTextTokenizer), "read_clip made it"
    engine = text.engine()
    begin, end, pad = (engine.id_to_token(number) for number in (prompts.begin, prompts.end, prompts.pad))
    made: Any = CLIPTokenizer
    words = made(tokenizer_object=engine, bos_token=begin, eos_token=end, unk_token=end, pad_token=pad, model_max_length=prompts.length)
    words.save_pretrained(folder)
