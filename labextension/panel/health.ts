// The state of the run in one line: a word and its colour, the sentence, the rows behind it, and what could be done now.

import { h, setText } from "./dom";
import { rowsText, withStep } from "./lines";
import { Advice, Command, OVER, newId } from "./protocol";
import { State, Store, Taken } from "./store";

const WORDS = { green: "healthy", amber: "watch", red: "trouble" } as const;

export class HealthLine {
  readonly element: HTMLElement;
  readonly #word = h("b", { class: "jft-health-word", test: "health-word" });
  readonly #said = h("span", { class: "jft-health-said", test: "health-said" });
  readonly #where = h("span", { class: "jft-dim" });
  readonly #buttons = h("span", { class: "jft-advice" });
  readonly #note = h("span", { class: "jft-advice-note", test: "advice-note" });
  #drawn: State | null = null;
  #taken = new Map<Advice, string>(); // the command with which it was taken
  readonly #store: Store;
  readonly #send: (command: Command) => void;
  readonly #chatWith: (at: string) => void;

  constructor(
    store: Store,
    send: (command: Command) => void,
    chatWith: (at: string) => void,
  ) {
    this.#store = store;
    this.#send = send;
    this.#chatWith = chatWith;
    this.element = h("div", { class: "jft-health", test: "health", role: "status", hidden: true }, [
      this.#word,
      h("span", { class: "jft-health-text" }, [this.#said, " ", this.#where]),
      this.#buttons,
      this.#note,
    ]);
  }

  draw(usable: boolean): void {
    const { health } = this.#store;
    this.element.hidden = !health;
    if (!health) return;
    if (health !== this.#drawn) {
      this.#drawn = health;
      this.element.dataset.level = health.level;
      setText(this.#word, WORDS[health.level]);
      setText(this.#said, withStep(health.step, health.said));
      setText(this.#where, rowsText(health.rows).trim());
      this.#buttons.replaceChildren(...health.advice.map((advice) => this.#button(advice)));
    }
    const live = usable && !OVER.has(this.#store.state);
    health.advice.forEach((advice, i) => this.#drawButton(this.#buttons.children[i] as HTMLButtonElement, advice, live));
    const notes = health.advice.map((advice) => this.#wish(advice)).filter((taken) => taken !== undefined);
    setText(this.#note, notes.map((taken) => taken.note).join("; "));
    this.#note.dataset.state = notes.at(-1)?.state ?? "";
  }

  #button(advice: Advice): HTMLButtonElement {
    const button = h("button", { class: "jft-small", test: "advice", title: advice.cell }, [advice.label]);
    button.addEventListener("click", () => this.#take(advice));
    return button;
  }

  #drawButton(button: HTMLButtonElement, advice: Advice, live: boolean): void {
    const state = this.#wish(advice)?.state;
    button.disabled = (!live && advice.chat == null) || state === "requested" || state === "applied";
  }

  #wish(advice: Advice): Taken | undefined {
    return this.#store.taken.get(this.#taken.get(advice) ?? "");
  }

  #take(advice: Advice): void {
    if (advice.chat != null) return this.#chatWith(String(advice.chat));
    const command = { ...advice.command, id: newId() } as Command; // the kernel checks it as it checks every command
    this.#taken.set(advice, command.id);
    this.#store.sent(command, advice);
    this.#send(command);
    this.draw(true);
  }
}
