"""Omni-Diffusion: text and images in one vocabulary of Dream's network, images by MAGVIT-v2."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json
from maskgen.interop.dream import dream_settings, has_image_codes, read_dream_network, write_dream_network
from maskgen.interop.dream_network import DreamConfig, DreamNetwork
from maskgen.interop.llada import CONFIG
from maskgen.interop.llada_text import folder_vocabulary
from maskgen.interop.mmada import read_magvit2
from maskgen.interop.sequences import ModelVocabulary, Order, Piece, SequenceRow, arranged
from maskgen.networks.backbone import Vocabulary
from maskgen.tokenizers.chat import ChatTemplate
from maskgen.tokenizers.magvit2 import Magvit2Tokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

logger = logging.getLogger(__name__)
CODE = re.compile(r"<\|(audio|image)_(\d+)\|>")
"""Tokens of the vocabulary that are codes of a sound or an image."""
DRAW = "<|im_start|>user\nGenerate an image based on the provided text description.\n"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
QUESTION = "Please describe this image in detail."
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
"""The turns of the authors' script, which leaves out the system message that Dream's own template writes."""
GRID, ANSWER_TOKENS = (16, 16), 64
DEAF = ("model.audio_model.", "model.audio_projection.")
"""Beginnings of the tensors of the encoder of a user's speech, which is not run here."""


@dataclass(frozen=True, kw_only=True)
class OmniMarks:
    """Ids of the tokens that Omni-Diffusion expects around text and image.

    Args:
        draw: Tokens before a caption: the beginning of the user's turn with the task.
        turn: Tokens from the end of the user's turn to the beginning of the answer.
        new_line: Token between a question and its image.
        begin_image: Token before an image.
        end_image: Token behind an image.
    """

    draw: tuple[int, ...]
    turn: tuple[int, ...]
    new_line: tuple[int, ...]
    begin_image: int
    end_image: int

    @classmethod
    def of(cls, text: TransformersTextTokenizer, source: Path) -> "OmniMarks":
        """The ids of a vocabulary.

        Raises:
            ValueError: If it lacks one of the tokens.
        """
        names = ("<|begin_of_image|>", "<|end_of_image|>", "<|im_start|>", "<|im_end|>")
        found = [text.token(name) for name in names]
        if None in found:
            raise ValueError(f"the vocabulary in {source} lacks one of {', '.join(names)}; copy the model again")
        draw, turn, line = (tuple(text.encode_special(part)) for part in (DRAW, TURN, "\n"))
        return cls(draw=draw, turn=turn, new_line=line, begin_image=found[0] or 0, end_image=found[1] or 0)


def omni_order(marks: OmniMarks) -> Order:
    """How Omni-Diffusion reads a row.

    To draw: the task and the caption as the user's turn, then the image inside its marks as the answer. To answer: the image inside its
    marks at the end of the user's turn, on a line of its own.

    Source: Omni-Diffusion, arXiv:2603.06577. Differs: the marks around an image that is drawn are given, where the authors let the model
    write them and take the image codes among 260 tokens; the line break before an image is a token of its own.
    """

    def order(row: SequenceRow) -> Sequence[Piece]:
        text, image = row.cells["text"], row.cells["image"]
        picture: list[Piece] = [(marks.begin_image,), image, (marks.end_image,)] if len(image) else []
        if row.draws_image:
            return [marks.draw, text, marks.turn, *picture, marks.turn[:1]]
        turn = _first_turn(row.ids[text], marks.turn) if picture else None
        if turn is None:
            return [*picture, text]
        return [text[:turn], marks.new_line, *picture, text[turn:]]

    return order


def _first_turn(ids: Int[Tensor, " cells"], turn: Sequence[int]) -> int | None:
    """Tokens before the first end of a user's turn; None if there is none."""
    wanted = list(turn)
    found = ids.tolist()
    return next((start for start in range(len(found) - len(wanted) + 1) if found[start : start + len(wanted)] == wanted), None)


