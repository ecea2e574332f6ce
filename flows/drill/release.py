"""To come."""

from flows.drill.incident import Diary
from flows.drill.stage import Stage


def inject(stage: Stage, diary: Diary) -> None:
    """Nothing yet."""
    diary.require(False, "not written yet")
