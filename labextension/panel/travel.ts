// The steps that are kept, under the curve: a slider stands at one, to be talked to, gone back to or forked.

import { h, setText } from "./dom";
import { Command, OVER, newId } from "./protocol";
import { Served } from "./served";
import { Store } from "./store";
import { bytes, shown } from "./words";

const count = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;

export class Travel {
  readonly element: HTMLElement;
  /** The kept step at which the slider stands; null: at the weights of this moment. */
  chosen: number | null = null;
  readonly #slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "Kept steps", test: "step-slider" });
  readonly #said = h("output", { class: "jft-stop", test: "step-said" });
  readonly #chat = h("button", { test: "chat-with" }, [], { click: () => this.#chatWith(this.#at) });
  readonly #rewind = h("button", { test: "rewind" }, ["Rewind to here…"], { click: () => this.#asking(true) });
  readonly #fork = h("button", { test: "fork" }, ["Fork here…"], { click: () => this.#form.open(`at=${this.#at}`) });
  readonly #warning = h("span", { test: "rewind-said" });
  readonly #yes = h("button", { class: "jft-danger", test: "rewind-confirm" }, [], { click: () => this.#go() });
  readonly #confirm = h(
    "div",
    { class: "jft-sure", role: "group", "aria-label": "Rewind?", hidden: true },
    [this.#warning, this.#yes, h("button", { test: "rewind-cancel" }, ["Stay"], { click: () => this.#asking(false) })],
    { keydown: (event) => event.key === "Escape" && this.#asking(false) },
  );
  readonly #store: Store;
  readonly #form: Served;
  readonly #send: (command: Command) => void;
  readonly #chatWith: (at: string) => void;
  readonly #moved: () => void;
  #usable = false;
  #gone: number | null = null; // the step at which the slider stood, and which is kept no more

  constructor(store: Store, form: Served, send: (command: Command) => void, chatWith: (at: string) => void, moved: () => void) {
    [this.#store, this.#form, this.#send, this.#chatWith, this.#moved] = [store, form, send, chatWith, moved];
    this.#slider.addEventListener("input", () => this.#move(this.#kept[Number(this.#slider.value)] ?? null));
    this.element = h("div", { class: "jft-travel", role: "group", "aria-label": "Kept steps", test: "travel" }, [
      this.#slider,
      this.#said,
      h("div", { class: "jft-tools" }, [this.#chat, this.#rewind, this.#fork]),
      this.#confirm,
      form.element,
    ]);
  }

  get #kept(): number[] {
    return [...this.#store.checkpoints].sort((a, b) => a - b);
  }

  get #at(): string {
    return String(this.chosen ?? "live");
  }

  /** Stand at the kept step that is nearest to `step`. */
  near(step: number): void {
    const found = this.#kept.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a), Infinity);
    if (!Number.isFinite(found)) return;
    this.#move(found);
    this.#slider.focus({ preventScroll: true });
  }

  #move(to: number | null): void {
    this.chosen = to;
    this.#gone = null;
    this.#confirm.hidden = true;
    this.draw(this.#usable);
    this.#moved();
  }

  draw(usable: boolean): void {
    const [store, kept] = [this.#store, this.#kept];
    this.#usable = usable;
    this.element.hidden = !kept.length;
    if (this.chosen !== null && !kept.includes(this.chosen)) [this.#gone, this.chosen] = [this.chosen, null];
    if (this.#gone !== null && kept.includes(this.#gone)) this.#gone = null; // it came again after a rewind
    const [at, step] = [this.chosen, this.chosen ?? store.step];
    this.#slider.max = String(kept.length); // the last stop is the live one
    this.#slider.value = String(at === null ? kept.length : kept.indexOf(at));
    const row = store.column("step").filter((one) => one <= step).length - 1;
    const held = store.evals.filter((one) => one.step <= step).at(-1);
    const back = at !== null && store.resumable.includes(at);
    const words = [
      this.#gone === null ? "" : `step ${this.#gone} is kept no more`,
      at === null ? `live, step ${step}` : `step ${step}`,
      row < 0 ? "" : `loss ${shown(store.column("loss")[row])}`,
      held ? `held-out ${shown(held.loss)}${held.step === step ? "" : ` (step ${held.step})`}` : "",
      step === store.best ? "best" : "",
      at === null ? "" : back ? "checkpoint" : "weights alone",
      store.snapshots ? `snapshots ${bytes(store.snapshots.taken)} of ${bytes(store.snapshots.budget)}` : "",
    ];
    setText(this.#said, words.filter(Boolean).join(" · "));
    this.#slider.setAttribute("aria-valuetext", words.filter(Boolean).join(", "));
    setText(this.#chat, at === null ? "Chat with it live" : `Chat with step ${at}`);
    const waits = store.pressed.has("rewind");
    this.#rewind.disabled = !usable || !back || waits || step >= store.step;
    this.#rewind.title = at !== null && !back ? "Only a checkpoint can be gone back to; this step can be forked" : "";
    setText(this.#rewind, waits ? "Rewinding…" : "Rewind to here…");
    this.#chat.disabled = this.#fork.disabled = !usable;
    if (this.#rewind.disabled) this.#confirm.hidden = true;
    else this.#warn(step);
  }

  #warn(step: number): void {
    const store = this.#store;
    const [changes, kept] = [store.marks.filter((one) => one.step > step).length, this.#kept.filter((one) => one > step).length];
    const gone = [count(store.step - step, "step"), changes ? count(changes, "change") : "", kept ? count(kept, "kept step") : ""].filter(Boolean);
    const over = OVER.has(store.state) ? " The run goes on from there." : "";
    setText(this.#warning, `Takes back ${gone.join(", ")} after step ${step}. The curve stays, dimmed.${over}`);
    setText(this.#yes, `Rewind to step ${step}`);
  }

  #asking(on: boolean): void {
    this.#confirm.hidden = !on;
    (on ? this.#yes : this.#rewind).focus();
  }

  #go(): void {
    if (this.chosen === null) return;
    const command: Command = { kind: "rewind", id: newId(), step: this.chosen };
    this.#asking(false);
    this.#store.sent(command);
    this.#send(command);
    this.#move(null);
  }
}
