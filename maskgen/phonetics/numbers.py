"""Converts numbers to American English words: no "and" between hundreds and tens."""

LARGEST = 10**15
SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((10**15, "quadrillion"), (10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
DENOMINATORS = {2: "half", 4: "quarter"}


def cardinal(number: int) -> str:
    """Words of an integer; beyond 10^15, of its digits one by one.

    Args:
        number: May be negative.
    """
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number > LARGEST:
        return digits(str(number))
    if number < 20:
        return SMALL[number]
    if number < 100:
        return TENS[number // 10] + (f" {SMALL[number % 10]}" if number % 10 else "")
    scale, name = next((scale, name) for scale, name in SCALES if number >= scale)
    return f"{cardinal(number // scale)} {name}" + (f" {cardinal(number % scale)}" if number % scale else "")


def ordinal(number: int) -> str:
    """Words of "1st", "22nd", ..."""
    head, space, last = cardinal(number).rpartition(" ")
    word = IRREGULAR.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return f"{head}{space}{word}"


def year(number: int) -> str:
    """Words of a year from 1000 to 2999: nineteen eighty four, two thousand five, nineteen oh five."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(text: str) -> str:
    """Words of each digit of a string."""
    return " ".join(SMALL[int(digit)] for digit in text if digit.isdecimal())


def decimal(text: str) -> str:
    """Words of "12", "1,234.50", ".5" or "007"; digits after the decimal point are read one by one."""
    whole, point, fraction = text.replace(",", "").partition(".")
    spelled = (len(whole) > 1 and whole[0] == "0") or len(whole) > len(str(LARGEST))
    said = digits(whole) if spelled else cardinal(int(whole)) if whole else ""
    return f"{said} point {digits(fraction)}".strip() if point and fraction else said


def fraction(top: int, bottom: int) -> str:
    """Words of a fraction: one half, three quarters, two thirds; larger ones with "over"."""
    if not 2 <= bottom <= 20 or not 0 < top <= 20:
        return f"{cardinal(top)} over {cardinal(bottom)}"
    word = DENOMINATORS.get(bottom) or ordinal(bottom)
    plural = word if top == 1 else "halves" if bottom == 2 else f"{word}s"
    return f"{cardinal(top)} {plural}"


def plural_of(words: str) -> str:
    """Words of a decade: nineteen nineties, two thousands, nineteen hundreds."""
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"
