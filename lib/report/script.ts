/**
 * The page's script: tables whose heads become buttons that sort, and a field that filters rows. Without it the page shows
 * the same in the order of the network.
 */
export const kScript = `
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], rows = [...body.rows]
  const value = (row, i) => { const c = row.cells[i], v = c.dataset.v; return v === undefined ? c.textContent : v === '' ? null : Number(v) }
  ;[...table.tHead.rows[0].cells].forEach((th, i) => {
    const button = document.createElement('button')
    button.type = 'button'
    button.append(...th.childNodes)
    th.append(button)
    th.setAttribute('aria-sort', i ? 'none' : 'ascending')
    button.addEventListener('click', () => {
      const now = th.getAttribute('aria-sort')
      const down = now === 'none' ? th.classList.contains('num') && i > 0 : now === 'ascending'
      for (const other of table.tHead.rows[0].cells) other.setAttribute('aria-sort', 'none')
      th.setAttribute('aria-sort', down ? 'descending' : 'ascending')
      const sorted = [...rows].sort((a, b) => {
        const x = value(a, i), y = value(b, i)
        if (x === null || y === null) return (x === null) - (y === null)
        const c = typeof x === 'number' ? x - y : x.localeCompare(y, undefined, { numeric: true })
        return down ? -c : c
      })
      body.append(...sorted)
    })
  })
  if (rows.length > 12) {
    const label = document.createElement('label'), field = document.createElement('input')
    label.className = 'filter'
    field.type = 'search'
    field.placeholder = 'conv, 8 bits, …'
    label.append('Show layers with ', field)
    table.closest('.scroll').before(label)
    field.addEventListener('input', () => {
      const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean)
      for (const row of rows) {
        const text = [...row.cells].map((c) => c.textContent).join(' ').toLowerCase()
        row.hidden = !words.every((w) => text.includes(w))
      }
    })
  }
}
for (const details of document.querySelectorAll('details')) {
  let open
  addEventListener('beforeprint', () => { open = details.open; if (details.classList.contains('layer')) details.open = true })
  addEventListener('afterprint', () => { details.open = open })
}
`.trim()
