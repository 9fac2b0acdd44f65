// Vercel's AI SDK, its OpenAI provider at its defaults (/v1/responses) and the compatible one (/v1/chat/completions):
// text, a second turn, a stream, an object. The first needs store: false, as it would else send references to what the
// service has not kept; without it the second turn is refused with a sentence that says so.
import { strict as assert } from "node:assert";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText } from "ai";

const [url, base] = process.argv.slice(2);
const asked = { role: "user", content: "What is the capital of France?" };
const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
});
const providers = {
  responses: createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }),
  chat: createOpenAICompatible({ name: "here", baseURL: `${url}/v1`, supportsStructuredOutputs: true }),
};
const stateless = { providerOptions: { openai: { store: false } }, maxRetries: 0 };
for (const [name, provider] of Object.entries(providers)) {
  const first = await generateText({ model: provider("auto"), messages: [asked], ...stateless });
  assert.ok(first.text, name);
  const turns = [asked, ...first.response.messages, { role: "user", content: "And of Italy?" }];
  const second = await generateText({ model: provider("auto"), messages: turns, ...stateless });
  assert.ok(second.text, name);
  let streamed = "";
  const stream = streamText({ model: provider("auto"), messages: [asked], ...stateless });
  for await (const piece of stream.textStream) streamed += piece;
  assert.ok(streamed.trim(), name);
  const { object } = await generateObject({ model: provider(base), prompt: asked.content, schema, ...stateless });
  assert.equal(object.city, "Paris", name);
}
const stored = await generateText({ model: providers.responses("auto"), messages: [asked], maxRetries: 0 });
const referring = [asked, ...stored.response.messages, asked];
await assert.rejects(
  generateText({ model: providers.responses("auto"), messages: referring, maxRetries: 0 }),
  /send the whole conversation/,
);
