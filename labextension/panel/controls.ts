// The live hyperparameters, built from the schema that the kernel sends. State flows out, intent flows in: a control
// shows the true value, and beside it what was requested until the kernel says at which step it took effect.

import { h, setText } from "./dom";
import { Command, Control, Json, OVER, newId } from "./protocol";
import { Store } from "./store";
import { shown } from "./words";

const SLIDER_WAITS = 250; // ms after the last movement
const STOPS = 1000;
const WIDEST = 1e5; // a linear slider over more than this hits nothing that anybody wants

export class Controls {
  readonly element = h("div", { class: "jft-controls" });
  #rows: Row[] = [];
  #schema = "";
  readonly #store: Store;
  readonly #send: (command: Command) => void;

  constructor(
    store: Store,
    send: (command: Command) => void,
  ) {
    this.#store = store;
    this.#send = send;
  }

  draw(usable: boolean): void {
    const schema = JSON.stringify(this.#store.controls.map(({ value: _, ...rest }) => rest));
    if (schema !== this.#schema) {
      this.#schema = schema;
      this.#rows = this.#store.controls.map((control) => new Row(control, (value) => this.#want(control.name, value)));
      this.element.replaceChildren(...this.#rows.map((row) => row.element));
    }
    const live = usable && !OVER.has(this.#store.state);
    for (const row of this.#rows) row.draw(this.#store, live);
  }

  #want(name: string, value: Json): void {
    const command: Command = { kind: "set", id: newId(), changes: { [name]: value } };
    this.#store.sent(command);
    this.#send(command);
    this.draw(true);
  }
}

class Row {
  readonly element: HTMLElement;
  readonly #field: HTMLInputElement | HTMLSelectElement;
  readonly #slider: HTMLInputElement | null = null;
  readonly #status: HTMLElement;
  readonly #used = h("span", { class: "jft-unit" });
  #shownValue: Json | undefined;
  #timer = 0;
  readonly #control: Control;
  readonly #want: (value: Json) => void;

  constructor(
    control: Control,
    want: (value: Json) => void,
  ) {
    this.#control = control;
    this.#want = want;
    const { name } = control;
    const id = `jft-${newId()}`;
    this.#status = h("span", { class: "jft-wish", test: `control-status-${name}`, id: `${id}-status`, role: "status" });
    const common = { id, test: `control-${name}`, "aria-describedby": `${id}-help ${id}-status` };
    if (control.type === "choice") {
      this.#field = h("select", common, control.choices.map((choice) => h("option", { value: choice }, [choice])));
      this.#field.addEventListener("change", () => this.#commit(this.#field.value));
    } else {
      const more = { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", placeholder: control.optional ? "none" : "" };
      const input = h("input", { ...common, ...more });
      input.addEventListener("change", () => this.#commitText());
      input.addEventListener("keydown", (event) => {
        event.stopPropagation(); // Jupyter's own shortcuts
        if (event.key === "Enter") this.#commitText();
        if (event.key === "Escape") input.value = this.#text(this.#shownValue ?? null);
      });
      this.#field = input;
      const { min, max, scale } = control;
      if (min !== null && max !== null && (scale === "log" || max - min <= WIDEST)) this.#slider = this.#makeSlider();
    }
    const told = name.split("_").includes(control.unit); // warmup_steps needs no "steps" beside it
    const unit = control.unit && !told ? h("span", { class: "jft-unit" }, [control.unit]) : null;
    const label = h("label", { for: id }, [name, unit, this.#used]);
    const help = h("span", { class: "jft-help", id: `${id}-help` }, [control.help]);
    this.element = h("div", { class: "jft-control" }, [
      label,
      this.#field,
      this.#slider ?? h("span", { class: "jft-noslider" }),
      this.#status,
      help,
    ]);
  }

  #makeSlider(): HTMLInputElement {
    const label = `${this.#control.name}, slider`;
    const slider = h("input", { type: "range", min: 0, max: STOPS, step: 1, "aria-label": label });
    slider.addEventListener("input", () => {
      const value = this.#fromSlider(Number(slider.value));
      this.#field.value = this.#text(value);
      slider.setAttribute("aria-valuetext", this.#text(value));
      window.clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.#commit(value), SLIDER_WAITS);
    });
    return slider;
  }

  #commitText(): void {
    const text = this.#field.value.trim().replace(/^(\d*),(\d{1,2}|\d{4,})$/, "$1.$2"); // a decimal comma; 1,000 is neither, and the kernel says so
    if (text === "" || text === "none") {
      if (this.#control.optional) this.#commit(null);
      else this.#field.value = this.#text(this.#shownValue ?? null);
      return;
    }
    const value = Number(text);
    this.#commit(Number.isFinite(value) && this.#control.type !== "string" ? value : text); // the kernel says what is wrong with it
  }

  #commit(value: Json): void {
    window.clearTimeout(this.#timer);
    this.#timer = 0;
    if (value === this.#shownValue) return;
    this.#shownValue = value;
    this.#want(value);
  }

  draw(store: Store, live: boolean): void {
    const { name } = this.#control;
    const wish = store.wishes.get(name);
    const waiting = wish?.state === "requested";
    const value = waiting ? wish.wanted : (store.values[name] ?? null);
    const busy = this.#timer !== 0 || (document.activeElement === this.#field && value === this.#shownValue);
    if (!busy) {
      this.#shownValue = value;
      this.#field.value = this.#text(value);
      if (this.#slider) this.#slider.value = String(this.#toSlider(value));
    }
    const used = store.last(name); // a schedule makes it differ from what was set
    const differs = typeof value === "number" && Number.isFinite(used) && shown(used) !== shown(value);
    setText(this.#used, differs ? `now ${shown(used)}` : "");
    this.#field.disabled = !live;
    if (this.#slider) this.#slider.disabled = !live;
    this.element.dataset.state = wish?.state ?? "";
    setText(this.#status, waiting ? `requested ${shown(wish.wanted)}…` : (wish?.note ?? ""));
  }

  #text(value: Json): string {
    return value === null ? "" : this.#control.type === "choice" ? String(value) : shown(value);
  }

  #fromSlider(stop: number): number {
    const [low, high] = [this.#control.min ?? 0, this.#control.max ?? 1];
    const part = stop / STOPS;
    const value = this.#control.scale === "log" ? low * (high / low) ** part : low + (high - low) * part;
    return this.#control.type === "integer" ? Math.round(value) : Number(value.toPrecision(2));
  }

  #toSlider(value: Json): number {
    const [low, high] = [this.#control.min ?? 0, this.#control.max ?? 1];
    if (typeof value !== "number") return 0;
    const part = this.#control.scale === "log" ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return Math.round(STOPS * Math.min(1, Math.max(0, part)));
  }
}
