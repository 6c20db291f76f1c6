"""Put captions into sentences, drawn anew for each training draw."""

from collections.abc import Sequence

import numpy as np
import torch

from maskgen.data.loading.order import chance
from maskgen.tokenizers.auto import load_tokenizer


class Phrases:
    """Puts a share of the training captions into sentences: "a red heart" becomes "Here is a red heart."

    A model trained on captions only does not understand sentences, such as those transcribed from speech. Shards need not be rebuilt.

    Args:
        tokenizer: Folder of the text tokenizer that made the shards.
        templates: Sentences, each with one {} for the caption.
        share: Share of training draws whose caption is put into a sentence.

    Raises:
        ValueError: If the share lies outside [0, 1], or a template has no place for the caption.

    Source: prompt templates, CLIP, arXiv:2103.00020.
    """

    def __init__(self, tokenizer: str, templates: Sequence[str], share: float = 0.2) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        if not templates:
            raise ValueError("templates must not be empty; give sentences with {} where the caption goes")
        for template in templates:
            if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
                raise ValueError(f"the template {template!r} needs the caption's place, {{}}, exactly once, and no other braces")
        self.tokenizer = load_tokenizer(tokenizer)
        self.templates, self.share = tuple(templates), share

    def __call__(self, codes: np.ndarray, *draw: object) -> np.ndarray:
        """Codes [1 n] of the caption or of a sentence with it; `draw` alone decides which."""
        if chance("phrase", *draw) >= self.share:
            return codes
        template = self.templates[int(chance("template", *draw) * len(self.templates))]
        sentence = template.format(self.tokenizer.decode([torch.from_numpy(codes.astype(np.int64))])[0])
        return self.tokenizer.encode([sentence])[0].numpy().astype(codes.dtype)
