import { existsSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { defineConfig } from "vitepress";
import { sidebar } from "./sidebar.mjs";

const docs = resolve(import.meta.dirname, "..");
const root = dirname(docs);
const repository = "https://github.com/tritonode/tritonode";

export default defineConfig({
  title: "tritonode",
  description: "LLaMA-family models with many LoRA adapters inside a Node.js process",
  lang: "en",
  srcDir: ".",
  // README.md is for those who read the folder; index.md is the site's first page.
  srcExclude: ["README.md"],
  outDir: join(root, "build-docs"),
  cacheDir: join(root, ".cache/vitepress"),
  // Files of the repository link to each other with their extension, and so do these pages, without a server's rules.
  cleanUrls: false,
  lastUpdated: false,
  // Browsers ask the host for an icon where the page names none.
  head: [["link", { rel: "icon", href: "data:," }]],
  markdown: { config: linkToRepository, anchor: { slugify } },
  // The index of the search, in kB; browsers load it when somebody searches.
  vite: { build: { chunkSizeWarningLimit: 4_000 } },
  themeConfig: {
    nav: [
      { text: "Guides", link: "/guides/getting-started", activeMatch: "^/guides/" },
      { text: "Reference", link: "/reference/api/", activeMatch: "^/reference/" },
      { text: "Benchmarks", link: "/benchmarks/peers", activeMatch: "^/benchmarks/" },
    ],
    sidebar: sidebar(docs),
    outline: [2, 3],
    search: { provider: "local" },
    socialLinks: [{ icon: "github", link: repository }],
  },
});

/** A heading's anchor as GitHub makes it: the same links work in both places. */
function slugify(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(/\s/g, "-");
}

/** Links to what is no page lead to the file in the repository; one to a file that is not there fails the build. */
function linkToRepository(md) {
  md.core.ruler.push("repository-links", (state) => {
    const page = join(docs, state.env.relativePath ?? "");
    for (const { children } of state.tokens) {
      for (const token of children ?? []) {
        const href = token.type === "link_open" ? token.attrGet("href") : null;
        if (href === null || /^([a-z]+:|#|\/)/.test(href)) continue;
        const [path, anchor] = href.split("#");
        const file = resolve(dirname(page), path);
        if (!relative(docs, file).startsWith("..") && file.endsWith(".md")) continue;
        if (!existsSync(file)) throw new Error(`${relative(root, page)} links to ${path}, which is not there`);
        token.attrSet("href", `${repository}/blob/main/${relative(root, file)}${anchor ? `#${anchor}` : ""}`);
      }
    }
  });
}
