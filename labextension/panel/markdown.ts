// What goes into the page as HTML. Text from a model is data: markdown with HTML shown as text, sanitised, no images, links
// to http and https only.

import DOMPurify from "dompurify";
import { Marked } from "marked";

const escaped = (text: string) =>
  text.replace(/[&<>"']/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[char] ?? "");

const marked = new Marked({
  gfm: true,
  breaks: true,
  async: false,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ text, href }) => escaped(`[image: ${text || href}]`),
  },
});

const CONFIG = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["img", "iframe", "style", "form", "svg", "math", "input", "button", "video", "audio", "source"],
  FORBID_ATTR: ["style", "class", "id", "name"],
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^https?:/i,
};

const purify = DOMPurify(window); // an instance of our own: its hooks touch nobody else's
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("rel", "noopener noreferrer");
    node.setAttribute("target", "_blank");
  }
});

/** Nodes that are safe to put into the page. */
export function rendered(text: string): DocumentFragment {
  return purify.sanitize(marked.parse(text) as string, { ...CONFIG, RETURN_DOM_FRAGMENT: true });
}

/** Nodes for HTML that the kernel wrote around escaped text: fields and buttons, which do what served.ts says, and pictures that are in it. */
export function plain(html: string): DocumentFragment {
  const given = ["type", "rows", "min", "disabled", "checked", "selected", "hidden", "open"];
  return purify.sanitize(html, {
    ALLOWED_ATTR: ["class", "title", "alt", "src", "role", "name", "value", "placeholder", ...given],
    ADD_URI_SAFE_ATTR: given,
    ALLOWED_URI_REGEXP: /^data:image\/svg/,
    FORBID_TAGS: ["a", "iframe", "style", "form", "svg", "math", "video", "audio", "source"],
    RETURN_DOM_FRAGMENT: true,
  });
}
