"""Assets ship complete, small, licensed, and split: what test draws, training never does."""

import colorsys
import random

import pytest

from foveate.rl.tasks.anchors import pick_anchors, pick_dress
from foveate.rl.tasks.assets import (
    ASSETS,
    FLAG_SIZE,
    FONTS,
    ICON_PX,
    ICON_STYLES,
    ICONS,
    SPLITS,
    TEST_ONLY_ICONS,
    Split,
    flag,
    flag_codes,
    font,
    icon,
)
from foveate.rl.tasks.canvas import Canvas, picture_size
from foveate.rl.tasks.fact import FLAGS
from foveate.rl.tasks.layout import pick_layout
from foveate.rl.tasks.palette import TEST_HUES, TRAIN_HUES
from foveate.rl.tasks.setting import pick_setting

FAMILIES = sorted({family for names in FONTS.values() for family in names})


def test_no_font_belongs_to_two_splits() -> None:
    assert len(FAMILIES) == sum(len(names) for names in FONTS.values())


def test_every_font_opens_and_has_a_line_in_the_licences() -> None:
    licences = (ASSETS / "LICENSES.md").read_text()
    for family in FAMILIES:
        assert font(family, 20).getlength("Foveate 0123") > 0
        assert f"| {family} | OFL-1.1 |" in licences or f"| {family} | Apache-2.0 |" in licences


def test_every_font_has_the_signs_of_money() -> None:
    for family in FAMILIES:
        for bold in (False, True):
            face = font(family, 20, bold)
            missing = face.getmask("\ufffe")
            for sign in "$€":
                mask = face.getmask(sign)
                assert (mask.size, bytes(mask)) != (missing.size, bytes(missing)), (family, bold, sign)


def test_every_icon_has_ink_in_every_style() -> None:
    for name in (*ICONS, *TEST_ONLY_ICONS):
        for style in {style for styles in ICON_STYLES.values() for style in styles}:
            drawing = icon(name, style)
            assert drawing.size == (ICON_PX, ICON_PX)
            assert sum(drawing.getchannel("A").histogram()[128:]) > 600, (name, style)


def test_every_sheet_has_its_licence() -> None:
    licences = (ASSETS / "LICENSES.md").read_text()
    for sheet in ASSETS.glob("*.png"):
        assert f"`{sheet.name}`" in licences


def test_every_flag_of_the_facts_ships() -> None:
    assert set(FLAGS) <= set(flag_codes())
    assert flag("no").size == FLAG_SIZE


def test_assets_are_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 5_000_000


@pytest.mark.parametrize("split", SPLITS)
def test_canvases_draw_with_the_fonts_and_icons_of_their_split(split: Split) -> None:
    for seed in range(20):
        canvas = Canvas(random.Random(seed), split, (1200, 900))
        assert {canvas.head_font, canvas.text_font} <= set(FONTS[split])
        assert canvas.style in ICON_STYLES[split]
        anchors = pick_anchors(canvas, "icon", 12, (255, 255, 255))
        assert pick_dress(canvas, "icon").style == canvas.style
        strange = [anchor for anchor in anchors if anchor.form in TEST_ONLY_ICONS]
        assert bool(strange) == (split == "test")
        assert not any(anchor.askable for anchor in strange)


def test_half_of_the_tests_icons_and_hues_are_its_own() -> None:
    own = set(ICON_STYLES["test"]) - set(ICON_STYLES["train"])
    assert 2 * len(own) == len(ICON_STYLES["test"])
    assert all(high <= low or end <= start for start, high in TEST_HUES for low, end in TRAIN_HUES)

    def is_own(split: Split, seed: int) -> bool:
        hue = colorsys.rgb_to_hsv(
            *(part / 255 for part in Canvas(random.Random(seed), split, (900, 700)).theme.accent)
        )[0]
        return any(low + 0.01 < hue < high - 0.01 for low, high in TEST_HUES)

    assert not any(is_own("train", seed) for seed in range(200))
    assert 60 < sum(is_own("test", seed) for seed in range(200)) < 120


def test_only_test_draws_its_own_layouts_and_settings() -> None:
    for split in SPLITS:
        rng = random.Random(7)
        layouts = {pick_layout(rng, split) for _ in range(200)}
        settings = {pick_setting(rng, split) for _ in range(300)}
        assert bool({"ring", "honeycomb"} & layouts) == (split == "test")
        assert ("blueprint" in settings) == (split == "test")


def test_pictures_are_large() -> None:
    rng = random.Random(0)
    for _ in range(200):
        width, height = picture_size(rng)
        assert 1200 <= max(width, height) <= 2500
        assert width * height > 800_000
