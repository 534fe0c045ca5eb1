// Which label was taken for which, in the newest evaluation of a classifier.

import { h, setText } from "./dom";
import { Store } from "./store";
import { shown } from "./words";

const LONGEST = 14; // characters of a label at the head of a column

export class ConfusionTable {
  readonly element = h("figure", { class: "jft-confusion", test: "confusion", hidden: true });
  readonly #caption = h("figcaption");
  readonly #table = h("table");
  #drawn = "";
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
    this.element.append(this.#caption, h("div", { class: "jft-confusion-scroll" }, [this.#table]));
  }

  draw(): void {
    const last = this.#store.evals.filter((one) => one.confusion).at(-1);
    this.element.hidden = !last;
    if (!last?.confusion || this.#drawn === JSON.stringify(last)) return;
    this.#drawn = JSON.stringify(last);
    const { labels, counts } = last.confusion;
    setText(this.#caption, `Held-out rows at step ${last.step}${said(last.metrics)}. A row is a label, a column what it was taken for.`);
    const short = (label: string) => (label.length > LONGEST ? `${label.slice(0, LONGEST - 1)}…` : label);
    const head = labels.map((label) => h("th", { scope: "col", title: label }, [short(label)]));
    this.#table.replaceChildren(
      h("tr", {}, [h("td"), ...head, h("th", { scope: "col" }, ["recall"])]),
      ...labels.map((label, row) => this.#row(label, row, counts[row] ?? [])),
    );
  }

  #row(label: string, row: number, counts: number[]): HTMLElement {
    const all = counts.reduce((sum, count) => sum + count, 0);
    const cells = counts.map((count, column) => {
      const cell = h("td", { class: column === row ? "jft-right" : "jft-wrong" }, [String(count)]);
      cell.style.setProperty("--share", String(all ? count / all : 0));
      return cell;
    });
    const recall = all ? shown(Math.round((100 * (counts[row] ?? 0)) / all) / 100) : "";
    return h("tr", {}, [h("th", { scope: "row", title: label }, [label]), ...cells, h("td", {}, [recall])]);
  }
}

function said(metrics: Record<string, number | string>): string {
  const named: [string, string][] = [["eval_accuracy", "accuracy"], ["eval_f1_macro", "macro F1"]];
  const there = named.filter(([name]) => name in metrics);
  return there.map(([name, words]) => `, ${words} ${shown(Number(metrics[name]))}`).join("");
}
