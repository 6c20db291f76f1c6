"""T5 states of prompts that are given as token ids, each computed once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskgen.interop.clip_prompts import KEPT, Prompt
from maskgen.io.files import write_atomic
from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

LONGEST = 511
"""Tokens of a prompt without the one at its end; T5 was trained on 512."""


class WeightedLinear(nn.Linear):
    """A linear layer that keeps its weight: transformers reads that of T5's `wo`, so these layers are neither packed nor quantized."""


class T5Prompts(nn.Module):
    """Hidden states of prompts by T5's encoder.

    Prompts are encoded one by one, so the states of one do not depend on the others of a batch.

    Args:
        encoder: T5EncoderModel of transformers.
        end: Id that ends a text.
    """

    encoder: Any

    def __init__(self, encoder: nn.Module, end: int) -> None:
        super().__init__()
        self.encoder, self.end = encoder, end
        for name, layer in encoder.named_modules():
            if name.endswith(".wo") and type(layer) is nn.Linear:
                layer.__class__ = WeightedLinear
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    @property
    def width(self) -> int:
        """Width of the states."""
        return int(self.encoder.config.d_model)

    def forward(self, prompts: Sequence[Prompt]) -> tuple[Float[Tensor, "batch words width"], Bool[Tensor, "batch words"]]:
        """States of each prompt, 0 behind its end, and where there are any; the empty prompt has none."""
        weight = next(self.encoder.parameters())
        found = [self._states(prompt) if prompt else weight.new_zeros(0, self.width) for prompt in prompts]
        longest = max(1, *(len(states) for states in found))
        states, said = weight.new_zeros(len(found), longest, self.width), torch.zeros(len(found), longest, dtype=torch.bool)
        for row, own in enumerate(found):
            states[row, : len(own)], said[row, : len(own)] = own, True
        return states, said.to(weight.device)

    @torch.no_grad()
    def _states(self, prompt: Prompt) -> Float[Tensor, "words width"]:
        weight = next(self.encoder.parameters())
        key = prompt, weight.device, weight.dtype, weight.data_ptr(), weight._version
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            ids = torch.tensor([[*prompt, self.end]], device=weight.device)
            self._kept[key] = self.encoder(input_ids=ids, return_dict=True).last_hidden_state[0]
        return self._kept[key]


def read_t5(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[T5Prompts, TransformersTextTokenizer]:
    """Read T5's encoder and tokenizer from a folder of transformers; no code is run and nothing is downloaded.

    Args:
        folder: Folder with `config.json`, safetensors and `tokenizer.json`; the weights may be those of a whole T5.
        dtype: Precision of the encoder.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If something is missing, damaged or of another class.
    """
    try:
        from transformers import T5EncoderModel
    except ImportError as error:
        raise ImportError("T5 needs transformers: pip install maskgen[codecs]") from error
    vocabulary = read_vocabulary(str(folder))
    if vocabulary is None:
        raise ValueError(f"{folder} has no {VOCABULARY_FILE}; copy the whole folder of T5")
    try:
        read: Any = T5EncoderModel.from_pretrained
        model, info = read(folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(f"{folder} has no T5 that can be read ({reason}); copy the whole folder again") from error
    if wrong := [*info["missing_keys"], *(one[0] for one in info["mismatched_keys"])]:
        raise ValueError(f"the weights in {folder} don't match their configuration at {sorted(wrong)[0]}; copy T5 again")
    text = TransformersTextTokenizer(vocabulary.text, None, int(model.config.vocab_size))
    end = model.config.eos_token_id
    if not isinstance(end, int) or not 0 <= end < text.codebook_size:
        raise ValueError(f"{folder}/config.json has eos_token_id {end!r}, wanted one of the {text.codebook_size} ids; copy T5 again")
    text.longest_prompt = LONGEST
    return T5Prompts(model.eval().requires_grad_(False), end), text


def write_t5(prompts: T5Prompts, text: TransformersTextTokenizer, folder: Path) -> None:
    """Write T5's encoder and tokenizer as a folder that transformers loads; it is made if missing."""
    prompts.encoder.save_pretrained(folder, safe_serialization=True)
    write_atomic(folder / VOCABULARY_FILE, text.vocabulary.encode())
