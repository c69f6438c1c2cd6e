// What a client's calls have in common: each is a function that throws if the server is not as the client expects it.

export const MODEL = "penstock-sim";
export const PROMPT = "Tell me about rivers";
export const TOKENS = 24;
export const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

export function check(condition, what) {
  if (!condition) throw new Error(what);
}

const say = (fields) => console.log(JSON.stringify(fields));

// `node FILE URL` makes all calls and prints a line of JSON for each; `node FILE URL PROMPT TOKENS HEADERS FIELDS` streams
// one answer, and prints what comes and how it ended.
export async function main(calls, stream) {
  const [url, prompt, tokens, headers, fields] = process.argv.slice(2);
  if (prompt === undefined) {
    for (const call of calls) {
      let error = null;
      try {
        await call(url);
      } catch (thrown) {
        error = `${thrown?.name}: ${thrown?.message}`;
      }
      say({ call: call.name, error });
    }
    return;
  }
  try {
    for await (const [id, text] of stream(url, prompt, Number(tokens), JSON.parse(headers), JSON.parse(fields))) say({ id, text });
    say({ end: "complete", error: null });
  } catch (thrown) {
    say({ end: "error", error: `${thrown?.name}: ${thrown?.message}` });
  }
}
