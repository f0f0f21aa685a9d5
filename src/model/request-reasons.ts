// What vLLM says about a request that it refuses, in one line: the parameter, the rule, the value. vLLM 0.32 has three forms:
// a sentence, with "(parameter=..., value=...)" behind it; pydantic's errors as a list of Python dicts; pydantic's own report.

/** One of pydantic's errors. `branch`: which member of a union it is about, for a field with several types. */
interface Problem {
  readonly path: string;
  readonly branch: string;
  readonly text: string;
  readonly input: string;
}

/** Rewrites vLLM's reason. */
export function plainRequestReason(message: string): string {
  const problems = [...listed(message), ...reported(message)];
  if (problems.length > 0) return describeProblems(problems);
  return sentence(message);
}

/** What to do about a request that vLLM refuses, if there is more to say than the reason. */
export function requestHint(message: string): string | undefined {
  if (/enable-auto-tool-choice|tool-call-parser|tool_call_parser/.test(message)) {
    return 'load with the engine arguments { enable_auto_tool_choice: true, tool_call_parser: "hermes" } (the parser that fits the model), or name the tool in tool_choice';
  }
  if (/trust-request-chat-template/.test(message)) {
    return "load with the engine argument trust_request_chat_template: true; or with chat_template, to use it for all requests";
  }
  if (/chat template/.test(message)) {
    return "give one: the engine argument chat_template, or chat_template.jinja in the model's folder";
  }
  if (/maximum context length|max_model_len/.test(message)) {
    return "shorten the prompt, or load with a longer max_model_len";
  }
  return undefined;
}

const kindsOfConstraint = "json, regex, choice, grammar, json_object, structural_tag";

