"""The image tokenizer of MaskGen: TA-TiTok, whose decoder reads the caption beside the codes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from maskgen.autoencoders.titok import TiTok
from maskgen.interop.clip_prompts import Prompt
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of
from maskgen.io.images import read_picture, to_pictures, write_picture
from maskgen.tokenizers.base import ConditionedTokenizer
from maskgen.tokenizers.titok import check_rows, encode_images, plain_config, tensors_of
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind

_KIND = "tatitok_tokenizer"


class TextAwareTokenizer(ConditionedTokenizer):
    """Image tokenizer around TA-TiTok; codes have the shape [1, tokens]. `decode` reads the empty caption.

    Args:
        network: The autoencoder, in float32.
        prompts: Text encoder of the model that it belongs to; see `maskgen.interop.clip_prompts.ClipPrompts`.
        text: Modality of the captions.
        batch_size: Images encoded at once on a GPU; on a CPU it is always one.

    Raises:
        ValueError: If the decoder reads no text.
    """

    kind: ClassVar[Kind] = "image"
    num_levels = 1

    def __init__(self, network: TiTok, prompts: nn.Module, text: str = "text", batch_size: int = 16) -> None:
        if not network.config.text_length:
            raise ValueError("this TiTok tokenizer's decoder reads no text, wanted TA-TiTok; give turkeyju/tokenizer_tatitok_bl128_vq")
        self.network, self.prompts, self.text, self.batch_size = network.eval().requires_grad_(False), prompts, text, batch_size
        self.codebook_size = network.config.codebook_size

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and images stay on the CPU; the text encoder moves with its model."""
        self.network.to(device)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of every image."""
        return self.network.config.side, self.network.config.side

    @property
    def grid(self) -> tuple[int]:
        """Shape of the codes of every image."""
        return (self.network.config.num_tokens,)

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights."""
        digest = hashlib.sha256(save(tensors_of(self.network))).hexdigest()
        return fingerprint_of(_KIND, plain_config(self.network.config), {WEIGHTS_FILE: digest})

    def save(self, folder: Path | str) -> str:
        """Refuse: without its text encoder it would decode nothing.

        Raises:
            ValueError: Always.
        """
        raise ValueError("TA-TiTok needs the text encoder of its model; save the whole pipeline with save_pretrained")

    def read(self, path: Path | str) -> Image.Image:
        """Read an image file; see `read_picture`."""
        return read_picture(path)

    def write(self, media: Image.Image, path: Path | str) -> None:
        """Write an image file; see `write_picture`."""
        write_picture(media, path)

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        """Encode each image as codes of shape [1, tokens]; captions play no part.

        Raises:
            ValueError: If an image has another size than `size`.
        """
        return encode_images(self.network, media, self.batch_size)

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Decode codes [1, tokens] to images, with the empty caption.

        Raises:
            ValueError: If codes have another shape, are unknown or out of range.
        """
        return [self._decoded(one, ()) for one in codes]

    def decode_given(self, codes: Codes, known: Mapping[str, Codes]) -> Image.Image:
        """Decode codes to an image, with the caption of its row."""
        words = known[self.text][0].tolist() if self.text in known else []
        return self._decoded(codes, tuple(word for word in words if word != UNKNOWN))

    @torch.no_grad()
    def _decoded(self, codes: Codes, prompt: Prompt) -> Image.Image:
        check_rows(self.network.config, [codes])
        weight = self.network.latent_tokens
        states = self.prompts([prompt])[0].to(weight.device, weight.dtype)
        return to_pictures(self.network.decode(codes.long().to(weight.device), states))[0]
