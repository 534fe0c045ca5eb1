// The panel of one run: header, health, and the tabs. Drawn at most once a frame, only what changed.

import { besides } from "./beside";
import { CHAT_DEFAULTS, Chat } from "./chat";
import { Controls } from "./controls";
import { CURVES_DEFAULTS, Curves } from "./curves";
import { h } from "./dom";
import { Header } from "./header";
import { HealthLine } from "./health";
import { Health, Link } from "./link";
import { LOG_DEFAULTS, Log } from "./log";
import { Command, Model, newId } from "./protocol";
import { Served } from "./served";
import { PARTS, Part, Store } from "./store";
import { followTheme } from "./theme";
import { Travel } from "./travel";

const SERVED = ["Data", "Samples", "Review", "Lineage"] as const; // the kernel writes them
const TABS = ["Curves", "Chat", "Controls", ...SERVED, "Log"] as const;
type Tab = (typeof TABS)[number];
const MOST_ROWS = 6000; // then the story is asked for again, thinned

/** What a view that is drawn again in the same page goes on with. */
interface Memory {
  tab: Tab;
  chat: typeof CHAT_DEFAULTS;
  curves: typeof CURVES_DEFAULTS;
  log: typeof LOG_DEFAULTS;
}
const FRESH: Memory = { tab: "Curves", chat: CHAT_DEFAULTS, curves: CURVES_DEFAULTS, log: LOG_DEFAULTS };
const memories = new Map<string, Memory>();
const inUse = new Set<Memory>(); // a second view of the same run begins with a copy

class Panel {
  readonly #root = h("div", { class: "jft", test: "panel" });
  readonly #store = new Store();
  readonly #memory: Memory;
  readonly #header: Header;
  readonly #curves: Curves;
  readonly #chat: Chat;
  readonly #controls: Controls;
  readonly #healthLine: HealthLine;
  readonly #served = new Map<Part, Served>();
  readonly #log: Log;
  readonly #link: Link;
  readonly #tabs = new Map<Tab, { tab: HTMLButtonElement; body: HTMLElement }>();
  readonly #unfollow: () => void;
  #health: Health = "well";
  #frame = 0;

