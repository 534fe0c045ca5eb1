// Talk to the weights of this moment, the base and any checkpoint, side by side. The conversation is rebuilt from the log: a turn's
// id is CONVERSATION.NUMBER, so that a page that is loaded again knows where the last conversation began.

import { Columns, nameOf } from "./columns";
import { h, setText } from "./dom";
import { rendered } from "./markdown";
import { Command, Said, Sampling, newId } from "./protocol";
import { Reply, Store, Turn } from "./store";

const THREAD = "panel";

export interface ChatMemory {
  draft: string;
  columns: string[];
  sampling: Sampling;
}
export const CHAT_DEFAULTS: ChatMemory = {
  draft: "",
  columns: ["live"],
  sampling: { temperature: 0, top_p: 1, max_new_tokens: 256 },
};

export class Chat {
  readonly element: HTMLElement;
  readonly #list = h("div", { class: "jft-turns", test: "turns", tabindex: 0, "aria-label": "Conversation" });
  readonly #announce = h("div", { class: "jft-hidden", role: "log", "aria-live": "polite" });
  readonly #input: HTMLTextAreaElement;
  readonly #sendButton: HTMLButtonElement;
  readonly #columns: Columns;
  readonly #hint = h("span", { class: "jft-dim", test: "chat-hint" });
  #drawn = new Map<string, DrawnReply>();
  #drawnTurns = new Map<Turn, HTMLElement>();
  #conversation: string | null = null;
  readonly #store: Store;
  readonly #send: (command: Command) => void;
  readonly #rate: (command: string, thumb: string) => void;
  readonly #memory: ChatMemory;

