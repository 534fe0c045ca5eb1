// Name, state, progress and the buttons of the run; the latest line; the banner when nobody answers.

import { h, setText } from "./dom";
import { Health } from "./link";
import { Command, OVER, newId } from "./protocol";
import { Store } from "./store";
import { duration, shown } from "./words";

type Verb = "pause" | "resume" | "stop" | "save";
const WORKING: Record<Verb, string> = { pause: "Pausing…", resume: "Resuming…", stop: "Stopping…", save: "Saving…" };
const LABEL: Record<Verb, string> = { pause: "Pause", resume: "Resume", stop: "Stop", save: "Save" };

export class Header {
  readonly element: HTMLElement;
  readonly #name = h("strong", { class: "jft-name" });
  readonly #state = h("span", { class: "jft-state", test: "state" });
  readonly #bar = h("progress", { class: "jft-bar", "aria-label": "Steps done", max: 1, value: 0 });
  readonly #step = h("b", { test: "step" }, ["0"]);
  readonly #total = h("span", { test: "total" }, ["–"]);
  readonly #loss = h("span", { test: "loss" });
  readonly #speed = h("span", { test: "speed" });
  readonly #eta = h("span", { test: "eta" });
  readonly #loading = h("span", { class: "jft-loading", test: "loading" });
  readonly #line = h("p", { class: "jft-line", test: "line", role: "status" });
  readonly #banner = h("p", { class: "jft-banner", test: "banner", role: "alert", hidden: true });
  readonly #buttons: Record<Verb, HTMLButtonElement>;
  readonly #confirm: HTMLElement;
  readonly #more: HTMLButtonElement;
  readonly #menu: HTMLElement;
  #health: Health = "well";
  readonly #store: Store;
  readonly #send: (command: Command) => void;

