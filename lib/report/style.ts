/** The whole look of a report. Two inks, one accent, one warning; everything else is derived from them. */
export const kStyle = `
:root{--bg:#f6f7f9;--card:#fff;--ink:#17202c;--soft:#5c6878;--line:#e1e5eb;--pale:#c9d1dc;--accent:#0b7a75;--keep:#d08a1e;--rest:#8e9aab;--bad:#c0392b;--onAccent:#fff;--s1:#c97b12;--s2:#3b68c9;--s3:#b0407f;--s4:#6b7a3a}
@media screen and (prefers-color-scheme:dark){:root{--bg:#0e1319;--card:#161d26;--ink:#e7ecf2;--soft:#97a4b4;--line:#26303c;--pale:#3b4858;--accent:#2fb5ac;--keep:#e0a242;--rest:#66758a;--bad:#ef6b5c;--onAccent:#06201f;--s1:#e5a63f;--s2:#7ea4f4;--s3:#e583bb;--s4:#b3c473}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1080px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:28px;letter-spacing:-.02em;margin:0}
h2{font-size:20px;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}
h3{font-size:17px;letter-spacing:-.01em;margin:0 0 10px}
h4{font-size:14px;margin:24px 0 6px}
.part{margin-top:36px;padding-top:26px;border-top:1px solid var(--line);scroll-margin-top:8px}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:18px 0 0;padding:0;font-size:14px}
a{color:var(--accent);text-underline-offset:3px}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
.sub{color:var(--soft);margin:4px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:28px;margin-top:24px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin-top:20px}
@media (min-width:720px){.tiles:has(.tile:nth-child(5)){grid-template-columns:repeat(3,1fr)}}
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
th button{all:unset;cursor:pointer;white-space:nowrap}
th button:hover{color:var(--ink)}
th button:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:3px}
th[aria-sort] button::after{content:"";display:inline-block;width:0;margin-left:5px;border:4px solid transparent;border-bottom:0;border-top-color:currentColor;vertical-align:3px;visibility:hidden}
th.num button{display:inline-flex;flex-direction:row-reverse;align-items:center}
th.num[aria-sort] button::after{margin:0 5px 0 0}
th[aria-sort=descending] button::after{visibility:visible}
th[aria-sort=ascending] button::after{visibility:visible;border-bottom:4px solid currentColor;border-top:0}
.sortable{font-size:13px}
.sortable th{position:sticky;top:0;background:var(--card);border-bottom:0;box-shadow:inset 0 -1px var(--line)}
.sortable th,.sortable td{padding:6px 12px 6px 0}
.sortable td.done{min-width:120px;font-size:12px;line-height:1.35}
.sortable td:nth-child(2){font-weight:550;overflow-wrap:anywhere;min-width:130px}
.sortable td:nth-child(4)>*{white-space:nowrap;display:inline-block}
.sortable td.num{font-size:12.5px}
.sortable td i{color:var(--soft);font-style:normal}
.sortable tbody tr:hover td{background:var(--bg)}
.scroll:has(.sortable){max-height:560px;overflow:auto;border:1px solid var(--line);border-radius:10px;padding:0 0 0 14px}
.keptRow td:nth-child(2)::before{content:"";display:inline-block;width:8px;height:8px;border-radius:2px;background:var(--keep);margin-right:6px}
.spared{color:var(--keep)}
.filter{display:block;color:var(--soft);font-size:13px;margin:0 0 10px}
.filter input{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:8px;padding:5px 10px;margin-left:6px;width:min(260px,100%)}
svg.mini{width:60px;height:5px;margin:2px 0 0 auto}
.chart{overflow-x:auto}
.chart>svg{min-width:640px}
details.layer{border:1px solid var(--line);border-radius:10px;margin-top:8px;padding:10px 14px}
details.layer summary{font-size:13px}
details.layer summary b{color:var(--ink);font-weight:600;margin-right:6px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:18px 22px;margin-top:12px}
figure{margin:0;min-width:0}
figure p{color:var(--soft);font-size:12px;line-height:1.4;margin:2px 0 0}
figcaption{font-size:13px;font-weight:600;margin-bottom:2px}
svg .hist{fill:var(--accent);opacity:.75}
svg .outline{fill:none;stroke:var(--s1);stroke-width:1.6}
svg .axisLine{stroke:var(--line)}
svg .clip{stroke-width:1.2}
svg .clip.percentile{stroke:var(--soft);stroke-dasharray:3 3}
svg .clip.mse{stroke:var(--bad)}
svg .curve{fill:none;stroke-width:1.8;stroke-linejoin:round}
svg .s0{stroke:var(--accent)}svg .s1{stroke:var(--s1)}svg .s2{stroke:var(--s2)}svg .s3{stroke:var(--s3)}svg .s4{stroke:var(--s4)}
svg .curve.s1{stroke-dasharray:7 3}svg .curve.s2{stroke-dasharray:2 3}svg .curve.s3{stroke-dasharray:9 3 2 3}
svg .point{fill:var(--card);stroke-width:1.6}
svg .cell{fill:var(--accent)}
svg .empty{fill:var(--bg)}
svg.mask{border:1px solid var(--line)}
svg .trade{fill:var(--accent);stroke:var(--card);stroke-width:1.5}
svg .trade.original{fill:var(--rest)}
svg .trade.tried{fill:var(--card);stroke:var(--accent)}
svg .trail{fill:none;stroke:var(--accent);opacity:.35;stroke-dasharray:4 4}
.legend i.hist{background:var(--accent);opacity:.75}
.legend i.outline,.legend i.dashed,.legend i.solid,.legend i.curve{width:18px;height:0;border-radius:0;border-top:2px solid var(--s1);vertical-align:4px}
.legend i.dashed{border-top:2px dashed var(--soft)}
.legend i.solid{border-top-color:var(--bad)}
.legend i.s0{border-top-color:var(--accent)}.legend i.s1{border-top:2px dashed var(--s1)}.legend i.s2{border-top:2px dotted var(--s2)}.legend i.s3{border-top:2px dashed var(--s3)}.legend i.s4{border-top-color:var(--s4)}
.notes{color:var(--soft);font-size:13px;padding-left:18px}
details{margin-top:20px}
summary{cursor:pointer;color:var(--soft);font-size:14px}
details table{font-size:13px;margin-top:8px}
code,pre{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{overflow-x:auto;background:var(--bg);border-radius:8px;padding:14px}
@media (max-width:600px){main{padding:24px 10px 40px}section{padding:18px 14px;border-radius:12px}.tile .v{font-size:22px}}
@media print{.filter,nav{display:none}main{max-width:none;padding:0}.scroll,.chart{overflow:visible}.chart>svg{min-width:0}svg.meter{width:90px}.sortable,.sortable td.num,.sortable td.done{font-size:9px}.sortable th,.sortable td{padding:2px 5px 2px 0}.sortable td:nth-child(2),.sortable td.done{min-width:0}.cards{grid-template-columns:repeat(4,1fr);gap:8px 12px}h3,h4,summary{break-after:avoid}tr,details.layer{break-inside:avoid}.scroll:has(.sortable){max-height:none;border:0}.sortable th{position:static}figure{break-inside:avoid}body{background:#fff}section{border:0;padding:0}}
`.replace(/\n/g, '')
