// Charts as SVG, for docs/.
const COLOURS = ["#9aa5b1", "#2f6fb2", "#e08e45", "#c9b037", "#7aa874", "#8d6cab", "#c45a5a", "#5aa5a5"];

const escaped = (text) => String(text).replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

/**
 * @param title what is drawn, with its unit
 * @param groups labels along the axis
 * @param series `[{ name, values }]`, a value for each group; undefined draws nothing
 */
export function bars({ title, groups, series }) {
  const [width, plot, left, top] = [860, 250, 10, 34];
  const most = Math.max(...series.flatMap(({ values }) => values.filter((value) => value !== undefined)));
  const groupWidth = (width - 2 * left) / groups.length;
  const barWidth = (groupWidth * 0.86) / series.length;
  const parts = [];
  groups.forEach((group, at) => {
    const start = left + at * groupWidth + groupWidth * 0.07;
    series.forEach(({ values }, index) => {
      const value = values[at];
      if (value === undefined) return;
      const tall = (plot * value) / (most * 1.08);
      const x = start + index * barWidth;
      const y = top + plot - tall;
      parts.push(
        `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${(barWidth * 0.9).toFixed(1)}" height="${tall.toFixed(1)}" fill="${COLOURS[index % COLOURS.length]}"/>`,
        `<text x="${(x + barWidth * 0.45).toFixed(1)}" y="${(y - 4).toFixed(1)}" text-anchor="middle" font-size="9">${value >= 100 ? value.toFixed(0) : value.toPrecision(2)}</text>`,
      );
    });
    parts.push(
      `<text x="${(left + (at + 0.5) * groupWidth).toFixed(1)}" y="${top + plot + 18}" text-anchor="middle">${escaped(group)}</text>`,
    );
  });
  series.forEach(({ name }, index) => {
    const [x, y] = [left + (index % 3) * 285, top + plot + 40 + Math.floor(index / 3) * 18];
    parts.push(
      `<rect x="${x}" y="${y - 9}" width="10" height="10" fill="${COLOURS[index % COLOURS.length]}"/>`,
      `<text x="${x + 16}" y="${y}">${escaped(name)}</text>`,
    );
  });
  const height = top + plot + 52 + Math.floor((series.length - 1) / 3) * 18;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">` +
    `<title>${escaped(title)}</title>` +
    `<rect width="${width}" height="${height}" fill="white"/><text x="${left}" y="18" font-size="14">${escaped(title)}</text>` +
    `${parts.join("")}<line x1="${left}" y1="${top + plot}" x2="${width - left}" y2="${top + plot}" stroke="black"/></svg>\n`
  );
}

/**
 * Horizontal bars that are made of parts.
 *
 * @param title what is drawn, with its unit
 * @param groups a label for each bar
 * @param series the parts from left to right, `[{ name, values }]`, a value for each bar
 */
export function stacked({ title, groups, series }) {
  const [width, left, right, top, pitch, thick] = [860, 270, 50, 34, 24, 16];
  const totals = groups.map((_, at) => series.reduce((sum, { values }) => sum + values[at], 0));
  const scale = (width - left - right) / Math.max(...totals);
  const parts = groups.flatMap((group, at) => {
    const y = top + at * pitch;
    let x = left;
    const pieces = series.map(({ values }, index) => {
      const long = values[at] * scale;
      const piece = `<rect x="${x.toFixed(1)}" y="${y}" width="${long.toFixed(1)}" height="${thick}" fill="${COLOURS[index % COLOURS.length]}"/>`;
      x += long;
      return long > 0 ? piece : "";
    });
    return [
      `<text x="${left - 8}" y="${y + 12}" text-anchor="end">${escaped(group)}</text>`,
      ...pieces,
      `<text x="${(x + 6).toFixed(1)}" y="${y + 12}">${totals[at].toFixed(2)}</text>`,
    ];
  });
  const below = top + groups.length * pitch + 14;
  series.forEach(({ name }, index) => {
    const [x, y] = [10 + (index % 4) * 210, below + Math.floor(index / 4) * 18];
    parts.push(
      `<rect x="${x}" y="${y - 9}" width="10" height="10" fill="${COLOURS[index % COLOURS.length]}"/>`,
      `<text x="${x + 16}" y="${y}">${escaped(name)}</text>`,
    );
  });
  const height = below + 8 + Math.floor((series.length - 1) / 4) * 18;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">` +
    `<title>${escaped(title)}</title><rect width="${width}" height="${height}" fill="white"/>` +
    `<text x="10" y="18" font-size="14">${escaped(title)}</text>${parts.join("")}</svg>\n`
  );
}
