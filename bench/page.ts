/** What the report's page is made of: its style, its tables, how a server is named in them. */

import { PEER_IDS, PEERS, type PeerId } from './peers.js'
import { escaped } from './plots.js'
import type { Verdict } from './results.js'

/** The style sheet: one for both colour schemes, with a colour for each server. */
export const PAGE_STYLE: string = `
:root { color-scheme: light dark; --text: #1c2330; --soft: #5b6574; --line: #dfe3e9; --page: #fff; --panel: #f6f7f9;
  --mio-chunk: #1d5fd1; --mio-borrowed: #0b8f86; --tokio-chunk: #7440c9; --tokio-borrowed: #b0279b;
  --node-net: #7b8492; --raw-mio: #c76a06; --raw-tokio: #a33a1d; --bun: #3f7d20;
  --rloop: #8f6d14; --rloop-proto: #bf9a3c; --uvloop: #2f6c8a; --uvloop-proto: #6b9fb8;
  --pass: #12733c; --fail: #b3261e; --undecided: #8a5a00; --not-measured: #5b6574 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa4b2; --line: #323a46; --page: #14181e; --panel: #1c222a;
  --mio-chunk: #6ba2ff; --mio-borrowed: #38c7bc; --tokio-chunk: #b394ff; --tokio-borrowed: #e573d2;
  --node-net: #98a2b0; --raw-mio: #f0a04b; --raw-tokio: #ff8062; --bun: #8fcf6a;
  --rloop: #d6b54c; --rloop-proto: #efdc9c; --uvloop: #78b4d2; --uvloop-proto: #b5dbec;
  --pass: #58c98a; --fail: #ff8a80; --undecided: #e6b455; --not-measured: #9aa4b2 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 19px; margin: 40px 0 8px } h3 { font-size: 15px; margin: 20px 0 6px }
p { margin: 6px 0 12px; max-width: 76ch } .soft { color: var(--soft) }
.counts { display: flex; gap: 12px; flex-wrap: wrap; margin: 20px 0 }
.counts div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 128px }
.counts b { display: block; font-size: 24px; line-height: 1.2 }
.scroll { overflow-x: auto } .tight { white-space: nowrap } a { color: var(--mio-chunk) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: 600 } td.n, th.n { text-align: right; white-space: nowrap }
.pass { color: var(--pass) } .fail { color: var(--fail) } .undecided { color: var(--undecided) } .not-measured { color: var(--not-measured) }
td.verdict { font-weight: 600; white-space: nowrap } .reason { font-weight: 400 }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px }
svg { width: 100%; height: auto; display: block; margin: 8px 0 } svg text { fill: var(--text); font-size: 13px }
svg .group { font-weight: 600 } svg .label, svg .tick { fill: var(--soft) } svg .tick { font-size: 12px }
svg .figure { font-variant-numeric: tabular-nums } svg .guide, svg .grid { stroke: var(--line) } svg .one { stroke: var(--soft); stroke-dasharray: 4 3 }
svg .goal { stroke: var(--text); stroke-width: 2 } svg .span { stroke-width: 5; stroke-linecap: round; opacity: .45 } svg .thin { stroke-width: 2 }
${PEER_IDS.map(
  (peer) =>
    `svg .span.${peer} { stroke: var(--${peer}) } svg .dot.${peer}, svg .fill.${peer} { fill: var(--${peer}) } svg .hollow.${peer} { fill: var(--page); stroke: var(--${peer}); stroke-width: 2 } .key.${peer} { background: var(--${peer}) }`,
).join('\n')}
`

/** A server's title with its colour. */
export function peerName(peer: PeerId): string {
  return `<span class="key ${peer}"></span>${escaped(PEERS[peer].title)}`
}

/** A table of cells that are HTML already; columns of figures to the right. Without a head when that is empty. */
export function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  const numeric = head.map((_, column) => lines.every((line) => /^(<[^>]*>)?[\d.–]/.test(line[column] ?? '')))
  const kind = (column: number): string =>
    head[column] === 'verdict' ? ' class="verdict"' : numeric[column] ? ' class="n"' : ''
  const top = head.every((cell) => cell === '')
    ? ''
    : `<thead><tr>${head.map((cell, column) => `<th${kind(column)}>${cell}</th>`).join('')}</tr></thead>`
  const body = lines.map(
    (line) => `<tr>${line.map((cell, column) => `<td${kind(column)}>${cell}</td>`).join('')}</tr>`,
  )
  return `<div class="scroll"><table>${top}<tbody>${body.join('\n')}</tbody></table></div>`
}

/** How verdicts are called on a page. */
export const VERDICTS: Readonly<Record<Verdict, string>> = {
  pass: 'pass',
  fail: 'fail',
  undecided: 'undecided',
  'not-measured': 'not measured',
}

/** A bar with its verdict. */
interface Judged {
  readonly bar: { readonly kind: 'must' | 'aim' }
  readonly verdict: Verdict
}

/** How many bars pass and fail. */
export function verdictCounts(bars: readonly Judged[]): string {
  const must = bars.filter(({ bar }) => bar.kind === 'must')
  const aims = bars.filter(({ bar }) => bar.kind === 'aim')
  const number = (of: readonly Judged[], verdict: Verdict): number =>
    of.filter((one) => one.verdict === verdict).length
  if (bars.length === 0) return ''
  const open = number(must, 'undecided') + number(must, 'not-measured')
  return `<div class="counts">
<div><b class="pass">${number(must, 'pass')}</b>of ${must.length} bars pass</div>
<div><b class="${number(must, 'fail') > 0 ? 'fail' : 'soft'}">${number(must, 'fail')}</b>fail</div>
<div><b class="${open > 0 ? 'undecided' : 'soft'}">${open}</b>undecided</div>
<div><b>${number(aims, 'pass')} of ${aims.length}</b>aims reached</div></div>
<p><a href="#bars">Every bar with its interval</a> is at the end; <a href="#method">how this was measured</a> below it.</p>`
}
