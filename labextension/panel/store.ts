// The state of the panel, made from the story and the news alone. No DOM here.

import { Line, changesText, lineOf } from "./lines";
import { Advice, Command, Confusion, Control, Event, Json, Left, News, OVER, Rated, ReplyDone, RunState, Story } from "./protocol";

export interface Mark {
  step: number;
  text: string;
  command: string;
}
/** The held-out rows scored at a step. */
export interface Eval {
  step: number;
  loss: number;
  best: number; // the best step so far
  metrics: Record<string, number | string>;
  confusion: Confusion | null;
}
export type State = Extract<Event, { kind: "health" }>;
export type ReplyState = "waiting" | "speaking" | "done" | "refused";
export interface Reply {
  command: string;
  at: string;
  step: number;
  text: string;
  state: ReplyState;
  note: string;
  between: boolean; // the run waited for it, between two steps
  version: number; // grows with each change, so that only what changed is drawn again
}
export interface Turn {
  id: string;
  thread: string;
  prompt: string;
  replies: Map<string, Reply>; // by command
}
/** What became of the last wish for a control. */
export interface Wish {
  command: string;
  wanted: Json;
  state: "requested" | "applied" | "refused";
  note: string;
}
/** What became of an advice that was taken. */
export interface Taken {
  advice: Advice;
  state: "requested" | "applied" | "refused";
  note: string;
}
/** What may have changed since the last drawing. */
export const PARTS = ["head", "health", "curves", "controls", "chat", "data", "samples", "review", "lineage", "log"] as const;
export type Part = (typeof PARTS)[number] | "fork";

const LAST_SECONDS = 20; // steps over which speed and ETA are averaged
export const LINES_KEPT = 500;

export class Store {
  name = "";
  state: RunState = "queued";
  step = 0;
  total = 0;
  columns: string[] = [];
  data: number[][] = [];
  marks: Mark[] = [];
  checkpoints: number[] = [];
  resumable: number[] = [];
  left: Left[] = []; // what was taken back
  snapshots: { taken: number; budget: number } | null = null; // bytes
  refusedSteps: number[] = [];
  evals: Eval[] = [];
  health: State | null = null;
  taken = new Map<string, Taken>(); // by command
  lines: Line[] = [];
  linesSaid = 0; // the number of the last of `lines`, counted from the last story
  progress: { what: string; done: number; total: number } | null = null;
  line: Line | null = null;
  controls: Control[] = [];
  values: Record<string, Json> = {};
  wishes = new Map<string, Wish>();
  pressed = new Map<string, string>(); // verb → command that waits for its answer
  turns: Turn[] = [];
  thumbs = new Map<string, string>(); // by command: good, bad, or why not
  waits = ""; // why the run waits while a reply is spoken
  dirty = new Set<Part>();
  #crashed = false;
  #replies = new Map<string, [Turn, Reply]>();

  /** Everything anew. Wishes and questions that wait for their answer in this view are kept. */
  hear(message: Story | News, buffer: Float32Array | null): void {
    if (message.t === "story") this.#forget(message);
    if (message.t === "news" && message.restart) this.data = this.columns.map(() => []);
    if (message.t === "news" && message.values) {
      this.values = message.values;
      this.dirty.add("controls");
    }
    if (this.state !== message.state || this.step !== message.step || this.total !== message.total) this.dirty.add("head");
    if (this.state !== message.state) this.dirty.add("controls").add("chat");
    this.state = message.state;
    this.step = message.step;
    this.total = message.total;
    if (message.columns) this.#rename(message.columns);
    if (message.rows && buffer) this.#append(message.rows, buffer);
    for (const event of message.events ?? []) this.#event(event);
    this.left = message.left ?? this.left;
    this.resumable = message.resumable ?? this.resumable;
  }

  /** Only the head of the run (from a heartbeat). */
  head(message: { state: RunState; step: number; total: number }): void {
    if (this.state !== message.state) this.dirty.add("controls").add("chat");
    this.dirty.add("head");
    this.state = message.state;
    this.step = message.step;
    this.total = message.total;
  }

  column(name: string): number[] {
    return this.data[this.columns.indexOf(name)] ?? [];
  }

  last(name: string): number {
    return this.column(name).at(-1) ?? NaN;
  }

  /** Rows of the last seconds: speed and time left come from these. */
  recent(): { tokensPerSecond: number; secondsPerStep: number } {
    const [steps, seconds, tokens] = [this.column("step"), this.column("seconds"), this.column("tokens")];
    let [spent, read, rows] = [0, 0, 0];
    for (let i = steps.length - 1; i >= 0 && spent < LAST_SECONDS && rows < 200; i--, rows++) {
      spent += seconds[i] ?? 0;
      read += tokens[i] ?? 0;
    }
    return { tokensPerSecond: read / spent, secondsPerStep: spent / rows };
  }

