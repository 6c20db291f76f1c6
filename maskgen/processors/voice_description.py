"""Descriptions of voices that OmniVoice was trained with: attributes in English or Chinese."""

import difflib
import re

ENGLISH = (
    ("male", "female"),
    ("child", "teenager", "young adult", "middle-aged", "elderly"),
    ("very low pitch", "low pitch", "moderate pitch", "high pitch", "very high pitch"),
    ("whisper",),
)
CHINESE = (
    ("男", "女"),
    ("儿童", "少年", "青年", "中年", "老年"),
    ("极低音调", "低音调", "中音调", "高音调", "极高音调"),
    ("耳语",),
)
"""The same attributes in the same order; a voice has at most one of each group."""
NATIONS = ("american", "british", "australian", "chinese", "canadian", "indian", "korean", "portuguese", "russian", "japanese")
ACCENTS = tuple(f"{nation} accent" for nation in NATIONS)
"""Said in English alone."""
PLACES = ("河南", "陕西", "四川", "贵州", "云南", "桂林", "济南", "石家庄", "甘肃", "宁夏", "青岛", "东北")
DIALECTS = tuple(f"{place}话" for place in PLACES)
"""Said in Chinese alone."""
HAN = "\u4e00-\u9fff"


def described_voice(description: str, text: str) -> str:
    """A description as the model learned it: attributes in one language, that of an accent or dialect or else of the text.

    Args:
        description: Attributes with commas between them, such as "female, low pitch, british accent", in any case.
        text: What the voice says.

    Raises:
        ValueError: If an attribute is unknown, two are of one group, or an accent and a dialect are both asked for.
    """
    wanted = [one for one in re.split(r"\s*[,，]\s*", description.strip().lower()) if one]
    groups = [*zip(ENGLISH, CHINESE, strict=True), (ACCENTS, ACCENTS), (DIALECTS, DIALECTS)]
    found: dict[int, tuple[str, str]] = {}
    for one in wanted:
        place = next((number for number, group in enumerate(groups) if one in group[0] or one in group[1]), None)
        if place is None:
            near = difflib.get_close_matches(one, [*sum(ENGLISH, ()), *ACCENTS], 1)
            known = "; ".join(", ".join(group[0]) for group in groups)
            raise ValueError(
                f"speaker names {one!r}, which this model does not know{f'; did you mean {near[0]!r}?' if near else f'; it knows {known}'}"
            )
        english, chinese = groups[place]
        index = english.index(one) if one in english else chinese.index(one)
        if place in found:
            raise ValueError(f"speaker names {found[place][0]!r} and {english[index]!r}, of which a voice has one; leave one out")
        found[place] = english[index], chinese[index]
    accent, dialect = len(groups) - 2, len(groups) - 1
    if accent in found and dialect in found:
        raise ValueError("speaker names an English accent and a Chinese dialect, of which a voice has one; leave one out")
    in_chinese = dialect in found or (accent not in found and bool(re.search(f"[{HAN}]", text)))
    return ("，" if in_chinese else ", ").join(pair[in_chinese] for pair in found.values())
