"""Units that may follow a number, brought to one spelling.

Units are compared by name, never converted: a question says which unit it wants.
"""

import re

_ALIASES = {
    "mm": "mm millimeter millimetre millimeters millimetres",
    "cm": "cm centimeter centimetre centimeters centimetres",
    "m": "m meter metre meters metres",
    "km": "km kilometer kilometre kilometers kilometres kms",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms kgs",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "ms": "ms millisecond milliseconds",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "l": "l L liter litre liters litres",
    "ml": "ml mL milliliter millilitre milliliters millilitres",
    "nm": "nm nanometer nanometre nanometers nanometres",
    "dm": "dm decimeter decimetre decimeters decimetres",
    "degree": "degree degrees deg",
    "radian": "radian radians rad",
    "dollar": "$ dollar dollars USD",
    "cent": "cent cents",
    "euro": "euro euros EUR",
    "unit": "unit units",
    "N": "N newton newtons",
    "J": "J joule joules",
    "W": "W watt watts",
    "V": "V volt volts",
    "Hz": "Hz hertz",
    "kHz": "kHz kilohertz",
    "MHz": "MHz megahertz",
    "kJ": "kJ kilojoule kilojoules",
    "kW": "kW kilowatt kilowatts",
    "eV": "eV",
    "keV": "keV",
    "MeV": "MeV",
    "GeV": "GeV",
    "erg": "erg ergs",
    "Pa": "Pa pascal pascals",
    "kPa": "kPa kilopascal kilopascals",
    "mol": "mol mole moles",
    "C": "C coulomb coulombs",
    "A": "A ampere amperes amp amps",
    "T": "T tesla teslas",
    "F": "F farad farads",
    "Celsius": "Celsius",
    "Fahrenheit": "Fahrenheit",
    "ohm": "ohm ohms",
    "K": "K kelvin",
    "percent": "percent",
}
_BY_SPELLING = {
    spelling: unit for unit, spellings in _ALIASES.items() for spelling in spellings.split()
}
TEMPERATURES = {unit: f"degree {unit[0]}" for unit in ("C", "F", "Celsius", "Fahrenheit")}
"""What may follow a degree sign."""
_WHOLE = {
    **{"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h"},
    **{f"degrees {unit}": scale for unit, scale in TEMPERATURES.items()},
}
"""Units that are compared by another spelling as a whole."""
_CLAIMS = """
    or and if not nor but more less least most than about approximately roughly to mod modulo half
    halves quarter dozen dozens gross score times plus minus negative point base squared doubled
    tripled halved reversed remainder inverse reciprocal percentage cubed factorial over by
    divided per is are equals equal was be except maybe perhaps actually wait no none never either
    neither both any all every some between from until through up down sum difference product
    choose power root log sin cos tan true false yes
"""
_CARDINALS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand million billion trillion
"""
_ORDINALS = """
    third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth fifteenth sixteenth
    twentieth fiftieth hundredth thousandth millionth billionth
"""
_NUMBERS = [f"{word}{ending}" for word in (_CARDINALS + _ORDINALS).split() for ending in ("", "s")]
_NO_NOUN = frozenset((*_CLAIMS.split(), *_NUMBERS))
"""Words that change what a number says: with one of them it is no plain count of things."""
_NOUN = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,2}")
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}


def unit_name(text: str) -> str | None:
    """Return the spelling that we compare, `cm^2` for `square centimeters`; None if no unit."""
    text = text.strip().rstrip(".")
    if text in _WHOLE:
        return _WHOLE[text]
    before, _, after = text.partition(" ")
    if before.lower() in _POWERS and after:
        base = unit_name(after)
        return None if base is None else f"{base}^{_POWERS[before.lower()]}"
    spelled = re.sub(r"\s+per\s+", "/", text)
    parts = [_powered(part.strip()) for part in spelled.split("/")]
    if any(part is None for part in parts) or len(parts) > 2:
        return None
    return "/".join(part for part in parts if part is not None)


def _powered(text: str) -> str | None:
    """Return one unit with its power; None if it is none."""
    match = re.fullmatch(r"(\$|[A-Za-z]+)(?:\^\{?(-?[1-4])\}?)?", text)
    if match is None:
        return None
    base = _BY_SPELLING.get(match[1]) or _BY_SPELLING.get(
        match[1].lower() if len(match[1]) > 2 else ""
    )
    if base is None:
        return None
    return base if match[2] is None else f"{base}^{match[2]}"


def count_noun(text: str) -> str | None:
    """Return what is counted, as in `42 apples`, or None when the words could be a claim."""
    text = text.strip().rstrip(".").lower()
    if not _NOUN.fullmatch(text) or len(text) < 3:
        return None
    return None if set(re.split("[ -]", text)) & _NO_NOUN else text
