"""Residual audio codes beside soundstorm-pytorch: 3 s of 8 levels, as many parameters, 18 passes on the coarsest level and one on each
finer one, random weights, no condition.

Run:    python benchmarks/soundstorm.py        # in an environment of its own, see INSTALL
"""

import argparse
from typing import Any

import torch
from lucidrains import matched, parameters, without
from side_by_side import arguments, batches, compare, missing, peak_flops, report, written
from torch import Tensor

from maskgen.decoding.logits import model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.packed_linear import packed
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

INSTALL = """    uv venv bench --python 3.11
    uv pip install --python bench/bin/python -e . "torch==2.11.*" "torchaudio==2.11.*" "torchvision==0.26.*"
    uv pip install --python bench/bin/python --no-deps soundstorm-pytorch==0.6.1 audiolm-pytorch==2.4.0 spear-tts-pytorch==0.4.8 \\
        classifier-free-guidance-pytorch==0.7.1
    uv pip install --python bench/bin/python "torch==2.11.*" "torchaudio==2.11.*" accelerate beartype hyper-connections ema-pytorch \\
        vector-quantize-pytorch sentencepiece transformers joblib local-attention gateloop-transformer encodec pytorch-warmup wandb x-clip
fairseq, which audiolm-pytorch imports and which builds from source, is not needed: its place is taken by an empty module."""
LEVELS, CODES, FRAMES_PER_S, SECONDS = 8, 1024, 50, 3
STEPS, KEPT = 18, 308
"""Passes on the coarsest level, and codes that may be drawn: 30 % of them, the peer's filter_thres of 0.7."""


def peer(dim: int, depth: int) -> Any:
    """SoundStorm with random weights.

    Raises:
        ImportError: If a package is missing.
    """
    without("fairseq")
    import soundstorm_pytorch.soundstorm as package

    package.tqdm = lambda steps, **_: steps
    conformer = {"dim": dim, "depth": depth, "heads": dim // 64, "dim_head": 64}
    net = package.ConformerWrapper(codebook_size=CODES, num_quantizers=LEVELS, conformer=conformer)
    return package.SoundStorm(net, steps=STEPS).eval().requires_grad_(False)


class Decode:
    """One decode by both sides.

    Args:
        theirs: SoundStorm.
        dim: Our width.
        rows: Clips at once.
        device: Where both run.
        dtype: Precision of both.
        frames: Length.
    """

    def __init__(self, theirs: Any, dim: int, rows: int, device: str, dtype: torch.dtype, frames: int) -> None:
        self.space = TokenSpace([Modality(name="audio", kind="audio", num_levels=LEVELS, codebook_size=CODES)])
        self.peer = theirs.to(device=device, dtype=dtype)
        self.model = matched(self.space, dim, parameters(theirs)).to(device=device, dtype=dtype)
        self.served = packed(self.model) if device == "cpu" else self.model
        self.settings = GenerationSettings(steps=(STEPS, 1), top_k=KEPT, schedule="linear")
        self.frames, self.rows = frames, rows
        self.batch = pack([{"audio": torch.full((LEVELS, frames), UNKNOWN)}] * rows, self.space).to(device)

    def ours(self) -> Tensor:
        """Ids of all levels, decoded one after the other."""
        batch, generators = self.batch, [torch.Generator().manual_seed(row) for row in range(self.rows)]
        logits_fn = model_logits(self.served)
        with torch.no_grad():
            for segment in self.space.of("audio"):
                batch, _ = self.settings.at(segment.level).sample(logits_fn, batch, segment, generators)
        return batch.ids

    def theirs(self) -> Tensor:
        """Codes of all levels."""
        found: Tensor = self.peer.generate(num_latents=self.frames, batch_size=self.rows)
        return found


def measured(args: argparse.Namespace, theirs: Any, rows: int) -> dict[str, Any]:
    """Both sides at one batch size."""
    dtype = getattr(torch, args.dtype)
    decode = Decode(theirs, args.dim, rows, args.device, dtype, args.frames)
    assert int(decode.ours().min()) >= 2
    assert decode.theirs().shape == (rows, args.frames * LEVELS)
    peak = peak_flops(args.device, dtype)
    found = compare("end to end", decode.ours, decode.theirs, args.rounds, args.device)
    settings = {"batch": rows, "dtype": args.dtype, "frames": args.frames, "levels": LEVELS, "passes": STEPS + LEVELS - 1}
    settings |= {"our layers": len(decode.model.blocks), "their blocks": args.depth, "width": args.dim}
    settings |= {"our parameters": parameters(decode.model), "their parameters": parameters(theirs)}
    best = max(peak, peak_flops(args.device, dtype))
    return report("Residual audio codes: maskgen beside soundstorm-pytorch", settings, [found], best, args.device)


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=12, help="the peer's Conformer blocks")
    parser.add_argument("--frames", type=int, default=FRAMES_PER_S * SECONDS)
    args = parser.parse_args()
    try:
        theirs = peer(args.dim, args.depth)
    except ImportError as error:
        missing("soundstorm-pytorch", error, INSTALL)
    written([measured(args, theirs, rows) for rows in batches(args)], args.json)


if __name__ == "__main__":
    main()
