// A little help to make elements. Text always goes in as text.

type Child = Node | string | null;
type Listeners = { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };

/** An element: attributes (false and null are left out, `test` is its name for tests), children, listeners. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | number | boolean | null> & { on?: never } = {},
  children: Child[] = [],
  on: Listeners = {},
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (tag === "button") element.setAttribute("type", "button"); // in a form it would send
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name === "test" ? "data-testid" : name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null) element.append(child);
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener as EventListener);
  return element;
}

export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