/** Sentences that do not say the parameter, or say it in the words of vLLM's command line or of Python. */
const rewritten: readonly (readonly [RegExp, (...groups: string[]) => string])[] = [
  [
    /^You must use one kind of structured outputs constraint but none/,
    () => `structured_outputs must have one of ${kindsOfConstraint}, got none of them`,
  ],
  [
    /^You can only use one kind of structured outputs constraint but multiple are specified: \{(.*)\}/s,
    (fields) => `structured_outputs must have only one of ${kindsOfConstraint}, got ${setIn(fields)}`,
  ],
  [
    /^You can only use one kind of constraints for structured outputs/,
    () => `structured_outputs must have only one of ${kindsOfConstraint}, got several of them`,
  ],
  [
    /^Grammar error: .*?invalid regex (".*?") .*?\nerror: (.+?)\n/s,
    (regex, why) => `structured_outputs has a regular expression that is not valid: ${why}, got ${regex}`,
  ],
  [/^Choice '\[\]' cannot be an empty list$/, () => "structured_outputs.choice must not be empty, got []"],
  [
    /^Invalid JSON grammar specification\.?$/,
    () => "structured_outputs.json must be a JSON schema: it is not valid JSON",
  ],
  [/^(?:Grammar error|Invalid grammar specification): (.*)$/s, (why) => `structured_outputs is not valid: ${why}`],
  [/^(\w+) is not None and empty!/, (name) => `${name} must not be empty, got []`],
  [
    /^Token id (-?\d+) is out of vocabulary/,
    (id) => `the prompt has the token id ${id}, which is not in the model's vocabulary`,
  ],
  [
    /^token_id\(s\) (\[.*?\]) in (\w+) contain out-of-vocab token ids\. Vocabulary size: (\d+)/,
    (ids, name, size) => `${name} must have token ids from 0 to ${Number(size) - 1}, got ${ids}`,
  ],
  [
    /^(\w+) contains out-of-vocab token id! \(parameter=\w+, value=(.*)\)$/s,
    (name, ids) => `${name} must have token ids of the vocabulary, got ${ids}`,
  ],
  [
    /^(\w+) contains key\(s\) that cannot be converted to integer token IDs: (\[.*?\])/,
    (name, keys) => `${name} must have token ids as keys, got ${keys}`,
  ],
  [
    /^This model's maximum context length is (\d+) tokens\. .*your prompt contains (\d+) characters/,
    (most, characters) =>
      `the prompt has ${characters} characters, more than the model's context of ${most} tokens can hold (max_model_len)`,
  ],
  // Before 0.32 vLLM counts the output tokens with the prompt, even if there are to be none.
  [
    /^This model's maximum context length is (\d+) tokens\. However, you requested ([1-9]\d*) output tokens and your prompt contains (.*?) input tokens/,
    (most, output, tokens) =>
      `the prompt has ${tokens} tokens and max_tokens is ${output}, together more than the model's context of ${most} (max_model_len)`,
  ],
  [
    /^This model's maximum context length is (\d+) tokens\. However, (?:you requested 0 output tokens and )?your prompt contains (.*?) input tokens/,
    (most, tokens) => `the prompt has ${tokens} tokens, more than the model's context of ${most} (max_model_len)`,
  ],
  [
    /^(\w+)=(\d+) cannot be greater than max_model_len=(\d+)/,
    (name, value, most) =>
      `${name} must be at most the model's context of ${most} tokens (max_model_len), got ${value}`,
  ],
  [
    /^Requested sample logprobs of (\S+), which is greater than max allowed: (\d+)/,
    (value, most) => `logprobs must be at most ${most} (max_logprobs), got ${value}`,
  ],
  [
    /^Chat template is passed with request, but --trust-request-chat-template/,
    () => "chat_template is not allowed in a request: the model was loaded without trust_request_chat_template",
  ],
  [
    /^max_pattern_size, min_pattern_size must be/,
    () => "repetition_detection: max_pattern_size must be at least min_pattern_size, and that at least 0 (both 0: off)",
  ],
  [/ is not a multimodal model$/, () => "the model has no vision: it takes only text"],
  [
    /^"auto" tool choice requires --enable-auto-tool-choice/,
    () => 'the model\'s tools are not set up: tool_choice "auto" needs enable_auto_tool_choice and tool_call_parser',
  ],
  [
    /^(\w+) cannot contain an empty string\. Got \w+=(.*)$/s,
    (name, value) => `${name} cannot contain an empty string, got ${value}`,
  ],
];

function sentence(message: string): string {
  for (const [form, text] of rewritten) {
    const found = form.exec(message);
    if (found !== null) return oneLine(text(...found.slice(1).map((group) => group ?? "")));
  }
  const [, text = "", parameter, value] =
    /^(.*?)(?: \(parameter=(\w+)(?:, value=(.*))?\))?$/s.exec(message.trim()) ?? [];
  const named = parameter === undefined || text.includes(parameter) ? text : `${parameter}: ${text}`;
  const plain = oneLine(named).replace(/\.$/, "");
  return value === undefined || plain.includes(value) ? plain : `${plain}, got ${oneLine(value)}`;
}

function oneLine(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > 400 ? `${line.slice(0, 399)}…` : line;
}

/** The names of a Python dict's fields that are neither None nor False. */
function setIn(fields: string): string {
  const names = [...fields.matchAll(/'(\w+)': (?!None|False)/g)].map(([, name]) => name);
  return names.filter((name) => kindsOfConstraint.split(", ").includes(name ?? "")).join(" and ") || "several of them";
}

