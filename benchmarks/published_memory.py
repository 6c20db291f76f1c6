"""Memory of a published model while it is loaded and while it writes, over the size of its weights: a LLaDA of 738 million random weights.

Run:    uv run python benchmarks/published_memory.py                     # about a minute, 1.5 GB on disk for it
        uv run python benchmarks/published_memory.py --dtype float32

The folder is laid out as the hub's, in bfloat16. What counts is the process' own memory (RssAnon), sampled every 10 ms, less what it had
before loading; pages of the mapped files are the system's and are given back when they are needed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from maskgen.interop.base import write_json
from maskgen.interop.llada import write_network
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.tokenizers.text import train_bpe
from maskgen.tokens.space import Modality, TokenSpace

SIZES = {"d_model": 2048, "n_layers": 12, "n_heads": 16, "mlp_hidden_size": 5504, "embedding_size": 32_000, "mask_token_id": 31_999}
END, TOKENS = "<|endoftext|>", 64


def write_folder(folder: Path) -> None:
    """A LLaDA with random weights."""
    config = {"model_type": "llada", "architectures": ["LLaDAModelLM"], **SIZES}
    text = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=SIZES["embedding_size"])])
    vocabulary = ModelVocabulary(text, {"text": 0}, SIZES["mask_token_id"], SIZES["embedding_size"])
    with torch.device("meta"):
        network = LLaDANetwork(LLaDAConfig.from_dict(config, "this script"), vocabulary, cell_after_cell(vocabulary))
    network = network.to_empty(device="cpu").to(torch.bfloat16)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    write_network(network, folder)
    write_json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(train_bpe(["a red heart on the table"] * 3, 270, lowercase=False).vocabulary, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {})


def anonymous_bytes() -> int:
    """The process' own memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


class Peak:
    """The largest memory since it was made or asked."""

    def __init__(self) -> None:
        self.largest = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.largest = max(self.largest, anonymous_bytes())
            time.sleep(0.01)

    def taken(self) -> int:
        """The largest so far; counting begins anew."""
        found, self.largest = max(self.largest, anonymous_bytes()), 0
        return found


def measured(folder: str, dtype: str) -> dict[str, float]:
    """Load and generate in this process."""
    import maskgen
    import maskgen.pipelines.text_generation
    from maskgen.tokens.batch import UNKNOWN

    torch.randn(64, 64) @ torch.randn(64, 64)
    peak, before = Peak(), anonymous_bytes()
    pipe = maskgen.Pipeline.from_pretrained(folder, dtype=dtype)
    loading = peak.taken() - before
    weights = sum(weight.numel() * weight.element_size() for weight in pipe.model.parameters())
    pipe.set_progress_bar_config(disable=True)
    pipe.generate([{"text": torch.full((1, TOKENS), UNKNOWN)}], "text", [0], pipe.settings_of("text").changed(steps=(4,)))
    writing = peak.taken() - before
    return {"weights_gb": weights / 1e9, "loading": loading / weights, "writing": writing / weights}


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measured(options.folder, options.dtype)))
        return
    with tempfile.TemporaryDirectory() as place:
        write_folder(Path(place))
        ran = subprocess.run([sys.executable, __file__, "--folder", place, "--dtype", options.dtype], check=True, capture_output=True)
        print(ran.stdout.decode().strip().splitlines()[-1])


if __name__ == "__main__":
    main()
