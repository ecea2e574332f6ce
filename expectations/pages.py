"""Validation pages: one batch's rules and what they found, for people.

Great Expectations draws the page (its Data Docs). What it would fetch from the network is taken out and a
few lines of style put in, so that the page opens without a network; above it stands the outcome in plain
words, below it the measures with the limits that the batch's own past sets.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from expectations.profile import show
from expectations.report import Failure, Report
from expectations.runner import draw

REMOTE = re.compile(
    r"""<link[^>]+href="https?://[^>]*>|<script[^>]*>.*?</script>|<img[^>]+src="https?://[^>]*>"""
    r"""|background:\s*url\('https?://[^;]*;""",
    re.DOTALL,
)
FOOT = re.compile(r"<footer.*?</footer>", re.DOTALL)
STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;color:#222;margin:0 auto;max-width:70rem;padding:1rem}
table{border-collapse:collapse;width:100%;margin:.3rem 0 1rem}
td,th{border-bottom:1px solid #ddd;padding:.25rem .5rem;text-align:left;vertical-align:top}
nav,.modal,.ge-navbar,.navbar,.cooltip,#ge-cta-footer{display:none!important}
.fa-check-circle::before{content:"\\2714";color:#187a3a}.fa-times::before{content:"\\2718";color:#b3261e}
.fa-exclamation-triangle::before{content:"!";color:#b3261e}
.stop{color:#b3261e}.warn{color:#8a5a00}.fine{color:#187a3a}
.d-none,.collapse:not(.show){display:block!important}
.sticky,[id$="-block-1-subheader"],p.m-0,p.m-0+div{display:none!important}
</style>"""


# What means something to Great Expectations only: wrappers of numbers, and who ran it, which is nobody.
WRAPPED = re.compile(r"np\.\w+\(([^()]*)\)")
RUN = re.compile(r"<tr>\s*<td[^>]*><div[^>]*>Run (?:Name|Time)</div></td>.*?</tr>", re.DOTALL)
COMPUTED = re.compile(r">\s*_(\w+)\s*<")


def render_page(report: Report, title: str) -> str:
    """Return the page of one validated batch as HTML that needs no network."""
    drawn = (
        draw(report.verdicts, title, report.profile)
        if report.verdicts
        else "<html><head></head><body></body>"
    )
    drawn = FOOT.sub("", REMOTE.sub("", drawn)).replace("</head>", f"{STYLE}</head>", 1)
    drawn = COMPUTED.sub(r">computed: \1<", RUN.sub("", WRAPPED.sub(r"\1", drawn)))
    name = html.escape(title)
    drawn = re.sub(r"<title>.*?</title>", f"<title>{name}</title>", drawn, count=1, flags=re.DOTALL)
    top = f"<h1>{name}</h1>{_outcome(report)}"
    # By function: what was found may hold what a pattern would read as a group.
    drawn = re.sub(r"<body[^>]*>", lambda found: found[0] + top, drawn, count=1)
    return drawn.replace("</body>", f"{_measures(report)}</body>", 1)


def render_index(rows: Sequence[Mapping[str, Any]], title: str = "Validated batches") -> str:
    """Return a page that lists batches; a row's `page` is where it leads, its other values are shown."""
    shown = [key for key in (rows[0] if rows else ()) if key != "page"]
    body = [[_link(row), *(_text(row[key]) for key in shown)] for row in rows]
    table = _table(["page", *shown], body)
    name = html.escape(title)
    head = f'<meta charset="utf-8"><title>{name}</title>{STYLE}'
    return f"<!doctype html><html><head>{head}</head><body><h1>{name}</h1>{table}</body></html>"


def _outcome(report: Report) -> str:
    bad = len(report.broken_rules())
    rows = [
        failure for failure in report.failures if failure.scope == "row" and failure not in report.warnings
    ]
    told = [
        ("stop", "The batch stopped: nothing of it may land.", report.stops),
        ("stop", f"{bad} rows broke a rule and are kept in quarantine.", rows),
        ("warn", "Odd, and let through:", report.warnings),
    ]
    lines = [f'<p class="{kind}"><b>{words}</b></p>{_list(found)}' for kind, words, found in told if found]
    return "".join(lines) or f'<p class="fine"><b>All {report.rules_run} checks hold.</b></p>'


def _list(failures: Iterable[Failure]) -> str:
    items = (
        f"<li>{_text(f.rule)}{f', {len(f.rows)} rows' if f.rows else ''}: {_text(f.observed)}</li>"
        for f in failures
    )
    return f"<ul>{''.join(items)}</ul>"


def _measures(report: Report) -> str:
    limits = {row["measure"]: row for row in report.limits.iter_rows(named=True)}
    body = []
    for measure, value in report.profile.items():
        row = limits.get(measure, {})
        ranges = (
            _range(measure, row.get(f"{kind}_low"), row.get(f"{kind}_high")) for kind in ("warn", "stop")
        )
        body.append([_text(measure), _text(show(measure, value)), *ranges])
    if not body:
        return ""
    return f"<h2>Measures</h2>{_table(['measure', 'value', 'usual', 'stops outside of'], body)}"


def _range(measure: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        end, words = (low, "from") if high is None else (high, "up to")
        return "" if end is None else _text(f"{words} {show(measure, end)}")
    return _text(f"{show(measure, low)} to {show(measure, high)}")


def _link(row: Mapping[str, Any]) -> str:
    return f'<a href="{_text(row["page"])}">open</a>' if row.get("page") else ""


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _text(value: object) -> str:
    return html.escape(str(value))
