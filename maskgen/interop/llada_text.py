"""The text tokenizer of a LLaDA-like folder: its vocabulary, its chat template, and what ends a text."""

from pathlib import Path

from maskgen.interop.base import read_json
from maskgen.interop.qwen_vocabulary import has_old_vocabulary, qwen_vocabulary
from maskgen.networks.backbone import Vocabulary, read_vocabulary
from maskgen.tokenizers.chat import ChatTemplate
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder of transformers, from its own file or its tokenizer's settings; None if it has none.

    Raises:
        ValueError: If a file cannot be read.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    found = read_json(folder / SETTINGS_FILE).get("chat_template") if (folder / SETTINGS_FILE).is_file() else None
    if isinstance(found, list):  # several templates by name, as some tools write them
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def folder_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a folder, in its own or in the older form of Qwen2.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    found = read_vocabulary(str(folder))
    if found is None and has_old_vocabulary(folder):
        found = qwen_vocabulary(folder)
    if found is None:
        raise ValueError(f"{folder} has no {VOCABULARY_FILE}; copy the whole model, with its tokenizer")
    return found


def read_text_tokenizer(folder: Path, size: int, template: str | None = None, question: str | None = None) -> TransformersTextTokenizer:
    """The text tokenizer of a folder.

    Args:
        folder: It holds tokenizer.json and mostly tokenizer_config.json, or vocab.json and merges.txt beside the latter.
        size: Codes of the text modality.
        template: Chat template; None takes the folder's own.
        question: What is asked about an image without a prompt.

    Raises:
        ValueError: If there is no vocabulary, or it is damaged, or it has more codes than `size`.
    """
    found = folder_vocabulary(folder)
    template = chat_template(folder) if template is None else template
    chat = None if template is None else ChatTemplate(template=template, tokens=dict(found.specials), question=question)
    return TransformersTextTokenizer(found.text, found.specials.get("eos_token"), size, chat)
