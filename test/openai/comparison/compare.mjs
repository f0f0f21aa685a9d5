// What is the same about two answers, and what is not.

/** Values that no two answers share. */
const volatile = new Set([
  "id",
  "item_id",
  "created",
  "created_at",
  "completed_at",
  "tool_call_id",
  "call_id",
  "request_id",
  "system_fingerprint",
]);

/** A JSON value with its volatile parts named instead of given. */
export function normalise(value, key = "") {
  if (Array.isArray(value)) return value.map((each) => normalise(each, key));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, normalise(each, name)]));
  }
  const isModelId = key === "id" && typeof value === "string" && !/[0-9a-f]{8}/.test(value);
  if (volatile.has(key) && value !== null && !isModelId) return `<${typeof value}>`;
  return value;
}

/** The paths at which two values differ; numbers may be off by rounding. */
export function differences(ours, theirs, path = "") {
  if (typeof ours === "number" && typeof theirs === "number") {
    return Math.abs(ours - theirs) <= 2e-3 * Math.max(1, Math.abs(theirs)) ? [] : [`${path}: ${ours} | ${theirs}`];
  }
  const both = [ours, theirs];
  if (both.every((each) => typeof each === "object" && each !== null)) {
    const names = new Set(both.flatMap((each) => Object.keys(each)));
    return [...names].flatMap((name) => {
      if (!(name in ours)) return [`${path}.${name}: missing here`];
      if (!(name in theirs)) return [`${path}.${name}: not there`];
      return differences(ours[name], theirs[name], `${path}.${name}`);
    });
  }
  const show = (value) => (JSON.stringify(value) ?? "undefined").slice(0, 120);
  return ours === theirs ? [] : [`${path}: ${show(ours)} | ${show(theirs)}`];
}

/** An answer as a value to compare. */
export function read({ status, contentType, text }, { metrics = false, text: plain = false, opaque = false }) {
  const head = { status, contentType };
  if (metrics) {
    const families = [...text.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]);
    return { ...head, families: families.filter((name) => name.startsWith("http")).sort() };
  }
  if (plain || text === "") return { ...head, text };
  if (contentType?.startsWith("text/event-stream")) return { ...head, ...readEvents(text) };
  let body = text;
  try {
    body = normalise(JSON.parse(text));
  } catch {
    // A plain text.
  }
  // Bits that rounding may change: their length stands for them.
  if (opaque && body.data) for (const each of body.data) each.embedding = each.embedding.length;
  return { ...head, body };
}

/**
 * A stream's events, joined: how many pieces a text comes in depends on timing. What is compared is each choice's text
 * and end, all field names with their types, and whatever is in no piece of text.
 */
function readEvents(text) {
  const events = text.split("\n\n").filter((event) => event !== "");
  const texts = {};
  const shapes = new Set();
  const names = new Set();
  let done = false;
  let usage;
  for (const event of events) {
    const name = /^event: (.*)$/m.exec(event)?.[1];
    if (name !== undefined) names.add(name);
    const data = /^data: (.*)$/m.exec(event)?.[1] ?? "";
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const value = JSON.parse(data);
    usage = value.usage ?? usage;
    for (const leaf of leaves(value)) shapes.add(leaf);
    for (const choice of value.choices ?? []) {
      texts[choice.index] ??= { text: "", arguments: "", finish: null };
      const joined = texts[choice.index];
      joined.text += choice.text ?? choice.delta?.content ?? "";
      for (const call of choice.delta?.tool_calls ?? []) joined.arguments += call.function?.arguments ?? "";
      joined.finish = choice.finish_reason ?? joined.finish;
    }
    if (typeof value.delta === "string") texts.delta = (texts.delta ?? "") + value.delta;
    else if (typeof value.delta?.text === "string") texts.delta = (texts.delta ?? "") + value.delta.text;
  }
  return { texts, done, usage: usage ?? null, names: [...names].sort(), shapes: [...shapes].sort() };
}

function leaves(value, path = "") {
  if (typeof value !== "object" || value === null) return [`${path}: ${value === null ? "null" : typeof value}`];
  if (Array.isArray(value)) return value.flatMap((each) => leaves(each, `${path}[]`));
  return Object.entries(value).flatMap(([name, each]) => leaves(each, `${path}.${name}`));
}
