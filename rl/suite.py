"""What `foveate eval` asks: a sequence of items, each a picture with one question and its right answers.

Two kinds of suite. `DrawnSuite` draws a split of every family of `foveate.rl.tasks`: 170 pictures a family, one
question of each picture, families taking turns so that every beginning of the suite is balanced. "nano-test" is the
test split, for what is reported; "nano-validation" the validation split, by which models and settings are chosen.
`FolderSuite` reads a folder with an ``answers.jsonl``, one object a line:

    {"id": "p1", "image": "p1.png", "question": "...", "answer": "42", "accept": ["42.0"], "family": "page",
     "evidence_bbox": [10, 20, 90, 40]}

`accept`, `family`, `type` and `evidence_bbox` may be left out; `type` says when an answer counts as right
(foveate.rl.reward: any, text, number, choice, set or formula). A box is x0, y0, x1, y1 in pixels of the upright
picture and lies in it; a question that needs several places has a list of boxes. The whole file, and the header of
every picture, is checked before the first question is asked.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from PIL import ExifTags, Image

from foveate.errors import InputError, shown
from foveate.paths import expanded, is_file, is_folder
from foveate.pictures import FORMATS, MAX_PIXELS, check_size
from foveate.rl.formula import require_math_verify
from foveate.rl.reward import SAME, Kind
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.scene import FAMILIES, Scene, draw_scene
from foveate.tools.tool import Box

DRAWN: dict[str, Split] = {"nano-test": "test", "nano-validation": "validation"}
"""The built-in suites and what they draw."""
SUITE_VERSION = 2
"""Of the built-in suites: it grows when questions, answers or boxes of theirs change (tests/golden).
The first, which reports did not name, asked facts that training had asked too."""
PER_FAMILY = 170
NO_FAMILY = "other"
"""The family of a line that names none."""
ANSWERS = "answers.jsonl"
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations whose width is the height of the upright picture."""
_TEXTS = ("id", "image", "question", "answer")
_KEYS = {*_TEXTS, "accept", "family", "type", "evidence_bbox"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about one picture."""

    id: str
    family: str
    question: str
    answer: str
    accept: tuple[str, ...] = ()
    """Other right spellings of the answer."""
    kind: Kind = "any"
    """Of the answer: what it means to equal it."""
    evidence: tuple[Box, ...] = ()
    """Places that must be seen to answer, in pixels of the picture; empty when the suite does not say."""
    picture: Image.Image | Path


class Suite(Protocol):
    """Items by number; `item` may draw, so it is called once for each question."""

    name: str

    def __len__(self) -> int: ...

    def item(self, idx: int) -> Item:
        """The item number `idx`, 0 <= idx < len."""
        ...


class DrawnSuite:
    """A built-in suite: pictures of a split, drawn as they are asked about.

    Training never sees the fonts of test and validation, nor asks their facts. Half of the icons and hues of test, a
    third of its layouts where they vary and a quarter of its settings are its own too; the rest is as in training.
    """

    def __init__(self, split: Split = "test", *, seed: int = 0) -> None:
        self.name = f"nano-{split}"
        self._split, self._seed = split, seed

    def __len__(self) -> int:
        return PER_FAMILY * len(FAMILIES)

    def item(self, idx: int) -> Item:
        """Draw picture idx // families of family idx % families; the same suite seed gives the same pixels."""
        turn, which = divmod(idx, len(FAMILIES))
        return drawn_item(FAMILIES[which], self._seed * PER_FAMILY + turn, self._split, self.name)


def drawn_item(family: str, scene_seed: int, split: Split, salt: str) -> Item:
    """A picture of a family and one of its questions, which `salt` helps to choose."""
    return item_of(draw_scene(family, scene_seed, split), salt)


def item_of(scene: Scene, salt: str) -> Item:
    """A picture and one of its questions, which `salt` helps to choose."""
    question = random.Random(f"{salt}/{scene.family}/{scene.seed}").choice(scene.questions)
    return Item(
        id=f"{scene.family}-{scene.seed}",
        family=scene.family,
        question=question.text,
        answer=question.answer,
        accept=question.accept,
        evidence=question.evidence,
        picture=scene.image,
    )


class FolderSuite:
    """Pictures in a folder with questions in its answers.jsonl."""

    def __init__(self, folder: str | Path) -> None:
        """Read and check every line; InputError names the line, what is wrong with it and what was wanted."""
        self.name = Path(folder).name or str(folder)
        self._items = _read_answers(expanded(folder))

    def __len__(self) -> int:
        return len(self._items)

    def item(self, idx: int) -> Item:
        """The item of line idx + 1 (empty lines not counted)."""
        return self._items[idx]


def open_suite(name: str, *, seed: int = 0) -> Suite:
    """The suite that `foveate eval` names: one of DRAWN or a folder.

    Raises InputError for anything else, and ConfigError when its formulas need a package that is missing.
    """
    if name in DRAWN:
        return DrawnSuite(DRAWN[name], seed=seed)
    if not name or not is_folder(expanded(name)):
        raise InputError(f"got the suite {name!r}, wanted {', '.join(DRAWN)} or a folder with {ANSWERS}")
    return FolderSuite(name)


def chosen(suite: Suite, *, limit: int | None, seed: int) -> Sequence[int]:
    """The numbers of the items to ask: all, or `limit` of them.

    A drawn suite gives its first ones, which are balanced; a folder, which may be sorted by kind, a sample drawn by
    `seed`.
    """
    if limit is not None and limit < 1:
        raise InputError(f"got a limit of {limit} questions, wanted at least 1")
    if limit is None or limit >= len(suite):
        return range(len(suite))
    if isinstance(suite, DrawnSuite):
        return range(limit)
    return sorted(random.Random(seed).sample(range(len(suite)), limit))


def _read_answers(folder: Path) -> tuple[Item, ...]:
    path = folder / ANSWERS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a folder with {ANSWERS} in UTF-8") from error
    items = tuple(_item(folder, f"{path}:{idx + 1}", line) for idx, line in enumerate(lines) if line.strip())
    if not items:
        raise InputError(f"{path} holds no question; write one JSON object a line")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"{path} has the id {item.id!r} twice; give every question its own")
        seen.add(item.id)
    return items


