// The loss and the learning rate over the steps, any other column below, and what happened along the way.

import uPlot from "uplot";
import { h, setText } from "./dom";
import { Store, shown } from "./store";
import { Palette, palette } from "./theme";

const HEIGHT = 250;
const LOWER_HEIGHT = 120;
const NEAR = 6; // px between the pointer and a mark that it means

export interface CurvesMemory {
  smoothing: number;
  log: boolean;
  other: string;
}
export const CURVES_DEFAULTS: CurvesMemory = { smoothing: 0.8, log: false, other: "grad_norm" };

type Numbers = (number | null)[];
const LOG: uPlot.Scale = { distr: 3, range: (_, low, high) => [(low ?? 0.1) / 1.04, (high ?? 1) * 1.04] };
const RIGHT_AXIS = 56;

export class Curves {
  readonly element: HTMLElement;
  private readonly bar: HTMLElement;
  private readonly upper = h("div", { class: "jft-plot", "data-testid": "plot", role: "img" });
  private readonly lower = h("div", { class: "jft-plot" });
  private readonly select = h("select", { "data-testid": "other-column", "aria-label": "Column of the lower plot" });
  private readonly marks = h("ol", { class: "jft-marks", "aria-label": "Changes along the run" });
  private readonly table = h("table", { class: "jft-hidden" });
  private readonly nothing = h("p", { class: "jft-nothing" }, ["No step yet."]);
  private readonly badLine = h("p", { class: "jft-bad", "data-testid": "bad-steps", hidden: true });
  private readonly smoothed = h("output", {}, [""]);
  private plots: uPlot[] = [];
  private colours: Palette | null = null;
  private highlighted = -1;
  private bad: number[] = [];
  private drawnMarks = "";
  private tableAt = 0;
  private readonly observer: ResizeObserver;

  constructor(
    private readonly store: Store,
    private readonly memory: CurvesMemory,
  ) {
    this.select.addEventListener("change", () => {
      memory.other = this.select.value;
      this.rebuild();
    });
    this.bar = this.toolbar();
    this.element = h("div", { class: "jft-curves" }, [
      this.bar,
      this.nothing,
      this.upper,
      this.badLine,
      h("div", { class: "jft-lower-head" }, [this.select]),
      this.lower,
      this.marks,
      this.table,
    ]);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
  }

