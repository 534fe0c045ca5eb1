// The state of the panel, made from the story and the news alone. No DOM here.

import { Control, Event, Json, News, ReplyDone, RunState, Story } from "./protocol";

export interface Mark {
  step: number;
  text: string;
  command: string;
}
export interface Line {
  level: "info" | "warning" | "error";
  text: string;
}
export type ReplyState = "waiting" | "speaking" | "done" | "refused";
export interface Reply {
  command: string;
  at: string;
  step: number;
  text: string;
  state: ReplyState;
  note: string;
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
/** What changed since the last drawing. */
export type Part = "head" | "curves" | "controls" | "chat";

const LAST_SECONDS = 20; // steps over which speed and ETA are averaged

export class Store {
  name = "";
  state: RunState = "queued";
  step = 0;
  total = 0;
  columns: string[] = [];
  data: number[][] = [];
  marks: Mark[] = [];
  checkpoints: number[] = [];
  refusedSteps: number[] = [];
  progress: { what: string; done: number; total: number } | null = null;
  line: Line = { level: "info", text: "" };
  controls: Control[] = [];
  values: Record<string, Json> = {};
  wishes = new Map<string, Wish>();
  pressed = new Map<string, string>(); // verb → command that waits for its answer
  turns: Turn[] = [];
  dirty = new Set<Part>();
  private crashed = false;
  private replies = new Map<string, [Turn, Reply]>();

