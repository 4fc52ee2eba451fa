"""Conversations of a file of rollouts as pages: each with the picture, every crop and step, as `foveate ask` shows one.

DIR/index.html          a row a conversation: what was asked, said and wanted
DIR/LINE/trace.html     the page of the conversation on that line of the file, with its trace.json
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment

from foveate.agent.plain import printable
from foveate.agent.records import Answer, Settings, Status, Step, Usage
from foveate.agent.state import image_from, step_from
from foveate.agent.trace import write_trace
from foveate.errors import InputError
from foveate.rl.trajectory import read_trajectories

KINDS = ("think", "tool", "answer", "error")
FIRST = 20
"""How many are shown when nobody says which: a page holds its pictures, half a megabyte as a rule."""
INDEX = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1d2330 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d8dce6 }
td.count { font-variant-numeric: tabular-nums }
.right { color: #1b7f4b } .wrong { color: #b3261e }
</style>
<h1>{{ name }}</h1>
<table>
<tr><th>Line</th><th>Question</th><th>Answer</th><th>Wanted</th><th>Evidence</th><th>Tokens</th></tr>
{% for line, one in shown %}
<tr><td class="count"><a href="{{ line }}/trace.html">{{ line }}</a></td><td>{{ one.question | printable }}</td>
<td class="{{ 'right' if one.right else 'wrong' }}">{{ one.answer | printable or one.status }}</td>
<td>{{ one.expected | printable }}</td><td>{{ "seen" if one.saw_evidence else "not seen" }}</td>
<td class="count">{{ one.sampled_S | length }}</td></tr>
{% endfor %}
</table>
"""
_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters["printable"] = printable


def write_traces(path: Path, out: Path, lines: Sequence[int] = ()) -> Path:
    """Write pages of the conversations on these lines, counted from 1, or of the first ones; returns the index's path.

    Raises InputError for a line that is not there, and for a folder that cannot be written.
    """
    wanted = set(lines)
    shown = [
        (line, one)
        for line, one in enumerate(read_trajectories(path), start=1)
        if (line in wanted if wanted else line <= FIRST)
    ]
    missing = wanted - {line for line, _ in shown}
    if missing or not shown:
        raise InputError(f"{path} has no conversation on line {min(missing, default=1)}")
    try:
        for line, one in shown:
            write_trace(answer_of(one.run), one.question, one.pictures.get, out / str(line))
        page = _ENVIRONMENT.from_string(INDEX).render(name=path.name, shown=shown)
        (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"cannot write pages to {out} ({error.strerror}); name another folder") from error
    return out / "index.html"


def answer_of(run: dict[str, Any]) -> Answer:
    """The answer that `Answer.to_json` wrote. Raises InputError for what it did not write."""
    try:
        known = run["status"] in get_args(Status) and all(step["kind"] in KINDS for step in run["steps"])
        if not known or not all(isinstance(number, int | float) for number in run["usage"].values()):
            raise ValueError("a status, kind or number that no run has")
        return Answer(
            text=run["answer"],
            status=run["status"],
            steps=tuple(map(_step, run["steps"])),
            usage=Usage(**run["usage"]),
            images=tuple(map(image_from, run["images"])),
            reason=run["reason"],
            settings=Settings.from_json(run["settings"]) if run.get("settings") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"a run cannot be shown ({error!r}); wanted one of foveate rollout") from error


def _step(written: dict[str, Any]) -> Step:
    plain = dict(written)
    plain["box_px"] = plain.pop("box")
    return step_from(plain)