  private toolbar(): HTMLElement {
    const key = (name: string, text: string) => h("span", { class: `jft-key jft-key-${name}` }, [text]);
    const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.memory.smoothing, "data-testid": "smoothing" });
    slider.addEventListener("input", () => {
      this.memory.smoothing = Number(slider.value);
      setText(this.smoothed, slider.value);
      this.draw();
    });
    setText(this.smoothed, String(this.memory.smoothing));
    const log = h("input", { type: "checkbox", checked: this.memory.log, "data-testid": "log-scale" });
    log.addEventListener("change", () => {
      this.memory.log = log.checked;
      this.rebuild();
    });
    return h("div", { class: "jft-toolbar" }, [
      key("loss", "loss"),
      key("raw", "each step"),
      key("rate", "learning rate"),
      key("mark", "change"),
      key("save", "checkpoint"),
      h("span", { class: "jft-space" }),
      h("label", { class: "jft-check" }, [log, "log scale"]),
      h("label", { class: "jft-check" }, ["smoothing", slider, this.smoothed]),
    ]);
  }

  /** New data, or a theme that changed. */
  draw(): void {
    const rows = this.store.column("step").length;
    this.nothing.hidden = rows > 0;
    for (const part of [this.bar, this.upper, this.lower, this.select]) part.hidden = rows === 0;
    this.bad = this.store.badSteps();
    this.drawWords();
    if (!rows || !this.element.clientWidth) return; // a hidden tab is drawn when it is shown
    this.fillSelect();
    if (!this.plots.length) this.build();
    this.plots[0]?.setData(this.upperData() as uPlot.AlignedData);
    this.plots[1]?.setData(this.lowerData() as uPlot.AlignedData);
  }

  rebuild(): void {
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
    this.draw();
  }

  close(): void {
    this.observer.disconnect();
    for (const plot of this.plots) plot.destroy();
  }

  private resize(): void {
    const width = this.element.clientWidth;
    if (!width) return;
    if (!this.plots.length) return this.draw();
    if (this.plots[0]?.width === width) return;
    this.plots[0]?.setSize({ width, height: HEIGHT });
    this.plots[1]?.setSize({ width, height: LOWER_HEIGHT });
  }

  // --- data ----------------------------------------------------------------------------------------------------------

  private upperData(): [number[], Numbers, Numbers, Numbers] {
    const steps = this.store.column("step");
    const losses = this.store.column("loss");
    const drawable = (value: number) => Number.isFinite(value) && (!this.memory.log || value > 0);
    const clean = (values: number[]) => values.map((value) => (drawable(value) ? value : null));
    return [steps, clean(losses), smooth(steps, losses, this.memory.smoothing), clean(this.store.column("learning_rate"))];
  }

  private lowerData(): [number[], Numbers] {
    const values = this.store.column(this.memory.other);
    return [this.store.column("step"), values.map((value) => (Number.isFinite(value) ? value : null))];
  }

  private fillSelect(): void {
    const hidden = new Set(["step", "loss", "learning_rate"]);
    const names = this.store.columns.filter((name) => !hidden.has(name));
    if (this.select.options.length !== names.length) {
      this.select.replaceChildren(...names.map((name) => h("option", { value: name }, [name.replaceAll("_", " ")])));
    }
    if (!names.includes(this.memory.other) && names[0]) this.memory.other = names[0];
    this.select.value = this.memory.other;
  }

  // --- plots ---------------------------------------------------------------------------------------------------------

  private build(): void {
    const colours = (this.colours = palette(this.element));
    const width = this.element.clientWidth;
    const common = { width, legend: { show: false }, padding: [10, 4, 0, 0] as uPlot.Padding };
    const cursor: uPlot.Cursor = { sync: { key: `jft-${this.store.name}` }, y: false, drag: { x: true, y: false } };
    const axis = (more: uPlot.Axis): uPlot.Axis => ({
      stroke: colours.dim,
      font: "11px system-ui, sans-serif",
      grid: { stroke: colours.grid, width: 1 },
      ticks: { show: false },
      values: (_, splits) => splits.map((value) => (value === null ? "" : shown(value))),
      ...more,
    });
    const whole = axis({ size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] });
    const upper: uPlot.Options = {
      ...common,
      height: HEIGHT,
      cursor: { ...cursor, points: { size: 7 } },
      scales: { x: { time: false }, y: this.memory.log ? LOG : {}, rate: { range: (_, __, high) => [0, high * 1.08 || 1] } },
      axes: [whole, axis({ size: 52 }), axis({ scale: "rate", side: 1, size: RIGHT_AXIS, grid: { show: false } })],
      series: [
        {},
        { stroke: colours.raw, width: 1, points: { size: 3, fill: colours.raw } },
        { stroke: colours.loss, width: 2, points: { show: false } },
        { stroke: colours.rate, width: 1.25, dash: [5, 4], scale: "rate", points: { show: false } },
      ],
      hooks: { drawSeries: [(u, i) => i === 3 && this.overlay(u)], setCursor: [(u) => this.tip(u)] },
    };
    const lower: uPlot.Options = {
      ...common,
      height: LOWER_HEIGHT,
      cursor: { ...cursor, points: { size: 6 } },
      scales: { x: { time: false } },
      padding: [10, 4 + RIGHT_AXIS, 0, 0], // the steps of both plots stand under one another
      axes: [whole, axis({ size: 52 })],
      series: [{}, { stroke: colours.other, width: 1.25, points: { show: false } }],
      hooks: { setCursor: [(u) => this.tip(u)] },
    };
    this.plots = [new uPlot(upper, [[]], this.upper), new uPlot(lower, [[]], this.lower)];
    for (const plot of this.plots) plot.over.append(h("div", { class: "jft-tip", hidden: true }));
  }

  /** What happened along the way, over the curve: changes, checkpoints, steps that were not finite. */
  private overlay(u: uPlot): void {
    const colours = this.colours;
    if (!colours) return;
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    const at = (step: number) => Math.round(u.valToPos(step, "x", true));
    const inside = (x: number) => x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1;
    const bottom = bbox.top + bbox.height;
    ctx.save();
    this.store.marks.forEach((mark, i) => {
      if (!inside(at(mark.step))) return;
      ctx.strokeStyle = colours.mark;
      ctx.lineWidth = (i === this.highlighted ? 2.5 : 1) * ratio;
      ctx.setLineDash(i === this.highlighted ? [] : [4 * ratio, 3 * ratio]);
      line(ctx, at(mark.step), bbox.top, bottom);
    });
    ctx.setLineDash([]);
    ctx.fillStyle = colours.save;
    for (const step of this.store.checkpoints) if (inside(at(step))) triangle(ctx, at(step), bottom, 4 * ratio);
    ctx.strokeStyle = colours.bad;
    ctx.lineWidth = 2.5 * ratio;
    for (const step of this.bad) if (inside(at(step))) line(ctx, at(step), bottom - 14 * ratio, bottom);
    ctx.restore();
  }

  private tip(u: uPlot): void {
    const tip = u.over.querySelector<HTMLElement>(".jft-tip");
    const { left, idx } = u.cursor;
    if (!tip) return;
    const value = (name: string) => shown(this.store.column(name)[idx ?? -1] ?? NaN);
    const step = this.store.column("step")[idx ?? -1];
    tip.hidden = step === undefined || left === undefined || left < 0 || !u.over.matches(":hover");
    if (tip.hidden || left === undefined) return;
    const near = this.store.marks.filter((mark) => Math.abs(u.valToPos(mark.step, "x") - left) <= NEAR);
    const said = [
      `step ${step}`,
      ...(u === this.plots[0]
        ? [`loss ${value("loss")}`, `learning rate ${value("learning_rate")}`]
        : [`${this.memory.other.replaceAll("_", " ")} ${value(this.memory.other)}`]),
    ];
    tip.replaceChildren(
      h("div", {}, [said.join("  ·  ")]),
      ...near.map((mark) => h("div", { class: "jft-tip-mark" }, [`step ${mark.step}: ${mark.text}`])),
    );
    const right = left > u.over.clientWidth / 2;
    tip.style.left = right ? "" : `${left + 12}px`;
    tip.style.right = right ? `${u.over.clientWidth - left + 12}px` : "";
  }

  // --- words ---------------------------------------------------------------------------------------------------------

  private drawWords(): void {
    const { store } = this;
    const key = store.marks.map((mark) => `${mark.step}:${mark.text}`).join("\n");
    if (key !== this.drawnMarks) {
      this.drawnMarks = key;
      this.marks.replaceChildren(...store.marks.map((mark, i) => this.markItem(`step ${mark.step}: ${mark.text}`, i)));
    }
    const bad = this.bad.slice(-8).join(", ");
    setText(this.badLine, this.bad.length ? `Not finite at step ${this.bad.length > 8 ? `… ${bad}` : bad} (red ticks).` : "");
    this.badLine.hidden = !this.bad.length;
    if (Date.now() - this.tableAt < 2000) return;
    this.tableAt = Date.now();
    const label = `Loss over the steps; at step ${store.step} it is ${shown(store.last("loss"))}.`;
    this.upper.setAttribute("aria-label", label);
    this.table.replaceChildren(
      h("caption", {}, ["Last values"]),
      ...store.columns.map((name) => h("tr", {}, [h("th", { scope: "row" }, [name]), h("td", {}, [shown(store.last(name))])])),
    );
  }

  private markItem(text: string, index: number): HTMLElement {
    const show = (on: boolean) => () => {
      this.highlighted = on ? index : -1;
      this.plots[0]?.redraw(false);
    };
    return h("li", {}, [
      h("button", { type: "button", "data-testid": "mark" }, [text], {
        focus: show(true),
        blur: show(false),
        mouseenter: show(true),
        mouseleave: show(false),
      }),
    ]);
  }
}

/** An exponential average that starts unbiased and knows that thinned steps lie further apart. */
export function smooth(steps: number[], values: number[], weight: number): Numbers {
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

function line(ctx: CanvasRenderingContext2D, x: number, from: number, to: number): void {
  ctx.beginPath();
  ctx.moveTo(x, from);
  ctx.lineTo(x, to);
  ctx.stroke();
}

function triangle(ctx: CanvasRenderingContext2D, x: number, bottom: number, size: number): void {
  ctx.beginPath();
  ctx.moveTo(x, bottom - size * 1.8);
  ctx.lineTo(x - size, bottom);
  ctx.lineTo(x + size, bottom);
  ctx.fill();
}
