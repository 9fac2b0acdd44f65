// The official OpenAI client for Node against the service whose address, prompts and experts stand in argv[2]
// (JSON). It prints what it got; tests/served/test_node_client.py judges it.
import OpenAI from "openai";

// prompts: a prompt by the expert that it is routed to; no_blanks: a logit_bias
const { url, prompts, no_blanks } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const [first, second] = Object.keys(prompts);
const messages = [{ role: "user", content: prompts[first] }];
const short = { model: "auto", messages, max_tokens: 8, temperature: 0 };
const schema = {
  type: "object",
  properties: { verdict: { type: "string", enum: ["yes", "no"] } },
  required: ["verdict"],
  additionalProperties: false,
};
const tool = {
  type: "function",
  function: { name: "judge", description: "Says yes or no", parameters: schema, strict: true },
};

const { data: chat, response } = await client.chat.completions.create(short).withResponse();

let streamed = "";
let streamUsage = null;
const speakers = new Set();
const stream = await client.chat.completions.create({
  ...short,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  speakers.add(chunk.model);
  streamed += chunk.choices[0]?.delta?.content ?? "";
  streamUsage = chunk.usage ?? streamUsage;
}

const several = await client.chat.completions.create({
  ...short,
  temperature: 1,
  n: 3,
  seed: 7,
  logprobs: true,
  top_logprobs: 2,
});
const json = await client.chat.completions.create({
  ...short,
  max_tokens: 160,
  logit_bias: no_blanks,
  response_format: { type: "json_schema", json_schema: { name: "verdict", schema, strict: true } },
});
const call = await client.chat.completions.create({
  ...short,
  max_tokens: 160,
  logit_bias: no_blanks,
  tools: [tool],
  tool_choice: { type: "function", function: { name: "judge" } },
});
const list = await client.completions.create({
  model: "auto",
  prompt: [prompts[first], prompts[second]],
  max_tokens: 4,
  temperature: 0,
});
const answered = await client.responses.create({
  model: "auto",
  input: prompts[second],
  max_output_tokens: 8,
});

let refused = null;
try {
  await client.chat.completions.create({ ...short, model: "nobody" });
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, param: error.param, type: error.type };
}

console.log(
  JSON.stringify({
    expert: response.headers.get("x-gradientspace-expert"),
    chat,
    streamed,
    streamUsage,
    speakers: [...speakers],
    several,
    json,
    call,
    list,
    answered,
    refused,
  }),
);
