// What the run said, as lines for people: the Log tab shows them all, the header the last that matters.

import { Event } from "./protocol";
import { shown } from "./words";

export type Level = "debug" | "info" | "warning" | "error";
export interface Line {
  time: number; // seconds since the epoch
  level: Level;
  tag: string;
  text: string;
  detail: string; // folded away
  quiet: boolean; // not for the header
}

/** The line that an event is, or null for what is shown elsewhere. */
export function lineOf(event: Event): Line | null {
  const line = (level: Level, tag: string, text: string, more: Partial<Line> = {}): Line => ({
    time: event.time,
    level,
    tag,
    text,
    detail: "",
    quiet: false,
    ...more,
  });
  switch (event.kind) {
    case "state":
      return line("info", "state", event.note ? `${event.state}: ${event.note}` : `${event.state} at step ${event.step}`, { quiet: !event.note });
    case "data":
      return line("info", "data", event.said);
    case "step-refused":
      return line("warning", "step", `Step ${event.step}: the gradient was not finite; the weights were left as they are${rowsText(event.rows)}.`);
    case "eval":
      return line("info", "held-out", `Step ${event.step}: held-out loss ${shown(Number(event.metrics.eval_loss))}${accuracyText(event.metrics)}; best is step ${event.best_step}.`);
    case "health":
      return line(LEVELS[event.level], "health", `${withStep(event.step, event.said)}${rowsText(event.rows)}`, { quiet: true });
    case "memory-short":
      return line("warning", "memory", event.said);
    case "chat-waits":
      return line("info", "chat", event.said);
    case "resumed":
      return line("info", "state", event.rewound ? `Went back to step ${event.step}.` : `Goes on from the checkpoint at step ${event.step}.`);
    case "applied":
      return line("info", "edit", `${event.verb} applied at step ${event.step}${changesText(event.changes)}`, { quiet: true });
    case "refused":
      return line("warning", "refused", `${event.verb || "command"} refused: ${event.reason}`);
    case "checkpoint":
      return line("info", "saved", `Checkpoint saved at step ${event.step}.`);
    case "save-failed":
      return line("error", "saved", `No checkpoint at step ${event.step}: ${event.reason}`);
    case "log":
      return line(levelOf(event.level), "", event.text, { quiet: event.level === "debug" }); // debug is for developers
    case "crashed":
      return line("error", "crash", `Crashed at step ${event.step}: ${event.error}`, { detail: event.traceback });
    default:
      return null;
  }
}

function accuracyText(metrics: Record<string, number | string>): string {
  return "eval_accuracy" in metrics ? `, accuracy ${shown(Number(metrics.eval_accuracy))}` : "";
}

/** What was said, and at which step where it does not say so itself. */
export function withStep(step: number, said: string): string {
  const whole = said.charAt(0).toUpperCase() + said.slice(1);
  return new RegExp(`\\bstep ${step}\\b`, "i").test(said) ? whole : `Step ${step}: ${said}`;
}

const LEVELS = { green: "info", amber: "warning", red: "error" } as const;

function levelOf(said: string): Level {
  return /err|crit|fatal/i.test(said) ? "error" : /warn/i.test(said) ? "warning" : /debug/i.test(said) ? "debug" : "info";
}

export function changesText(changes: Extract<Event, { kind: "applied" }>["changes"]): string {
  const said = Object.entries(changes).map(([name, [old, now]]) => `${name} ${shown(old)} → ${shown(now)}`);
  return said.length ? `: ${said.join(", ")}` : "";
}

/** ` (rows 3, 9 and 12 more)`; nothing where none are known. */
export function rowsText(rows: number[]): string {
  if (!rows.length) return "";
  const more = rows.length > 12 ? ` and ${rows.length - 12} more` : "";
  return ` (${rows.length === 1 ? "row" : "rows"} ${rows.slice(0, 12).join(", ")}${more})`;
}
