// A recording as one SVG that moves by CSS alone: it plays in an <img>, loads nothing, and stands still at its last picture
// for those who ask for less motion.

const [CELL, LINE, PAD, BAR] = [7.8, 18, 16, 30];
const colours = ["#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4"];

/**
 * @param {{ at: number, lines: object[][] }[]} frames what the screen shows from `at` (seconds) on
 * @param {{ title: string, columns: number, hold: number }} options `hold`: seconds that the last picture stays
 */
export function toSvg(frames, { title, columns, hold }) {
  const total = frames.at(-1).at + hold;
  const height = Math.max(...frames.map(({ lines }) => lines.length));
  const [width, tall] = [Math.ceil(columns * CELL + 2 * PAD), height * LINE + BAR + 2 * PAD];
  const percent = (seconds) => Number(((seconds / total) * 100).toFixed(2));
  const times = new Map();
  const texts = [];
  for (const { row, runs, from, to } of spans(frames)) {
    const key = `${percent(from)} ${to === undefined ? "" : percent(to)}`;
    if (!times.has(key)) times.set(key, `t${times.size}`);
    const last = to === undefined ? " last" : "";
    const spansOf = runs.map(paint).join("");
    texts.push(
      `<text class="${times.get(key)}${last}" x="${PAD}" y="${BAR + PAD + row * LINE + 13}">${spansOf}</text>`,
    );
  }
  const rules = [...times].map(([key, name]) => {
    const [from, to] = key.split(" ");
    const until = to === "" ? "" : `${to}%{visibility:hidden}`;
    const before = from === "0" ? "" : "0%{visibility:hidden}";
    return `@keyframes ${name}{${before}${from}%{visibility:visible}${until}}.${name}{animation:${name} ${total.toFixed(1)}s step-end infinite}`;
  });
  const shown = frames.at(-1).lines.map((runs) => runs.map(({ text }) => text).join(""));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${tall}" width="${width}" height="${tall}" role="img" aria-labelledby="t d">
<title id="t">${escapeXml(title)}</title>
<desc id="d">${escapeXml(shown.join("\n"))}</desc>
<style>
text{font:13px/18px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#e6edf3;white-space:pre;visibility:hidden}
.b{font-weight:700;fill:#fff}.d{fill:#8b949e}
.last{visibility:visible}
@media (prefers-reduced-motion:no-preference){
${rules.join("\n")}
}
</style>
<rect width="${width}" height="${tall}" rx="8" fill="#0d1117"/>
<g fill="#30363d"><circle cx="20" cy="17" r="5"/><circle cx="38" cy="17" r="5"/><circle cx="56" cy="17" r="5"/></g>
${texts.join("\n")}
</svg>
`;
}

/** From when until when a row shows the same. */
function spans(frames) {
  const found = [];
  const open = new Map();
  for (const { at, lines } of frames) {
    for (let row = 0; row < Math.max(lines.length, open.size); row++) {
      const runs = lines[row] ?? [];
      const key = JSON.stringify(runs);
      const before = open.get(row);
      if (before?.key === key) continue;
      if (before !== undefined) before.span.to = at;
      const span = { row, runs, from: at, to: undefined };
      open.set(row, { key, span });
      if (runs.length > 0) found.push(span);
    }
  }
  return found;
}

function paint({ text, bold, dim, colour }) {
  const words = escapeXml(text);
  if (colour !== undefined) return `<tspan fill="${colours[colour]}">${words}</tspan>`;
  if (bold || dim) return `<tspan class="${bold ? "b" : "d"}">${words}</tspan>`;
  return words;
}

function escapeXml(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
