"""Readiness as a score: what was looked up becomes points, by the rubric's own rule.

Source: Breck, Cai, Nielsen, Salib and Sculley, The ML Test Score: A Rubric for ML Production Readiness
and Technical Debt Reduction, IEEE Big Data 2017. Half a point where a test is done by hand and its result
is written down, a full one where it runs by itself; a section is the sum of its seven, and the score is the
least of the four sections: what is left out in one is not made up for in another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECTIONS = ("data", "model", "infrastructure", "monitoring")
WHOLE, HALF, NONE = 1.0, 0.5, 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look brought: whether it is as wanted, what was found, and where a reader can see it.

    where  a URL, a file or a command; empty where there is nothing to open
    """

    holds: bool
    what: str
    where: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A test of the rubric, its points, and all that was looked up for it."""

    section: str
    question: str
    points: float
    findings: tuple[Finding, ...]

    @property
    def evidence(self) -> tuple[Finding, ...]:
        """What speaks for it."""
        return tuple(one for one in self.findings if one.holds)

    @property
    def missing(self) -> tuple[Finding, ...]:
        """What a whole point lacks."""
        return tuple(one for one in self.findings if not one.holds)


def grade(
    section: str, question: str, automated: Sequence[Finding], documented: Sequence[Finding] = ()
) -> Answer:
    """Return the points: whole if all that is automated holds, half if all that is documented does.

    What cannot be opened is no evidence: a point without such a place is not given.
    """
    points = NONE
    if _all_hold(automated):
        points = WHOLE
    elif _all_hold(documented):
        points = HALF
    shown = automated if points == WHOLE else [*automated, *documented]
    return Answer(section, question, points, tuple(dict.fromkeys(shown)))


def _all_hold(findings: Sequence[Finding]) -> bool:
    return bool(findings) and all(one.holds and one.where for one in findings)


@dataclass(frozen=True, slots=True)
class Score:
    """All answers, and what they come to."""

    answers: tuple[Answer, ...]

    @property
    def sections(self) -> dict[str, float]:
        """Points by section, in the rubric's order."""
        return {name: sum(one.points for one in self.of(name)) for name in SECTIONS}

    @property
    def least(self) -> float:
        """The score: the least of the sections."""
        return min(self.sections.values())

    def of(self, section: str) -> Iterable[Answer]:
        """Return one section's answers."""
        return [one for one in self.answers if one.section == section]