  constructor(
    store: Store,
    send: (command: Command) => void,
    rate: (command: string, thumb: string) => void,
    memory: ChatMemory,
  ) {
    this.#store = store;
    this.#send = send;
    this.#rate = rate;
    this.#memory = memory;
    this.#input = h("textarea", {
      test: "chat-input",
      rows: 2,
      "aria-label": "Message",
      placeholder: "Ask the model as it is now…  (Enter sends, Shift+Enter starts a line)",
    });
    this.#input.value = memory.draft;
    this.#input.addEventListener("input", () => (memory.draft = this.#input.value));
    this.#input.addEventListener("keydown", (event) => {
      event.stopPropagation(); // Shift+Enter would run the cell
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#ask();
      }
    });
    this.#sendButton = h("button", { type: "submit", class: "jft-primary", test: "chat-send" }, ["Send"]);
    this.#columns = new Columns(store, memory.columns, () => (this.#sendButton.disabled = this.#input.disabled || !memory.columns.length));
    this.#columns.draw();
    this.element = h("div", { class: "jft-chat" }, [this.#list, this.#announce, this.#composer()]);
  }

  #composer(): HTMLElement {
    const fresh = h("button", { test: "chat-new" }, ["New conversation"], {
      click: () => {
        this.#conversation = newId();
        this.draw(true);
        this.#input.focus();
      },
    });
    return h(
      "form",
      { class: "jft-composer" },
      [
        h("div", { class: "jft-ask" }, [this.#input, this.#sendButton]),
        h("div", { class: "jft-options" }, [
          this.#columns.element,
          this.#samplingFields(),
          this.#hint,
          fresh,
        ]),
      ],
      {
        submit: (event) => {
          event.preventDefault();
          this.#ask();
        },
      },
    );
  }

  #samplingFields(): HTMLElement {
    const { sampling } = this.#memory;
    const field = (name: keyof Sampling, label: string, limits: { min: number; max: number; step: string }) => {
      const input = h("input", { type: "number", test: `chat-${name}`, value: sampling[name], ...limits });
      input.addEventListener("keydown", (event) => event.stopPropagation());
      input.addEventListener("change", () => {
        if (input.value !== "" && input.checkValidity()) sampling[name] = Number(input.value);
        else input.value = String(sampling[name]);
      });
      return h("label", {}, [label, input]);
    };
    return h("details", { class: "jft-sampling" }, [
      h("summary", {}, ["Sampling"]),
      h("div", {}, [
        field("temperature", "temperature", { min: 0, max: 10, step: "any" }),
        field("top_p", "top p", { min: 0.01, max: 1, step: "any" }),
        field("max_new_tokens", "most new tokens", { min: 1, max: 32768, step: "1" }),
      ]),
    ]);
  }

  /** One column more. */
  add(at: string): void {
    this.#columns.set(at, true);
  }

  focus(): void {
    this.#input.focus();
  }

  #ask(): void {
    const prompt = this.#input.value.trim();
    if (!prompt || !this.#memory.columns.length || this.#sendButton.disabled) return;
    const conversation = this.#here();
    const number = this.#store.turns.filter((turn) => conversationOf(turn) === conversation).length;
    const turn = `${conversation}.${number}`;
    for (const at of this.#memory.columns) {
      const id = newId();
      const messages: Said[] = [...this.#history(conversation, at), { role: "user", content: prompt }];
      this.#store.asked(turn, THREAD, prompt, at, id);
      const columns = this.#memory.columns.length;
      this.#send({ kind: "ask", id, messages, at, turn, columns, thread: THREAD, ...this.#memory.sampling });
    }
    this.#input.value = this.#memory.draft = "";
    this.draw(true);
    this.#list.scrollTop = this.#list.scrollHeight;
  }

  /** The conversation that goes on: the one begun here, else the last of the log. */
  #here(): string {
    const last = this.#store.turns.filter((turn) => turn.thread === THREAD).at(-1);
    this.#conversation ??= last ? conversationOf(last) : newId();
    return this.#conversation;
  }

  /** Each column remembers what it has said itself. */
  #history(conversation: string, at: string): Said[] {
    const said: Said[] = [];
    for (const turn of this.#store.turns) {
      const reply = [...turn.replies.values()].find((one) => one.at === at && one.state === "done" && one.text);
      if (turn.thread !== THREAD || conversationOf(turn) !== conversation || !reply) continue;
      said.push({ role: "user", content: turn.prompt }, { role: "assistant", content: reply.text });
    }
    return said;
  }

  draw(usable: boolean): void {
    this.#columns.draw();
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 40;
    this.#sendButton.disabled = !usable || this.#memory.columns.length === 0;
    this.#input.disabled = !usable;
    const loading = ["queued", "loading"].includes(this.#store.state);
    const fresh = this.#store.turns.length > 0 && !this.#store.turns.some((turn) => conversationOf(turn) === this.#conversation);
    const begun = this.#conversation !== null && fresh ? "The next message begins a new conversation." : "";
    const waits = this.#store.waits ? "Each reply is spoken between two steps, and the run waits for it." : "";
    setText(this.#hint, loading ? "Answers come when the model is loaded." : [begun, waits].filter(Boolean).join(" "));
    this.#hint.title = this.#store.waits;
    const kept = new Set(this.#store.turns);
    for (const [turn, element] of this.#drawnTurns) {
      if (kept.has(turn)) continue;
      element.remove(); // a story came: everything is drawn from it
      this.#drawnTurns.delete(turn);
    }
    let before: string | null = null;
    for (const turn of this.#store.turns) {
      if (!this.#drawnTurns.has(turn)) this.#addTurn(turn, before);
      for (const reply of turn.replies.values()) this.#drawReply(turn, reply);
      if (turn.thread === THREAD) before = conversationOf(turn);
    }
    this.#list.classList.toggle("jft-empty", this.#store.turns.length === 0);
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
  }

  #addTurn(turn: Turn, before: string | null): void {
    const own = turn.thread === THREAD;
    const fresh = own && before !== null && before !== conversationOf(turn);
    const element = h("section", { class: own ? "jft-turn" : "jft-turn jft-foreign" }, [
      fresh ? h("div", { class: "jft-divider" }, ["new conversation"]) : null,
      h("div", { class: "jft-prompt" }, [
        own ? null : h("span", { class: "jft-stamp" }, ["from a cell"]),
        h("span", { class: "jft-words" }, [turn.prompt]),
      ]),
      h("div", { class: "jft-replies" }),
    ]);
    this.#drawnTurns.set(turn, element);
    this.#list.append(element);
  }

  #drawReply(turn: Turn, reply: Reply): void {
    const replies = this.#drawnTurns.get(turn)?.querySelector(".jft-replies");
    let drawn = this.#drawn.get(reply.command);
    if (!drawn || drawn.reply !== reply) {
      const hush = () => this.#send({ kind: "hush", id: newId(), target: reply.command });
      drawn = new DrawnReply(reply, hush, (thumb) => this.#thumb(reply.command, thumb));
      this.#drawn.set(reply.command, drawn);
      replies?.append(drawn.element);
    }
    if (drawn.draw(this.#store.thumbs.get(reply.command)) && reply.state === "done") this.#say(`${nameOf(reply.at)} says: ${reply.text}`);
  }

  #thumb(command: string, thumb: string): void {
    this.#store.thumb(command, "saving…");
    this.#rate(command, thumb);
    this.draw(true);
  }

  #say(text: string): void {
    this.#announce.append(h("p", {}, [text]));
    while (this.#announce.childElementCount > 3) this.#announce.firstElementChild?.remove();
  }
}

class DrawnReply {
  readonly element: HTMLElement;
  readonly #stamp = h("span", { class: "jft-stamp", test: "reply-stamp" });
  readonly #body = h("div", { class: "jft-body" });
  readonly #thumbs = h("div", { class: "jft-thumbs" });
  readonly #saved = h("span", { class: "jft-dim", test: "thumb-saved", role: "status" });
  readonly #stop: HTMLButtonElement;
  #version = -1;

  constructor(
    readonly reply: Reply,
    hush: () => void,
    rate: (thumb: string) => void,
  ) {
    this.#stop = h("button", { class: "jft-small", test: "reply-stop" }, ["Stop"], {
      click: () => {
        this.#stop.disabled = true;
        hush();
      },
    });
    const head = h("div", { class: "jft-reply-head" }, [reply.at === "live" ? h("b", { class: "jft-live" }, ["live"]) : null, this.#stamp, this.#stop]);
    const of = /^\d+$/.test(reply.at) ? "step" : reply.at;
    for (const thumb of ["good", "bad"]) {
      const about = { class: "jft-small", test: `thumb-${thumb}`, "aria-label": `${thumb} answer`, title: `A ${thumb} answer` };
      const button = h("button", about, [], { click: () => rate(button.ariaPressed === "true" ? "" : thumb) });
      this.#thumbs.append(button);
    }
    this.#thumbs.append(this.#saved);
    this.element = h("article", { class: "jft-reply", test: "reply", "data-at": reply.at, "data-of": of }, [head, this.#body, this.#thumbs]);
  }

  /** Draws it again where something changed; true when it has just been settled. */
  draw(thumb = ""): boolean {
    const { reply } = this;
    if (this.#version === reply.version) return false;
    this.#version = reply.version;
    const before = this.element.dataset.state;
    this.element.dataset.state = reply.state;
    const open = reply.state === "waiting" || reply.state === "speaking";
    this.#stop.hidden = !open;
    this.#thumbs.hidden = reply.state !== "done";
    for (const button of this.#thumbs.querySelectorAll("button")) button.ariaPressed = String(button.dataset.testid === `thumb-${thumb}`);
    setText(this.#saved, /^(good|bad)$/.test(thumb) ? "saved" : thumb);
    const spoke = reply.at === "base" ? "base" : `step ${reply.step}`; // the weights that did, whatever was asked for
    const asked = reply.at === "live" ? "" : nameOf(reply.at);
    const [who, more] = { waiting: [asked, "waiting…"], speaking: [spoke, reply.between ? "speaking, the run waits…" : "speaking…"], done: [spoke, reply.note], refused: [asked, "refused"] }[
      reply.state
    ] as [string, string];
    this.#stamp.replaceChildren(h("b", {}, [who]), [who, more].every(Boolean) ? ` · ${more}` : more);
    if (reply.state === "refused") this.#body.replaceChildren(h("p", { class: "jft-bad" }, [reply.note]));
    else this.#body.replaceChildren(rendered(reply.text));
    return !open && (before === "waiting" || before === "speaking");
  }
}

function conversationOf(turn: Turn): string {
  return turn.id.split(".", 1)[0] ?? "";
}
