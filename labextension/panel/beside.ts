// Panels of forks that were made in a panel, drawn below it where the front end can; elsewhere the page says what shows them.

import { Model } from "./protocol";

interface View {
  el: HTMLElement;
  remove(): void;
}
interface Views {
  get_model(id: string): Promise<unknown>;
  create_view(model: unknown): Promise<View>;
}

/** Follows the model's `beside`; gives the function that ends it. */
export function besides(model: Model, el: HTMLElement): () => void {
  const views = model.widget_manager as Views | undefined;
  const drawn = new Map<string, View | null>();
  const draw = async () => {
    for (const id of (model.get("beside") as string[] | undefined) ?? []) {
      if (drawn.has(id) || !views) continue;
      drawn.set(id, null);
      try {
        const view = await views.create_view(await views.get_model(id));
        drawn.set(id, view);
        view.el.style.marginTop = "10px";
        el.append(view.el);
      } catch {
        // it is closed, or this front end draws no view in another
      }
    }
  };
  model.on("change:beside", draw);
  void draw();
  return () => {
    model.off("change:beside", draw);
    for (const view of drawn.values()) view?.remove();
  };
}
