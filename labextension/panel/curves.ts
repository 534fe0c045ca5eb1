// The loss and the learning rate over the steps, any other column below, and what happened along the way.

import uPlot from "uplot";
import { ConfusionTable } from "./confusion";
import { h, setText } from "./dom";
import { overlay } from "./overlay";
import { newId } from "./protocol";
import { Drawn, aligned, drawn } from "./series";
import { Store } from "./store";
import { Travel } from "./travel";
import { palette } from "./theme";
import { shown } from "./words";

const HEIGHT = 250;
const LOWER_HEIGHT = 120;
const NEAR = 6; // px between the pointer and a mark that it means
const SMALLEST_DRAG = 4; // px

export interface CurvesMemory {
  smoothing: number;
  log: boolean;
  other: string;
}
export const CURVES_DEFAULTS: CurvesMemory = { smoothing: 0.8, log: false, other: "grad_norm" };

const LOG: uPlot.Scale = { distr: 3, range: (_, low, high) => [(low ?? 0.1) / 1.04, (high ?? 1) * 1.04] };
const RIGHT_AXIS = 56;

export class Curves {
  readonly element: HTMLElement;
  readonly #bar: HTMLElement;
  readonly #heldKey = h("span", { class: "jft-key jft-key-held", test: "key-held" }, ["held-out loss"]);
  readonly #leftKey = h("span", { class: "jft-key jft-key-left", test: "key-left" }, ["taken back"]);
  readonly #upper = h("div", { class: "jft-plot", test: "plot", role: "img" });
  readonly #lower = h("div", { class: "jft-plot" });
  readonly #select = h("select", { test: "other-column", "aria-label": "Column of the lower plot" });
  readonly #marks = h("ol", { class: "jft-marks", "aria-label": "Changes along the run" });
  readonly #table = h("table", { class: "jft-hidden" });
  readonly #confusion: ConfusionTable;
  readonly #nothing = h("p", { class: "jft-nothing" }, ["The curve begins with the first step."]);
  readonly #badLine = h("p", { class: "jft-bad", test: "bad-steps", hidden: true });
  readonly #smoothed = h("output", {}, [""]);
  #plots: uPlot[] = [];
  #highlighted = -1;
  #usable = false;
  #bad: number[] = [];
  #data: Drawn = { steps: [], rows: [], upper: [[], [], [], [], []], lower: [], left: [] };
  #zoom: { min: number; max: number } | null = null; // what was dragged; the curve may grow beyond it
  readonly #sync = newId();
  readonly #whole = h("button", { class: "jft-small", test: "zoom-reset", hidden: true }, ["Whole run"], {
    click: () => this.#unzoom(),
  });
  #drawnMarks = "";
  #tableAt = 0;
  readonly #observer: ResizeObserver;
  readonly #store: Store;
  readonly #memory: CurvesMemory;
  readonly #travel: Travel;

  constructor(store: Store, memory: CurvesMemory, travel: (moved: () => void) => Travel) {
    this.#store = store;
    this.#memory = memory;
    this.#travel = travel(() => this.#plots[0]?.redraw(false));
    this.#select.addEventListener("change", () => {
      memory.other = this.#select.value;
      this.rebuild();
    });
    this.#bar = this.#toolbar();
    this.#confusion = new ConfusionTable(store);
    this.element = h("div", { class: "jft-curves" }, [
      this.#bar,
      this.#nothing,
      this.#upper,
      this.#badLine,
      this.#travel.element,
      h("div", { class: "jft-lower-head" }, [this.#select]),
      this.#lower,
      this.#confusion.element,
      this.#marks,
      this.#table,
    ]);
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(this.element);
  }

  #toolbar(): HTMLElement {
    const key = (name: string, text: string) => h("span", { class: `jft-key jft-key-${name}` }, [text]);
    const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.#memory.smoothing, test: "smoothing" });
    slider.addEventListener("input", () => {
      this.#memory.smoothing = Number(slider.value);
      setText(this.#smoothed, slider.value);
      this.draw();
    });
    setText(this.#smoothed, String(this.#memory.smoothing));
    const log = h("input", { type: "checkbox", checked: this.#memory.log, test: "log-scale" });
    log.addEventListener("change", () => {
      this.#memory.log = log.checked;
      this.rebuild();
    });
    const keys = [key("loss", "loss"), key("raw", "each step"), this.#heldKey, key("rate", "learning rate")];
    return h("div", { class: "jft-toolbar" }, [
      h("div", { class: "jft-keys" }, [...keys, this.#leftKey, key("mark", "change"), key("save", "kept")]),
      h("div", { class: "jft-tools" }, [
        this.#whole,
        h("label", { class: "jft-check" }, [log, "log scale"]),
        h("label", { class: "jft-check" }, ["smoothing", slider, this.#smoothed]),
      ]),
    ]);
  }

  /** New data, or a theme that changed. */
  draw(usable = this.#usable): void {
    this.#usable = usable;
    this.#travel.draw(usable);
    const rows = this.#store.column("step").length;
    this.#nothing.hidden = rows > 0;
    for (const part of [this.#bar, this.#upper, this.#lower, this.#select]) part.hidden = rows === 0;
    this.#bad = this.#store.badSteps();
    this.#drawWords();
    this.#confusion.draw();
    if (!rows || !this.element.clientWidth) return; // a hidden tab is drawn when it is shown
    this.#fillSelect();
    if (!this.#plots.length) this.#build();
    this.#data = drawn(this.#store, this.#bad, this.#memory);
    this.#heldKey.hidden = !this.#store.evals.length;
    this.#leftKey.hidden = !this.#store.left.length;
    this.#whole.hidden = !this.#zoom;
    this.#put(this.#plots[0], aligned(this.#data.steps, ...this.#data.upper));
    this.#put(this.#plots[1], aligned(this.#data.steps, this.#data.lower));
  }

  #put(plot: uPlot | undefined, data: uPlot.AlignedData): void {
    const zoom = this.#zoom;
    if (!zoom) return plot?.setData(data);
    plot?.batch(() => {
      plot.setData(data, false);
      plot.setScale("x", { ...zoom });
    });
  }

  /** Notes the drag itself: what uPlot's scales are at a moment does not say whether somebody wanted them so. */
  #dragged(u: uPlot): void {
    const { left, width } = u.select;
    if (width < SMALLEST_DRAG) return;
    this.#zoom = { min: u.posToVal(left, "x"), max: u.posToVal(left + width, "x") };
    queueMicrotask(() => this.draw()); // after uPlot has made its own of it
  }

  #unzoom(): void {
    this.#zoom = null;
    this.draw();
  }

  rebuild(): void {
    for (const plot of this.#plots) plot.destroy();
    this.#plots = [];
    this.draw();
  }

  close(): void {
    this.#observer.disconnect();
    for (const plot of this.#plots) plot.destroy();
  }

  #resize(): void {
    const width = this.element.clientWidth;
    if (!width) return;
    if (!this.#plots.length) return this.draw();
    if (this.#plots[0]?.width === width) return;
    this.#plots[0]?.setSize({ width, height: HEIGHT });
    this.#plots[1]?.setSize({ width, height: LOWER_HEIGHT });
  }

  // --- data ----------------------------------------------------------------------------------------------------------

  #fillSelect(): void {
    const hidden = new Set(["step", "loss", "learning_rate"]);
    const names = this.#store.columns.filter((name) => !hidden.has(name));
    if (this.#select.options.length !== names.length) {
      this.#select.replaceChildren(...names.map((name) => h("option", { value: name }, [name.replaceAll("_", " ")])));
    }
    if (!names.includes(this.#memory.other) && names[0]) this.#memory.other = names[0];
    this.#select.value = this.#memory.other;
  }

  // --- plots ---------------------------------------------------------------------------------------------------------

  #build(): void {
    const colours = palette(this.element);
    const width = this.element.clientWidth;
    const common = { width, legend: { show: false }, padding: [10, 4, 0, 0] as uPlot.Padding };
    const cursor: uPlot.Cursor = {
      sync: { key: this.#sync },
      y: false,
      drag: { x: true, y: false },
      bind: { dblclick: () => () => (this.#unzoom(), null) },
    };
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
      scales: { x: { time: false }, y: this.#memory.log ? LOG : {}, rate: { range: (_, __, high) => [0, high * 1.08 || 1] } },
      axes: [whole, axis({ size: 52 }), axis({ scale: "rate", side: 1, size: RIGHT_AXIS, grid: { show: false } })],
      series: [
        {},
        { stroke: colours.raw, width: 1, points: { size: 3, fill: colours.raw } },
        { stroke: colours.loss, width: 2, points: { show: false } },
        { stroke: colours.rate, width: 1.25, dash: [5, 4], scale: "rate", points: { show: false } },
        { stroke: colours.held, width: 2, points: { show: true, size: 6, fill: colours.held } },
        { points: { show: false } }, // the overlay draws it; here it makes room
      ],
      hooks: {
        drawSeries: [(u, i) => i === 4 && overlay(u, this.#store, colours, this.#bad, this.#highlighted, this.#data.left, this.#travel.chosen)],
        setCursor: [(u) => this.#tip(u)],
        setSelect: [(u) => this.#dragged(u)],
      },
    };
    const lower: uPlot.Options = {
      ...common,
      height: LOWER_HEIGHT,
      cursor: { ...cursor, points: { size: 6 } },
      scales: { x: { time: false } },
      padding: [10, 4 + RIGHT_AXIS, 0, 0], // the steps of both plots stand under one another
      axes: [whole, axis({ size: 52 })],
      series: [{}, { stroke: colours.other, width: 1.25, points: { show: false } }],
      hooks: { setCursor: [(u) => this.#tip(u)], setSelect: [(u) => this.#dragged(u)] },
    };
    this.#plots = [new uPlot(upper, [[]], this.#upper), new uPlot(lower, [[]], this.#lower)];
    for (const plot of this.#plots) plot.over.append(h("div", { class: "jft-tip", hidden: true }));
    this.#plots[0]?.over.addEventListener("click", (event) => this.#travel.near(this.#plots[0]?.posToVal(event.offsetX, "x") ?? NaN));
  }

  #nearCheckpoint(left: number): number | undefined {
    const plot = this.#plots[0];
    const away = (step: number) => Math.abs((plot?.valToPos(step, "x") ?? Infinity) - left);
    return this.#store.checkpoints.filter((step) => away(step) <= NEAR).sort((a, b) => away(a) - away(b))[0];
  }

  #tip(u: uPlot): void {
    const tip = u.over.querySelector<HTMLElement>(".jft-tip");
    const { left, idx } = u.cursor;
    if (!tip) return;
    const row = this.#data.rows[idx ?? -1];
    const value = (name: string) => shown(this.#store.column(name)[row ?? -1] ?? NaN);
    const step = this.#data.steps[idx ?? -1];
    tip.hidden = step === undefined || left === undefined || left < 0 || !u.over.matches(":hover");
    if (tip.hidden || left === undefined) return;
    const near = this.#store.marks.filter((mark) => Math.abs(u.valToPos(mark.step, "x") - left) <= NEAR);
    const lines = u === this.#plots[0] ? ["loss", "learning_rate"] : [this.#memory.other];
    const held = u === this.#plots[0] ? this.#store.evals.filter((one) => one.step <= (step ?? 0)).at(-1) : undefined;
    const saved = u === this.#plots[0] ? this.#nearCheckpoint(left ?? NaN) : undefined;
    const said = [
      `step ${step}`,
      ...(row === undefined ? [] : lines.map((name) => `${name.replaceAll("_", " ")} ${value(name)}`)),
      ...(held ? [`held-out ${shown(held.loss)}${held.step === step ? "" : ` (step ${held.step})`}`] : []),
    ];
    tip.replaceChildren(
      h("div", {}, [said.join("  ·  ")]),
      saved === undefined ? "" : h("div", { class: "jft-tip-save" }, [`step ${saved} is kept: click to stand at it`]),
      ...near.map((mark) => h("div", { class: "jft-tip-mark" }, [`step ${mark.step}: ${mark.text}`])),
    );
    const right = left > u.over.clientWidth / 2;
    tip.style.left = right ? "" : `${left + 12}px`;
    tip.style.right = right ? `${u.over.clientWidth - left + 12}px` : "";
  }

  // --- words ---------------------------------------------------------------------------------------------------------

  #drawWords(): void {
    const store = this.#store;
    const key = store.marks.map((mark) => `${mark.step}:${mark.text}`).join("\n");
    if (key !== this.#drawnMarks) {
      this.#drawnMarks = key;
      this.#marks.replaceChildren(...store.marks.map((mark, i) => this.#markItem(`step ${mark.step}: ${mark.text}`, i)));
    }
    const bad = this.#bad.slice(-8).join(", ");
    setText(this.#badLine, this.#bad.length ? `Not finite at step ${this.#bad.length > 8 ? `… ${bad}` : bad} (${this.#bad.length === 1 ? "red tick" : "red ticks"}).` : "");
    this.#badLine.hidden = !this.#bad.length;
    if (Date.now() - this.#tableAt < 2000) return;
    this.#tableAt = Date.now();
    const held = store.evals.at(-1);
    const heldText = held ? ` Held-out loss ${shown(held.loss)} at step ${held.step}; best is step ${held.best}.` : "";
    const label = `Loss over the steps; at step ${store.step} it is ${shown(store.last("loss"))}.${heldText}`;
    this.#upper.setAttribute("aria-label", label);
    this.#table.replaceChildren(
      h("caption", {}, ["Last values"]),
      ...store.columns.map((name) => h("tr", {}, [h("th", { scope: "row" }, [name]), h("td", {}, [shown(store.last(name))])])),
    );
  }

  #markItem(text: string, index: number): HTMLElement {
    const show = (on: boolean) => () => {
      this.#highlighted = on ? index : -1;
      this.#plots[0]?.redraw(false);
    };
    return h("li", {}, [
      h("button", { test: "mark" }, [text], {
        focus: show(true),
        blur: show(false),
        mouseenter: show(true),
        mouseleave: show(false),
      }),
    ]);
  }
}
