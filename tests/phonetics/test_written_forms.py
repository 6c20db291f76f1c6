"""Written forms of 31 classes against the words that people say for them, and plain sentences that must stay as they are.

`written_forms.tsv` has a line for each form: its class; its half ("mend": looked at while rules were written, "held": measured afterwards);
the text; the accepted readings, with " | " between them; the characters that `left_out` must name. The readings were written before any
normaliser was run on them.
"""

import csv
import re
import time
import unicodedata
from pathlib import Path

import pytest

from maskgen.io.shipped import shipped
from maskgen.phonetics.normalise import normalise
from maskgen.tokenizers.phonemes import PhonemeTokenizer

Row = dict[str, str]
LEAST_RIGHT = 1.0
LEAST_SAME_PHONEMES = 0.98


def rows() -> list[Row]:
    """The lines of the table."""
    with (Path(__file__).parent / "written_forms.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def words(text: str) -> str:
    """The words of a text in lower case, without punctuation and accents; letters that are spelled ("P M") are joined."""
    plain = "".join(mark for mark in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(mark))
    found = " ".join("o" if word == "oh" else word for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain))
    return re.sub(r"\b(\w) (?=\w\b)", r"\1", re.sub(r"(hundred|thousand|dollars?|pounds?|euros?) and (?!a\b)", r"\1 ", found))


def right(row: Row) -> bool:
    """Whether a form is read as people read it and what is not spoken is told."""
    said = normalise(row["written"])
    told = set("".join(said.left_out)) - {" "}
    return words(said.text) in map(words, row["spoken"].split(" | ")) and told == set(row["left_out"]) - {" "}


def test_there_are_at_least_300_forms_in_two_halves() -> None:
    table = rows()
    assert len({row["written"] for row in table}) == len(table) >= 300
    assert abs(sum(1 if row["half"] == "held" else -1 for row in table)) <= 1


@pytest.mark.parametrize("kind", dict.fromkeys(row["class"] for row in rows()))
def test_written_forms_are_read_as_people_read_them(kind: str) -> None:
    forms = [row for row in rows() if row["class"] == kind]
    wrong = [(row["written"], normalise(row["written"])) for row in forms if not right(row)]
    assert 1 - len(wrong) / len(forms) >= LEAST_RIGHT, wrong


@pytest.mark.slow
def test_written_forms_have_the_phonemes_of_their_words() -> None:
    tokenizer = PhonemeTokenizer.from_bundle(shipped("tokenizers") / "phones-en" / "bundle")

    def sounds(text: str) -> str:
        return re.sub(r"[^\w]|[ˈˌ]", "", tokenizer.phonemes(text))

    table = rows()
    wrong = [row["written"] for row in table if sounds(row["written"]) not in map(sounds, row["spoken"].split(" | "))]
    assert 1 - len(wrong) / len(table) >= LEAST_SAME_PHONEMES, wrong