  /** Steps whose loss or gradient was not finite. */
  badSteps(): number[] {
    const [steps, losses] = [this.column("step"), this.column("loss")];
    const bad = steps.filter((_, i) => !Number.isFinite(losses[i]));
    return [...new Set([...bad, ...this.refusedSteps])].sort((a, b) => a - b);
  }

  /** The step with the lowest held-out loss so far; null while nothing was scored. */
  get best(): number | null {
    return this.evals.at(-1)?.best ?? null;
  }

  wish(name: string, command: string, wanted: Json): void {
    this.wishes.set(name, { command, wanted, state: "requested", note: "" });
    this.dirty.add("controls");
  }

  asked(turnId: string, thread: string, prompt: string, at: string, command: string): void {
    this.#reply({ command, turn: turnId, thread, at, step: 0, prompt }, "waiting");
  }

  /** A command was sent: what shows it elsewhere says that it was requested. */
  sent(command: Command, advice?: Advice): void {
    if (advice) this.taken.set(command.id, { advice, state: "requested", note: "requested…" });
    if (command.kind === "set") {
      for (const [name, value] of Object.entries(command.changes)) this.wish(name, command.id, value);
    } else if (command.kind !== "ask" && command.kind !== "hush") this.pressed.set(command.kind, command.id);
    this.dirty.add("head").add("health");
  }

  /** Thumbs are kept, or one that was wanted is not. */
  rated({ thumbs, error }: Rated): void {
    for (const [command, thumb] of Object.entries(thumbs)) this.thumb(command, error ?? thumb);
  }

  thumb(command: string, thumb: string): void {
    this.thumbs.set(command, thumb);
    const found = this.#replies.get(command);
    if (found) found[1].version++;
    this.dirty.add("chat");
  }

  /** Nobody will answer any more: say so on everything that waits. */
  giveUp(): void {
    for (const wish of this.wishes.values()) {
      if (wish.state === "requested") Object.assign(wish, { state: "refused", note: "no answer" });
    }
    for (const [, reply] of this.#replies.values()) {
      if (reply.state === "waiting" || reply.state === "speaking") this.#settle(reply, "refused", "no answer");
    }
    for (const taken of this.taken.values()) {
      if (taken.state === "requested") Object.assign(taken, { state: "refused", note: "no answer" });
    }
    this.pressed.clear();
    this.dirty.add("head").add("health").add("controls").add("chat");
  }

  #forget(story: Story): void {
    const waiting = [...this.#replies.values()].filter(([, reply]) => reply.state === "waiting");
    this.name = story.name;
    [this.columns, this.data, this.marks, this.checkpoints, this.refusedSteps] = [[], [], [], [], []];
    [this.evals, this.lines, this.linesSaid, this.left, this.resumable] = [[], [], 0, [], []];
    [this.progress, this.line, this.health, this.snapshots, this.#crashed] = [null, null, null, null, false];
    this.controls = story.controls;
    this.values = Object.fromEntries(story.controls.map((control) => [control.name, control.value]));
    [this.turns, this.waits] = [[], ""];
    this.#replies.clear();
    for (const [turn, reply] of waiting) this.asked(turn.id, turn.thread, turn.prompt, reply.at, reply.command);
    for (const part of PARTS) this.dirty.add(part);
  }

  #rename(columns: string[]): void {
    const rows = this.data[0]?.length ?? 0;
    this.data = columns.map((name) => (this.columns.includes(name) ? this.column(name) : new Array(rows).fill(NaN)));
    this.columns = columns;
    this.dirty.add("curves");
  }

