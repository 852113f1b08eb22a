"""The page's style sheet: colours that colour-blind people tell apart, on light and on dark.

The palette of lines and markers is Okabe and Ito's ("Color Universal Design", 2008) without its
yellow and black, which vanish on one of the two grounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from flower_strategy.report.cell_charts import SHADES
from flower_strategy.report.charts import COLOURS

_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
_ON_DARK = ("#4aa3df", "#e69f00", "#1fbf92", "#f0783c", "#dd94bb", "#8fd0f5")
_RAMP = ("#e3eef7", "#5aa2d2", "#08306b")
_RAMP_ON_DARK = ("#18293a", "#2f7fb8", "#d6ebfc")


def style_sheet() -> str:
    """Return the style sheet."""
    light = _variables(_PALETTE, _RAMP)
    dark = _variables(_ON_DARK, _RAMP_ON_DARK)
    classes = "".join(
        f".fill{index}{{fill:var(--c{index})}}.line{index}{{stroke:var(--c{index})}}"
        for index in range(COLOURS)
    )
    classes += "".join(f".shade{index}{{fill:var(--h{index})}}" for index in range(SHADES))
    return (
        f":root{{color-scheme:light dark;{_LIGHT}{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{_DARK}{dark}}}}}{classes}{_RULES}"
    )


def _variables(palette: Sequence[str], ramp: Sequence[str]) -> str:
    colours = [f"--c{index}:{colour};" for index, colour in enumerate(palette)]
    shades = [f"--h{index}:{_between(ramp, index / (SHADES - 1))};" for index in range(SHADES)]
    return "".join(colours + shades)


def _between(ramp: Sequence[str], share: float) -> str:
    """Return the colour at a share of a ramp of three."""
    first, second = (ramp[0], ramp[1]) if share < 0.5 else (ramp[1], ramp[2])
    part = 2 * share if share < 0.5 else 2 * share - 1
    mixed = [
        round((1 - part) * int(first[at : at + 2], 16) + part * int(second[at : at + 2], 16))
        for at in (1, 3, 5)
    ]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


_LIGHT = (
    "--ground:#f6f7f9;--card:#fff;--ink:#1b2530;--soft:#5a6673;--line:#dde2e8;--absent:#eceff2;"
    "--warn:#c2410c;--high:#fff;--low:#1b2530;"
)
_DARK = (
    "--ground:#10151b;--card:#19212a;--ink:#e6ebf0;--soft:#9eabb8;--line:#303b47;"
    "--absent:#242d37;--warn:#ff9360;--high:#10151b;--low:#e6ebf0;"
)

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1320px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.05rem;margin:0 0 8px}
.lead{color:var(--soft);margin:4px 0 20px;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:12px;margin:0 0 20px}
.tiles>div,figure,section{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tiles>div{padding:12px 14px}
dt{color:var(--soft);font-size:.82rem}
dd{margin:0;font-size:.8rem;color:var(--soft)}
dd.value{font-size:1.3rem;overflow-wrap:anywhere;font-weight:600;color:var(--ink);font-variant-numeric:tabular-nums}
.grid-of-figures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}
figure,section{margin:0;padding:16px;min-width:0}
figure{display:flex;flex-direction:column}
section{margin-top:16px}
section p{margin:0;color:var(--soft)}
figcaption{color:var(--soft);font-size:.84rem;margin-top:auto;padding-top:8px}
.missing{color:var(--soft);background:var(--absent);border-radius:6px;padding:28px 12px;
 text-align:center;margin:0}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:0 0 8px;padding:0;
 font-size:.82rem;max-height:7.5em;overflow:auto}
.legend li{display:flex;align-items:center;gap:5px;min-width:0}
.legend span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;max-width:18em}
.legend svg{flex:none;border-radius:2px}
.scroll{overflow-x:auto;max-width:100%}
figure .scroll>svg{display:block;width:100%;min-width:460px;height:auto;margin:0 auto}
.scroll>svg:focus-visible,.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--c0);
 outline-offset:1px;border-radius:4px}
svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg text.name{fill:var(--ink)}
svg text.ink-high{fill:var(--high);pointer-events:none}
svg text.ink-low{fill:var(--low);pointer-events:none}
.grid,.axis{stroke:var(--line);fill:none}
.axis{stroke:var(--soft)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.ink{stroke:var(--ink)}
.span{stroke-width:2;opacity:.45;fill:none}
.dash1{stroke-dasharray:7 4}.dash2{stroke-dasharray:2 3}.dashed{stroke-dasharray:4 4}
.level{stroke:var(--warn);stroke-dasharray:8 4;fill:none}
.mark{stroke:none}
path.mark[data-tip]{stroke:var(--card);stroke-width:1}
.mark.on{stroke:var(--ink);stroke-width:2}
.absent{fill:var(--absent)}
.hatch{stroke:var(--warn);stroke-width:1.6;fill:none}
.cross{stroke:var(--warn);stroke-width:2;fill:none;pointer-events:none}
.boundary{stroke:var(--ink);stroke-width:1.4;fill:none}
.cursor{fill:none;stroke:var(--ink);stroke-width:2;pointer-events:none}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);
 vertical-align:top;overflow-wrap:anywhere;min-width:4.5em}
td:first-child{white-space:nowrap}
th{color:var(--soft);font-weight:600;white-space:nowrap}
details{margin-top:8px;font-size:.84rem}
details .scroll{max-height:320px;overflow-y:auto}
summary{cursor:pointer;color:var(--soft)}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:min(340px,90vw);padding:6px 9px;
 border-radius:6px;background:var(--ink);color:var(--card);font-size:.82rem;line-height:1.35;
 overflow-wrap:anywhere}
#tip[hidden]{display:none}
@media (max-width:720px){.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media (max-width:900px){.grid-of-figures{grid-template-columns:minmax(0,1fr)}}
@media (max-width:480px){main{padding:16px 10px 32px}figure,section{padding:12px}}
@media print{body{background:none}figure,section{break-inside:avoid}details{display:none}}
"""