  constructor(
    store: Store,
    send: (command: Command) => void,
  ) {
    this.#store = store;
    this.#send = send;
    this.#buttons = {
      pause: this.#button("pause", () => this.#press("pause")),
      resume: this.#button("resume", () => this.#press("resume")),
      save: this.#button("save", () => this.#press("save")),
      stop: this.#button("stop", () => this.#asking(true)),
    };
    const yes = h("button", { class: "jft-danger", test: "stop-confirm" }, ["Stop the run"], {
      click: () => {
        this.#asking(false);
        this.#press("stop");
      },
    });
    const no = h("button", { test: "stop-cancel" }, ["Keep going"], { click: () => this.#asking(false) });
    this.#confirm = h("span", { class: "jft-confirm", hidden: true, role: "group", "aria-label": "Stop the run?" }, [yes, no], {
      keydown: (event) => event.key === "Escape" && this.#asking(false),
    });
    this.#more = h("button", { class: "jft-more", test: "pause-more", "aria-haspopup": "true" }, ["▾"], {
      click: () => this.#opening(this.#more.getAttribute("aria-expanded") !== "true"),
    });
    this.#more.setAttribute("aria-label", "More ways to pause");
    this.#menu = this.#pauseMenu();
    this.#opening(false);
    this.element = this.#layout();
  }

  #pauseMenu(): HTMLElement {
    const free = h("button", { test: "pause-free" }, ["Pause and free memory"], {
      click: () => {
        this.#opening(false);
        this.#press("pause", { kind: "pause", id: newId(), free_memory: true });
      },
    });
    const help = h("span", { class: "jft-help" }, ["The run's memory is given back until you resume; nobody chats meanwhile."]);
    return h("div", { class: "jft-menu", role: "group", "aria-label": "More ways to pause" }, [free, help], {
      keydown: (event) => {
        if (event.key !== "Escape") return;
        this.#opening(false);
        this.#more.focus();
      },
    });
  }

  #opening(on: boolean): void {
    this.#menu.hidden = !on;
    this.#more.setAttribute("aria-expanded", String(on));
    if (on) this.#menu.querySelector("button")?.focus();
  }

  #layout(): HTMLElement {
    const figure = (label: string, value: HTMLElement) => h("span", { class: "jft-figure" }, [h("span", { class: "jft-dim" }, [label]), value]);
    const steps = h("span", {}, [this.#step, " / ", this.#total]);
    const { pause, resume, save, stop } = this.#buttons;
    const split = h("span", { class: "jft-split" }, [pause, this.#more, this.#menu]);
    return h("header", { class: "jft-header" }, [
      this.#banner,
      h("div", { class: "jft-top" }, [
        this.#name,
        this.#state,
        h("span", { class: "jft-buttons" }, [split, resume, save, stop, this.#confirm]),
      ]),
      this.#bar,
      h("div", { class: "jft-figures" }, [
        figure("step", steps),
        figure("loss", this.#loss),
        figure("tokens/s", this.#speed),
        figure("time left", this.#eta),
        this.#loading,
      ]),
      this.#line,
    ]);
  }

  #button(verb: Verb, click: () => void): HTMLButtonElement {
    return h("button", { test: verb }, [LABEL[verb]], { click });
  }

  #asking(on: boolean): void {
    this.#confirm.hidden = !on;
    this.#buttons.stop.hidden = on;
    (on ? this.#confirm.querySelector("button") : this.#buttons.stop)?.focus();
  }

  #press(verb: Verb, command: Command = { kind: verb, id: newId() }): void {
    this.#store.sent(command);
    this.#send(command);
    this.draw();
  }

  /** Shows or takes away the banner. */
  setHealth(health: Health): void {
    this.#health = health;
    const reopen = `jupyter_ft.open('${this.#store.name}')`;
    const said: Record<Health, string> = {
      well: "",
      gone: `The kernel is gone; what you see is the last that arrived. Reopen with ${reopen}.`,
      silent: `The kernel does not answer: it is busy with a cell, or gone. What you see is the last that arrived. If it is gone, reopen with ${reopen}.`,
      newer: "jupyter-ft has changed under this page: reload the page.",
    };
    setText(this.#banner, said[health]);
    this.#banner.hidden = health === "well";
    this.draw();
  }

  draw(): void {
    const store = this.#store;
    setText(this.#name, store.name);
    const lost = this.#health === "gone" && !OVER.has(store.state); // nobody knows how it ended
    setText(this.#state, lost ? "lost" : store.state);
    this.#state.dataset.state = lost ? "failed" : store.state;
    this.#drawProgress();
    const live = !OVER.has(store.state) && this.#health === "well";
    const paused = store.state === "paused";
    const unfinished = store.state === "stopped" || store.state === "failed"; // goes on from its newest checkpoint
    this.#buttons.pause.hidden = paused || unfinished;
    this.#buttons.resume.hidden = !paused && !unfinished;
    const usable: Record<Verb, boolean> = {
      pause: store.state === "running",
      resume: paused,
      save: store.state === "running" || paused,
      stop: store.state !== "stopping",
    };
    for (const verb of ["pause", "resume", "stop", "save"] as const) {
      const waits = store.pressed.has(verb);
      const possible = verb === "resume" && unfinished ? this.#health === "well" : live && usable[verb];
      this.#buttons[verb].disabled = !possible || waits;
      setText(this.#buttons[verb], waits ? WORKING[verb] : LABEL[verb]);
    }
    this.#more.hidden = this.#buttons.pause.hidden;
    this.#more.disabled = this.#buttons.pause.disabled;
    if (this.#more.disabled) this.#opening(false);
    if (!live) {
      this.#confirm.hidden = true;
      this.#buttons.stop.hidden = false;
    }
    const said = store.line?.text ?? "";
    setText(this.#line, said.split("\n", 1)[0] ?? "");
    this.#line.title = said;
    this.#line.dataset.level = store.line?.level ?? "info";
    this.#line.hidden = !said;
  }

  #drawProgress(): void {
    const store = this.#store;
    const { progress } = store;
    setText(this.#step, store.step.toLocaleString("en"));
    setText(this.#total, store.total ? store.total.toLocaleString("en") : "–");
    const rows = store.column("step").length > 0;
    const { tokensPerSecond, secondsPerStep } = store.recent();
    setText(this.#loss, rows ? shown(store.last("loss")) : "–");
    this.#loss.classList.toggle("jft-bad", rows && !Number.isFinite(store.last("loss")));
    setText(this.#speed, rows && Number.isFinite(tokensPerSecond) ? Math.round(tokensPerSecond).toLocaleString("en") : "–");
    const left = (store.total - store.step) * secondsPerStep;
    setText(this.#eta, store.state === "running" && left >= 0 && Number.isFinite(left) ? duration(left) : "–");
    const loading = progress && !OVER.has(store.state);
    const part = loading && progress.total ? ` ${Math.floor((100 * progress.done) / progress.total)} %` : "";
    setText(this.#loading, loading ? `${progress.what}${part}` : "");
    if (loading && store.step === 0) {
      if (progress.total) this.#bar.value = progress.done / progress.total;
      else this.#bar.removeAttribute("value");
    } else this.#bar.value = store.total ? store.step / store.total : 0;
  }
}
