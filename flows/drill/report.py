"""The drill's report: one self-contained page, with each mode's story, its times and its curves as SVG."""

import html
from collections.abc import Sequence
from pathlib import Path

from feature_repo.lake import write_atomically
from feature_repo.settings import Settings
from flows.drill.incident import TITLES, Curve, Incident, Mark
from flows.drill.stage import FOLDER
from flows.drill.table import COLUMNS, list_cells

WIDTH, HEIGHT, LEFT, TOP = 720, 150, 60, 20
COLOURS = {
    "injected": "#b3261e",
    "noticed": "#c77700",
    "answered": "#0b57d0",
    "mended": "#6b6b6b",
    "well": "#146c2e",
}
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;
padding:0 1rem;color:#1c1c1c}
table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.4rem;vertical-align:top;
text-align:left;font-size:13px;white-space:pre-line}h2{margin-top:2.5rem}.ok{color:#146c2e}.bad{color:#b3261e}
svg{max-width:100%;height:auto}li{margin:.15rem 0}.dot{display:inline-block;width:.7em;height:.7em;
border-radius:50%;margin-right:.4em}"""


def write_report(settings: Settings, incidents: Sequence[Incident]) -> Path:
    """Write the page and return where it is."""
    path = settings.home / FOLDER / "drill.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, draw_report(incidents))
    return path


def draw_report(incidents: Sequence[Incident]) -> str:
    """Return the page."""
    passed, seconds = sum(one.ok for one in incidents), sum(one.seconds for one in incidents)
    sent, failed = sum(one.sent for one in incidents), sum(len(one.failed) for one in incidents)
    head = "".join(f"<th>{name}" for name in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in list_cells(one))}" for one in incidents
    )
    told = (
        f"<p>{passed} of {len(incidents)} modes were noticed and recovered from, in {seconds:.0f} s; "
        f"{sent:,} requests were sent, {failed} failed or were not answered.</p>"
    )
    parts = "".join(map(_draw_incident, incidents))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Drill</title><style>{STYLE}</style>'
        f"<h1>The drill</h1>{told}<table><tr>{head}{rows}</table>{parts}</html>"
    )


def _draw_incident(one: Incident) -> str:
    mark = '<span class="ok">passed</span>' if one.ok else '<span class="bad">failed</span>'
    why = "".join(f'<p class="bad">{html.escape(text)}</p>' for text in one.explain())
    story = "".join(
        f'<li><span class="dot" style="background:{COLOURS[m.what]}"></span>'
        f"{m.after:.1f} s, <b>{m.what}</b> by {html.escape(m.by)}: {html.escape(m.told)}"
        for m in one.marks
    )
    curves = "".join(_draw_curve(curve, one.marks) for curve in one.curves)
    times = _draw_times(one)
    return f"<h2>{html.escape(TITLES[one.mode])}: {mark}</h2>{why}{times}{curves}<ul>{story}</ul>"


def _draw_times(one: Incident) -> str:
    """Draw when each thing happened, in seconds from the injection."""
    last = max((mark.after for mark in one.marks), default=0.0) or 1.0
    dots = "".join(
        f'<circle cx="{LEFT + mark.after / last * (WIDTH - 2 * LEFT):.1f}" cy="30" r="6" '
        f'fill="{COLOURS[mark.what]}" fill-opacity=".8">'
        f"<title>{html.escape(f'{mark.by}: {mark.told}')}</title></circle>"
        for mark in one.marks
    )
    line = f'<line x1="{LEFT}" y1="30" x2="{WIDTH - LEFT}" y2="30" stroke="#999"/>'
    ends = (
        f'<text x="{LEFT}" y="55" font-size="12">0 s</text>'
        f'<text x="{WIDTH - LEFT}" y="55" font-size="12" text-anchor="end">{last:.0f} s</text>'
    )
    key = "".join(
        f'<circle cx="{LEFT + 110 * n}" cy="75" r="5" fill="{colour}"/>'
        f'<text x="{LEFT + 10 + 110 * n}" y="79" font-size="12">{what}</text>'
        for n, (what, colour) in enumerate(COLOURS.items())
    )
    return f'<svg viewBox="0 0 {WIDTH} 85" role="img" aria-label="when">{line}{dots}{ends}{key}</svg>'


def _draw_curve(curve: Curve, marks: Sequence[Mark]) -> str:
    """Draw a curve over logical time, with a line at each mark that has a place in it."""
    if len(curve.points) < 2:
        return ""
    times = [at.timestamp() for at, _ in curve.points]
    values = [value for _, value in curve.points]
    first, last = times[0], times[-1]
    low, high = min(0.0, *values), max(values)
    wide, tall = WIDTH - 2 * LEFT, HEIGHT - 2 * TOP

    def place(at: float, value: float) -> str:
        down = TOP + tall * (1 - (value - low) / ((high - low) or 1.0))
        return f"{LEFT + wide * (at - first) / ((last - first) or 1.0):.1f},{down:.1f}"

    line = " ".join(place(at, value) for at, value in zip(times, values, strict=True))
    stands = "".join(
        f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + tall}" stroke="{COLOURS[mark.what]}" '
        f'stroke-dasharray="3"><title>{html.escape(mark.told)}</title></line>'
        for mark in marks
        if mark.at and first <= mark.at.timestamp() <= last
        for x in (place(mark.at.timestamp(), low).split(",")[0],)
    )
    text = 'font-size="12"'
    ends = (
        f'<text x="4" y="{TOP + 10}" {text}>{high:.3g}</text>'
        f'<text x="4" y="{TOP + tall}" {text}>{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}" {text}>{curve.points[0][0]:%d %b %H:%M}</text>'
        f'<text x="{WIDTH - LEFT}" y="{HEIGHT - 4}" text-anchor="end" {text}>'
        f"{curve.points[-1][0]:%d %b %H:%M}</text>"
    )
    return (
        f"<h3>{html.escape(curve.title)}, {html.escape(curve.unit)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(curve.title)}">'
        f'<polyline points="{line}" fill="none" stroke="#0b57d0" stroke-width="1.5"/>{stands}{ends}</svg>'
    )
