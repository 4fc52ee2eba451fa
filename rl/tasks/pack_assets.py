"""Pack the fonts, icons and flags that the generators draw with: `python -m foveate.rl.tasks.pack_assets PACKAGES`.

PACKAGES is a folder of npm archives (`npm pack @fontsource/<family> @iconify-json/fluent-emoji-flat
@iconify-json/noto @iconify-json/emojione @twemoji/svg flag-icons`). The result lies in `assets/` beside this file and
is committed, so nobody needs this command to train: fonts stay woff2 (Pillow opens them), drawings become one PNG sheet
per style, rasterised once here because a picture of a training run must cost milliseconds. Needs `resvg_py`; nothing
else in the project does.
"""

import argparse
import io
import json
import math
import tarfile
from pathlib import Path

import resvg_py
from PIL import Image

from foveate.rl.tasks.assets import ASSETS, FLAG_SIZE, FONTS, ICON_PX, ICONS, SHEET_COLUMNS, TEST_ONLY_ICONS

FREE_LICENCES = ("OFL-1.1", "Apache-2.0")
LICENCE_TEXTS = {"OFL.txt": "fontsource-lora", "APACHE.txt": "fontsource-roboto-slab", "MIT-flags.txt": "flag-icons"}
LICENCE_HEAD = """# Licences of the packed drawings and fonts

- `icons-fluent.png`: Fluent Emoji (flat), (c) Microsoft Corporation, MIT (MIT-fluent.txt), from the npm package
  @iconify-json/fluent-emoji-flat 1.2.6; rasterised at 128 px, 256 colours.
- `icons-noto.png`: Noto Emoji, (c) Google Inc, Apache-2.0 (APACHE.txt), from the npm package @iconify-json/noto 1.2.9;
  rasterised at 128 px, 256 colours.
- `icons-emojione.png`: Emoji One 2.3, (c) Emoji One, CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/), from the
  npm package @iconify-json/emojione 1.2.3; rasterised at 128 px, 256 colours. What it lacks is Noto's.
- `icons-twemoji.png`: Twemoji graphics, (c) 2019 Twitter, Inc and other contributors, CC-BY-4.0
  (https://creativecommons.org/licenses/by/4.0/), from the npm package @twemoji/svg 15.0.0; rasterised at 128 px,
  256 colours.
- `flags.png`: flag-icons 7.5.0, (c) Panayiotis Lipiridis, MIT (MIT-flags.txt); rasterised at 120 x 90 px, 256 colours.
- `fonts/`: latin subsets from the npm packages @fontsource/<family> 5.3, unchanged. OFL-1.1: OFL.txt; Apache-2.0:
  APACHE.txt.

"""


def archive(packages: Path, prefix: str) -> tarfile.TarFile:
    """The one archive of `packages` whose name is `prefix` and a version."""
    found = [path for path in packages.glob(f"{prefix}-*.tgz") if path.stem[len(prefix) + 1].isdigit()]
    if len(found) != 1:
        raise SystemExit(f"{packages}: {len(found)} archives of {prefix}, wanted 1; run npm pack for it")
    return tarfile.open(found[0])


def member(source: tarfile.TarFile, name: str) -> bytes | None:
    """Bytes of one file of an archive, or None where it is missing."""
    try:
        handle = source.extractfile(f"package/{name}")
    except KeyError:
        return None
    return handle.read() if handle else None


def pack_fonts(packages: Path) -> list[str]:
    """Copy regular and bold latin faces; returns one line of the licence table per family."""
    lines = []
    for family in sorted({name for names in FONTS.values() for name in names}):
        source = archive(packages, f"fontsource-{family}")
        licence = json.loads(member(source, "package.json") or b"{}").get("license")
        if licence not in FREE_LICENCES:
            raise SystemExit(f"{family}: licence {licence!r}, wanted one of {FREE_LICENCES}; leave it out of FONTS")
        for weight in (400, 700):
            face = member(source, f"files/{family}-latin-{weight}-normal.woff2")
            if face:
                (ASSETS / "fonts" / f"{family}-{weight}.woff2").write_bytes(face)
        text = (member(source, "LICENSE") or member(source, "license") or b"").decode("utf-8", "replace")
        notice = text.strip().splitlines()[0].strip().replace("|", "/") if text.strip() else ""
        lines.append(f"| {family} | {licence} | {notice[:160]} |")
    return lines


