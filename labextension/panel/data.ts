// Rows as the model sees them, page by page; the kernel writes a page as HTML when it is asked for.

import { h, setText } from "./dom";
import { plain } from "./markdown";
import { Page, newId } from "./protocol";

export type Where = { side: string; first?: number; number?: number };

export class Data {
  readonly element: HTMLElement;
  private readonly style = h("style");
  private readonly rows = h("div", { class: "jft-rows", "data-testid": "rows", role: "region", "aria-label": "Rows", tabindex: 0 });
  private readonly place = h("span", { class: "jft-dim", "data-testid": "rows-place", role: "status" });
  private readonly side = h("select", { "data-testid": "rows-side", "aria-label": "Rows to show", hidden: true });
  private readonly jump = h("input", { type: "number", min: 1, placeholder: "Go to row", "aria-label": "Go to row", "data-testid": "rows-jump" });
  private readonly before = this.button("‹ Previous", "rows-previous", -1);
  private readonly after = this.button("Next ›", "rows-next", 1);
  private page: Page | null = null;
  private where: Where = { side: "train", first: 0 };
  private asked = ""; // the question that waits for its answer

  constructor(private readonly send: (asked: string, where: Where) => void) {
    this.side.addEventListener("change", () => this.ask({ side: this.side.value, first: 0 }));
    this.jump.addEventListener("change", () => {
      const number = Math.floor(Number(this.jump.value));
      if (number > 0) this.ask({ side: this.where.side, number });
      this.jump.value = "";
    });
    const bar = [this.before, this.place, this.after, this.jump, this.side];
    this.element = h("div", { class: "jft-databox" }, [h("div", { class: "jft-toolbar" }, bar), this.rows]);
  }

  /** `again`: the rows may be others, or there, now. */
  draw(usable: boolean, again: boolean): void {
    if (!this.element.offsetParent) return;
    if (usable && (again ? !this.page?.html : !this.page && !this.asked)) this.ask(this.where);
  }

  hear(page: Page): void {
    if (page.asked !== this.asked) return;
    this.asked = "";
    this.page = page;
    this.rows.removeAttribute("aria-busy");
    const { first = 0, of: total = 0 } = page;
    if (page.html) {
      setText(this.style, page.style ?? "");
      this.element.prepend(this.style);
      this.where = { side: page.side ?? "train", first };
      this.side.replaceChildren(...(page.sides ?? []).map((name) => h("option", { value: name }, [name])));
      this.side.value = this.where.side;
      this.rows.replaceChildren(plain(page.html));
      this.rows.scrollTop = 0;
    } else this.rows.replaceChildren(h("p", { class: "jft-dim" }, [page.error ?? ""]));
    this.side.hidden = (page.sides?.length ?? 0) < 2;
    this.jump.hidden = !total;
    setText(this.place, total ? `${first + 1}–${Math.min(first + (page.page ?? 1), total)} of ${total}` : "");
    this.before.disabled = first === 0;
    this.after.disabled = first + (page.page ?? 1) >= total;
  }

  private ask(where: Where): void {
    this.asked = newId();
    this.where = where;
    this.rows.setAttribute("aria-busy", "true");
    this.send(this.asked, where);
  }

  private button(text: string, id: string, way: number): HTMLButtonElement {
    const turn = () => this.ask({ side: this.where.side, first: Math.max(0, (this.page?.first ?? 0) + way * (this.page?.page ?? 1)) });
    return h("button", { type: "button", class: "jft-small", disabled: true, "data-testid": id }, [text], { click: turn });
  }
}
