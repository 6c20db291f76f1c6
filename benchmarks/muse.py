"""Text to image tokens beside muse-maskgit-pytorch: 16 x 16 cells, as many parameters, 18 steps, guidance 3, random weights.

The peer reads the prompt by cross-attention from planted T5 features, ours as text tokens in the same sequence; both see 32 words.

Run:    python benchmarks/muse.py        # in an environment of its own, see INSTALL
"""

import argparse
from typing import Any

import torch
from lucidrains import matched, parameters
from side_by_side import arguments, batches, compare, missing, peak_flops, report, written
from torch import Tensor

from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.networks.packed_linear import packed
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

INSTALL = """    uv venv bench --python 3.11
    uv pip install --python bench/bin/python -e . "torch==2.11.*" "torchvision==0.26.*"
    uv pip install --python bench/bin/python --no-deps muse-maskgit-pytorch==0.3.5
    uv pip install --python bench/bin/python "torch==2.11.*" "torchvision==0.26.*" accelerate beartype ema-pytorch \\
        memory-efficient-attention-pytorch vector-quantize-pytorch sentencepiece transformers"""
CODES, SIDE, WORDS, WIDTH = 8192, 16, 32, 768
STEPS, GUIDANCE, KEPT = 18, 3, 820
"""The peer's defaults; 820 of 8192 codes may be drawn, its topk_filter_thres of 0.9."""


def peer(dim: int, depth: int, device: str) -> Any:
    """MaskGit with random weights; its T5 and its VQGAN are left out, so that the decode alone is measured.

    Raises:
        ImportError: If a package is missing.
    """
    import muse_maskgit_pytorch.muse_maskgit_pytorch as package
    from muse_maskgit_pytorch import t5
    from muse_maskgit_pytorch.vqgan_vae import VQGanVAE
    from transformers import T5Config

    package.tqdm = lambda steps, **_: steps
    t5.T5_CONFIGS[package.DEFAULT_T5_NAME] = {"config": T5Config(d_model=WIDTH)}
    net = package.MaskGitTransformer(num_tokens=CODES, seq_len=SIDE**2, dim=dim, depth=depth, heads=dim // 64, dim_head=64, ff_mult=4)
    vae = VQGanVAE(dim=16, codebook_size=CODES, use_vgg_and_gan=False)
    made = package.MaskGit(image_size=16 * SIDE, transformer=net, vae=vae, cond_drop_prob=0.25).eval().requires_grad_(False)
    made.vae.decode_from_ids = lambda ids: ids
    features = torch.randn(1, WORDS, WIDTH, generator=torch.Generator().manual_seed(1))
    net.encode_text = lambda texts: features.expand(len(texts), -1, -1).to(device, net.token_emb.weight.dtype)
    return made


class Decode:
    """One decode by both sides.

    Args:
        theirs: MaskGit.
        dim: Our width.
        rows: Pictures at once.
        device: Where both run.
        dtype: Precision of both.
    """

    def __init__(self, theirs: Any, dim: int, rows: int, device: str, dtype: torch.dtype) -> None:
        text = Modality(name="text", kind="text", num_levels=1, codebook_size=CODES)
        self.space = TokenSpace([text, Modality(name="image", kind="image", num_levels=1, codebook_size=CODES)])
        self.peer, self.rows = theirs.to(device=device, dtype=dtype), rows
        self.model = matched(self.space, dim, parameters(theirs.transformer)).to(device=device, dtype=dtype)
        self.served = packed(self.model) if device == "cpu" else self.model
        self.sampler = ConfidenceSampler(steps=STEPS, top_k=KEPT)
        codes = {"text": torch.arange(WORDS)[None], "image": torch.full((1, SIDE, SIDE), UNKNOWN)}
        self.batch = pack([codes] * rows, self.space).to(device)

    def ours(self) -> Tensor:
        """Ids of text and picture."""
        hide = hide_condition((self.space.index("text"),))
        logits_fn = guided_model(self.served, hide, ConstantGuidance(GUIDANCE))
        generators = [torch.Generator().manual_seed(row) for row in range(self.rows)]
        filled, _ = self.sampler.sample(logits_fn, self.batch, self.space.segment("image", 0), generators)
        return filled.ids

    def theirs(self) -> Tensor:
        """Codes of the picture."""
        texts = ["a picture"] * self.rows
        found: Tensor = self.peer.generate(texts=texts, timesteps=STEPS, cond_scale=GUIDANCE)
        return found


def measured(args: argparse.Namespace, theirs: Any, rows: int) -> dict[str, Any]:
    """Both sides at one batch size."""
    dtype = getattr(torch, args.dtype)
    decode = Decode(theirs, args.dim, rows, args.device, dtype)
    assert int(decode.ours().min()) >= 2
    assert decode.theirs().shape == (rows, SIDE, SIDE)
    peak = peak_flops(args.device, dtype)
    found = compare("end to end", decode.ours, decode.theirs, args.rounds, args.device)
    settings = {"batch": rows, "dtype": args.dtype, "grid": f"{SIDE}x{SIDE}", "steps": STEPS, "guidance": GUIDANCE, "words": WORDS}
    settings |= {"our layers": len(decode.model.blocks), "their blocks": args.depth, "width": args.dim}
    settings |= {"our parameters": parameters(decode.model), "their parameters": parameters(theirs.transformer)}
    best = max(peak, peak_flops(args.device, dtype))
    return report("Text to image tokens: maskgen beside muse-maskgit-pytorch", settings, [found], best, args.device)


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8, help="the peer's blocks")
    args = parser.parse_args()
    try:
        theirs = peer(args.dim, args.depth, args.device)
    except ImportError as error:
        missing("muse-maskgit-pytorch", error, INSTALL)
    written([measured(args, theirs, rows) for rows in batches(args)], args.json)


if __name__ == "__main__":
    main()
