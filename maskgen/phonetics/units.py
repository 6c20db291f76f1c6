"""Tables of units and currencies, and the words of a quantity with its unit or of an amount of money."""

import re
from dataclasses import dataclass

from maskgen.phonetics.numbers import cardinal, decimal

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
AMOUNT = rf"(?:{NUMBER}|\.\d+)"
SCALES = {
    "k": "thousand",
    "K": "thousand",
    "m": "million",
    "M": "million",
    "b": "billion",
    "B": "billion",
    "bn": "billion",
    "tn": "trillion",
}
SCALE = rf"thousand|million|billion|trillion|{'|'.join(sorted(SCALES, key=len, reverse=True))}"


@dataclass(frozen=True)
class Currency:
    """Names of a currency: of one and of several, and of its hundredth part."""

    one: str
    many: str
    cent: str = "cent"
    cents: str = "cents"


DOLLAR, POUND, EURO = Currency("dollar", "dollars"), Currency("pound", "pounds", "penny", "pence"), Currency("euro", "euros")
YEN, FRANC = Currency("yen", "yen", "sen", "sen"), Currency("franc", "francs", "centime", "centimes")
RUPEE = Currency("rupee", "rupees", "paisa", "paise")
CURRENCIES = {
    **{"$": DOLLAR, "£": POUND, "€": EURO, "¥": YEN, "₹": RUPEE},
    **{"₽": Currency("ruble", "rubles", "kopek", "kopeks"), "₩": Currency("won", "won"), "₪": Currency("shekel", "shekels")},
    **{
        "₺": Currency("lira", "lira"),
        "₿": Currency("bitcoin", "bitcoins"),
        "₱": Currency("peso", "pesos"),
        "₦": Currency("naira", "naira"),
    },
    **{"₫": Currency("dong", "dong"), "฿": Currency("baht", "baht"), "₴": Currency("hryvnia", "hryvnias")},
}
CODES = {
    **{"USD": Currency("US dollar", "US dollars"), "EUR": EURO, "GBP": POUND, "JPY": YEN, "INR": RUPEE},
    **{"CHF": Currency("Swiss franc", "Swiss francs"), "CAD": Currency("Canadian dollar", "Canadian dollars")},
    **{"AUD": Currency("Australian dollar", "Australian dollars"), "CNY": Currency("yuan", "yuan"), "BTC": CURRENCIES["₿"]},
}
COUNTRIES = {"US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "NZ": "New Zealand", "HK": "Hong Kong"}
"""Letters before a dollar sign."""

UNITS = {
    **{"km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "μm": "micrometer", "nm": "nanometer"},
    **{"kg": "kilogram", "g": "gram", "mg": "milligram", "μg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce"},
    **{"L": "liter", "l": "liter", "dl": "deciliter", "cl": "centiliter", "ml": "milliliter", "mL": "milliliter", "gal": "gallon"},
    **{"ft": "foot", "yd": "yard", "yds": "yard", "mi": "mile", "tsp": "teaspoon", "tbsp": "tablespoon", "ha": "hectare"},
    **{"h": "hour", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "s": "second", "sec": "second", "secs": "second"},
    **{"ms": "millisecond", "μs": "microsecond", "ns": "nanosecond", "yr": "year", "yrs": "year", "wk": "week", "wks": "week"},
    **{
        "Hz": "hertz",
        "kHz": "kilohertz",
        "MHz": "megahertz",
        "GHz": "gigahertz",
        "rpm": "revolution per minute",
        "fps": "frame per second",
    },
    **{"W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "mW": "milliwatt", "Wh": "watt hour", "kWh": "kilowatt hour"},
    **{"V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliamp", "mAh": "milliamp hour", "Ω": "ohm", "kΩ": "kiloohm"},
    **{"kJ": "kilojoule", "MJ": "megajoule", "kcal": "kilocalorie", "cal": "calorie", "Nm": "newton meter", "kN": "kilonewton"},
    **{"Pa": "pascal", "kPa": "kilopascal", "hPa": "hectopascal", "psi": "pound per square inch", "dB": "decibel", "hp": "horsepower"},
    **{"KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte", "MP": "megapixel"},
    **{"kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second", "Mbit": "megabit", "Gbit": "gigabit"},
    **{"KG": "kilogram", "KM": "kilometer", "mbps": "megabit per second", "gbps": "gigabit per second", "kb": "kilobyte", "mb": "megabyte"},
    **{
        "gb": "gigabyte",
        "tb": "terabyte",
        "khz": "kilohertz",
        "mhz": "megahertz",
        "ghz": "gigahertz",
        "kw": "kilowatt",
        "kwh": "kilowatt hour",
    },
    **{"mph": "mile per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour", "px": "pixel"},
    **{"°C": "degree Celsius", "° C": "degree Celsius", "°F": "degree Fahrenheit", "° F": "degree Fahrenheit", "°": "degree"},
}
PERIODS = {"mo": "month", "d": "day", "pp": "person", "ea": "each"}
"""Abbreviations after a price and "/", besides units."""
AREAS = ("km", "m", "cm", "mm", "ft", "yd", "mi")
UNITS |= {f"sq {unit}": f"square {UNITS[unit]}" for unit in AREAS} | {f"cu {unit}": f"cubic {UNITS[unit]}" for unit in AREAS}
UNITS |= {"sq. ft": "square foot", "sqft": "square foot", "sq in": "square inch", "cu in": "cubic inch", "fl oz": "fluid ounce"}
UNIT = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
UNCHANGED = ("hertz", "horsepower")
IRREGULAR_PLURALS = {"foot": "feet", "inch": "inches"}

MONEY = re.compile(
    rf"(?P<article>\b[Aa]n?\s)?(?:\b(?P<country>{'|'.join(COUNTRIES)}))?(?P<sign>[{''.join(CURRENCIES)}])\s?"
    rf"(?P<low>{AMOUNT})(?:-(?P<high>{AMOUNT}))?(?![\d]|[.,]\d)(?:\s?(?P<scale>{SCALE})\b)?(?:\s?/\s?(?P<per>[A-Za-z]+)\b)?"
)
MONEY_AFTER = re.compile(
    rf"(?P<article>\b[Aa]n?\s)?(?<![\d.,$£€])(?P<low>{AMOUNT})(?:\s?(?P<scale>{SCALE}))?\s?(?P<sign>[{''.join(CURRENCIES)}]|(?:{'|'.join(CODES)})\b)"
)
CODE_BEFORE = re.compile(rf"\b(?P<sign>{'|'.join(CODES)})\s?(?P<low>{AMOUNT})(?![\d]|[.,]\d)(?:\s?(?P<scale>{SCALE})\b)?")
CENTS = re.compile(rf"(?<![\d.,])({NUMBER})\s?¢")
QUANTITY = re.compile(
    rf"(?P<article>\b[Aa]n?\s)?(?<![\w.,])(?P<amount>{AMOUNT})(?P<scale>\s(?:thousand|million|billion|trillion))?(?P<gap>[\s-]?)(?P<unit>{UNIT})(?:/\s?(?P<per>{UNIT}))?(?![\w/°])(?:\.(?=\s+[a-z]))?"
)
KELVIN = re.compile(rf"(?<![\w.,])(?P<amount>{NUMBER})\sK\b(?!\s?\d)")


def plural_unit(noun: str) -> str:
    """The plural of a unit's name: the word before "per" or before the scale's name changes."""
    head, per, tail = noun.partition(" per ")
    head, degree, scale = head.partition(" ") if head.startswith("degree ") else (head, "", "")
    front, space, last = head.rpartition(" ")
    changed = last if last.endswith(UNCHANGED) else IRREGULAR_PLURALS.get(last, f"{last}s")
    return f"{front}{space}{changed}{degree}{scale}{per}{tail}"


def quantity(found: re.Match[str]) -> str:
    """Words of a quantity with its unit: "10km", "1 lb", "5 m/s"; the unit is singular in "a 5 km walk" and "10-km"."""
    attribute = found["gap"] == "-" or (found["article"] and re.match(r"[ -][a-z]", found.string[found.end() :]))
    noun = UNITS[found["unit"]]
    said = noun if (found["amount"] == "1" and not found["scale"]) or attribute else plural_unit(noun)
    per = f" per {UNITS[found['per']]}" if found["per"] else ""
    return f"{found['article'] or ''}{decimal(found['amount'])}{found['scale'] or ''} {said}{per}"


def money(found: re.Match[str]) -> str:
    """Words of money: "$9.99", "$.50", "£5", "€3.2 billion", "$5m", "$5 to 10", "$20/hour", "20 EUR"."""
    groups = {"article": None, "country": None, "high": None, "per": None, **found.groupdict()}
    currency = CODES.get(found["sign"]) or CURRENCIES[found["sign"]]
    attribute = groups["article"] and re.match(r" [a-z]", found.string[found.end() :])
    country = f"{COUNTRIES[groups['country']]} " if groups["country"] else ""
    one, many = (f"{country}{name}" for name in (currency.one, currency.one if attribute else currency.many))
    per = f" per {(UNITS | PERIODS).get(groups['per'], groups['per'])}" if groups["per"] else ""
    return (groups["article"] or "") + _amount(groups, Currency(one, many, currency.cent, currency.cents)) + per


def _amount(groups: dict[str, str | None], currency: Currency) -> str:
    """Words of an amount of money, or of two with "to"; two decimals without a scale are cents."""
    low, high, scale = (groups["low"] or "").replace(",", ""), groups["high"], groups["scale"]
    whole, _, part = low.partition(".")
    if high or scale or len(part) not in (0, 2) or len(whole) > 15:
        several = f" to {decimal(high)}" if high else ""
        return f"{decimal(low)}{several} {SCALES.get(scale, scale) + ' ' if scale else ''}{currency.many}"
    units, cents = int(whole or 0), int(part or 0)
    said = [f"{cardinal(units)} {currency.one if units == 1 else currency.many}"] if units or not cents else []
    said += [f"{cardinal(cents)} {currency.cent if cents == 1 else currency.cents}"] if cents else []
    return " and ".join(said)
