// The panel of one run: header, health, and the tabs Curves, Chat, Controls, Data and Log. Drawn at most once a frame, only what changed.

import { CHAT_DEFAULTS, Chat } from "./chat";
import { Controls } from "./controls";
import { CURVES_DEFAULTS, Curves } from "./curves";
import { Data } from "./data";
import { h } from "./dom";
import { Header } from "./header";
import { HealthLine } from "./health";
import { Health, Link } from "./link";
import { LOG_DEFAULTS, Log } from "./log";
import { Command, Model, newId } from "./protocol";
import { PARTS, Store } from "./store";
import { followTheme } from "./theme";

const TABS = ["Curves", "Chat", "Controls", "Data", "Log"] as const;
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
  private readonly root = h("div", { class: "jft", "data-testid": "panel" });
  private readonly store = new Store();
  private readonly memory: Memory;
  private readonly header: Header;
  private readonly curves: Curves;
  private readonly chat: Chat;
  private readonly controls: Controls;
  private readonly healthLine: HealthLine;
  private readonly data = new Data((asked, where) => this.link.rows(asked, where));
  private readonly log: Log;
  private readonly link: Link;
  private readonly tabs = new Map<Tab, { tab: HTMLButtonElement; body: HTMLElement }>();
  private readonly unfollow: () => void;
  private health: Health = "well";
  private frame = 0;

  /** JupyterLab takes plain keys (Enter, arrows, Shift+Enter) for itself in the capture phase unless told not to. */
  private readonly onKey = (event: KeyboardEvent) => {
    const plain = event.key === "Enter" || !(event.ctrlKey || event.metaKey || event.altKey);
    this.root.toggleAttribute("data-lm-suppress-shortcuts", plain);
  };

  constructor(model: Model, el: HTMLElement) {
    this.store.name = String(model.get("name") ?? "");
    const last = memories.get(this.store.name) ?? structuredClone(FRESH);
    this.memory = inUse.has(last) ? structuredClone(last) : last;
    inUse.add(this.memory);
    memories.set(this.store.name, this.memory);
    const send = (command: Command) => {
      this.link.send(command);
      this.later(); // what is requested shows everywhere at once
    };
    this.header = new Header(this.store, send);
    const chatWith = (step: number) => {
      this.chat.add(String(step));
      this.show("Chat");
      this.chat.focus();
    };
    this.healthLine = new HealthLine(this.store, send, chatWith);
    this.curves = new Curves(this.store, this.memory.curves, chatWith);
    this.chat = new Chat(this.store, send, this.memory.chat);
    this.controls = new Controls(this.store, send);
    this.log = new Log(this.store, this.memory.log);
    this.root.append(this.header.element, this.healthLine.element, this.tabList(), ...this.bodies());
    el.append(this.root);
    this.show(this.memory.tab);
    window.addEventListener("keydown", this.onKey, true);
    this.unfollow = followTheme(this.root, () => this.curves.rebuild());
    this.link = new Link(model, {
      hear: (message, buffer) => {
        this.store.hear(message, buffer);
        if (this.store.column("step").length > MOST_ROWS) this.link.hello();
        this.later();
      },
      head: (message) => {
        this.store.head(message);
        this.later();
      },
      rows: (page) => this.data.hear(page),
      health: (health) => this.setHealth(health),
    });
    this.drawAll();
  }

  close(): void {
    window.removeEventListener("keydown", this.onKey, true);
    inUse.delete(this.memory);
    memories.set(this.store.name, this.memory);
    this.link.close();
    this.unfollow();
    this.curves.close();
    cancelAnimationFrame(this.frame);
    this.root.remove();
  }

  private setHealth(health: Health): void {
    if (health === this.health) return;
    this.health = health;
    if (health === "gone") this.store.giveUp();
    this.header.setHealth(health);
    this.drawAll();
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  private later(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private drawAll(): void {
    for (const part of PARTS) this.store.dirty.add(part);
    this.later();
  }

  private draw(): void {
    const dirty = new Set(this.store.dirty);
    this.store.dirty.clear();
    const usable = this.health === "well";
    if (dirty.has("head")) this.header.draw();
    if (dirty.has("health") || dirty.has("head")) this.healthLine.draw(usable);
    if (dirty.has("curves")) this.curves.draw();
    if (dirty.has("controls") || dirty.has("curves")) this.controls.draw(usable);
    if (dirty.has("chat")) this.chat.draw(usable);
    this.data.draw(usable, dirty.has("data"));
    if (dirty.has("log")) this.log.draw();
  }

  // --- tabs ----------------------------------------------------------------------------------------------------------

  private tabList(): HTMLElement {
    const buttons = TABS.map((name) => {
      const id = `jft-${newId()}`;
      const about = { id: `${id}-tab`, "aria-controls": id, "data-testid": `tab-${name.toLowerCase()}` };
      const tab = h("button", { type: "button", role: "tab", ...about }, [name], { click: () => this.show(name) });
      this.tabs.set(name, { tab, body: h("div", { class: "jft-tabpanel", role: "tabpanel", id, "aria-labelledby": `${id}-tab` }) });
      return tab;
    });
    return h("div", { class: "jft-tabs", role: "tablist", "aria-label": "Views of the run" }, buttons, {
      keydown: (event) => {
        const at = TABS.indexOf(this.memory.tab);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        const name = TABS[(to + TABS.length) % TABS.length] ?? "Curves";
        this.show(name);
        this.tabs.get(name)?.tab.focus();
      },
    });
  }

  private bodies(): HTMLElement[] {
    const inside: Record<Tab, HTMLElement> = {
      Curves: this.curves.element,
      Chat: this.chat.element,
      Controls: this.controls.element,
      Data: this.data.element,
      Log: this.log.element,
    };
    return [...this.tabs].map(([name, { body }]) => {
      body.append(inside[name]);
      return body;
    });
  }

  private show(wanted: Tab): void {
    this.memory.tab = wanted;
    for (const [name, { tab, body }] of this.tabs) {
      tab.setAttribute("aria-selected", String(name === wanted));
      tab.tabIndex = name === wanted ? 0 : -1;
      body.hidden = name !== wanted;
    }
    this.drawAll();
  }
}

export default {
  render({ model, el }: { model: Model; el: HTMLElement }): () => void {
    const panel = new Panel(model, el);
    return () => panel.close();
  },
};
