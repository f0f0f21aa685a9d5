import { expect, test } from "vitest";
import { TritonServerError } from "../../src";
import { fromRequestFailure } from "../../src/model/failure";
import { plainRequestReason } from "../../src/model/request-reasons";

// The reasons as vLLM 0.32 gives them; 0.26 has `loc` as a tuple.
const listed = (...problems: [loc: string, msg: string, input: string][]) =>
  [
    `${problems.length} validation errors:`,
    ...problems.map(([loc, msg, input]) => {
      const quoted = msg.includes("'") ? `"${msg}"` : `'${msg}'`;
      return `  {'type': 'x', 'loc': 'body.${loc}', 'msg': ${quoted}, 'input': '${input}', 'ctx': {'expected': "'a'"}}`;
    }),
  ].join("\n");

test.each([
  [
    "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
    "temperature must be non-negative, got -1.0",
  ],
  ["must be positive. (parameter=top_k, value=-3)", "top_k: must be positive, got -3"],
  [
    "Token id 99999999 is out of vocabulary",
    "the prompt has the token id 99999999, which is not in the model's vocabulary",
  ],
  [
    "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=513)",
    "the prompt has at least 513 tokens, more than the model's context of 512 (max_model_len)",
  ],
  // As vLLM 0.26 to 0.31 give it.
  [
    "This model's maximum context length is 512 tokens. However, you requested 0 output tokens and your prompt contains at least 513 input tokens, for a total of at least 513 tokens. Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=513)",
    "the prompt has at least 513 tokens, more than the model's context of 512 (max_model_len)",
  ],
  [
    "This model's maximum context length is 512 tokens. However, you requested 500 output tokens and your prompt contains at least 13 input tokens, for a total of at least 513 tokens. Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=13)",
    "the prompt has at least 13 tokens and max_tokens is 500, together more than the model's context of 512 (max_model_len)",
  ],
  [
    "This model's maximum context length is 512 tokens. However, you requested 0 output tokens and your prompt contains 10485760 characters (more than 41472 characters, which is the upper bound for 512 input tokens). Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_text, value=10485760)",
    "the prompt has 10485760 characters, more than the model's context of 512 tokens can hold (max_model_len)",
  ],
  [
    "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])",
    "allowed_token_ids must not be empty, got []",
  ],
  [
    "token_id(s) [99] in logit_bias contain out-of-vocab token ids. Vocabulary size: 50 (parameter=logit_bias, value=[99])",
    "logit_bias must have token ids from 0 to 49, got [99]",
  ],
  [
    "You can only use one kind of structured outputs constraint but multiple are specified: {'json': None, 'regex': 'a', 'choice': ['b'], 'disable_any_whitespace': False, '_backend': None}",
    "structured_outputs must have only one of json, regex, choice, grammar, json_object, structural_tag, got regex and choice",
  ],
  [
    'Grammar error: at 1(8): invalid regex "(" (in regex): regex parse error:\n    (\n    ^\nerror: unclosed group\n   1 | start: /(/\n',
    'structured_outputs has a regular expression that is not valid: unclosed group, got "("',
  ],
  ["/models/llama is not a multimodal model", "the model has no vision: it takes only text"],
  ["something new.\n  Over two lines.", "something new. Over two lines"],
  [
    listed(["n", "Input should be a valid integer, unable to parse string as an integer", "a"]),
    "n must be a whole number, got 'a'",
  ],
  [
    listed(["stop", "Input should be a valid string", "3"], ["stop", "Input should be a valid list", "3"]),
    "stop must be a string or an array, got 3",
  ],
  [
    "1 validation error:\n  {'type': 'int_parsing', 'loc': ('body', 'stop_token_ids', 0), 'msg': 'Input should be a valid integer, unable to parse string as an integer', 'input': 'a'}",
    "stop_token_ids[0] must be a whole number, got 'a'",
  ],
  [listed(["tools.0.function", "Field required", "<dict of 1 items>"]), "tools[0].function is missing"],
  [
    listed(
      ["messages.0.DeveloperParam.content", "Input should be a valid string", "3"],
      ["messages.0.DeveloperParam.role", "Input should be 'developer'", "user"],
      ["messages.0.UserParam.content", "Input should be a valid string", "3"],
      ["messages.0.UserParam.content", "Input should be iterable", "3"],
    ),
    "messages[0].content must be a string or an array, got 3",
  ],
  [
    "2 validation errors for ValidatorIterator\n0.TextParam.text\n  Field required [type=missing, input_value={'type': 'z'}, input_type=dict]\n    For further information visit https://errors.pydantic.dev/2.14/v/missing\n0.TextParam.type\n  Input should be 'text' [type=literal_error, input_value='z', input_type=str]\n    For further information visit x\n0.ImageParam.url\n  Field required [type=missing, input_value={'type': 'z'}, input_type=dict]\n0.ImageParam.type\n  Input should be 'image_url' [type=literal_error, input_value='z', input_type=str]",
    "content[0].type must be 'text' or 'image_url', got 'z'",
  ],
])("%s", (raw, plain) => {
  expect(plainRequestReason(raw)).toBe(plain);
});

test("the error of a request keeps vLLM's own words as its cause", () => {
  const raw = "Error generating stream: max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)";
  const cause = new TritonServerError("INVALID_ARG", raw);
  expect(fromRequestFailure(cause)).toMatchObject({
    code: "ERR_INVALID_ARGUMENT",
    message: "max_tokens must be at least 1, got 0",
    cause,
  });
});

test("an adapter whose folder is not there, and one whose files are wrong, have different hints", () => {
  const of = (message: string) => fromRequestFailure(new TritonServerError("INVALID_ARG", message));
  expect(of("adapter 'a': there is no folder /x")).toMatchObject({
    code: "ERR_ADAPTER_LOAD",
    hint: expect.stringContaining(`relative paths start at ${process.cwd()}`),
  });
  expect(of("adapter 'a' (/x): rank 64 is above")).toMatchObject({ hint: expect.stringContaining("adapters.inspect") });
});
