// The record in the notebook's own file. A page that is loaded anew has forgotten which output the kernel means when it brings the
// record up to date (display ids are not saved). Where the notebook is at hand (JupyterLab, Notebook 7) the panel then puts it there.

import { Json, Model, Record_ } from "./protocol";

const UPDATE_TAKES = 1_500; // ms, where the page still knows

interface Outputs {
  length: number;
  get(index: number): { data: Record<string, unknown> };
  set(index: number, output: Json): void;
}
interface Cells {
  length: number;
  get(index: number): { outputs?: Outputs };
}

/** The cells of the notebook that a panel is in, where the front end lets them be seen. */
export function cellsOf(model: Model): Cells | null {
  const manager = model.widget_manager as { context?: { model?: { cells?: Cells } } } | undefined;
  return manager?.context?.model?.cells ?? null;
}

export class Keeper {
  readonly #cells: Cells;
  readonly #ask: () => void;

  constructor(
    cells: Cells,
    ask: () => void,
  ) {
    this.#cells = cells;
    this.#ask = ask;
  }

  /** The kernel has a newer record; or here it is. */
  hear(record: Record_): void {
    if (record.data) this.#put(record, { output_type: "display_data", metadata: {}, data: record.data });
    else window.setTimeout(() => this.#old(record).length && this.#ask(), UPDATE_TAKES);
  }

  #put(record: Record_, output: Json): void {
    for (const [outputs, index] of this.#old(record)) outputs.set(index, output);
  }

  /** The outputs that hold an older version of this record. */
  #old(record: Record_): [Outputs, number][] {
    const found: [Outputs, number][] = [];
    for (let at = 0; at < this.#cells.length; at++) {
      const { outputs } = this.#cells.get(at);
      for (let index = 0; index < (outputs?.length ?? 0); index++) {
        const html = outputs?.get(index).data["text/html"];
        const [, version] = new RegExp(`data-record='${record.key} (\\d+)'`).exec([html].flat().join("")) ?? [];
        if (outputs && version !== undefined && Number(version) < record.version) found.push([outputs, index]);
      }
    }
    return found;
  }
}
