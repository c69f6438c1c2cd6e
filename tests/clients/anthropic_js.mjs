// The official Anthropic client for JavaScript.
import Anthropic from "@anthropic-ai/sdk";
import { MODEL, PROMPT, TOKENS, WEATHER, check, main } from "./calling.mjs";

const client = (url) => new Anthropic({ baseURL: url, apiKey: "unused", maxRetries: 0, timeout: 30_000 });
const asked = { model: MODEL, messages: [{ role: "user", content: PROMPT }], max_tokens: TOKENS };

async function messages(url) {
  const answer = await client(url).messages.create(asked);
  check(answer.content[0].text && answer.stop_reason === "max_tokens", "the answer");
  check(answer.usage.output_tokens === TOKENS, "usage");
}

async function messages_stream(url) {
  const whole = await client(url).messages.create(asked);
  const final = await client(url).messages.stream(asked).finalMessage();
  check(final.content[0].text === whole.content[0].text, "the same text");
  check(final.stop_reason === "max_tokens", "stop reason");
}

async function messages_tools(url) {
  const tools = [{ name: "weather", input_schema: WEATHER }];
  const answer = await client(url).messages.create({ ...asked, max_tokens: 200, tools, tool_choice: { type: "any" } });
  check(answer.content.some((block) => block.type === "tool_use" && block.name === "weather"), "a call");
}

async function count_tokens(url) {
  const counted = await client(url).messages.countTokens({ model: MODEL, messages: asked.messages });
  const answer = await client(url).messages.create({ ...asked, max_tokens: 1 });
  check(counted.input_tokens === answer.usage.input_tokens, "the same count");
}

async function models(url) {
  const list = await client(url).models.list();
  check(list.data[0].id === MODEL, "the model");
}

async function errors(url) {
  try {
    await client(url).messages.create({ ...asked, model: "nobody" });
  } catch (error) {
    check(error instanceof Anthropic.NotFoundError, `${error}`);
    return;
  }
  throw new Error("no error");
}

async function* stream(url, prompt, tokens, headers, fields) {
  const body = { model: MODEL, messages: [{ role: "user", content: prompt }], max_tokens: tokens, stream: true, ...fields };
  let rid = "";
  for await (const event of await client(url).messages.create(body, { headers })) {
    if (event.type === "message_start") rid = event.message.id.replace("msg_", "");
    if (event.type === "content_block_delta" && event.delta.type === "text_delta") yield [rid, event.delta.text];
  }
}

await main([messages, messages_stream, messages_tools, count_tokens, models, errors], stream);
