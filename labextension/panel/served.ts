// A tab whose page the kernel writes as HTML when it is asked for (Data, Samples, Review). What has `data-say` says that when it is
// clicked or changed, with the fields of the `data-form` that it stands in; `data-key` names the keys that click it.

import { h, setText } from "./dom";
import { plain } from "./markdown";
import { Page, newId } from "./protocol";

type Field = HTMLInputElement;

export class Served {
  readonly element: HTMLElement;
  readonly #style = h("style");
  readonly #page = h("div");
  readonly #told = h("p", { class: "jft-hidden", role: "status" });
  readonly #say: (asked: string, say: string) => void;
  #asked = ""; // the question that waits for its answer
  #busy = false; // something was said, which the next must wait for
  #again = ""; // asks for the same page

  constructor(name: string, say: (asked: string, say: string) => void, chatWith: (at: string) => void) {
    this.#say = say;
    const about = { test: `page-${name.toLowerCase()}`, role: "region", "aria-label": name, tabindex: 0 };
    this.element = h("div", { class: "jft-served", ...about }, [this.#told, this.#page], {
      click: (event) => {
        const at = (event.target as Element).closest<HTMLElement>("button");
        if (at?.dataset.chat) chatWith(at.dataset.chat);
        else if (at?.dataset.say !== undefined) this.#ask(at);
      },
      change: (event) => (event.target as HTMLElement).dataset.say !== undefined && this.#ask(event.target as HTMLElement),
      keydown: (event) => this.#pressed(event),
    });
  }

  /** `again`: the page may be another now. */
  draw(usable: boolean, again: boolean): void {
    if (usable && again && !this.#busy && this.element.offsetParent) this.#say((this.#asked = newId()), this.#again);
  }

  /** Ask for another page. */
  open(say: string): void {
    this.#busy = false;
    this.element.hidden = false;
    this.element.focus({ preventScroll: true });
    this.#say((this.#asked = newId()), say);
  }

  hear(page: Page): void {
    if (page.html === undefined) return this.draw(true, true); // there is a newer one
    if (page.asked !== this.#asked) return;
    if (this.#busy) this.element.scrollTop = 0;
    this.#wait(false);
    this.element.hidden = page.html === "";
    this.#again = page.again ?? "";
    setText(this.#style, page.style ?? "");
    this.element.prepend(this.#style);
    setText(this.#told, page.told ?? "");
    const kept = new Map(this.#fields("[data-form] [name]").map((field) => [keyOf(field), field]));
    const focused = this.element.contains(document.activeElement) && keyOf(document.activeElement as Field);
    this.#page.replaceChildren(plain(page.html));
    for (const field of this.#fields("[data-form] [name]")) field.replaceWith(kept.get(keyOf(field)) ?? field); // what is typed stays
    if (focused === false) return;
    const found = this.#fields("[data-focus]")[0] ?? this.#fields("[data-testid]:enabled").find((one) => keyOf(one) === focused);
    (found ?? this.element).focus({ preventScroll: true });
  }

  #fields(which: string): Field[] {
    return [...this.#page.querySelectorAll<Field>(which)];
  }

  #ask(from: HTMLElement): void {
    if (this.#busy) return;
    this.#wait(true);
    const said = new URLSearchParams(from.dataset.say);
    const fields = from.closest("[data-form]")?.querySelectorAll<Field>("[name]") ?? [from as Field];
    for (const { name, type, value, checked } of fields) if (name && (type !== "checkbox" || checked)) said.append(name, value);
    this.#say((this.#asked = newId()), String(said));
  }

  #wait(on: boolean): void {
    this.#busy = on;
    this.element.setAttribute("aria-busy", String(on));
  }

  #pressed(event: KeyboardEvent): void {
    const at = event.target as Field;
    const types = at.matches("textarea, select, input:not([type=checkbox])");
    if (types) event.stopPropagation(); // Jupyter's own shortcuts
    const chord = event.ctrlKey || event.metaKey;
    const leaves = event.key === "Escape";
    if (event.altKey || (types && !chord && !leaves)) return;
    const key = (chord ? "Mod+" : "") + event.key;
    const found = this.#fields("[data-key]").find((one) => one.dataset.key?.split(" ").includes(key)) ?? (leaves && this.element);
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    if (found.matches("button, [type=checkbox]")) found.click();
    else found.focus();
  }
}

function keyOf(field: Field): string {
  return `${field.closest<HTMLElement>("[data-form]")?.dataset.form} ${field.dataset.testid}`;
}