  /** JupyterLab takes plain keys (Enter, arrows, Shift+Enter) for itself in the capture phase unless told not to. */
  readonly #onKey = (event: KeyboardEvent) => {
    const plain = event.key === "Enter" || !(event.ctrlKey || event.metaKey || event.altKey);
    this.#root.toggleAttribute("data-lm-suppress-shortcuts", plain);
  };

  constructor(model: Model, el: HTMLElement) {
    this.#store.name = String(model.get("name") ?? "");
    const last = memories.get(this.#store.name) ?? structuredClone(FRESH);
    this.#memory = inUse.has(last) ? structuredClone(last) : last;
    inUse.add(this.#memory);
    memories.set(this.#store.name, this.#memory);
    const send = (command: Command) => {
      this.#link.send(command);
      this.#later(); // what is requested shows everywhere at once
    };
    this.#header = new Header(this.#store, send);
    const chatWith = (at: string) => {
      this.#chat.add(at);
      this.#show("Chat");
      this.#chat.focus();
    };
    this.#healthLine = new HealthLine(this.#store, send, chatWith);
    for (const name of [...SERVED, "Fork"]) {
      const tab = name.toLowerCase() as Part;
      this.#served.set(tab, new Served(name, (...asked) => this.#link.page(tab, ...asked), chatWith));
    }
    const fork = this.#served.get("fork")!;
    fork.element.hidden = true; // until it is asked for
    this.#curves = new Curves(this.#store, this.#memory.curves, (moved) => new Travel(this.#store, fork, send, chatWith, moved));
    this.#chat = new Chat(this.#store, send, (...thumb) => this.#link.rate(...thumb), this.#memory.chat);
    this.#controls = new Controls(this.#store, send);
    this.#log = new Log(this.#store, this.#memory.log);
    this.#root.append(this.#header.element, this.#healthLine.element, this.#tabList(), ...this.#bodies());
    el.append(this.#root);
    this.#show(TABS.find((tab) => tab.toLowerCase() === model.get("tab")) ?? this.#memory.tab);
    window.addEventListener("keydown", this.#onKey, true);
    this.#unfollow = followTheme(this.#root, () => this.#curves.rebuild());
    this.#link = new Link(model, {
      hear: (message, buffer) => {
        this.#store.hear(message, buffer);
        if (this.#store.column("step").length > MOST_ROWS) this.#link.hello();
        this.#later();
      },
      head: (message) => {
        this.#store.head(message);
        this.#later();
      },
      rated: (rated) => {
        this.#store.rated(rated);
        this.#later();
      },
      page: (page) => this.#served.get(page.tab)?.hear(page),
      health: (health) => this.#setHealth(health),
    });
    this.#drawAll();
  }

  close(): void {
    window.removeEventListener("keydown", this.#onKey, true);
    inUse.delete(this.#memory);
    memories.set(this.#store.name, this.#memory);
    this.#link.close();
    this.#unfollow();
    this.#curves.close();
    cancelAnimationFrame(this.#frame);
    this.#root.remove();
  }

  #setHealth(health: Health): void {
    if (health === this.#health) return;
    this.#health = health;
    if (health === "gone") this.#store.giveUp();
    this.#header.setHealth(health);
    this.#drawAll();
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  #later(): void {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #drawAll(): void {
    for (const part of PARTS) this.#store.dirty.add(part);
    this.#later();
  }

  #draw(): void {
    const dirty = new Set(this.#store.dirty);
    this.#store.dirty.clear();
    const usable = this.#health === "well";
    if (dirty.has("head")) this.#header.draw();
    if (dirty.has("health") || dirty.has("head")) this.#healthLine.draw(usable);
    if (dirty.has("curves") || dirty.has("head")) this.#curves.draw(usable);
    if (dirty.has("controls") || dirty.has("curves")) this.#controls.draw(usable);
    if (dirty.has("chat")) this.#chat.draw(usable);
    for (const [tab, served] of this.#served) served.draw(usable, dirty.has(tab));
    if (dirty.has("log")) this.#log.draw();
  }

  // --- tabs ----------------------------------------------------------------------------------------------------------

  #tabList(): HTMLElement {
    const buttons = TABS.map((name) => {
      const id = `jft-${newId()}`;
      const about = { id: `${id}-tab`, "aria-controls": id, test: `tab-${name.toLowerCase()}` };
      const tab = h("button", { role: "tab", ...about }, [name], { click: () => this.#show(name, true) });
      this.#tabs.set(name, { tab, body: h("div", { class: "jft-tabpanel", role: "tabpanel", id, "aria-labelledby": `${id}-tab` }) });
      return tab;
    });
    return h("div", { class: "jft-tabs", role: "tablist", "aria-label": "Views of the run" }, buttons, {
      keydown: (event) => {
        const at = TABS.indexOf(this.#memory.tab);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        const name = TABS[(to + TABS.length) % TABS.length] ?? "Curves";
        this.#show(name);
        this.#tabs.get(name)?.tab.focus();
      },
    });
  }

  #bodies(): HTMLElement[] {
    const inside: Record<string, { element: HTMLElement }> = { Curves: this.#curves, Chat: this.#chat, Controls: this.#controls, Log: this.#log };
    return [...this.#tabs].map(([name, { body }]) => {
      body.append((inside[name] ?? this.#served.get(name.toLowerCase() as Part))?.element ?? "");
      return body;
    });
  }

  /** `enters`: what has keys of its own takes the focus. */
  #show(wanted: Tab, enters = false): void {
    this.#memory.tab = wanted;
    for (const [name, { tab, body }] of this.#tabs) {
      tab.setAttribute("aria-selected", String(name === wanted));
      tab.tabIndex = name === wanted ? 0 : -1;
      body.hidden = name !== wanted;
    }
    if (enters) this.#served.get(wanted.toLowerCase() as Part)?.element.focus({ preventScroll: true });
    this.#drawAll();
  }
}

export default {
  render({ model, el }: { model: Model; el: HTMLElement }): () => void {
    const panel = new Panel(model, el);
    const end = besides(model, el);
    return () => {
      end();
      panel.close();
    };
  },
};
