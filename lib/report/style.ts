/** The whole look of a report. Two inks, one accent, one warning; everything else is derived from them. */
export const kStyle = `
:root{--bg:#f6f7f9;--card:#fff;--ink:#17202c;--soft:#5c6878;--line:#e1e5eb;--pale:#c9d1dc;--accent:#0b7a75;--keep:#d08a1e;--rest:#8e9aab;--bad:#c0392b;--onAccent:#fff}
@media (prefers-color-scheme:dark){:root{--bg:#0e1319;--card:#161d26;--ink:#e7ecf2;--soft:#97a4b4;--line:#26303c;--pale:#3b4858;--accent:#2fb5ac;--keep:#e0a242;--rest:#66758a;--bad:#ef6b5c;--onAccent:#06201f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1000px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:28px;letter-spacing:-.02em;margin:0}
h2{font-size:20px;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}
h3{font-size:14px;margin:32px 0 8px}
.sub{color:var(--soft);margin:4px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:28px;margin-top:24px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin-top:20px}
.tile{border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.tile .k{color:var(--soft);font-size:13px}
.tile .v{font-size:26px;font-weight:650;letter-spacing:-.02em;line-height:1.3;font-variant-numeric:tabular-nums}
.tile .n{color:var(--soft);font-size:13px}
.limits{margin:16px 0 0}
.limit{display:inline-block;border-radius:99px;padding:2px 12px;font-size:13px;border:1px solid}
.limit.met{color:var(--accent)}
.limit.missed{color:var(--bad)}
svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
svg text.axis,svg text.note{fill:var(--soft);font-variant-numeric:tabular-nums}
svg text.note.strong{fill:var(--ink);font-weight:600;font-size:14px}
svg .grid{stroke:var(--line)}
svg .grid.faint{opacity:.5}
svg .before,svg .part.old{fill:var(--pale)}
svg .after,svg .packed{fill:var(--accent)}
svg .kept,svg .part.float{fill:var(--keep)}
svg .part.rest{fill:var(--rest)}
svg text.onPart{fill:#fff;font-weight:600}
svg text.onPart.old{fill:var(--ink)}
svg text.onPart.packed{fill:var(--onAccent)}
svg circle.dot{fill:var(--accent)}
svg circle.over{fill:var(--bad)}
svg .stem{stroke:var(--accent);opacity:.35}
svg .stem.over{stroke:var(--bad)}
svg .budget{stroke:var(--bad);stroke-dasharray:5 4}
svg text.budgetText{fill:var(--bad)}
svg.meter{width:200px;height:10px}
.legend{color:var(--soft);font-size:13px;margin:0 0 6px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 5px 0 10px;vertical-align:-1px}
.legend i:first-child{margin-left:0}
.legend .before{background:var(--pale)}
.legend .after{background:var(--accent)}
.legend .kept{background:var(--keep)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--line);vertical-align:middle}
th.num,td.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
details{margin-top:20px}
summary{cursor:pointer;color:var(--soft);font-size:14px}
details table{font-size:13px;margin-top:8px}
code,pre{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{overflow-x:auto;background:var(--bg);border-radius:8px;padding:14px}
@media print{body{background:#fff}section{break-inside:avoid;border:0;padding:0}}
`.replace(/\n/g, '')
