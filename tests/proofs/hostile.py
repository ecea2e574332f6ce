"""The real service under hostile requests: Schemathesis, and 100,000 that Hypothesis makes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.schemas import EXAMPLE, EXAMPLE_FEEDBACK
from tests.bench.serving.material import prepare
from tests.bench.serving.own import serve_own
from tests.hostile.attacks import make_attacks
from tests.hostile.sending import Tally, attack_server
from tests.hostile.spec import run_schemathesis

ATTACKS, EXAMPLES = 100_000, 100


def measure(attacks: int = ATTACKS, examples: int = EXAMPLES) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder, serve_own(prepare(), Path(folder)) as running:
        port = running.peer.port
        yield from judge(
            attack_server(port, make_attacks({"/predict": EXAMPLE, "/feedback": EXAMPLE_FEEDBACK}), attacks)
        )
        sent, broken = run_schemathesis(f"http://127.0.0.1:{port}", examples)
        told = {"told": broken} if broken else {}
        name = f"hostile: promises of the OpenAPI that {sent:,} requests of Schemathesis found broken"
        yield _figure(name, int(bool(broken)), "0", not broken and sent > 0, **told)
        after = running.ask(b"{}")
        yield _figure("hostile: the service answers afterwards", after[:3], "422", after.startswith("422"))


def judge(tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield what the attacks came to."""
    silent = sum(tally.problems.values()) - tally.problems["5xx"] - tally.problems["hang"]
    facts = {"statuses": dict(tally.statuses), "kinds": dict(tally.kinds)}
    sent = f"of {tally.sent:,} hostile requests"
    yield _figure(f"hostile: 5xx {sent}", tally.problems["5xx"], "0", not tally.problems["5xx"], **facts)
    yield _figure(f"hostile: hangs {sent}", tally.problems["hang"], "0", not tally.problems["hang"])
    told = {"told": tally.told} if tally.told else {}
    yield _figure(
        f"hostile: answers {sent} without served_by, or without field, got and expected",
        silent,
        "0",
        not silent,
        **told,
    )


def _figure(name: str, value: object, bar: str, ok: bool, **told: object) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "ok": ok, **told}