  #append(rows: number, buffer: Float32Array): void {
    this.data.forEach((values, i) => {
      for (let row = 0; row < rows; row++) values.push(buffer[i * rows + row] ?? NaN);
    });
    this.dirty.add("curves").add("head");
  }

  #say(line: Line): void {
    this.lines.push(line);
    this.linesSaid++;
    if (this.lines.length > LINES_KEPT) this.lines.shift();
    this.dirty.add("log");
    if (line.quiet || this.#crashed) return; // a crash is the last word until the run goes on
    this.line = line;
    this.dirty.add("head");
  }

  #event(event: Event): void {
    if (event.kind === "state" && event.state === "running") this.#crashed = false;
    const line = lineOf(event);
    if (line) this.#say(line);
    switch (event.kind) {
      case "state":
        if (event.state !== "loading") this.progress = null;
        if (event.state === "queued" || OVER.has(event.state)) this.waits = "";
        break;
      case "progress":
        this.progress = event.total && event.done >= event.total ? null : event;
        break;
      case "data":
        this.dirty.add("data");
        break;
      case "probe":
        this.dirty.add("samples");
        break;
      case "step-refused":
        this.refusedSteps.push(event.step);
        this.dirty.add("curves");
        break;
      case "eval":
        this.evals = this.evals.filter((one) => one.step < event.step);
        this.evals.push({
          step: event.step,
          loss: Number(event.metrics.eval_loss),
          best: event.best_step,
          metrics: event.metrics,
          confusion: event.confusion,
        });
        this.dirty.add("curves").add("chat");
        break;
      case "health":
        this.health = event;
        this.dirty.add("health");
        break;
      case "chat-waits":
        this.waits = event.said;
        this.dirty.add("chat");
        break;
      case "resumed":
        this.#takeBack(event.step, event.ahead);
        break;
      case "applied":
        this.#applied(event);
        break;
      case "refused":
        this.#refused(event);
        break;
      case "checkpoint":
      case "snapshot":
        this.checkpoints = event.kept ?? [...new Set([...this.checkpoints, event.step])]; // older ones make room
        if (event.kind === "snapshot" && event.budget) this.snapshots = event;
        this.dirty.add("curves").add("chat");
        break;
      case "crashed":
        this.#crashed = true;
        break;
      case "reply-started":
        Object.assign(this.#reply(event, "speaking"), { step: event.step, between: event.between_steps });
        break;
      case "reply-part":
        this.#replyPart(event.command, event.text);
        break;
      case "reply":
        this.#replyDone(event);
        break;
    }
    this.dirty.add("head");
  }

  #takeBack(last: number, ahead: string[]): void {
    const before = (step: number) => step <= last;
    this.marks = this.marks.filter((mark) => before(mark.step) || ahead.includes(mark.command));
    this.checkpoints = this.checkpoints.filter(before);
    this.refusedSteps = this.refusedSteps.filter(before);
    this.evals = this.evals.filter((one) => before(one.step));
    if (this.health && !before(this.health.step)) this.health = null;
    this.dirty.add("curves").add("health").add("chat");
  }

  #settleAdvice(command: string, state: Taken["state"], note: string): void {
    const taken = this.taken.get(command);
    if (taken) Object.assign(taken, { state, note });
    this.dirty.add("health");
  }

  /** Whatever it is called in the answer: a run that is over goes back by resuming. */
  #answered(command: string): void {
    for (const [verb, waits] of this.pressed) if (waits === command) this.pressed.delete(verb);
    this.dirty.add("curves");
  }

  #applied(event: Event & { kind: "applied" }): void {
    this.#settleAdvice(event.command, "applied", `applied at step ${event.step}`);
    this.#answered(event.command);
    if (event.verb !== "set") return;
    for (const [name, [, now]] of Object.entries(event.changes)) {
      this.values[name] = now;
      const wish = this.wishes.get(name);
      if (!wish || wish.state !== "requested" || wish.command === event.command) {
        this.wishes.set(name, { command: event.command, wanted: now, state: "applied", note: `applied at step ${event.step}` });
      }
    }
    const text = changesText(event.changes).slice(2);
    if (text) this.marks.push({ step: event.step, text, command: event.command });
    this.dirty.add("controls").add("curves");
  }

  #refused(event: Event & { kind: "refused" }): void {
    this.#settleAdvice(event.command, "refused", event.reason);
    this.#answered(event.command);
    for (const wish of this.wishes.values()) {
      if (wish.command === event.command) Object.assign(wish, { state: "refused", note: event.reason });
    }
    const found = this.#replies.get(event.command);
    if (found) this.#settle(found[1], "refused", event.reason);
    this.dirty.add("controls");
  }

  // --- chat ----------------------------------------------------------------------------------------------------------

  #reply(
    said: { command: string; turn: string; thread: string; at: string; step: number; prompt: string },
    state: ReplyState,
  ): Reply {
    this.dirty.add("chat");
    const found = this.#replies.get(said.command);
    if (found) {
      found[1].state = state;
      found[1].version++;
      return found[1];
    }
    let turn = this.turns.find((one) => one.id === said.turn && one.thread === said.thread);
    if (!turn) {
      turn = { id: said.turn, thread: said.thread, prompt: said.prompt, replies: new Map() };
      this.turns.push(turn);
    }
    const reply: Reply = { command: said.command, at: said.at, step: said.step, text: "", state, note: "", between: false, version: 0 };
    turn.replies.set(said.command, reply);
    this.#replies.set(said.command, [turn, reply]);
    return reply;
  }

  #replyPart(command: string, text: string): void {
    const found = this.#replies.get(command);
    if (!found || found[1].state === "done") return;
    found[1].text += text;
    found[1].state = "speaking";
    found[1].version++;
    this.dirty.add("chat");
  }

  #replyDone(event: ReplyDone): void {
    const reply = this.#reply(event, "done");
    const speed = Number(event.tokens_per_second);
    const ended = { length: "cut at the length limit", stopped: "stopped" }[event.ended] ?? "";
    reply.step = event.step;
    reply.text = event.text;
    const waited = event.between_steps ? "the run waited" : "";
    this.#settle(reply, "done", [Number.isFinite(speed) ? `${speed.toFixed(1)} tok/s` : "", ended, waited].filter(Boolean).join(" · "));
  }

  #settle(reply: Reply, state: ReplyState, note: string): void {
    Object.assign(reply, { state, note, version: reply.version + 1 });
    this.dirty.add("chat");
  }
}
