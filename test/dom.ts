/** As much of a browser's document as the script of a report uses, over well-formed HTML without a parser's corrections. */

type Listener = (event: object) => void

const kEntities: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" }
const plain = (text: string): string => text.replace(/&(amp|lt|gt|quot|#39);/g, (_, name: string) => kEntities[name]!)

export class Element {
  readonly tag: string
  readonly attributes = new Map<string, string>()
  readonly listeners = new Map<string, Listener[]>()
  childNodes: Element[] = []
  parent: Element | undefined
  value = ''
  hidden = false
  type = ''
  placeholder = ''

  /** `text`: of a node of text alone. */
  constructor(
    tag: string,
    readonly text = '',
  ) {
    this.tag = tag
  }

  get children(): Element[] {
    return this.childNodes.filter((c) => c.tag !== '#text')
  }
  get textContent(): string {
    return this.text + this.childNodes.map((c) => c.textContent).join('')
  }
  get className(): string {
    return this.attributes.get('class') ?? ''
  }
  set className(name: string) {
    this.attributes.set('class', name)
  }
  get classList(): { contains(name: string): boolean } {
    return { contains: (name) => this.className.split(' ').includes(name) }
  }
  get dataset(): Record<string, string> {
    return Object.fromEntries(
      [...this.attributes].filter(([k]) => k.startsWith('data-')).map(([k, v]) => [k.slice(5), v]),
    )
  }
  get open(): boolean {
    return this.attributes.has('open')
  }
  set open(on: boolean) {
    if (on) this.attributes.set('open', '')
    else this.attributes.delete('open')
  }
  get tHead(): Element | undefined {
    return this.children.find((c) => c.tag === 'thead')
  }
  get tBodies(): Element[] {
    return this.children.filter((c) => c.tag === 'tbody')
  }
  get rows(): Element[] {
    return this.children.filter((c) => c.tag === 'tr')
  }
  get cells(): Element[] {
    return this.children.filter((c) => ['td', 'th'].includes(c.tag))
  }

  getAttribute(name: string): string | null {
    return this.attributes.get(name) ?? null
  }
  setAttribute(name: string, value: string): void {
    this.attributes.set(name, value)
  }
  append(...nodes: (Element | string)[]): void {
    for (const given of nodes) {
      const node = typeof given === 'string' ? new Element('#text', given) : given
      node.remove()
      node.parent = this
      this.childNodes.push(node)
    }
  }
  before(node: Element): void {
    node.remove()
    node.parent = this.parent
    this.parent!.childNodes.splice(this.parent!.childNodes.indexOf(this), 0, node)
  }
  remove(): void {
    if (this.parent) this.parent.childNodes = this.parent.childNodes.filter((c) => c !== this)
  }
  closest(selector: string): Element | null {
    return this.matches(selector) ? this : (this.parent?.closest(selector) ?? null)
  }
  /** Of the selectors `tag`, `.class` and `tag.class`. */
  matches(selector: string): boolean {
    const [tag, ...names] = selector.split('.')
    return (!tag || tag === this.tag) && names.every((n) => this.classList.contains(n))
  }
  querySelectorAll(selector: string): Element[] {
    return this.children.flatMap((c) => [...(c.matches(selector) ? [c] : []), ...c.querySelectorAll(selector)])
  }
  createElement(tag: string): Element {
    return new Element(tag)
  }
  addEventListener(name: string, listener: Listener): void {
    this.listeners.set(name, [...(this.listeners.get(name) ?? []), listener])
  }
  dispatch(name: string): void {
    for (const listener of this.listeners.get(name) ?? []) listener({})
  }
}

/** The document, and what its script does to it once it runs. */
export function documentOf(html: string): { document: Element; window: Element } {
  const document = new Element('#document')
  let at = document
  const [, script] = /<script>([^]*?)<\/script>/.exec(html)!
  for (const [, text, close, tag, attributes, self] of html
    .replace(/<script>[^]*?<\/script>/, '')
    .matchAll(/([^<]*)<(\/?)!?([a-zA-Z][a-zA-Z0-9]*)([^>]*?)(\/?)>/g)) {
    if (text) at.append(plain(text))
    if (close) at = at.parent!
    else {
      const element = new Element(tag!.toLowerCase())
      for (const [, name, value] of attributes!.matchAll(/([a-zA-Z-]+)(?:="([^"]*)")?/g))
        element.attributes.set(name!, plain(value ?? ''))
      at.append(element)
      if (!self && !['meta', 'doctype'].includes(element.tag)) at = element
    }
  }
  const window = new Element('#window')
  new Function('document', 'addEventListener', script!)(document, (name: string, listener: Listener) =>
    window.addEventListener(name, listener),
  )
  return { document, window }
}
