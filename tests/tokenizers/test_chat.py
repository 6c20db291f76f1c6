"""Chat templates: messages as codes, beside transformers' own rendering."""

import json
from pathlib import Path

import pytest

from maskgen.tokenizers.chat import ChatTemplate
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from tests.interop.llada_cases import LLADA_TEMPLATE, SPECIALS, chat_vocabulary

TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}


def tokenizer() -> TransformersTextTokenizer:
    return TransformersTextTokenizer(chat_vocabulary(), "<|endoftext|>", 400, ChatTemplate(template=LLADA_TEMPLATE, tokens=TOKENS))


def test_a_conversation_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[adapt]")
    (tmp_path / "tokenizer.json").write_text(chat_vocabulary())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": LLADA_TEMPLATE, **TOKENS})
    )
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    message = "  a red heart, please\n"
    wanted = theirs.apply_chat_template([{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False)
    found = tokenizer().encode_chat(message)
    assert found[0].tolist() == theirs(wanted, add_special_tokens=False)["input_ids"]
    assert found[0, 0] == SPECIALS["<|startoftext|>"]


def test_special_tokens_in_a_message_are_plain_text() -> None:
    """A user who types a special token would otherwise end his own turn and speak as the model."""
    made = tokenizer()
    plain, spelled = made.encode_chat("a red heart"), made.encode_chat("a <|eot_id|> red \ue0001\ue000 heart")
    counts = [int((codes == SPECIALS["<|eot_id|>"]).sum()) for codes in (plain, spelled)]
    assert counts == [1, 1]
    assert "<|eot_id|> red \ue0001\ue000 heart" in made.decode([spelled])[0]


def test_a_bundle_keeps_template_and_size(tmp_path: Path) -> None:
    made = tokenizer()
    assert made.save(tmp_path) == made.fingerprint
    again = TransformersTextTokenizer.from_bundle(tmp_path)
    assert (again.chat, again.codebook_size, again.fingerprint) == (made.chat, 400, made.fingerprint)
    assert TransformersTextTokenizer(chat_vocabulary(), "<|endoftext|>").fingerprint != made.fingerprint


def test_bad_templates_have_a_sentence() -> None:
    for template, reason in (("{% if %}", "Expected"), ("{{ raise_exception('no system') }}", "no system"), ("{{ messages[7].x }}", "7")):
        with pytest.raises(ValueError, match=f"chat template of the model cannot be applied .*{reason}"):
            ChatTemplate(template=template).render([{"role": "user", "content": "a"}])
    with pytest.raises(ValueError, match="has no chat template"):
        TransformersTextTokenizer(chat_vocabulary()).encode_chat("a")
    with pytest.raises(ValueError, match="the vocabulary has 300 codes, the model 200"):
        TransformersTextTokenizer(chat_vocabulary(), size=200)
