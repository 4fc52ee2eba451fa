"""What an evaluation found: one `Result` for each question, and the `Report` that sums them up.

The interval of an accuracy is Wilson's for a binomial share (Wilson 1927), which stays sensible near 0 and 1 and for
few questions. A right answer counts as seen when crops showed its evidence: at least nine tenths of the area of each
evidence box lies inside the box of some crop, both in pixels of the original picture, and that crop takes at most half
of the picture: a larger one shows little more than the first view did. The report also gives the mean share of the
picture that the crops which showed the evidence take.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from statistics import fmean
from typing import Any, Self

from foveate.agent.records import Answer, ImageRecord
from foveate.rl.reward import Kind, is_right
from foveate.rl.suite import Item
from foveate.tools.tool import Box

SCHEMA_VERSION = 2
COVERED_SHARE = 0.9
LARGEST_SHARE = 0.5
"""Of the picture that a crop takes: what is larger shows no evidence."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One question asked."""

    id: str
    family: str
    question: str
    expected: str
    accept: tuple[str, ...]
    kind: Kind
    evidence: tuple[Box, ...]
    answer: str
    right: bool
    crop_share: float | None
    """Share of the picture (0 to 1) of the crops that show the evidence; None when they do not, or none is known."""
    run: dict[str, Any]
    """`Answer.to_json()`: every step, box and count."""

    @classmethod
    def of(cls, item: Item, answer: Answer) -> Self:
        """Judge the answer to an item."""
        return cls(
            id=item.id,
            family=item.family,
            question=item.question,
            expected=item.answer,
            accept=item.accept,
            kind=item.kind,
            evidence=item.evidence,
            answer=answer.text,
            right=is_right(answer.text, item.answer, item.accept, item.kind),
            crop_share=crop_share(answer.images, item.evidence),
            run=answer.to_json(),
        )

    @property
    def error(self) -> str | None:
        """Why the question ended in an error; None when it did not."""
        return self.run["reason"] if self.run["status"] == "error" else None

    def to_json(self) -> dict[str, Any]:
        """A line of the file that `foveate eval --out` writes."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {record['schema_version']!r}, wanted {SCHEMA_VERSION}")
        values = {field.name: record[field.name] for field in fields(cls)}
        evidence = tuple(map(tuple, values["evidence"]))
        return cls(**values | {"accept": tuple(values["accept"]), "evidence": evidence})


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many of a number of questions were answered rightly."""

    n: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson_interval(self.right, self.n)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The numbers of one evaluation. Means are over all questions."""

    suite: str
    suite_version: int | None
    """Of a built-in suite; None of a folder."""
    foveate_version: str
    model: str
    control: str | None
    seed: int
    sandbox: str | None
    """What the python tool ran its code in; None where there was no such tool, or where it refused to run any."""
    settings: dict[str, Any] | None
    """`Settings.to_json()` of the first question that has them: budget, temperature."""
    total: Score
    families: dict[str, Score]
    policy_tokens: float
    turns: float
    seconds: float
    """Mean time in the model and its tools."""
    right_with_evidence: int
    """Right answers whose evidence is known; none where every crop was grey."""
    right_seen: int
    """Those of them whose evidence a crop showed."""
    crop_share: float | None
    """Mean share of the picture of the crops that showed it; None when there are none."""
    statuses: dict[str, int]
    first_error: str | None
    """Why the first question that ended in an error did; None when none did."""

    @classmethod
    def of(
        cls,
        results: Sequence[Result],
        *,
        suite: str,
        model: str,
        control: str | None,
        seed: int,
        sandbox: str | None,
        suite_version: int | None = None,
    ) -> Self:
        """Sum up results; at least one."""
        usages = [result.run["usage"] for result in results]
        judged = [result for result in results if result.right and result.evidence and control != "blank"]
        shares = [result.crop_share for result in judged if result.crop_share is not None]
        families = dict.fromkeys(result.family for result in results)
        return cls(
            suite=suite,
            suite_version=suite_version,
            foveate_version=version("foveate"),
            model=model,
            control=control,
            seed=seed,
            sandbox=sandbox,
            settings=next((result.run["settings"] for result in results if result.run["settings"]), None),
            total=_score(results),
            families={name: _score([result for result in results if result.family == name]) for name in families},
            policy_tokens=fmean(usage["policy_tokens"] for usage in usages),
            turns=fmean(usage["turns"] for usage in usages),
            seconds=fmean(usage["seconds"] for usage in usages),
            right_with_evidence=len(judged),
            right_seen=len(shares),
            crop_share=fmean(shares) if shares else None,
            statuses=dict(Counter(result.run["status"] for result in results).most_common()),
            first_error=next((result.error for result in results if result.error is not None), None),
        )

    @property
    def evidence_covered(self) -> float | None:
        """Share of right answers with known evidence whose crops covered it; None when there are none."""
        return self.right_seen / self.right_with_evidence if self.right_with_evidence else None

    def to_json(self) -> dict[str, Any]:
        """The object that `foveate eval --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "foveate_version": self.foveate_version,
            "suite": self.suite,
            "suite_version": self.suite_version,
            "model": self.model,
            "control": self.control,
            "seed": self.seed,
            "sandbox": self.sandbox,
            "settings": self.settings,
            **_score_json(self.total),
            "families": {name: _score_json(score) for name, score in self.families.items()},
            "policy_tokens": self.policy_tokens,
            "turns": self.turns,
            "seconds": self.seconds,
            "right_with_evidence": self.right_with_evidence,
            "evidence_covered": self.evidence_covered,
            "crop_share": self.crop_share,
            "statuses": self.statuses,
            "first_error": self.first_error,
        }

    def to_text(self) -> str:
        """A table for people, no line longer than 80 characters but for long names."""
        named = f"{self.suite}, {self.model}, control {self.control or 'none'}, seed {self.seed}"
        width = max(10, *(len(name) for name in self.families))
        lines = [named, "", f"{'family':<{width}}  {'n':>5}  {'right':>5}  accuracy  95% interval"]
        lines += [_row(name, score, width) for name, score in (*self.families.items(), ("all", self.total))]
        means = f"{self.policy_tokens:.1f} tokens, {self.turns:.2f} turns, {self.seconds:.2f} s"
        lines += ["", f"mean of a question: {means}"]
        if self.evidence_covered is not None:
            covered = f"{self.right_seen} of {self.right_with_evidence} right answers ({self.evidence_covered:.1%})"
            lines.append(f"a crop showed the evidence in {covered}")
        if self.crop_share is not None:
            lines.append(f"these crops take {self.crop_share:.1%} of the picture on average")
        lines.append("status: " + ", ".join(f"{count} {status}" for status, count in self.statuses.items()))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()


def wilson_interval(right: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share `right` / `n`; `z` = 1.96 standard deviations hold 95%. n = 0 gives (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def crop_share(images: Sequence[ImageRecord], evidence: Iterable[Box]) -> float | None:
    """Mean share of the picture of the smallest crops that show each evidence box; None when one is not shown.

    `images` are a run's records, the picture first. A crop shows a box when 90% of the box's area lies inside it and it
    takes at most half of the picture, so a box of more than five ninths of it never is.
    """
    boxes = list(evidence)
    if not boxes or not images:
        return None
    whole = area(images[0].box_px)
    crops = [image.box_px for image in images[1:] if image.original == images[0].sha256]
    closer = [crop for crop in crops if area(crop) <= LARGEST_SHARE * whole]
    smallest = [min((area(crop) for crop in closer if covers(crop, box)), default=None) for box in boxes]
    known = [size for size in smallest if size is not None]
    return fmean(known) / whole if len(known) == len(boxes) else None


def covers(crop: Box, box: Box) -> bool:
    """Whether at least 90% of the area of `box` lies inside `crop`."""
    inside = (max(crop[0], box[0]), max(crop[1], box[1]), min(crop[2], box[2]), min(crop[3], box[3]))
    return area(inside) >= COVERED_SHARE * area(box)


def area(box: Box) -> float:
    """Area of a box, 0 when it is empty."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _score(results: Sequence[Result]) -> Score:
    return Score(n=len(results), right=sum(result.right for result in results))


def _score_json(score: Score) -> dict[str, Any]:
    return {"n": score.n, "right": score.right, "accuracy": score.accuracy, "interval_95": list(score.interval)}


def _row(name: str, score: Score, width: int) -> str:
    low, high = score.interval
    return f"{name:<{width}}  {score.n:>5}  {score.right:>5}  {score.accuracy:>8.1%}  {low:.1%} to {high:.1%}"
