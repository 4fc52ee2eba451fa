"""Look at a family: `python -m foveate.rl.tasks.sheet --family label --split train --out sheet.png`.

Six scenes on one sheet with the question, the answer, the evidence (green) and the oracle's boxes (red, numbered).
`--view first` shows what nano sees before it zooms; `--view crops` shows the oracle's crops as nano sees them.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from foveate.rl.tasks.assets import SPLITS, font
from foveate.rl.tasks.canvas import VIEW_AREA
from foveate.rl.tasks.scene import FAMILIES, Question, Scene, draw_scene, original_boxes

TILE = (760, 640)


def shrink(image: Image.Image, area: int = VIEW_AREA) -> Image.Image:
    """The picture as nano sees it: at most `area` pixels, aspect kept."""
    scale = min(1.0, (area / (image.width * image.height)) ** 0.5)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC) if scale < 1 else image


def crops(scene: Scene, question: Question) -> list[Image.Image]:
    """The pictures that the oracle sees, the scene's picture first, each at its own resolution."""
    seen = [scene.image]
    for step in question.steps:
        if step.tool == "zoom":
            seen.append(seen[step.arguments["image"]].crop(step.arguments["box"]))
    return seen


def describe(question: Question) -> str:
    """Question, steps and answer as lines of text."""
    lines = [f"Q {question.text}"]
    for step in question.steps:
        what = step.arguments.get("code") or step.arguments.get("query") or ""
        lines.append(f"  {step.thought} [{step.tool} {what}{' -> ' + step.result[:70] if step.result else ''}]")
    return "\n".join([*lines, f"  {question.final_thought} => {question.answer}"])


def tile(scene: Scene, view: str) -> Image.Image:
    """One scene with its first question."""
    question = scene.questions[0]
    out = Image.new("RGB", TILE, "white")
    if view == "crops":
        x = 0
        for crop in crops(scene, question)[1:]:
            small = shrink(crop)
            out.paste(small, (x, 110))
            x += small.width + 10
    else:
        picture = scene.image.copy()
        draw = ImageDraw.Draw(picture)
        for box in question.evidence if view == "full" else ():
            draw.rectangle(box, outline=(0, 190, 0), width=4)
        for box in original_boxes(question) if view == "full" else ():
            draw.rectangle(box, outline=(230, 0, 0), width=6)
        picture = shrink(picture) if view == "first" else picture
        picture.thumbnail((TILE[0] - 10, TILE[1] - 115))
        out.paste(picture, (0, 110))
    ImageDraw.Draw(out).multiline_text((2, 2), describe(question), fill="black", font=font("roboto", 14))
    return out


def main() -> None:
    """Draw and save a sheet."""
    parser = argparse.ArgumentParser(description="Draw six scenes of a family on one sheet.")
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--view", choices=("full", "first", "crops"), default="full")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sheet = Image.new("RGB", (TILE[0] * 3, TILE[1] * 2), "white")
    for index in range(6):
        picture = tile(draw_scene(args.family, args.seed + index, args.split), args.view)
        sheet.paste(picture, (index % 3 * TILE[0], index // 3 * TILE[1]))
    sheet.save(args.out)


if __name__ == "__main__":
    main()
