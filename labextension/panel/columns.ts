// Which weights answer: a chip for those of this moment, the base, and each checkpoint that is published.

import { h } from "./dom";
import { Store } from "./store";

export const MOST_COLUMNS = 6;
const NEWEST = 4; // checkpoints that have a chip without being asked for; the others are in the list

export class Columns {
  readonly element = h("fieldset", { class: "jft-chips", "data-testid": "chat-columns" });
  private readonly other = h("select", { class: "jft-other", "data-testid": "chat-other", "aria-label": "Another checkpoint" });
  private drawn = "";

  constructor(
    private readonly store: Store,
    private readonly chosen: string[],
    private readonly changed: () => void,
  ) {
    this.other.addEventListener("change", () => this.set(this.other.value, true));
  }

  /** Takes `at` in or out, keeping the order: live, base, the steps. */
  set(at: string, on: boolean): void {
    const wanted = this.chosen.filter((one) => one !== at);
    if (on && wanted.length < MOST_COLUMNS) wanted.push(at);
    wanted.sort((a, b) => place(a) - place(b));
    this.chosen.splice(0, this.chosen.length, ...wanted);
    this.draw();
    this.changed();
  }

  draw(): void {
    const { store, chosen } = this;
    const saved = [...store.checkpoints].sort((a, b) => a - b);
    const known = saved.filter((step) => step === store.best || saved.indexOf(step) >= saved.length - NEWEST).map(String);
    const chips = ["live", "base", ...new Set([...known, ...chosen.filter((at) => place(at) > 0)])].sort((a, b) => place(a) - place(b));
    const others = saved.map(String).filter((step) => !chips.includes(step));
    const key = JSON.stringify([chips, chosen, others, store.best]);
    if (key === this.drawn) return;
    this.drawn = key;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.testid : undefined;
    this.other.replaceChildren(h("option", { value: "" }, ["step…"]), ...others.map((step) => h("option", { value: step }, [`step ${step}`])));
    this.other.hidden = !others.length;
    this.other.disabled = chosen.length >= MOST_COLUMNS;
    this.element.replaceChildren(h("legend", {}, ["Answered by"]), ...chips.map((at) => this.chip(at)), this.other);
    if (focused) this.element.querySelector<HTMLElement>(`[data-testid="${CSS.escape(focused)}"]`)?.focus();
  }

  private chip(at: string): HTMLElement {
    const on = this.chosen.includes(at);
    const full = !on && this.chosen.length >= MOST_COLUMNS;
    const box = h("input", { type: "checkbox", "data-testid": `chat-${at}`, checked: on, disabled: full });
    box.addEventListener("change", () => this.set(at, box.checked));
    const words = [nameOf(at), at === String(this.store.best) ? h("span", { class: "jft-best" }, ["best"]) : null];
    return h("label", { class: "jft-chip", title: full ? `${MOST_COLUMNS} columns at most` : null }, [box, ...words]);
  }
}

/** `live`, `base`, `step 120`. */
export function nameOf(at: string): string {
  return /^\d+$/.test(at) ? `step ${at}` : at;
}

function place(at: string): number {
  return at === "live" ? -1 : at === "base" ? 0 : Number(at);
}