def _recognises(folder: Path) -> bool:
    """Whether a folder holds an Omni-Diffusion: Dream's network whose vocabulary has codes of images."""
    return peek_json(folder / CONFIG).get("model_type") == "Dream" and has_image_codes(folder)


def text_and_codes(vocabulary: Vocabulary, source: Path) -> tuple[str, dict[str, int]]:
    """A vocabulary without the codes of sounds and images, and the id of the first code of each.

    Args:
        vocabulary: All tokens.
        source: Where they come from, for errors.

    Returns:
        Content of a tokenizer.json, and the ids by "audio" and "image".

    Raises:
        ValueError: If the codes of a kind do not follow each other, or other tokens stand behind them.
    """
    content = json.loads(vocabulary.text)
    codes: dict[str, dict[int, int]] = {"audio": {}, "image": {}}
    rest = []
    for one in content["added_tokens"]:
        found = CODE.fullmatch(one["content"])
        if found is None:
            rest.append(one)
        else:
            codes[found[1]][int(found[2])] = one["id"]
    first = {kind: ids[0] for kind, ids in codes.items() if 0 in ids}
    whole = all(ids == {code: first[kind] + code for code in range(len(ids))} for kind, ids in codes.items() if kind in first)
    if set(first) != set(codes) or not whole or max(one["id"] for one in rest) >= min(first.values()):
        raise ValueError(f"the vocabulary in {source} does not have text, then audio codes and image codes in order; copy the model again")
    return json.dumps({**content, "added_tokens": rest}), first


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of Omni-Diffusion, and the MAGVIT-v2 tokenizer inside it, beside it or on the hub.

    Speech is neither heard nor spoken: the encoder of the user's speech and the decoder of the audio codes (GLM-4-Voice) are not run.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = DreamConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    found = folder_vocabulary(folder)
    words, first = text_and_codes(found, folder)
    chat = ChatTemplate(template=TEMPLATE, tokens=dict(found.specials), question=QUESTION)
    text = TransformersTextTokenizer(words, found.specials.get("eos_token"), min(first.values()), chat)
    image = read_magvit2(folder, options.local_files_only)
    space = TokenSpace([text.modality("text"), image.modality("image")])
    vocabulary = ModelVocabulary(space, {"text": 0, "image": first["image"]}, config.mask_id, config.vocab_size)
    layout = arranged(vocabulary, omni_order(OmniMarks.of(text, folder)))
    return Parts(
        model=read_dream_network(folder, config, vocabulary, layout, options, DEAF),
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": _settings(GRID[0] * GRID[1]).changed(null="absent"), "text": _settings(ANSWER_TOKENS)},
        grids={"text": (ANSWER_TOKENS,), "image": GRID},
        family=FAMILY.name,
    )


def _settings(tokens: int) -> GenerationSettings:
    """How Omni-Diffusion decodes: one token a step, the likeliest at the cell of lowest entropy.

    Differs: without the authors' penalties on repeated tokens and on late positions.
    """
    return dream_settings(tokens, temperature=0.0, top_p=0.9).changed(schedule="linear")


def _export(parts: Parts, folder: Path) -> None:
    """Write what maskgen holds as a folder of the authors' layout, with the image tokenizer in a folder inside."""
    image = parts.tokenizers["image"]
    assert isinstance(parts.model, DreamNetwork), "an Omni-Diffusion has Dream's network"
    assert isinstance(image, Magvit2Tokenizer), "an Omni-Diffusion has MAGVIT-v2's codes"
    logger.warning("Omni-Diffusion is saved without its speech encoder (%s), which maskgen does not load", ", ".join(DEAF))
    write_dream_network(parts.model, folder)
    image.save_pretrained(folder / "magvitv2")


FAMILY = Family(
    name="Omni-Diffusion",
    hub_ids={"lijiang/Omni-Diffusion": 7789.08 + 95.49},
    tokenizer_millions={"lijiang/Omni-Diffusion": 95.49},
    makes=("text to image", "inpaint", "caption", "text"),
    code_licence="see the authors' repository",
    weights_licence="see the model's card",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2603.06577",
)
