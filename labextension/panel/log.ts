// Everything that the run said, newest at the end. Each line goes in as text; the store keeps as many as are drawn.

import { h, setText } from "./dom";
import { Level, Line } from "./lines";
import { Store } from "./store";

const SHOWS = { all: ["debug", "info", "warning", "error"], warnings: ["warning", "error"] } as const;
const NEAR_END = 40; // px

export interface LogMemory {
  show: keyof typeof SHOWS;
}
export const LOG_DEFAULTS: LogMemory = { show: "all" };

export class Log {
  readonly element: HTMLElement;
  readonly #list = h("div", {
    class: "jft-log",
    test: "log",
    role: "log",
    "aria-live": "off", // it would never be silent
    "aria-label": "What the run said",
    tabindex: 0,
  });
  readonly #count = h("span", { class: "jft-dim" });
  readonly #newest = h("button", { class: "jft-small jft-newest", hidden: true }, ["↓ newest"]);
  #lines: Line[] = []; // the store's, by identity: a story makes a new list
  #drawn = 0; // number of the last line that was looked at
  #follows = true;
  readonly #store: Store;
  readonly #memory: LogMemory;

  constructor(
    store: Store,
    memory: LogMemory,
  ) {
    this.#store = store;
    this.#memory = memory;
    const select = h("select", { test: "log-filter", "aria-label": "Lines to show" }, [
      h("option", { value: "all" }, ["All lines"]),
      h("option", { value: "warnings" }, ["Warnings and errors"]),
    ]);
    select.value = memory.show;
    select.addEventListener("change", () => {
      memory.show = select.value as LogMemory["show"];
      this.#restart();
      this.draw();
    });
    this.#list.addEventListener("scroll", () => {
      this.#follows = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < NEAR_END;
      this.#newest.hidden = this.#follows;
    });
    this.#newest.addEventListener("click", () => this.#toEnd());
    this.element = h("div", { class: "jft-logbox" }, [h("div", { class: "jft-toolbar" }, [select, this.#count]), this.#list, this.#newest]);
  }

  draw(): void {
    if (!this.element.offsetParent) return; // it is drawn when it is shown
    const store = this.#store;
    if (this.#lines !== store.lines) this.#restart();
    this.#lines = store.lines;
    const first = store.linesSaid - store.lines.length;
    for (const line of store.lines.slice(Math.max(0, this.#drawn - first))) if (this.#shows(line.level)) this.#list.append(drawnLine(line));
    this.#drawn = store.linesSaid;
    const most = store.lines.filter((line) => this.#shows(line.level)).length;
    const before = this.#list.scrollHeight;
    while (this.#list.childElementCount > most) this.#list.firstElementChild?.remove();
    if (!this.#follows) this.#list.scrollTop -= before - this.#list.scrollHeight; // what is read stays where it is
    setText(this.#count, first > 0 ? `the last ${store.lines.length} lines` : "");
    this.#list.classList.toggle("jft-empty-log", most === 0);
    if (this.#follows) this.#toEnd();
  }

  #toEnd(): void {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#follows = true;
    this.#newest.hidden = true;
  }

  #restart(): void {
    this.#drawn = 0;
    this.#list.replaceChildren();
  }

  #shows(level: Level): boolean {
    return (SHOWS[this.#memory.show] as readonly Level[]).includes(level);
  }
}

function drawnLine(line: Line): HTMLElement {
  const when = new Date(line.time * 1000);
  const folded = line.detail
    ? h("details", {}, [h("summary", {}, ["Traceback"]), h("pre", {}, [line.detail])])
    : null;
  return h("div", { class: "jft-logline", test: "log-line", "data-level": line.level }, [
    h("time", { datetime: when.toISOString(), title: when.toLocaleString() }, [when.toLocaleTimeString("en-GB")]),
    h("span", { class: "jft-tag" }, [line.tag || line.level]),
    h("div", { class: "jft-said" }, [line.text, folded]),
  ]);
}
