// The state of the run in one line: a word and its colour, the sentence, the rows behind it, and what could be done now.

import { h, setText } from "./dom";
import { rowsText, withStep } from "./lines";
import { Advice, Command, OVER, newId } from "./protocol";
import { State, Store, Taken } from "./store";

const WORDS = { green: "healthy", amber: "watch", red: "trouble" } as const;

export class HealthLine {
  readonly element: HTMLElement;
  private readonly word = h("b", { class: "jft-health-word", "data-testid": "health-word" });
  private readonly said = h("span", { class: "jft-health-said", "data-testid": "health-said" });
  private readonly where = h("span", { class: "jft-dim" });
  private readonly buttons = h("span", { class: "jft-advice" });
  private readonly note = h("span", { class: "jft-advice-note", "data-testid": "advice-note" });
  private drawn: State | null = null;
  private taken = new Map<Advice, string>(); // the command with which it was taken

  constructor(
    private readonly store: Store,
    private readonly send: (command: Command) => void,
    private readonly chatWith: (step: number) => void,
  ) {
    this.element = h("div", { class: "jft-health", "data-testid": "health", role: "status", hidden: true }, [
      this.word,
      h("span", { class: "jft-health-text" }, [this.said, " ", this.where]),
      this.buttons,
      this.note,
    ]);
  }

  draw(usable: boolean): void {
    const { health } = this.store;
    this.element.hidden = !health;
    if (!health) return;
    if (health !== this.drawn) {
      this.drawn = health;
      this.element.dataset.level = health.level;
      setText(this.word, WORDS[health.level]);
      setText(this.said, withStep(health.step, health.said));
      setText(this.where, rowsText(health.rows).trim());
      this.buttons.replaceChildren(...health.advice.map((advice) => this.button(advice)));
    }
    const live = usable && !OVER.has(this.store.state);
    health.advice.forEach((advice, i) => this.drawButton(this.buttons.children[i] as HTMLButtonElement, advice, live));
    const notes = health.advice.map((advice) => this.wish(advice)).filter((taken) => taken !== undefined);
    setText(this.note, notes.map((taken) => taken.note).join("; "));
    this.note.dataset.state = notes.at(-1)?.state ?? "";
  }

  private button(advice: Advice): HTMLButtonElement {
    const button = h("button", { type: "button", class: "jft-small", "data-testid": "advice", title: advice.cell }, [advice.label]);
    button.addEventListener("click", () => this.take(advice));
    return button;
  }

  private drawButton(button: HTMLButtonElement, advice: Advice, live: boolean): void {
    const state = this.wish(advice)?.state;
    button.disabled = (!live && advice.chat == null) || state === "requested" || state === "applied";
  }

  private wish(advice: Advice): Taken | undefined {
    return this.store.taken.get(this.taken.get(advice) ?? "");
  }

  private take(advice: Advice): void {
    if (advice.chat != null) return this.chatWith(advice.chat);
    const command = { ...advice.command, id: newId() } as Command; // the kernel checks it as it checks every command
    this.taken.set(advice, command.id);
    this.store.sent(command, advice);
    this.send(command);
    this.draw(true);
  }
}
