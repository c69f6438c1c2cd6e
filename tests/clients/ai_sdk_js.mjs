// The Vercel AI SDK, with its providers for OpenAI-compatible servers, for OpenAI (responses) and for Anthropic.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { MODEL, PROMPT, TOKENS, check, main } from "./calling.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = (url) => createOpenAICompatible({ name: "penstock", baseURL: `${url}/v1`, includeUsage: true });
const common = { prompt: PROMPT, maxOutputTokens: TOKENS, maxRetries: 0 };

async function whole_of(model) {
  const { text, usage, finishReason } = await generateText({ model, ...common });
  check(text && finishReason === "length", `finish reason ${finishReason}`);
  check(usage.outputTokens === TOKENS, "usage");
  return text;
}

async function streamed_of(model) {
  let text = "";
  for await (const part of streamText({ model, ...common, onError: () => {} }).fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return text;
}

async function compatible(url) {
  const model = provider(url)(MODEL);
  check((await whole_of(model)) === (await streamed_of(model)), "the same text");
}

async function compatible_tools(url) {
  const weather = tool({ description: "The weather", inputSchema: z.object({ city: z.string().optional() }).loose() });
  const { toolCalls } = await generateText({
    model: provider(url)(MODEL), ...common, maxOutputTokens: 200, tools: { weather }, toolChoice: "required",
  });
  check(toolCalls[0].toolName === "weather", "a call");
}

async function compatible_embeddings(url) {
  const { embeddings } = await embedMany({ model: provider(url).embeddingModel(MODEL), values: ["one", "two"] });
  check(embeddings.length === 2, "two embeddings");
}

async function openai_responses(url) {
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "unused" })(MODEL);
  check((await whole_of(model)) === (await streamed_of(model)), "the same text");
}

async function anthropic(url) {
  const model = createAnthropic({ baseURL: `${url}/v1`, apiKey: "unused" })(MODEL);
  check((await whole_of(model)) === (await streamed_of(model)), "the same text");
}

async function* stream(url, prompt, tokens, headers, fields) {
  const model = provider(url)(MODEL);
  const answer = streamText({
    model, prompt, maxOutputTokens: tokens, maxRetries: 0, headers, onError: () => {}, providerOptions: { penstock: fields },
    includeRawChunks: true,
  });
  let rid = "";
  for await (const part of answer.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "raw") rid = part.rawValue?.id?.replace("chatcmpl-", "") ?? rid;
    if (part.type === "text-delta") yield [rid, part.text];
  }
  await answer.finishReason;
}

await main([compatible, compatible_tools, compatible_embeddings, openai_responses, anthropic], stream);
