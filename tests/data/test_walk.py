"""The walk of docs/data.md: a folder of captioned pictures becomes token shards, a page and a started training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.shards.manifest import read_index

ROOT = Path(__file__).parents[2]


def test_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "my-pictures"
    pictures.mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(pictures / f"{number}.jpg")
        (pictures / f"{number}.txt").write_text(f"picture number {number}\nanother caption")
    monkeypatch.chdir(tmp_path)
    text, image = (str(ROOT / "tokenizers" / name / "bundle") for name in ("text-bpe", "image-emoji64"))
    main(["data", "build", "my-pictures", "--out", "my-data", "--text", text, "--image", image, "--workers", "1"])
    index = read_index(Path("my-data"))
    assert index.kind == "tokens"
    assert index.counts == {"train": 12}
    assert index.shards[0].tokens["image"] == 12 * 8 * 8 * 3
    main(["data", "inspect", "my-data", "--image", image, "--out", "page", "--shown", "2"])
    assert "data:image/png" in Path("page/inspect.html").read_text()
    fit = ["fit", "--config", str(ROOT / "configs" / "text_to_image_own.yaml"), "--data.batch_size=4"]
    small = ["--model.transformer.dim=32", "--model.transformer.num_heads=2", "--model.transformer.num_layers=1"]
    quick = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu", "--model.warmup_steps=1"]
    main([*fit, *small, *quick, "--trainer.enable_progress_bar=false"])
    assert "12 train" in capsys.readouterr().out
    main(["data", "verify", "my-data", "--full"])
    assert "is whole: 1 tokens shards" in capsys.readouterr().out
