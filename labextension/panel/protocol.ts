// What is said between the panel and the kernel: the twin of messages.py (commands, events) and ui/telling.py (the rest).

export const PROTOCOL = 1;

export type RunState = "queued" | "loading" | "running" | "paused" | "stopping" | "finished" | "stopped" | "failed";
export const OVER: ReadonlySet<string> = new Set(["finished", "stopped", "failed"]);

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
export interface Said {
  role: "user" | "assistant";
  content: string;
}
export interface Sampling {
  temperature: number;
  top_p: number;
  max_new_tokens: number;
}

// --- commands: what a person wants ---------------------------------------------------------------------------------

export type Command =
  | { kind: "set"; id: string; changes: Record<string, Json> }
  | { kind: "pause"; id: string; free_memory?: boolean }
  | { kind: "resume" | "stop" | "save"; id: string }
  | { kind: "rewind"; id: string; step: number }
  | ({ kind: "ask"; id: string; messages: Said[]; at: string; turn: string; columns: number; thread: string } & Sampling)
  | { kind: "hush"; id: string; target: string };

// --- events: what has happened -------------------------------------------------------------------------------------

export type Event = { time: number } & (
  | { kind: "state"; state: RunState; step: number; total_steps: number; note: string }
  | { kind: "progress"; what: string; done: number; total: number }
  | { kind: "data"; said: string }
  | { kind: "step-refused"; step: number; rows: number[] }
  | {
      kind: "eval";
      step: number;
      metrics: Record<string, number | string>;
      best_step: number;
      rows: number;
      seconds: number;
      confusion: Confusion | null;
    }
  | { kind: "health"; step: number; level: "green" | "amber" | "red"; said: string; rows: number[]; advice: Advice[] }
  | { kind: "memory-short"; step: number; micro_batch: number; said: string }
  | { kind: "chat-waits"; said: string }
  | { kind: "resumed"; step: number; ahead: string[]; rewound?: boolean }
  | { kind: "applied"; command: string; verb: string; step: number; changes: Record<string, [Json, Json]> }
  | { kind: "refused"; command: string; verb: string; step: number; reason: string }
  | { kind: "checkpoint"; step: number; path: string; kept: number[] | null }
  | { kind: "snapshot"; step: number; kept: number[]; taken: number; budget: number }
  | { kind: "save-failed"; step: number; reason: string }
  | { kind: "log"; level: string; text: string }
  | { kind: "crashed"; step: number; error: string; traceback: string }
  | { kind: "reply-started"; command: string; turn: string; thread: string; at: string; step: number; prompt: string; between_steps: boolean }
  | { kind: "reply-part"; command: string; text: string }
  | { kind: "probe"; step: number; at: "base" | "live"; number: number; prompt: string; text: string; tokens: number; ended: string }
  | ReplyDone
);
export interface Confusion {
  labels: string[];
  counts: number[][]; // a row for each label, a column for what it was taken for
}
export interface Advice {
  label: string;
  command: Record<string, Json>;
  cell: string;
  chat?: number | null; // in the place of a command: the step to open the chat with
}
export interface ReplyDone {
  kind: "reply";
  command: string;
  turn: string;
  thread: string;
  at: string;
  step: number;
  prompt: string;
  text: string;
  tokens: number;
  tokens_per_second: number | string;
  ended: string;
  between_steps: boolean;
}

// --- what the kernel sends ------------------------------------------------------------------------------------------

export interface Control {
  name: string;
  type: "number" | "integer" | "choice" | "string" | "boolean";
  choices: string[];
  optional: boolean;
  help: string;
  unit: string;
  scale: "linear" | "log";
  min: number | null;
  max: number | null;
  value: Json;
}
interface Head {
  v: number;
  to: string;
  seq: number;
  state: RunState;
  step: number;
  total: number;
}
/** One float32 buffer goes with `rows`: column after column, in the order of the last `columns`. */
interface Filled extends Head {
  rows?: number;
  columns?: string[];
  events?: Event[];
  left?: Left[]; // all of them
  resumable?: number[]; // the steps that the run can go back to
}
/** Steps that were taken back, and their losses. */
export type Left = [number[], (number | null)[]];
export interface Story extends Filled {
  t: "story";
  name: string;
  folder: string;
  controls: Control[];
}
export interface News extends Filled {
  t: "news";
  restart?: boolean;
  values?: Record<string, Json>;
}
export interface Beat extends Head {
  t: "beat";
}
/** A page of a tab that the kernel writes, with the text of data and models escaped; without `html`, that there is a newer one. */
export interface Page extends Head {
  t: "page";
  tab: "data" | "samples" | "review" | "lineage" | "fork";
  asked?: string;
  html?: string;
  style?: string;
  again?: string; // what asks for the same page
  told?: string; // for those who hear it
  more?: boolean; // there will be a newer one soon
}
/** There is a newer record below the panel; `data` where it was asked for. */
export interface Record_ extends Head {
  t: "record";
  key: string;
  version: number;
  data?: Record<string, string>;
}
/** The thumbs that are kept now, by the command that asked; where one could not be kept, why. */
export interface Rated extends Head {
  t: "rated";
  thumbs: Record<string, string>;
  error?: string;
}
export type FromKernel = Story | News | Beat | Page | Rated | Record_;

// --- what the panel sends -------------------------------------------------------------------------------------------

export type ToKernel =
  | { t: "hello"; view: string; keeps: boolean }
  | { t: "here" | "bye" | "record"; view: string }
  | { t: "poll"; view: string; seq: number }
  | { t: "page"; view: string; tab: string; asked: string; say: string }
  | { t: "rate"; view: string; command: string; thumb: string }
  | { t: "command"; view: string; command: Command };

/** The part of anywidget's model that the panel uses. */
export interface Model {
  get(key: string): unknown;
  on(event: string, listener: (...args: any[]) => void): void;
  off(event: string, listener: (...args: any[]) => void): void;
  send(content: ToKernel): void;
  widget_manager?: unknown;
}

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(6)); // randomUUID is missing on plain-http hubs
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
