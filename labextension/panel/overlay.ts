// What happened along the way, drawn over the curve: changes, checkpoints, the best step, steps that were not finite.

import type uPlot from "uplot";
import { Drawn } from "./series";
import { Store } from "./store";
import { Palette } from "./theme";

/** `bad` are the steps that are not finite, `highlighted` is the index of the mark that is pointed at (-1: none), `chosen` a step that is stood at. */
export function overlay(u: uPlot, store: Store, colours: Palette, bad: number[], highlighted: number, left: Drawn["left"], chosen: number | null): void {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const at = (step: number) => Math.round(u.valToPos(step, "x", true));
  const inside = (x: number) => x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1;
  const bottom = bbox.top + bbox.height;
  ctx.save();
  store.marks.forEach((mark, i) => {
    if (!inside(at(mark.step))) return;
    ctx.strokeStyle = colours.mark;
    ctx.lineWidth = (i === highlighted ? 2.5 : 1) * ratio;
    ctx.setLineDash(i === highlighted ? [] : [4 * ratio, 3 * ratio]);
    line(ctx, at(mark.step), bbox.top, bottom);
  });
  ctx.setLineDash([]);
  ctx.lineWidth = 2 * ratio;
  ctx.strokeStyle = colours.left;
  for (const [steps, losses] of left) {
    ctx.beginPath();
    steps.forEach((step, i) => losses[i] != null && ctx.lineTo(at(step), u.valToPos(losses[i], "y", true)));
    ctx.stroke();
  }
  ctx.strokeStyle = ctx.fillStyle = colours.save;
  if (chosen !== null && inside(at(chosen))) line(ctx, at(chosen), bbox.top, bottom);
  for (const step of store.checkpoints) if (inside(at(step))) triangle(ctx, at(step), bottom, 4 * ratio);
  const best = store.evals.find((one) => one.step === store.best);
  if (best && Number.isFinite(best.loss) && inside(at(best.step))) {
    const y = u.valToPos(best.loss, "y", true);
    ctx.strokeStyle = colours.held;
    ctx.lineWidth = 2 * ratio;
    ctx.beginPath();
    ctx.arc(at(best.step), y, 6.5 * ratio, 0, 2 * Math.PI);
    ctx.stroke();
    ctx.fillStyle = colours.held;
    ctx.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = at(best.step) > bbox.left + bbox.width - 40 * ratio ? "right" : "center";
    const above = y - 11 * ratio > bbox.top + 11 * ratio;
    ctx.fillText("best", at(best.step), above ? y - 11 * ratio : y + 19 * ratio);
  }
  ctx.strokeStyle = colours.bad;
  ctx.lineWidth = 2.5 * ratio;
  for (const step of bad) if (inside(at(step))) line(ctx, at(step), bottom - 14 * ratio, bottom);
  ctx.restore();
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
