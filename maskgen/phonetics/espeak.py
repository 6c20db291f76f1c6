"""Phones as eSpeak writes them: by the program, and for English from maskgen's own phonemes."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache

PROGRAMS = ("espeak-ng", "espeak")
MARKS = ",.?!;:'…"
"""Punctuation that stays between phones."""
BETWEEN_WORDS = "_"
LONGEST_S = 60.0
"""Time that the program is given for one clause."""
_MARK = re.compile(rf"([{re.escape(MARKS)}])")
_STRESS, _FLAG = re.compile("[ˈˌ'-]+"), re.compile(r"\(.+?\)")
_FOREIGN_MARKS = str.maketrans({"，": ",", "。": ".", "！": "!", "？": "?", "；": ";", "：": ":", "、": ",", "‘": "'", "’": "'", "⋯": "…"})
OWN = {
    **{"A": "eɪ", "I": "aɪ", "O": "oʊ", "W": "aʊ", "Y": "ɔɪ", "i": "i", "u": "uː", "ɑ": "ɑː", "ɔ": "ɔː", "ᵊ": "ə", "ᵻ": "ɪ"},
    **{"T": "ɾ", "ʧ": "tʃ", "ʤ": "dʒ", "ʔ": "t", "ˈi": "iː", "ˌi": "iː", "ᵊl": "l", "ɜɹ": "ɜː", "əɹ": "ɚ"},
    **{"Iəɹ": "aɪɚ", "ɑɹ": "ɑːɹ", "ɔɹ": "ɔːɹ", "ɛɹ": "ɛɹ", "ɪɹ": "ɪɹ", "ʊɹ": "ʊɹ", "—": ",", "“": "", "”": "", '"': "", "(": "", ")": ""},
}
"""Phonemes of maskgen's alphabet, to eSpeak's phones where these differ; "" where there is none."""
_PIECE = re.compile("|".join(map(re.escape, sorted(OWN, key=len, reverse=True))) + "|.", re.DOTALL)
ENGLISH_PAIRS = {("t", "ɹ"): "tɹ", ("d", "ɹ"): "dɹ", ("t", "s"): "ts", ("d", "z"): "dz", ("ɪ", "ɹ"): "ɪɹ", ("oː", "ɹ"): "oːɹ"}
ENGLISH_SINGLE = {"ɐ": "ɚ", "ᵻ": "ɪ", "əl": "l", "x": "k", "ɬ": "l", "ʔ": "t", "n̩": "n"}
"""English phones that MaskGCT writes as others: pairs as one, and single ones."""


def espeak_program() -> str | None:
    """Path of the installed program; None if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def espeak_phones(text: str, voice: str, program: str) -> list[str]:
    """Phones of a text without stress, `_` between words, marks where they stand.

    Args:
        text: Any text.
        voice: Voice of the program, such as "en-us".
        program: Path of the program.

    Returns:
        Phones; an apostrophe is a mark, so "it's" is two words.

    Raises:
        ValueError: If the program fails.
    """
    line = text.translate(_FOREIGN_MARKS).replace("...", "…")
    line = re.sub(rf"[^\w\s_{re.escape(MARKS)}]", "", line)
    found = list[str]()
    for clause in _MARK.split(line):
        if clause and clause in MARKS:
            found.append(clause)
        elif clause.strip():
            found += _clause(" ".join(clause.split()), voice, program)
    return found


@lru_cache(maxsize=1024)
def _clause(text: str, voice: str, program: str) -> tuple[str, ...]:
    """Phones of a text without punctuation.

    Raises:
        ValueError: If the program fails.
    """
    try:
        made = subprocess.run(
            [program, "-q", "--ipa", "--sep=|", "-v", voice, "--stdin"],
            input=text.encode(),
            capture_output=True,
            timeout=LONGEST_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        reason = (said.decode(errors="replace").strip() or str(error)).splitlines()[0][:120]
        raise ValueError(f"{program} gave no phones for {text[:40]!r} ({reason}); install espeak-ng again with its data") from error
    words = [[_STRESS.sub("", phone) for phone in word.split("|")] for word in _FLAG.sub("", made.stdout.decode(errors="replace")).split()]
    phones = list[str]()
    for word in ([phone for phone in word if phone] for word in words):
        phones += [BETWEEN_WORDS, *word] if phones and word else word
    return tuple(phones)


def own_phones(phonemes: str) -> list[str]:
    """eSpeak's phones for phonemes of maskgen's English phonemizer: close to what the program says, not equal."""
    found = list[str]()
    for piece in _PIECE.findall(phonemes):
        phone = OWN.get(piece, piece)
        if phone and phone[0] in "ˈˌ|":
            phone = ""
        if phone == " " and (not found or found[-1] in (*MARKS, BETWEEN_WORDS)):
            continue
        if phone in MARKS and phone and found and found[-1] == BETWEEN_WORDS:
            found.pop()
        if phone:
            found.append(BETWEEN_WORDS if phone == " " else phone)
    return found[:-1] if found and found[-1] == BETWEEN_WORDS else found


def english_joined(phones: Sequence[str]) -> list[str]:
    """English phones as MaskGCT was trained with them: some pairs are one phone, some phones are written as others.

    Source: MaskGCT's text front end (open-mmlab/Amphion).
    """
    found = list[str]()
    for phone in phones:
        pair = (found[-1] if found else "", phone)
        if pair in ENGLISH_PAIRS:
            found[-1] = ENGLISH_PAIRS[pair]
        else:
            found.append(phone)
    return [ENGLISH_SINGLE.get(phone, phone) for phone in found]
