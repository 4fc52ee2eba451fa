"""What counts beside a right answer: that it was looked up in the picture, and that every turn was well formed.

    evidence  added to a right answer when a crop showed what has to be read (rl/report.py says when one does)
    tool      added to a right answer that called a tool which did not fail, so that tools do not fall out of use
              (DeepEyes, arXiv 2505.14362: rewarded for every call they are called for nothing; only with right answers
              they help)
    format    taken off for every turn that was neither a call nor an answer

All are 0 unless wanted. A length penalty alone can teach a policy to guess; `tool_calls` in metrics.jsonl shows it.
"""

from dataclasses import dataclass

from foveate.rl.limits import NOT_NEGATIVE, check
from foveate.rl.rollout import Trajectory


@dataclass(frozen=True, kw_only=True)
class BonusConfig:
    """How much each counts, where a right answer counts 1."""

    evidence: float = 0.0
    tool: float = 0.0
    format: float = 0.0

    def __post_init__(self) -> None:
        check(self, "bonus.", evidence=NOT_NEGATIVE, tool=NOT_NEGATIVE, format=NOT_NEGATIVE)


def bonus(trajectory: Trajectory, config: BonusConfig) -> float:
    """What is added to the reward of a conversation; less than nothing when it was badly formed."""
    looked = config.evidence * trajectory.saw_evidence + config.tool * (trajectory.tool_calls > 0)
    return looked * trajectory.right - config.format * trajectory.errors
