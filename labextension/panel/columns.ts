// Which weights answer: a chip for those of this moment, the base, and each checkpoint that is published.

import { h } from "./dom";
import { Store } from "./store";

export const MOST_COLUMNS = 6;
const NEWEST = 4; // checkpoints that have a chip without being asked for; the others are in the list

interface Chip {
  label: HTMLElement;
  box: HTMLInputElement;
  best: HTMLElement;
}

export class Columns {
  readonly element = h("fieldset", { class: "jft-chips", test: "chat-columns" });
  readonly #other = h("select", { class: "jft-other", test: "chat-other", "aria-label": "Another kept step" });
  readonly #chips = new Map<string, Chip>();
  readonly #asked = new Set<string>(); // a chip that was ticked stays when it is no longer
  #listed = "";
  readonly #store: Store;
  readonly #chosen: string[];
  readonly #changed: () => void;

  constructor(
    store: Store,
    chosen: string[],
    changed: () => void,
  ) {
    this.#store = store;
    this.#chosen = chosen;
    this.#changed = changed;
    this.#other.addEventListener("change", () => this.set(this.#other.value, true));
  }

  /** Takes `at` in or out, keeping the order: live, base, the steps. */
  set(at: string, on: boolean): void {
    const wanted = this.#chosen.filter((one) => one !== at);
    if (on && wanted.length < MOST_COLUMNS) wanted.push(at);
    wanted.sort((a, b) => place(a) - place(b));
    this.#chosen.splice(0, this.#chosen.length, ...wanted);
    this.draw();
    this.#changed();
  }

  draw(): void {
    const [store, chosen] = [this.#store, this.#chosen];
    const saved = [...store.checkpoints].sort((a, b) => a - b);
    const known = saved.filter((step) => step === store.best || saved.indexOf(step) >= saved.length - NEWEST).map(String);
    for (const at of chosen) this.#asked.add(at);
    const names = [...new Set(["live", "base", ...known, ...this.#asked])]
      .filter((at) => !/^\d+$/.test(at) || chosen.includes(at) || store.checkpoints.includes(Number(at))) // or it had to make room
      .sort((a, b) => place(a) - place(b));
    const others = saved.map(String).filter((step) => !names.includes(step));
    this.#list(names, others);
    const full = chosen.length >= MOST_COLUMNS;
    this.#other.disabled = full;
    for (const at of names) {
      const chip = this.#chip(at);
      chip.box.checked = chosen.includes(at);
      chip.box.disabled = full && !chip.box.checked;
      chip.label.title = chip.box.disabled ? `${MOST_COLUMNS} columns at most` : "";
      chip.best.hidden = at !== String(store.best);
    }
  }

  #list(names: string[], others: string[]): void {
    const key = JSON.stringify([names, others]);
    if (key === this.#listed) return;
    this.#listed = key;
    const focused = this.element.contains(document.activeElement) ? (document.activeElement as HTMLElement) : null;
    this.#other.replaceChildren(h("option", { value: "" }, ["step…"]), ...others.map((step) => h("option", { value: step }, [nameOf(step)])));
    this.#other.hidden = !others.length;
    this.element.replaceChildren(h("legend", {}, ["Answered by"]), ...names.map((at) => this.#chip(at).label), this.#other);
    focused?.focus();
  }

  #chip(at: string): Chip {
    const found = this.#chips.get(at);
    if (found) return found;
    const box = h("input", { type: "checkbox", test: `chat-${at}` });
    box.addEventListener("change", () => this.set(at, box.checked));
    const best = h("span", { class: "jft-best", hidden: true }, ["best"]);
    const chip = { box, best, label: h("label", { class: "jft-chip" }, [box, nameOf(at), best]) };
    this.#chips.set(at, chip);
    return chip;
  }
}

/** `live`, `base`, `step 120`. */
export function nameOf(at: string): string {
  return /^\d+$/.test(at) ? `step ${at}` : at;
}

function place(at: string): number {
  return at === "live" ? -1 : at === "base" ? 0 : Number(at);
}