SIBLINGS = {
    "The book I read, class I took, and the part I like.": "The book I read, class I took, and the part I like.",
    "THE BOOK I READ IS HERE.": "THE BOOK I READ IS HERE.",
    "Tell John I was late. She told Mark I know.": "Tell John I was late. She told Mark I know.",
    "King Charles I was tall. King Charles I think was tall.": "King Charles the first was tall. King Charles I think was tall.",
    "Chapter I. It begins.": "Chapter one. It begins.",
    "George VI's coat": "George the sixth's coat",
    "DVD, LCD, CD, size XL and a Super Bowl XL ring": "DVD, LCD, CD, size XL and a Super Bowl forty ring",
    'He said "room 27" and left.': "He said “room twenty seven” and left.",
    'a 12"x15" print, 12" wide': "a twelve inches by fifteen inch print, twelve inches wide",
    "a 5 km run, a 10-km run, 5 km": "a five kilometer run, a ten kilometer run, five kilometers",
    "$5 to 10 people, a $5 bill": "five dollars to ten people, a five dollar bill",
    "$5–$10, $-5": "five dollars to ten dollars, minus five dollars",
    "5€-10€, US$1.5bn, 50 USD": "five euros to ten euros, one point five billion US dollars, fifty US dollars",
    "x = 3 - 2, but 3 - no, 4": "x equals three minus two, but three — no, four",
    "10 kg/m³, 9.81 m/s^2, 5cm2": "ten kilograms per cubic meter, nine point eight one meters per second squared, five square centimeters",
    "1960s-80s, her 20s and 30s, 80s music, a 30s ad": (
        "nineteen sixties to eighties, her twenties and thirties, eighties music, a thirty second ad"
    ),
    "Mail (a@b.com) or <a@b.com>.": "Mail (a at b dot com) or a at b dot com.",
    "www.foo.it/bar?x=1. It is": "WWW dot foo dot it slash bar question mark x equals one. It is",
    "The end.In all, it.is 5.In": "The end.In all, it.is five.In",
    "127.0.0.1:80, 1.2.3, v2": "one two seven dot zero dot zero dot one colon eight zero, one point two point three, version two",
    "100 million kg and 4 1/2 lbs": "one hundred million kilograms and four and a half pounds",
    "4:00 am - 8:12 pm": "four AM to eight twelve PM",
    "11/17/05, 15-01-2020, july 25 2012": (
        "November seventeenth, two thousand five, January fifteenth, twenty twenty, july twenty fifth, twenty twelve"
    ),
    "it may 5 times march 3 miles": "it may five times march three miles",
    "Mr.Smith of 1428 Elm St. It was": "mister Smith of fourteen twenty eight Elm street. It was",
    "20 min. 5 sec.": "twenty minutes. five seconds.",
    "114...48": "one hundred fourteen... forty eight",
    "0x1F and 2x8": "zero x one F and two by eight",
    "a < b and c > d, I <3 you": "a less than b and c greater than d, I less than three you",
}


@pytest.mark.parametrize(("text", "wanted"), SIBLINGS.items())
def test_siblings_of_the_forms_and_their_lookalikes(text: str, wanted: str) -> None:
    assert normalise(text).text == wanted


@pytest.mark.parametrize(
    ("text", "wanted", "left_out"),
    [
        ("a <b>c</b><!-- no --> d", "a c d", ["<b>", "</b>", "<!-- no -->"]),
        ("H<sub>2</sub>O<br/>is", "H two O is", ["<sub>", "</sub>", "<br/>"]),
        ("<speak>Hi <s style='a'>1/2</s></speak>", "Hi one half", ["<speak>", "<s style='a'>", "</s>", "</speak>"]),
        ("![cat](c.png) and ~~no~~, `x`", "cat and no, x", ["(c.png)", "`", "~~"]),
        ("&lt;b&gt; &#128512;", "less than b greater than", ["😀"]),
        ("αβγ or π", "or pi", ["α", "β", "γ"]),
    ],
)
def test_markup_is_never_spoken_and_always_told(text: str, wanted: str, left_out: list[str]) -> None:
    found = normalise(text)
    assert found.text == wanted
    assert found.left_out == left_out


PLAIN = [
    "She was seldom acceptive of my suggestions.",
    "Do you like a man in a tuxedo with dark skin?",
    "I know that I am right, and so is he; it is his mix of work, rest and play.",
    "“Well,” he said, “that's O'Brien's book — isn't it?”",
    "The well-known twenty-year-old in Elm Street may march in May, no doubt.",
    "In all, the sun sat low in the West, and the mad dog did mix it up.",
    "The U.S. team (from D.C.) met Dr. Lee, Mrs. Hill and Sgt. Pepper at five.",
    "Civic pride, vivid colors, a livid crowd: I, too, did dig it.",
]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_sentences_keep_their_words(text: str) -> None:
    plain = text.replace("U.S.", "US").replace("D.C.", "DC").replace("Dr.", "doctor").replace("Mrs.", "missus").replace("Sgt.", "sergeant")
    assert normalise(text) == normalise(plain)
    assert normalise(plain).text == plain


@pytest.mark.parametrize("piece", ["1/", "1:", "1,", "a.", "1-", "a-", "^2", "+1 ", "Mon-", "<a ", "12 Elm ", "Chapter I ", "a@b.", "[a]("])
def test_no_text_of_5000_characters_takes_seconds(piece: str) -> None:
    start = time.process_time()
    normalise(piece * (5000 // len(piece)))
    assert time.process_time() - start < 1.0
