// One view's side of the conversation with the kernel: says hello, notices what is lost, and that nobody answers.

import { Keeper, cellsOf } from "./keeper";
import { Command, FromKernel, Model, News, OVER, PROTOCOL, Page, Rated, Story, newId } from "./protocol";

const POLL_AFTER = 2_500; // no answer to hello: a front end that drops what background threads send (Colab)
const POLL_EVERY = 1_000;
const HERE_EVERY = 30_000;
const ASK_AGAIN_AFTER = 7_000; // a live run is heard every five seconds
const GONE_AFTER = 10_000;

export type Health = "well" | "silent" | "gone" | "newer";
export interface Listener {
  hear(message: Story | News, buffer: Float32Array | null): void;
  head(message: FromKernel): void;
  page(page: Page): void;
  rated(rated: Rated): void;
  health(health: Health): void;
}

export class Link {
  readonly view = newId();
  #seq = -1;
  #over = false;
  #polling = false;
  #asking = false; // a poll waits for its answer
  #lastHeard = Date.now();
  #lastHere = Date.now();
  #helloAt = 0;
  #awaiting = false; // a hello has not been answered by a story
  #tried = false; // whether pushing was given a second chance: the first hello may have waited behind a cell
  #more = false; // a newer page will come, and the run may be over
  #owed = 0; // when something was said that must be answered; 0: nothing
  #timer: number;
  readonly #keeper: Keeper | null;
  readonly #onMessage = (content: unknown, buffers?: DataView[]) => this.#heard(content, buffers ?? []);
  readonly #onClose = () => this.#listener.health("gone");
  readonly #onLive = () => this.hello();
  readonly #model: Model;
  readonly #listener: Listener;

  constructor(
    model: Model,
    listener: Listener,
  ) {
    this.#model = model;
    this.#listener = listener;
    const cells = cellsOf(model);
    this.#keeper = cells && new Keeper(cells, () => this.#say({ t: "record", view: this.view }));
    model.on("msg:custom", this.#onMessage);
    model.on("comm:close", this.#onClose);
    model.on("comm_live_update", this.#onLive);
    this.#timer = window.setInterval(() => this.#tick(), 500);
    this.hello();
  }

  send(command: Command): void {
    this.#say({ t: "command", view: this.view, command });
    this.#owed ||= Date.now();
  }

  /** Ask for a page of a tab that the kernel writes. */
  page(tab: string, asked: string, say: string): void {
    this.#say({ t: "page", view: this.view, tab, asked, say });
    this.#owed ||= Date.now();
  }

  rate(command: string, thumb: string): void {
    this.#say({ t: "rate", view: this.view, command, thumb });
    this.#owed ||= Date.now();
  }

  /** Ask for everything again. */
  hello(): void {
    this.#helloAt = Date.now();
    this.#awaiting = true;
    this.#say({ t: "hello", view: this.view, keeps: this.#keeper !== null });
    this.#owed ||= Date.now();
  }

  close(): void {
    window.clearInterval(this.#timer);
    this.#say({ t: "bye", view: this.view });
    this.#model.off("msg:custom", this.#onMessage);
    this.#model.off("comm:close", this.#onClose);
    this.#model.off("comm_live_update", this.#onLive);
  }

  #say(content: Parameters<Model["send"]>[0]): void {
    try {
      this.#model.send(content);
    } catch {
      this.#listener.health("gone"); // the comm is closed
    }
  }

  #heard(content: unknown, buffers: DataView[]): void {
    const message = content as FromKernel;
    if (message?.to !== this.view) return;
    this.#lastHeard = Date.now();
    this.#owed = 0;
    if (message.v !== PROTOCOL) return this.#listener.health("newer");
    this.#listener.health("well");
    this.#over = OVER.has(message.state);
    this.#asking = false;
    if (message.t === "record") this.#keeper?.hear(message);
    if (message.t === "beat" || message.t === "record") return this.#listener.head(message);
    if (message.t === "page") {
      this.#more = message.more ?? false;
      return this.#listener.page(message);
    }
    if (message.t === "rated") return this.#listener.rated(message);
    if (message.t === "news" && message.seq !== this.#seq + 1) {
      if (!this.#awaiting) this.hello(); // something was lost on the way
      return;
    }
    this.#seq = message.seq;
    if (message.t === "story") this.#awaiting = false;
    this.#listener.hear(message, floats(buffers[0]));
    if (this.#polling && !this.#tried) {
      this.#tried = true;
      this.#polling = false;
      this.hello();
    }
  }

  #tick(): void {
    const now = Date.now();
    const quiet = now - this.#lastHeard;
    if (this.#awaiting && now - this.#helloAt > POLL_AFTER) this.#polling = true;
    if (this.#polling) this.#poll(now);
    else if (!this.#over && now - this.#lastHere >= HERE_EVERY) {
      this.#lastHere = now;
      this.#say({ t: "here", view: this.view });
    }
    const live = this.#seq >= 0 && !this.#over;
    if (live && quiet > ASK_AGAIN_AFTER && !this.#polling && now - this.#helloAt > GONE_AFTER) this.hello();
    if (this.#owed && now - this.#owed > (live ? GONE_AFTER - ASK_AGAIN_AFTER : GONE_AFTER) && quiet > GONE_AFTER) {
      this.#listener.health(live ? "gone" : "silent");
    }
  }

  #poll(now: number): void {
    const wanted = !this.#over || this.#seq < 0 || this.#owed > 0 || this.#more;
    const every = this.#asking ? GONE_AFTER : POLL_EVERY; // one that waits behind a cell is not asked again at once
    if (!wanted || now - this.#lastHere < every) return;
    this.#asking = true;
    this.#lastHere = now;
    this.#say({ t: "poll", view: this.view, seq: this.#seq });
  }
}

function floats(view: DataView | undefined): Float32Array | null {
  if (!view) return null;
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)); // aligned
}
