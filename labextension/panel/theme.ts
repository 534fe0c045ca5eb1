// Light or dark, found out from the background that the host gives us, and found out again when the host changes.

export interface Palette {
  ink: string;
  dim: string;
  grid: string;
  loss: string;
  raw: string;
  rate: string;
  held: string;
  left: string;
  other: string;
  mark: string;
  bad: string;
  save: string;
}

export function palette(root: HTMLElement): Palette {
  const style = getComputedStyle(root);
  const of = (name: string) => style.getPropertyValue(`--jft-${name}`).trim() || "gray";
  return {
    ink: of("ink"),
    dim: of("dim"),
    grid: of("grid"),
    loss: of("loss"),
    raw: of("raw"),
    rate: of("rate"),
    held: of("held"),
    left: of("left"),
    other: of("other"),
    mark: of("mark"),
    bad: of("bad"),
    save: of("save"),
  };
}

/** Sets `data-theme` on `root` now and whenever the host's theme changes; gives the function that stops it. */
export function followTheme(root: HTMLElement, changed: () => void): () => void {
  const update = () => {
    const theme = isDark(root) ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    changed();
  };
  const observer = new MutationObserver(update);
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, {
      attributes: true,
      attributeFilter: ["class", "style", "theme", "data-theme", "data-jp-theme-light", "data-jp-theme-name", "data-vscode-theme-kind"],
    });
  }
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", update);
  update();
  return () => {
    observer.disconnect();
    media.removeEventListener("change", update);
  };
}

function isDark(root: HTMLElement): boolean {
  if (document.documentElement.getAttribute("theme") === "dark") return true; // Colab
  const probe = document.createElement("span");
  probe.style.cssText = "background:var(--jp-layout-color0,var(--vscode-editor-background,Canvas));display:none";
  (root.parentElement ?? document.body).append(probe);
  const parts = getComputedStyle(probe).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
  probe.remove();
  const [red = 255, green = 255, blue = 255] = parts;
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}
