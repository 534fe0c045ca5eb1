// The columns that are drawn, on one axis of steps: the thinned steps, the held-out ones, and those that are not finite.

import type uPlot from "uplot";
import { Store } from "./store";

/** `undefined`: nothing is known at this step, a line goes past it. `null`: it is not finite, a line ends here. */
export type Values = (number | null | undefined)[];
export interface Drawn {
  steps: number[];
  rows: (number | undefined)[]; // the store's row of each step
  upper: [Values, Values, Values, Values, Values]; // each step, smoothed, learning rate, held-out, taken back
  lower: Values;
  left: [number[], (number | null)[]][]; // smoothed
}

export function drawn(store: Store, bad: number[], options: { smoothing: number; log: boolean; other: string }): Drawn {
  const own = store.column("step");
  const evals = new Map(store.evals.map((one) => [one.step, one.loss]));
  const first = own[0] ?? 0;
  const strange = bad.filter((step) => step >= first && step <= (own.at(-1) ?? 0));
  const row = new Map(own.map((step, i) => [step, i]));
  const left = store.left.map(([at, losses]): Drawn["left"][number] => [at, smooth(at, losses.map((one) => one ?? NaN), options.smoothing)]);
  const back = new Map(left.flatMap(([at, losses]) => at.map((step, i) => [step, losses[i] ?? undefined] as const)));
  const steps = [...new Set([...own, ...evals.keys(), ...strange, ...back.keys()])].sort((a, b) => a - b);
  const rows = steps.map((step) => row.get(step));
  const gone = new Set(strange);
  const finite = (value: number | undefined) => value !== undefined && Number.isFinite(value) && (!options.log || value > 0);
  const spread = (values: readonly (number | null)[], gaps: boolean): Values =>
    rows.map((at, i) => (at === undefined ? (gaps && gone.has(steps[i] ?? NaN) ? null : undefined) : values[at]));
  const clean = (values: number[]) => values.map((value) => (finite(value) ? value : null));
  const losses = store.column("loss");
  return {
    steps,
    rows,
    upper: [
      spread(clean(losses), true),
      spread(smooth(own, losses, options.smoothing), true),
      spread(clean(store.column("learning_rate")), false),
      steps.map((step) => (evals.has(step) ? (finite(evals.get(step)) ? evals.get(step) : null) : undefined)),
      steps.map((step) => back.get(step)),
    ],
    left,
    lower: spread(store.column(options.other).map((value) => (Number.isFinite(value) ? value : null)), false),
  };
}

/** What uPlot takes; its types know no holes of the kind that it draws past. */
export function aligned(steps: number[], ...values: Values[]): uPlot.AlignedData {
  return [steps, ...values] as uPlot.AlignedData;
}

/** An exponential average that starts unbiased and knows that thinned steps lie further apart. */
export function smooth(steps: number[], values: number[], weight: number): (number | null)[] {
  let [average, trust, before] = [0, 0, NaN];
  return values.map((value, i) => {
    if (!Number.isFinite(value)) return null;
    const step = steps[i] ?? 0;
    const keep = weight ** (Number.isNaN(before) ? 1 : Math.max(1, step - before));
    average = keep * average + (1 - keep) * value;
    trust = keep * trust + (1 - keep);
    before = step;
    return trust > 0 ? average / trust : value;
  });
}
