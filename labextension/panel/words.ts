// Values in words.

import { Json } from "./protocol";

/** A value as people write it: 2e-4, 0.1, linear, none. */
export function shown(value: Json | undefined): string {
  if (value === null || value === undefined || value === "") return "none";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(3).replace(/\.?0+e/, "e");
  if (Math.abs(value) >= 1e6) return value.toExponential(2).replace(/\.?0+e\+?/, "e");
  return String(Number(value.toPrecision(4)));
}

/** `31.2 MB`, `2 GB`. */
export const bytes = (count: number) => (count < 1e9 ? `${shown(count / 1e6)} MB` : `${shown(count / 1e9)} GB`);

/** `12:05`, `3 h 07`. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours >= 48) return `${Math.round(hours / 24)} days`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")}`;
  return `${minutes}:${String(whole % 60).padStart(2, "0")}`;
}
