"""Audio tokenizer around the acoustic codec of MaskGCT."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.autoencoders.amphion import AcousticCodec, AcousticCodecConfig
from maskgen.io.bundle import load_bundle
from maskgen.io.fitting import fitted
from maskgen.io.schema import Flag, Items, Record, Whole, record_of
from maskgen.tokenizers.chunking import Windows
from maskgen.tokenizers.external_codec import CodecTokenizer, chosen_levels
from maskgen.tokens.space import MOST_CODES, MOST_LEVELS

_BUNDLE_KIND = "amphion_codec_tokenizer"
RATE_HZ = 24_000
CHUNK_S = 20.0
"""Length of the pieces that are processed at once, without context."""
_SIZE = Whole(1, 65_536)
_CODEC = record_of(
    AcousticCodecConfig,
    **dict.fromkeys(("encoder_dim", "dim", "codebook_dim", "vocos_dim", "vocos_hidden", "window"), _SIZE),
    num_levels=Whole(1, MOST_LEVELS),
    codebook_size=Whole(1, MOST_CODES),
    vocos_layers=Whole(1, 1024),
    strides=Items(Whole(1, 4096), least=1, most=16),
    tanh=Flag(),
)
SCHEMA = Record({"codec": _CODEC, "num_levels": Whole(1, MOST_LEVELS)})


class AmphionCodecTokenizer(CodecTokenizer):
    """Audio tokenizer around MaskGCT's acoustic codec: 24 kHz, one channel, 50 frames of 12 codes a second as published.

    The codec is purely convolutional: beyond 20 s it runs in pieces with enough context that codes and samples equal those of the whole.
    Audio is padded with zeros to a whole frame.

    Args:
        network: The codec.
        num_levels: Levels to use; None uses all.

    Raises:
        ValueError: If the codec has fewer levels.
    """

    bundle_kind: ClassVar[str] = _BUNDLE_KIND

    def __init__(self, network: AcousticCodec, num_levels: int | None = None) -> None:
        config = network.config
        super().__init__(network, chosen_levels(num_levels, None, 1, config.num_levels), _windows(config), loudness=False)
        self.codec, self.codebook_size, self.sample_rate_hz = network, config.codebook_size, RATE_HZ
        self.channels, self.samples_per_frame = 1, config.hop

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "AmphionCodecTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, SCHEMA)
        config = AcousticCodecConfig(**{**bundle.config["codec"], "strides": tuple(bundle.config["codec"]["strides"])})
        network = fitted(lambda: AcousticCodec(config), bundle.tensors, str(folder))
        network.load_state_dict(bundle.tensors)
        made = cls(network, bundle.config["num_levels"])
        made._fingerprint = bundle.fingerprint
        return made

    def _config(self) -> dict[str, Any]:
        sizes = dataclasses.asdict(self.codec.config)
        return {"codec": {**sizes, "strides": list(self.codec.config.strides)}, "num_levels": self.codec_levels}

    def _to_codes(self, samples: Float[Tensor, "1 channels samples"]) -> Int[Tensor, "level frames"]:
        padded = functional.pad(samples, (0, -samples.shape[-1] % self.samples_per_frame))
        return self.codec.encode(padded)[0, : self.codec_levels]

    def _to_samples(self, codes: Int[Tensor, "1 level frames"]) -> Float[Tensor, "channels samples"]:
        samples: Tensor = self.codec(codes)
        return samples[0]


def _windows(config: AcousticCodecConfig) -> Windows:
    """Pieces of `CHUNK_S` with the context that convolutions and transform reach.

    Each stage of the encoder reaches 39 samples to each side (kernels of 7, dilations 1, 3 and 9), its strided convolution less than 2
    strides; each block of the decoder 3 frames, the transform half its window.
    """
    reach, rate = 3.0, 1.0
    for stride in config.strides:
        reach, rate = reach + rate * (39 + 2 * stride), rate * stride
    encoder, decoder = reach / config.hop + 1, 3 * (config.vocos_layers + 1) + config.window / config.hop
    context = math.ceil(max(encoder, decoder)) + 1
    return Windows(length=math.ceil(CHUNK_S * RATE_HZ / config.hop) + 2 * context, context=context)
