// Makes the one file of the panel, and its stylesheet. Of uPlot what is never drawn here is left out: bars, steps and
// splines, which it hangs on itself where no bundler can tell that nobody asks for them.

import { readFile } from "node:fs/promises";
import { build } from "esbuild";

const UNUSED = [
  "(paths.stepped = stepped);",
  "(paths.bars    = bars);",
  "(paths.spline  = monotoneCubic);",
  "uPlot.join = join;",
  "uPlot.fmtDate = fmtDate;",
  "uPlot.tzDate  = tzDate;",
];

const lighter = {
  name: "uplot-without-unused-paths",
  setup({ onLoad }) {
    onLoad({ filter: /uPlot\.esm\.js$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      for (const line of UNUSED) {
        if (!contents.includes(line)) throw new Error(`uPlot is another one: it has no ${line}`);
        contents = contents.replace(line, "");
      }
      return { contents };
    });
  },
};

await build({
  entryPoints: ["panel/index.ts", "panel/panel.css"],
  entryNames: "panel",
  outdir: "../jupyter_ft/ui/static",
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  minify: true,
  legalComments: "eof",
  alias: { dompurify: "./node_modules/dompurify/src/purify.ts" },
  define: { VERSION: '""' },
  plugins: [lighter],
});
