"""OmniVoice beside its authors' package: the same random weights and prompt, decoded greedily by both; codes must be equal.

Run:    uv pip install --no-deps omnivoice==0.2.1 pydub       (in an environment of its own beside maskgen[codecs])
        python benchmarks/omnivoice_decode.py
        python benchmarks/omnivoice_decode.py --size real --device cuda --dtype bfloat16 --batch 1,8

The decode alone: 8 levels of codes in 32 steps with guidance, level penalty and time shift of the authors; neither text nor codec.
"""

from types import SimpleNamespace
from typing import Any

import torch
from side_by_side import arguments, batches, compare, missing, peak_flops, report, written
from torch import Tensor

from maskgen.decoding.decoder import Decoder
from maskgen.interop.omnivoice import omnivoice_settings
from maskgen.interop.omnivoice_network import AUDIO, PROMPT, OmniVoiceNetwork
from maskgen.networks.packed_linear import packed
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, TokenSpace

LEVELS, CODES, WORDS, FRAMES, STEPS = 8, 1024, 40, 100, 32
TRUNK = {"model_type": "qwen3", "vocab_size": 2048, "head_dim": 64, "tie_word_embeddings": True}
SIZES = {
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "small": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4},
    "real": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
}


class Speaking:
    """One decode by both sides.

    Args:
        size: Name in `SIZES`.
        rows: Texts at once, of equal length.
        device: Where.
        dtype: Precision of both networks.
        frames: Frames of audio.
    """

    def __init__(self, size: str, rows: int, device: str, dtype: torch.dtype, frames: int = FRAMES) -> None:
        from omnivoice.models.omnivoice import OmniVoice, OmniVoiceConfig, OmniVoiceGenerationConfig

        told = {"audio_vocab_size": CODES + 1, "audio_mask_id": CODES, "num_audio_codebook": LEVELS, "llm_config": {**TRUNK, **SIZES[size]}}
        torch.manual_seed(0)
        self.peer: Any = OmniVoice(OmniVoiceConfig(**told)).eval().requires_grad_(False)
        for weight in self.peer.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        text = Modality(name=PROMPT, kind="text", num_levels=1, codebook_size=TRUNK["vocab_size"])
        self.space = TokenSpace([text, Modality(name=AUDIO, kind="audio", num_levels=LEVELS, codebook_size=CODES)])
        network = OmniVoiceNetwork(told, self.space).eval().requires_grad_(False)
        network.load_state_dict(self.peer.state_dict(), strict=False)
        self.peer, network = self.peer.to(device, dtype), network.to(device, dtype)
        self.network = packed(network) if device == "cpu" else network
        self.rows, self.frames, self.device = rows, frames, device
        self.words = torch.randint(TRUNK["vocab_size"], (rows, WORDS), generator=torch.Generator().manual_seed(1))
        self.config = OmniVoiceGenerationConfig(num_step=STEPS, position_temperature=0.0)
        self.peer._prepare_inference_inputs = self._inputs
        settings = omnivoice_settings(LEVELS).changed(choice_temperature=(0.0,))
        self.decoder = Decoder(self.network, self.space, AUDIO, settings)

    def _inputs(self, row: int, frames: int, *_: Any) -> dict[str, Tensor]:
        """What the package makes of a text: its ids at all levels, and masks behind them."""
        ids = torch.cat([self.words[row].expand(LEVELS, -1), torch.full((LEVELS, frames), CODES)], dim=1)
        heard = torch.arange(ids.shape[1]) >= WORDS
        return {"input_ids": ids[None].to(self.device), "audio_mask": heard[None].to(self.device)}

    def ours(self) -> Tensor:
        """Codes [row level frame] by maskgen's decoder."""
        blank = torch.full((LEVELS, self.frames), UNKNOWN)
        batch = pack([{PROMPT: row[None], AUDIO: blank} for row in self.words], self.space).to(self.device)
        made = self.decoder(batch, [torch.Generator().manual_seed(row) for row in range(self.rows)])
        return torch.stack([sample[AUDIO] for sample in unpack(made.batch.to("cpu"), self.space)])

    def theirs(self) -> Tensor:
        """Codes by the package's loop."""
        nothing: list[Any] = [None] * self.rows
        task = SimpleNamespace(batch_size=self.rows, texts=list(range(self.rows)), target_lens=[self.frames] * self.rows)
        task.langs = task.instructs = task.ref_texts = task.ref_audio_tokens = nothing
        return torch.stack([codes.cpu() for codes in self.peer._generate_iterative(task, self.config)])


def measured(size: str, rows: int, rounds: int, device: str, dtype: torch.dtype, frames: int = FRAMES) -> dict[str, Any]:
    """Both sides at one batch size."""
    speaking = Speaking(size, rows, device, dtype, frames)
    with torch.no_grad():
        differing = int((speaking.ours() != speaking.theirs()).sum())
        peak, comparison = peak_flops(device, dtype), compare("end to end", speaking.ours, speaking.theirs, rounds, device)
    parameters = sum(weight.numel() for weight in speaking.peer.parameters())
    settings = {"size": size, "parameters": f"{parameters / 1e6:.0f} M", "batch": rows, "dtype": str(dtype).removeprefix("torch.")}
    settings |= {"words": WORDS, "frames": frames, "steps": STEPS, "codes that differ": f"{differing} of {rows * LEVELS * frames}"}
    return report("OmniVoice: maskgen beside its package", settings, [comparison], max(peak, peak_flops(device, dtype)), device)


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    args = parser.parse_args()
    try:
        import omnivoice.models.omnivoice  # noqa: F401
    except ImportError as error:
        missing("omnivoice", error, "uv pip install --no-deps omnivoice==0.2.1 pydub")
    results = [measured(args.size, rows, args.rounds, args.device, getattr(torch, args.dtype)) for rows in batches(args)]
    written(results, args.json)


if __name__ == "__main__":
    main()