def raster(svg: str, width: int, height: int) -> Image.Image:
    """An SVG as an RGBA picture that fits into width x height, centred."""
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width * 2)))).convert("RGBA")
    drawn.thumbnail((width, height), Image.Resampling.LANCZOS)
    out = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    out.paste(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    return out


def save_sheet(pictures: list[Image.Image], path: Path, colours: int) -> None:
    """Put pictures on one sheet, ten a row, and save it with few colours."""
    width, height = pictures[0].size
    sheet = Image.new("RGBA", (width * SHEET_COLUMNS, height * math.ceil(len(pictures) / SHEET_COLUMNS)), (0, 0, 0, 0))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % SHEET_COLUMNS * width, index // SHEET_COLUMNS * height))
    sheet.quantize(colours, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


class IconifySet:
    """Drawings of one style by name, and their names by code point where the package tells."""

    def __init__(self, packages: Path, name: str) -> None:
        source = archive(packages, f"iconify-json-{name}")
        drawings = json.loads(member(source, "icons.json") or b"{}")
        self.side = drawings["width"]
        self.bodies: dict[str, str] = {icon: drawing["body"] for icon, drawing in drawings["icons"].items()}
        self.names: dict[str, str] = json.loads(member(source, "chars.json") or b"{}")

    def svg(self, name: str) -> str | None:
        """One drawing, None where the set lacks it."""
        if name not in self.bodies:
            return None
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.side} {self.side}">'
        return f"{head}{self.bodies[name]}</svg>"


def pack_icons(packages: Path) -> None:
    """One sheet per drawing style; icons in the order of ICONS, then TEST_ONLY_ICONS."""
    fluent, noto, emojione = (IconifySet(packages, name) for name in ("fluent-emoji-flat", "noto", "emojione"))
    twemoji = archive(packages, "twemoji-svg")
    points = {name: point for point, name in fluent.names.items()}
    styles: dict[str, list[Image.Image]] = {"fluent": [], "noto": [], "emojione": [], "twemoji": []}
    for name in (*ICONS.values(), *TEST_ONLY_ICONS.values()):
        point = points[name]
        flat = member(twemoji, f"{point}.svg") or member(twemoji, f"{point}-fe0f.svg")
        by_noto = noto.svg(noto.names.get(point) or noto.names.get(f"{point}-fe0f", ""))
        drawings = {
            "fluent": fluent.svg(name),
            "noto": by_noto,
            "emojione": emojione.svg(name) or by_noto,
            "twemoji": flat.decode() if flat else None,
        }
        for style, svg in drawings.items():
            if svg is None:
                raise SystemExit(f"{name}: no drawing {point} in the style {style}; choose another icon")
            styles[style].append(raster(svg, ICON_PX, ICON_PX))
    for style, pictures in styles.items():
        save_sheet(pictures, ASSETS / f"icons-{style}.png", 256)


def pack_flags(packages: Path) -> None:
    """One sheet with the flag of every sovereign state, and the order of their codes."""
    source = archive(packages, "flag-icons")
    countries = json.loads(member(source, "country.json") or b"[]")
    codes = sorted(row["code"] for row in countries if row.get("iso") and len(row["code"]) == 2)
    pictures = [raster((member(source, f"flags/4x3/{code}.svg") or b"").decode(), *FLAG_SIZE) for code in codes]
    save_sheet(pictures, ASSETS / "flags.png", 256)
    (ASSETS / "flags.json").write_text(json.dumps(codes, separators=(",", ":")) + "\n")


def main() -> None:
    """Pack everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("packages", type=Path)
    packages: Path = parser.parse_args().packages
    (ASSETS / "fonts").mkdir(parents=True, exist_ok=True)
    lines = pack_fonts(packages)
    pack_icons(packages)
    pack_flags(packages)
    table = "\n".join(["| family | licence | notice |", "|---|---|---|", *lines])
    (ASSETS / "LICENSES.md").write_text(LICENCE_HEAD + table + "\n")
    for name, prefix in LICENCE_TEXTS.items():
        source = archive(packages, prefix)
        (ASSETS / name).write_bytes(member(source, "LICENSE") or member(source, "license") or b"")


if __name__ == "__main__":
    main()