  /** Everything anew. Wishes and questions that wait for their answer in this view are kept. */
  hear(message: Story | News, buffer: Float32Array | null): void {
    if (message.t === "story") this.forget(message);
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
    if (message.columns) this.rename(message.columns);
    if (message.rows && buffer) this.append(message.rows, buffer);
    for (const event of message.events ?? []) this.event(event);
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

  wish(name: string, command: string, wanted: Json): void {
    this.wishes.set(name, { command, wanted, state: "requested", note: "" });
    this.dirty.add("controls");
  }

  asked(turnId: string, thread: string, prompt: string, at: string, command: string): void {
    this.reply({ command, turn: turnId, thread, at, step: 0, prompt }, "waiting");
  }

  /** Nobody will answer any more: say so on everything that waits. */
  giveUp(): void {
    for (const wish of this.wishes.values()) {
      if (wish.state === "requested") Object.assign(wish, { state: "refused", note: "no answer" });
    }
    for (const [, reply] of this.replies.values()) {
      if (reply.state === "waiting" || reply.state === "speaking") this.settle(reply, "refused", "no answer");
    }
    this.pressed.clear();
    this.dirty.add("head").add("controls").add("chat");
  }

  private forget(story: Story): void {
    const waiting = [...this.replies.values()].filter(([, reply]) => reply.state === "waiting");
    this.name = story.name;
    [this.columns, this.data, this.marks, this.checkpoints, this.refusedSteps] = [[], [], [], [], []];
    [this.progress, this.line, this.crashed] = [null, { level: "info", text: "" }, false];
    this.controls = story.controls;
    this.values = Object.fromEntries(story.controls.map((control) => [control.name, control.value]));
    this.turns = [];
    this.replies.clear();
    for (const [turn, reply] of waiting) this.asked(turn.id, turn.thread, turn.prompt, reply.at, reply.command);
    for (const part of ["head", "curves", "controls", "chat"] as const) this.dirty.add(part);
  }

  private rename(columns: string[]): void {
    const rows = this.data[0]?.length ?? 0;
    this.data = columns.map((name) => (this.columns.includes(name) ? this.column(name) : new Array(rows).fill(NaN)));
    this.columns = columns;
    this.dirty.add("curves");
  }

  private append(rows: number, buffer: Float32Array): void {
    this.data.forEach((values, i) => {
      for (let row = 0; row < rows; row++) values.push(buffer[i * rows + row] ?? NaN);
    });
    this.dirty.add("curves").add("head");
  }

  private say(level: Line["level"], text: string): void {
    if (this.crashed) return; // a crash is the last word until the run goes on
    this.line = { level, text };
    this.dirty.add("head");
  }

  private event(event: Event): void {
    switch (event.kind) {
      case "state":
        if (event.state === "running") this.crashed = false;
        if (event.state !== "loading") this.progress = null;
        if (event.note) this.say("info", event.note);
        break;
      case "progress":
        this.progress = event.total && event.done >= event.total ? null : event;
        break;
      case "data":
        this.say("info", event.said);
        break;
      case "step-refused":
        this.refusedSteps.push(event.step);
        this.say("warning", `Step ${event.step}: the gradient was not finite; the weights were left as they are.`);
        this.dirty.add("curves");
        break;
      case "eval":
        this.say("info", `Step ${event.step}: held-out loss ${event.metrics.eval_loss?.toFixed(4)}; best is step ${event.best_step}.`);
        break;
      case "health":
        this.say(event.level === "red" ? "error" : event.level === "amber" ? "warning" : "info", event.said);
        break;
      case "memory-short":
        this.say("warning", event.said);
        break;
      case "resumed":
        this.takeBack(event.step, event.ahead);
        break;
      case "applied":
        this.applied(event);
        break;
      case "refused":
        this.refused(event);
        break;
      case "checkpoint":
        this.checkpoints.push(event.step);
        this.say("info", `Checkpoint saved at step ${event.step}.`);
        this.dirty.add("curves");
        break;
      case "save-failed":
        this.say("error", `No checkpoint at step ${event.step}: ${event.reason}`);
        break;
      case "log":
        if (event.level === "debug") break; // for developers: it is in the log
        this.say(/err|crit/i.test(event.level) ? "error" : /warn/i.test(event.level) ? "warning" : "info", event.text);
        break;
      case "crashed":
        this.say("error", `Crashed at step ${event.step}: ${event.error}`);
        this.crashed = true;
        break;
      case "reply-started":
        this.reply(event, "speaking").step = event.step;
        break;
      case "reply-part":
        this.replyPart(event.command, event.text);
        break;
      case "reply":
        this.replyDone(event);
        break;
    }
    this.dirty.add("head");
  }

  private takeBack(last: number, ahead: string[]): void {
    const before = (step: number) => step <= last;
    this.marks = this.marks.filter((mark) => before(mark.step) || ahead.includes(mark.command));
    this.checkpoints = this.checkpoints.filter(before);
    this.refusedSteps = this.refusedSteps.filter(before);
    this.say("info", `Goes on from the checkpoint at step ${last}.`);
    this.dirty.add("curves");
  }

  private applied(event: Event & { kind: "applied" }): void {
    if (this.pressed.get(event.verb) === event.command) this.pressed.delete(event.verb);
    if (event.verb !== "set") return;
    const said: string[] = [];
    for (const [name, [old, now]] of Object.entries(event.changes)) {
      this.values[name] = now;
      const wish = this.wishes.get(name);
      if (!wish || wish.state !== "requested" || wish.command === event.command) {
        this.wishes.set(name, { command: event.command, wanted: now, state: "applied", note: `applied at step ${event.step}` });
      }
      said.push(`${name} ${shown(old)} → ${shown(now)}`);
    }
    if (said.length) this.marks.push({ step: event.step, text: said.join(", "), command: event.command });
    this.dirty.add("controls").add("curves");
  }

  private refused(event: Event & { kind: "refused" }): void {
    if (this.pressed.get(event.verb) === event.command) this.pressed.delete(event.verb);
    for (const wish of this.wishes.values()) {
      if (wish.command === event.command) Object.assign(wish, { state: "refused", note: event.reason });
    }
    const found = this.replies.get(event.command);
    if (found) this.settle(found[1], "refused", event.reason);
    this.say("warning", `${event.verb || "command"} refused: ${event.reason}`);
    this.dirty.add("controls");
  }

  // --- chat ----------------------------------------------------------------------------------------------------------

  private reply(
    said: { command: string; turn: string; thread: string; at: string; step: number; prompt: string },
    state: ReplyState,
  ): Reply {
    this.dirty.add("chat");
    const found = this.replies.get(said.command);
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
    const reply: Reply = { command: said.command, at: said.at, step: said.step, text: "", state, note: "", version: 0 };
    turn.replies.set(said.command, reply);
    this.replies.set(said.command, [turn, reply]);
    return reply;
  }

  private replyPart(command: string, text: string): void {
    const found = this.replies.get(command);
    if (!found || found[1].state === "done") return;
    found[1].text += text;
    found[1].state = "speaking";
    found[1].version++;
    this.dirty.add("chat");
  }

  private replyDone(event: ReplyDone): void {
    const reply = this.reply(event, "done");
    const speed = Number(event.tokens_per_second);
    const ended = { length: " · cut at the length limit", stopped: " · stopped" }[event.ended] ?? "";
    reply.step = event.step;
    reply.text = event.text;
    this.settle(reply, "done", (Number.isFinite(speed) ? ` · ${shown(speed)} tok/s` : "") + ended);
  }

  private settle(reply: Reply, state: ReplyState, note: string): void {
    reply.state = state;
    reply.note = note;
    reply.version++;
    this.dirty.add("chat");
  }
}

/** A value as people write it: 2e-4, 0.1, linear, none. */
export function shown(value: Json | undefined): string {
  if (value === null || value === undefined || value === "") return "none";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(3).replace(/\.?0+e/, "e");
  if (Math.abs(value) >= 1e6) return value.toExponential(2).replace(/\.?0+e\+?/, "e");
  return String(Number(value.toPrecision(4)));
}