/** Errors as vLLM's application lists them: {'type': ..., 'loc': 'body.n', 'msg': '...', 'input': '...'}; `loc` may be a tuple. */
function listed(message: string): Problem[] {
  const form =
    /'loc': (?:'(.*?)'|\((.*?)\)), 'msg': (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"), 'input': (.*?)(?:, 'ctx': .*)?\}\s*$/gm;
  return [...message.matchAll(form)].map(([, place, tuple = "", single, double, input = ""]) => {
    const path =
      place ??
      tuple
        .split(/,\s*/)
        .map((step) => step.replaceAll("'", ""))
        .filter((step) => step !== "")
        .join(".");
    return problem(path.replace(/^body\./, ""), single ?? double ?? "", input);
  });
}

/** Errors as pydantic reports them: the place, and below it the message with [type=..., input_value=..., input_type=...]. */
function reported(message: string): Problem[] {
  if (!/^\d+ validation errors? for /.test(message)) return [];
  const form = /^(\S+)\n {2}(.*?) \[type=\w+, input_value=(.*), input_type=\w+\]$/gm;
  return [...message.matchAll(form)].map(([, place = "", text = "", input = ""]) => problem(place, text, input));
}

function problem(place: string, text: string, input: string): Problem {
  const steps = place.split(".");
  // The members of a union have the names of classes, functions or types.
  const isBranch = (step: string) =>
    /^[A-Z]\w*[a-z]\w*$/.test(step) || /^(function-|list\[|dict\[|constrained-)/.test(step);
  const path = steps
    .filter((step) => !isBranch(step))
    .map((step, index) => (/^\d+$/.test(step) ? `[${step}]` : index === 0 ? step : `.${step}`))
    .join("");
  // Parts of a message are checked apart from the request.
  return {
    path: path.startsWith("[") ? `content${path}` : path,
    branch: steps.filter(isBranch).join("."),
    text,
    input,
  };
}

/** Chooses what to say of several errors, most of which are about other types of a field than the one that was meant. */
function describeProblems(problems: readonly Problem[]): string {
  const branches = new Map<string, Problem[]>();
  for (const each of problems) branches.set(each.branch, [...(branches.get(each.branch) ?? []), each]);
  const least = Math.min(...[...branches.values()].map((each) => each.length));
  const all = [...branches.values()].filter((each) => each.length === least);
  // A wrong constant (a role, a type) says that another member of the union was meant.
  const meant = all.filter((each) => !each.some(isConstant));
  const closest = meant.length === 1 ? meant : all;
  const [only] = closest;
  if (branches.size > 1 && closest.length === 1 && only !== undefined) return describeProblem(only);
  // Several types, and none is closer: the field that most of them complain about, with what each of them takes.
  const paths = new Map<string, Problem[]>();
  for (const each of problems) paths.set(each.path, [...(paths.get(each.path) ?? []), each]);
  const literal = (group: readonly Problem[]) => branches.size > 1 && group.every(isConstant);
  const order = (group: readonly Problem[]) => group.length + (literal(group) ? problems.length : 0);
  const [most = problems] = [...paths.values()].sort((a, b) => order(b) - order(a));
  return describeProblem(most);
}

function isConstant({ text }: Problem): boolean {
  return text.startsWith("Input should be '");
}

/** Describes errors of one field. */
function describeProblem(problems: readonly Problem[]): string {
  const [first] = problems;
  if (first === undefined) return "";
  const { path, input } = first;
  const same = problems.filter((each) => each.path === path);
  const rules = same.map(({ text }) => /^Input should be (?:a valid )?(.*?)(?:, unable to .*)?$/s.exec(text)?.[1]);
  const value = input.replace(/^'(-?\d+(?:\.\d+)?|<.*>|\[.*|\{.*)'$/, "$1").replace(/^<dict of .*>$/, "an object");
  if (first.text === "Field required") return oneLine(`${path} is missing`);
  if (rules.some((rule) => rule === undefined)) return oneLine(`${path}: ${first.text}, got ${value}`);
  const words: Readonly<Record<string, string>> = {
    integer: "a whole number",
    boolean: "true or false",
    string: "a string",
    number: "a number",
    list: "an array",
    dictionary: "an object",
    iterable: "an array",
  };
  const expected = [...new Set(rules.map((rule) => words[rule as string] ?? rule))];
  return oneLine(`${path} must be ${expected.join(" or ")}, got ${value}`);
}
