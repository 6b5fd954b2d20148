"""The demo's outcome as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from twigkit.bench.compare import Row
from twigkit.bench.table import HEADER, comparison_cells, size
from twigkit.demo.decoding_image import WrittenToken
from twigkit.demo.overlay import draw_heat, draw_kept, draw_survival, enlarge
from twigkit.demo.page import budget_in_words, pairs, verdict
from twigkit.demo.show import Exhibit, Panel, Show

STYLE = """
:root { --ink: #1d2330; --soft: #5d6678; --line: #e3e6ec; --card: #fff; --page: #f5f6f9;
  --accent: #d6286e; --good: #16794c; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 44px 0 14px; }
p { margin: 0 0 10px; max-width: 76ch; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin: 26px 0 0; }
.tile, .card, .sheet { background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
.tile { padding: 16px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 13px; }
.tile b.good { color: var(--good); } .tile b.bad { color: var(--bad); }
.sheet { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 10px 12px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-size: 12px; line-height: 1.3; color: var(--soft); font-weight: 600;
  white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
td:first-child { font-weight: 600; }
.bar { display: inline-block; height: 8px; border-radius: 4px; background: var(--accent);
  margin-right: 8px; vertical-align: middle; opacity: 0.75; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.card { padding: 18px; margin: 0 0 16px; }
.scene { display: grid; grid-template-columns: 220px 1fr; gap: 22px; }
.card > h3 { margin: 0 0 12px; font-size: 14px; color: var(--soft); font-weight: 600; }
.panel { display: grid; grid-template-columns: 170px 1fr; gap: 18px; padding: 14px 0;
  border-top: 1px solid var(--line); align-items: start; }
.panel:first-of-type { border-top: 0; padding-top: 0; }
figure { margin: 0; }
img { width: 100%; display: block; border-radius: 8px; border: 1px solid var(--line); }
figcaption { font-size: 12px; color: var(--soft); margin-top: 6px; }
.question { font-weight: 600; margin: 0 0 6px; }
.answer { margin: 0 0 8px; }
.draft, .own { border-radius: 4px; padding: 0 3px; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; }
.draft { background: #cfecd7; } .own { background: #fddecc; }
.steps { display: flex; align-items: flex-end; gap: 2px; height: 34px; margin: 2px 0 4px; }
.steps i { width: 9px; display: flex; flex-direction: column-reverse; }
.steps b { display: block; background: #2b8a3e; } .steps u { display: block; height: 5px;
  background: #d9480f; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 14px;
  margin-top: 14px; }
.beside figcaption b { color: var(--ink); display: block; }
.beside img + img { margin-top: 4px; }
details { font-size: 13px; color: var(--soft); }
details img { max-width: 170px; margin-top: 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0;
  font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 820px) { .tiles { grid-template-columns: repeat(2, 1fr); }
  .scene { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def render(show: Show) -> str:
    """Write the report.

    Args:
        show: What the demo found.

    Returns:
        HTML with its style and pictures inside.
    """
    scenes = "\n".join(
        _exhibit(number, exhibit, show) for number, exhibit in enumerate(show.exhibits, 1)
    )
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in show.conditions.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>twigkit demo</title>
<style>{STYLE}</style>
</head>
<body><main>
<h1>A twig at work</h1>
<p class="soft">The small vision-language model that ships with twigkit answers questions about
pictures that no training has seen. A twig on layer {show.exit_layer} sees which visual tokens
matter and drops the rest, and drafts tokens that the model only has to verify.
{escape(budget_in_words(show))}</p>
{_tiles(show)}
<h2>Side by side</h2>
{_table(show)}
<h2>What was asked, what was kept, what was said</h2>
{scenes}
<h2>Conditions</h2>
<div class="card"><dl>{facts}</dl></div>
</main></body>
</html>
"""


def _tiles(show: Show) -> str:
    """The four numbers to take home."""
    comparison = show.comparison
    first, both = comparison.rows[0], comparison.rows[-1]
    speed = comparison.speed(both.method.name, first.method.name)
    kept = len(show.exhibits[0].panels[-1].kept)
    memory = both.kv_bytes + both.draft_kv_bytes
    tiles = [
        ("", f"{speed:.2f}x", f"the speed of {first.method.name}, with {both.method.name}"),
        ("", f"{kept} of {show.visual}", f"visual tokens kept after layer {show.exit_layer}"),
        (
            "",
            f"{first.kv_bytes / memory:.1f}x smaller",
            f"keys and values: {size(memory)}, the twig's included, instead of "
            f"{size(first.kv_bytes)}",
        ),
        ("good", "yes", "same tokens as the target")
        if comparison.lossless
        else ("bad", "no", "same tokens as the target"),
    ]
    inner = "".join(
        f'<div class="tile"><b class="{mark}">{escape(big)}</b><span>{escape(text)}</span></div>'
        for mark, big, text in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _table(show: Show) -> str:
    """All methods on the descriptions."""
    comparison = show.comparison
    fastest = max(row.tokens_per_second for row in comparison.rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    body = "".join(
        _line(cells, row, fastest)
        for cells, row in zip(comparison_cells(comparison), comparison.rows, strict=True)
    )
    return f"""<div class="sheet"><table><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div>
<p class="small soft" style="margin-top:12px">{len(show.exhibits)} descriptions, greedy, the
methods in turn on every picture. TTFT is the time to the first token, TPOT the time per token after
it, ITL the time between two arrivals, each median / 95th percentile; RelSpd is the speed of whole
calls beside the first method's; a dash stands where nothing was measured.
TTP drops visual tokens, SSD drafts with the twig; accepted is the tokens gained per verification.
KV is what the base's keys and values use at the end; the twig's own come on top. Same tokens: token
for token, in this run ({escape(pairs(show))}).</p>
<p class="small {"good" if comparison.lossless else "bad"}">{escape(verdict(show))}</p>"""


def _line(cells: list[str], row: Row, fastest: float) -> str:
    """One method."""
    inner = []
    for name, cell in zip(HEADER, cells, strict=True):
        text = escape(cell)
        if name == "tokens/s":
            width = round(64 * row.tokens_per_second / fastest) if fastest else 0
            text = f'<span class="bar" style="width:{width}px"></span>{text}'
        if name == HEADER[-1] and row.checked:
            text = f'<span class="{"good" if row.difference is None else "bad"}">{text}</span>'
        inner.append(f"<td>{text}</td>")
    return f"<tr>{''.join(inner)}</tr>"


def _exhibit(number: int, exhibit: Exhibit, show: Show) -> str:
    """One scene with its questions."""
    picture = _image(enlarge(exhibit.picture, exhibit.grid), f"scene {number}")
    panels = "".join(_panel(panel, exhibit, show) for panel in reversed(exhibit.panels))
    return f"""<section class="card"><h3>Scene {number}</h3>
<div class="scene"><figure>{picture}<figcaption>the picture</figcaption></figure>
<div>{panels}</div></div>{_beside(exhibit)}</section>"""


def _beside(exhibit: Exhibit) -> str:
    """What several pruners keep, and how they score, for the first question."""
    if not exhibit.pruned:
        return ""
    figures = []
    for each in exhibit.pruned:
        kept = draw_survival(exhibit.picture, exhibit.grid, each.survived, 12)
        heat = draw_heat(exhibit.picture, exhibit.grid, each.scores, 12)
        cuts = " &gt; ".join(map(str, each.cuts))
        images = _image(kept, f"kept by {each.name}") + _image(heat, f"scores of {each.name}")
        figures.append(
            f"<figure>{images}<figcaption><b>{escape(each.name)}</b> {cuts} tokens, "
            f"{each.average:.1f} per layer</figcaption></figure>"
        )
    question = escape(exhibit.panels[0].turn.question)
    return f"""<details><summary>the same budget by several pruners: “{question}”</summary>
<p class="small soft">Above what each keeps (faded: gone at a later cut), below how it scores.</p>
<div class="beside">{"".join(figures)}</div></details>"""


def _panel(panel: Panel, exhibit: Exhibit, show: Show) -> str:
    """One question: what was kept of the picture, and the answer."""
    kept = _image(draw_kept(exhibit.picture, exhibit.grid, panel.kept), "kept visual tokens")
    heat = _image(draw_heat(exhibit.picture, exhibit.grid, panel.scores), "scores")
    mark = "good" if panel.right else "bad"
    same = panel.unpruned == panel.answer
    unpruned = "the same answer" if same else f"“{escape(panel.unpruned)}”"
    return f"""<div class="panel">
<figure>{kept}<figcaption>{len(panel.kept)} of {show.visual} tokens kept</figcaption></figure>
<div>
<p class="question">{escape(panel.turn.question)}</p>
<p class="answer">{_written(panel)}</p>{_steps(panel.gains)}
<p class="small {mark}">{escape(panel.verdict)}</p>
<p class="small soft">with all visual tokens: {unpruned}</p>
<details><summary>scores</summary>{heat}</details>
</div>
</div>"""


def _written(panel: Panel) -> str:
    """The answer, coloured by who wrote each token."""
    if not panel.written:
        return escape(panel.answer) or "(nothing)"

    def span(token: WrittenToken) -> str:
        space = " " if token.text[:1] == " " else ""
        kind = "draft" if token.drafted else "own"
        return f'{space}<span class="{kind}">{escape(token.text.strip(" "))}</span>'

    return "".join(span(token) for token in panel.written)


def _steps(gains: Sequence[int]) -> str:
    """A bar per verification: accepted drafts in green, the target's own token in orange."""
    if len(gains) < 2:
        return ""
    bars = "".join(f'<i><b style="height:{5 * (gain - 1)}px"></b><u></u></i>' for gain in gains)
    average = sum(gains) / len(gains)
    return f"""<div class="steps">{bars}</div><p class="small soft">green: drafted and accepted,
orange: the target's own; {average:.2f} tokens for each of {len(gains)} verifications</p>"""


def _image(image: Image.Image, title: str) -> str:
    """An image tag that holds its picture."""
    data = base64.b64encode(png(image)).decode("ascii")
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def png(image: Image.Image) -> bytes:
    """Encode a picture as a PNG file.

    Args:
        image: The picture.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