def _item(folder: Path, where: str, line: str) -> Item:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}); write one object a line") from error
    if not isinstance(record, dict) or not set(_TEXTS) <= set(record) <= _KEYS:
        wanted = f"an object with {', '.join(_TEXTS)}, and perhaps accept, family, type and evidence_bbox"
        raise InputError(f"{where}: got {line[:80]!r}, wanted {wanted}")
    for key in _TEXTS:
        if not isinstance(record[key], str) or not record[key].strip():
            raise InputError(f"{where}: got {key}={record[key]!r}, wanted some text")
    accept, family = record.get("accept", []), record.get("family", NO_FAMILY)
    if not isinstance(accept, list) or not all(isinstance(text, str) for text in accept):
        raise InputError(f"{where}: got accept={accept!r}, wanted a list of texts")
    if not isinstance(family, str) or not family:
        raise InputError(f"{where}: got family={family!r}, wanted a name")
    kind = record.get("type", "any")
    if not isinstance(kind, str) or kind not in SAME:
        raise InputError(f"{where}: got type={kind!r}, wanted one of {', '.join(SAME)}")
    if kind == "formula":
        require_math_verify()
    picture = folder / record["image"]
    got = f"{where}: got image={shown(record['image'])}"
    if not is_file(picture) or not picture.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{got}, wanted a picture inside {folder}")
    size = _header_size(got, picture)
    return Item(
        id=record["id"],
        family=family,
        question=record["question"],
        answer=record["answer"],
        accept=tuple(accept),
        kind=cast(Kind, kind),
        evidence=_boxes(where, record.get("evidence_bbox"), size),
        picture=picture,
    )


def _header_size(where: str, picture: Path) -> tuple[int, int]:
    """Width and height of a picture turned upright.

    Raises InputError for what is no picture, or too large a one; what is broken behind its header shows later.
    """
    try:
        with Image.open(picture, formats=FORMATS) as opened:
            check_size(opened.size, MAX_PIXELS, "it")
            (width, height), sideways = opened.size, _is_sideways(opened)
    except Exception as error:  # a decoder fed with broken bytes raises whatever it likes
        raise InputError(f"{where} ({error}), wanted a picture that can be read") from error
    return (height, width) if sideways else (width, height)


def _is_sideways(picture: Image.Image) -> bool:
    try:
        exif = Image.Image.getexif(picture)  # that of a PNG decodes the whole picture
        return exif.get(ExifTags.Base.Orientation) in SIDEWAYS
    except Exception:  # broken EXIF in a sound picture: it is shown as it is stored  # noqa: BLE001
        return False


def _boxes(where: str, value: Any, size: tuple[int, int]) -> tuple[Box, ...]:
    """One box, a list of boxes, or None; `size` is that of the picture."""
    if value is None:
        return ()
    boxes = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    for box in boxes:
        numbers = isinstance(box, list) and len(box) == 4 and all(type(part) in (int, float) for part in box)
        if not numbers or not (0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]):
            wanted = f"x0, y0, x1, y1 inside its {size[0]} x {size[1]} pixels or a list of such"
            raise InputError(f"{where}: got evidence_bbox={value!r}, wanted {wanted}")
    return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes)
