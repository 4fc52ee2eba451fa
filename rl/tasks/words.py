"""Strings to be read: codes, numbers, prices, dates, times, names and made-up words.

Made-up words and random codes make sure that reading is learned letter by letter and not as a list of known words.
Letters and digits that look alike in many fonts (I, O, Q, l) are left out of random strings.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
CONSONANTS, VOWELS = "bcdfghjkmnprstvwz", "aeiou"
UNKIND = ("rape", "puta", "kike", "fag", "cum", "tit", "jap", "nig", "kkk", "ass", "sex", "nazi", "puto", "gay")
"""Letters that random strings must not hold."""
LONGEST = 6
"""Letters of a word that is asked for: what is read letter by letter is as hard as it is long."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

GOODS = tuple(
    "apples bread butter cheese coffee cream eggs flour grapes honey jam juice lemons milk mint nuts oats oil olives "
    "onions pasta peas pepper plums rice salt soap soup sugar tea tuna water yogurt bacon beans beef beer bowl brush "
    "candle carrots cereal chicken chips cocoa cookies corn cups dates figs fish fork garlic ginger gloves ham ink "
    "kettle knife lamp leeks mango melon mop mug napkins paper peach pears pen pencil pizza plates potatoes radish "
    "rope salad sauce socks sponge spoon steak tape tofu tomato towel turkey vase wine wipes yeast bolts nails paint "
    "pump screws timber wire tiles valve gasket hinge cable filter fuse motor panel pipe relay sensor switch magnet "
    "drill hammer saw glue chalk crayons eraser folder marker stapler ruler scissors".split()
)
PLACES = tuple(
    "Airport Arcade Arena Bakery Bank Beach Bridge Cabin Camp Canal Castle Cave Chapel Cinema Clinic Dam Dock Farm "
    "Ferry Forest Forge Fort Garden Gate Hall Harbor Hostel Hotel Inn Island Kiosk Lake Library Market Meadow Mill "
    "Museum Office Orchard Palace Park Pier Plaza Pond Pool Port Quarry School Shop Spring Stable Stadium Station "
    "Studio Summit Temple Theater Tower Tunnel Valley Village Vineyard Well Wharf Windmill Woods Zoo".split()
)
CITIES = tuple(
    "Accra Adelaide Athens Austin Baku Bergen Berlin Bogota Boston Bremen Brno Cairo Calgary Cardiff Chennai Cork "
    "Dakar Dallas Delhi Denver Doha Dresden Dublin Durban Geneva Genoa Ghent Glasgow Hanoi Havana Helsinki Houston "
    "Istanbul Jakarta Kabul Kyiv Kyoto Lagos Leeds Leipzig Lima Lisbon Lyon Madrid Malmo Manila Miami Milan Minsk "
    "Monaco Munich Nairobi Naples Nice Osaka Oslo Oxford Paris Perth Porto Prague Quito Riga Rome Seoul Seville "
    "Sofia Split Tallinn Tampa Tbilisi Tokyo Toronto Tunis Turin Utrecht Valencia Venice Vienna Vilnius Warsaw York "
    "Zagreb Zurich".split()
)
NAMES = tuple(
    "Ada Alan Alice Amir Anna Ben Bela Carla Chen Clara Dana David Diego Elena Emil Emma Erik Eva Felix Finn Fiona "
    "George Greta Hana Hugo Ida Igor Ines Ivan Jack Jana Jonas Julia Karim Kate Lara Leo Lena Liam Lucy Luis Maria "
    "Mark Maya Mia Milan Nadia Nina Noah Nora Olga Omar Oscar Paul Petra Rafael Rita Rosa Sam Sara Sofia Stefan Tara "
    "Theo Tina Tom Uma Vera Victor Yara Yuki Zoe".split()
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value: its name in a question and how to make one."""

    name: str
    make: Callable[[random.Random], str]


def code(rng: random.Random) -> str:
    """A code such as K7, 48B, KD7 or T4R."""
    pattern = rng.choice(("L9", "L99", "L99", "99L", "9L9", "LL9", "L9L", "LLL", "L-99"))
    digits = {"9": "23456789", "L": LETTERS}
    text = "".join(rng.choice(digits[sign]) if sign in digits else sign for sign in pattern)
    return code(rng) if any(part in text.lower() for part in UNKIND) else text


def number(rng: random.Random) -> str:
    """A whole number of two to four digits."""
    low, high = rng.choice(((10, 99), (10, 99), (100, 999), (100, 999), (1000, 9999)))
    return str(rng.randint(low, high))


def price(rng: random.Random) -> str:
    """A price without its currency sign, such as 4.50 or 29.00."""
    whole = rng.choice((rng.randint(1, 9), rng.randint(1, 9), rng.randint(10, 39)))
    cents = rng.choice((0, 50, 50, 99, 25, 75, rng.randint(1, 99)))
    return f"{whole}.{cents:02d}"


def decimal(rng: random.Random) -> str:
    """A measured value such as 7.3 or 41.8."""
    return f"{rng.uniform(0.5, 99):.1f}"


def date(rng: random.Random) -> str:
    """A date such as 12 May."""
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def time(rng: random.Random) -> str:
    """A time such as 14:35."""
    return f"{rng.randint(5, 23)}:{rng.randint(0, 59):02d}"


def made_up(rng: random.Random) -> str:
    """A word that nobody knows, such as Tavo, kemur or REDOB."""
    word = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(2))
    word += rng.choice(("", rng.choice(CONSONANTS)))
    if any(part in word for part in UNKIND):
        return made_up(rng)
    return rng.choice((word, word.capitalize(), word.upper()))


def word(rng: random.Random) -> str:
    """A known word: a good, a place, a city or a name; capitalised or not."""
    return rng.choice(short(rng.choice((GOODS, PLACES, CITIES, NAMES))))


def name(rng: random.Random) -> str:
    """A given name or a made-up one."""
    return rng.choice(NAMES) if rng.random() < 0.6 else made_up(rng).capitalize()


def city(rng: random.Random) -> str:
    """A city."""
    return rng.choice(short(CITIES))


@cache
def short(words: tuple[str, ...]) -> tuple[str, ...]:
    """Those of up to LONGEST letters."""
    return tuple(word for word in words if len(word) <= LONGEST)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="code", make=code),
        Kind(name="number", make=number),
        Kind(name="price", make=price),
        Kind(name="date", make=date),
        Kind(name="time", make=time),
        Kind(name="word", make=word),
        Kind(name="name", make=name),
        Kind(name="value", make=decimal),
        Kind(name="city", make=city),
    )
}


def distinct(rng: random.Random, make: Callable[[random.Random], str], count: int) -> list[str]:
    """`count` different strings from a maker."""
    found: dict[str, None] = {}
    for _ in range(count * 60):
        found[make(rng)] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"{getattr(make, '__name__', make)} gave {len(found)} different strings, wanted {count}")


def text_line(rng: random.Random, num_words: int) -> str:
    """A line of filler text."""
    return " ".join(rng.choice(rng.choice((GOODS, GOODS, PLACES, NAMES, CITIES))).lower() for _ in range(num_words))
