"""The page of a training: curves, answers before and after, and of a policy conversations of two iterations.

One file that needs nothing but itself; what models and tools wrote is escaped. It is written anew after each iteration,
from metrics.jsonl and examples.jsonl beside it.
"""

import json
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from foveate.agent.plain import printable
from foveate.models.tokenizer import TextCodec
from foveate.rl.examples import read_results
from foveate.rl.journal import METRICS, SKIPPED, UNITS, rows_of
from foveate.rl.report import Result
from foveate.rl.rollout import Trajectory
from foveate.rl.writing import append, replaced

EXAMPLES, PAGE = "examples.jsonl", "report.html"
WIDTH, HEIGHT = 280, 90
HIDDEN = (*UNITS, "lr", "seconds", SKIPPED)
TEMPLATE = """\
<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1d2330 }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #d8dce6; border-radius: 6px; padding: .6rem }
figcaption { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; display: block }
polyline { fill: none; stroke: #3457d5; stroke-width: 1.5 }
article { border-left: 3px solid #b3261e; padding: .1rem 0 .1rem .9rem; margin: 1rem 0 }
article.right { border-color: #1b7f4b }
.both { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; font: 13px/1.4 ui-monospace, monospace }
.tool { color: #5a6275 }
</style>
<h1>{{ title }}</h1>
<p>{{ done }} {{ unit }}s, {{ "%.0f" | format(minutes) }} minutes.{% if skipped %} Skipped steps, whose gradient was no number: {{ skipped }}.{% endif %}</p>
<section class="curves">
{% for curve in curves %}
<figure><figcaption><span>{{ curve.name }}</span><span>{{ "%.3g" | format(curve.first) }} → {{ "%.3g" | format(curve.last) }}</span></figcaption>
<svg viewBox="0 0 {{ width }} {{ height }}" role="img"><polyline points="{{ curve.points }}"/></svg></figure>
{% endfor %}
</section>
{% if asked %}<h2>Before and after</h2>{% endif %}
{% for sides in asked %}
<div class="both">{% for when, side in sides %}
<article class="{{ 'right' if side.right else 'wrong' }}"><strong>{{ side.question }}</strong>
{% for turn in side.turns %}<pre class="{{ turn.who }}">{{ turn.text }}</pre>{% endfor %}
<p>{{ when | capitalize }}, {{ side.tokens }} tokens (<a href="{{ side.trace }}">with pictures</a>).
{{ "Right" if side.right else "Wrong" }}: {{ side.answer }}{% if not side.right %}, wanted {{ side.expected }}{% endif %}</p>
</article>
{% endfor %}</div>
{% endfor %}
{% for heading, shown in parts %}
<h2>{{ heading }}</h2>
{% for example in shown %}
<article class="{{ 'right' if example.right else 'wrong' }}"><strong>{{ example.question }}</strong>
{% for turn in example.turns %}<pre class="{{ turn.who }}">{{ turn.text }}</pre>{% endfor %}
<p>{{ "Right" if example.right else "Wrong" }}: {{ example.answer }}{% if not example.right %}, wanted {{ example.expected }}{% endif %}</p>
</article>
{% endfor %}
{% endfor %}
"""  # noqa: E501 - HTML


_ENVIRONMENT = Environment(autoescape=True)


class Curve(NamedTuple):
    """A number over the iterations."""

    name: str
    first: float
    last: float
    points: str
    """Of an SVG polyline."""


def add_examples(folder: Path, iteration: int, trajectories: Sequence[Trajectory], codec: TextCodec) -> None:
    """Keep one right and one wrong conversation of an iteration."""
    for right in (True, False):
        found = next((one for one in trajectories if one.right is right and one.is_whole), None)
        if found is not None:
            line = json.dumps({"iteration": iteration, **_example(found, codec)}, ensure_ascii=False)
            append(folder / EXAMPLES, f"{line}\n")


def write_page(folder: Path) -> Path:
    """Write report.html from what lies in the folder; returns its path."""
    rows = rows_of(folder / METRICS)
    examples = rows_of(folder / EXAMPLES)
    newest = max((example["iteration"] for example in examples), default=0)
    parts = [
        (f"Iteration {iteration}", [one for one in examples if one["iteration"] == iteration])
        for iteration in sorted({1, newest} & {one["iteration"] for one in examples})
    ]
    unit = next((unit for unit in UNITS if rows and unit in rows[-1]), UNITS[0])
    page = _ENVIRONMENT.from_string(TEMPLATE).render(
        title=folder.name,
        unit=unit,
        done=rows[-1][unit] if rows else 0,
        minutes=rows[-1]["seconds"] / 60 if rows else 0.0,
        skipped=round(sum(row.get(SKIPPED, 0) for row in rows)),
        curves=[curve for name in dict.fromkeys(chain(*rows)) if name not in HIDDEN if (curve := _curve(name, rows))],
        asked=[[(when, _side(result, trace)) for when, result, trace in sides] for sides in read_results(folder)],
        parts=parts,
        width=WIDTH,
        height=HEIGHT,
    )
    with replaced(folder / PAGE) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return folder / PAGE


def _side(result: Result, trace: str) -> dict[str, Any]:
    turns = [(step["kind"], f"{step['tool'] or ''} {step['text']}".strip()) for step in result.run["steps"]]
    return {
        "question": result.question, "expected": result.expected,
        "answer": printable(result.answer), "right": result.right,
        "tokens": result.run["usage"]["policy_tokens"], "trace": trace,
        "turns": [{"who": who, "text": printable(text)} for who, text in turns if text],
    }  # fmt: skip


def _example(trajectory: Trajectory, codec: TextCodec) -> dict[str, Any]:
    transcript, item = trajectory.transcript, trajectory.job.item
    turns: list[dict[str, str]] = []
    ids, written = transcript.token_ids.tolist(), transcript.by_policy_T.tolist()
    start = next((place for place, by_policy in enumerate(written) if by_policy), len(ids))
    run: list[int] = []
    for place in range(start, len(ids)):
        run += [ids[place]] if ids[place] != codec.image_pad else []
        if place + 1 == len(ids) or written[place + 1] != written[place]:
            turns.append({"who": "policy" if written[place] else "tool", "text": printable(codec.decode(run).strip())})
            run = []
    return {
        "question": item.question, "expected": item.answer, "answer": printable(trajectory.answer),
        "right": trajectory.right, "turns": [turn for turn in turns if turn["text"]],
    }  # fmt: skip


def _curve(name: str, rows: Sequence[dict[str, float]]) -> Curve | None:
    """The numbers of the rows that have one; None where no row has."""
    found = [(idx, row[name]) for idx, row in enumerate(rows) if math.isfinite(row.get(name, math.nan))]
    if not found:
        return None
    values = [value for _, value in found]
    least, most = min(values), max(values)
    across, up = WIDTH / max(1, len(rows) - 1), (HEIGHT - 10) / ((most - least) or 1.0)
    places = [(idx * across, HEIGHT - 5 - (value - least) * up) for idx, value in found]
    if len(places) == 1:  # a point would not be seen
        ((x, y),) = places
        places = [(max(0.0, x - 4), y), (min(float(WIDTH), x + 4), y)]
    return Curve(name, values[0], values[-1], " ".join(f"{x:.1f},{y:.1f}" for x, y in places))
