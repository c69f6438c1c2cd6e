// The official OpenAI client for JavaScript.
import OpenAI from "openai";
import { MODEL, PROMPT, TOKENS, WEATHER, check, main } from "./calling.mjs";

const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 30_000 });
const messages = [{ role: "user", content: PROMPT }];
const asked = { model: MODEL, messages, max_tokens: TOKENS };

async function chat(url) {
  const answer = await client(url).chat.completions.create(asked);
  check(answer.choices[0].finish_reason === "length", "finish reason");
  check(answer.usage.completion_tokens === TOKENS, "usage");
  check(answer._request_id, "request id");
}

async function chat_stream(url) {
  const whole = await client(url).chat.completions.create(asked);
  let text = "";
  for await (const chunk of await client(url).chat.completions.create({ ...asked, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? "";
  check(text === whole.choices[0].message.content, "the same text");
}

async function chat_tools(url) {
  const tools = [{ type: "function", function: { name: "weather", parameters: WEATHER } }];
  const answer = await client(url).chat.completions.create({ ...asked, max_tokens: 200, tools, tool_choice: "required" });
  check(answer.choices[0].message.tool_calls[0].function.name === "weather", "a call");
}

async function completions(url) {
  const answer = await client(url).completions.create({ model: MODEL, prompt: ["one", "two"], max_tokens: 4 });
  check(answer.choices.length === 2 && answer.choices[1].text, "two choices");
}

async function embeddings(url) {
  const answer = await client(url).embeddings.create({ model: MODEL, input: ["one", "two"] });
  check(answer.data.length === 2 && answer.data[0].embedding.length > 0, "two embeddings");
}

async function models(url) {
  const list = await client(url).models.list();
  check(list.data[0].id === MODEL, "the model");
}

async function responses(url) {
  const body = { model: MODEL, input: PROMPT, max_output_tokens: TOKENS };
  const answer = await client(url).responses.create(body);
  let text = "";
  for await (const event of await client(url).responses.create({ ...body, stream: true }))
    if (event.type === "response.output_text.delta") text += event.delta;
  check(text && text === answer.output_text, "the same text");
  check((await client(url).responses.retrieve(answer.id)).output_text === text, "retrieved");
}

async function errors(url) {
  try {
    await client(url).chat.completions.create({ ...asked, model: "nobody" });
  } catch (error) {
    check(error instanceof OpenAI.NotFoundError && error.code === "model_not_found", `${error}`);
    return;
  }
  throw new Error("no error");
}

async function* stream(url, prompt, tokens, headers, fields) {
  const body = { model: MODEL, messages: [{ role: "user", content: prompt }], max_tokens: tokens, stream: true, ...fields };
  for await (const chunk of await client(url).chat.completions.create(body, { headers }))
    yield [chunk.id.replace("chatcmpl-", ""), chunk.choices[0]?.delta?.content ?? ""];
}

await main([chat, chat_stream, chat_tools, completions, embeddings, models, responses, errors], stream);
