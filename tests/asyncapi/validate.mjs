// The official parser's word on an AsyncAPI document. Run where the parser is installed: node validate.mjs FILE
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const { Parser } = createRequire(join(process.cwd(), "package.json"))("@asyncapi/parser");

const file = process.argv[2];
const { document, diagnostics } = await new Parser().parse(await readFile(file, "utf8"));
for (const { severity, message, path } of diagnostics) {
  console.error(`${["error", "warning", "info", "hint"][severity]}: ${path.join(".")}: ${message}`);
}
const isSound = document !== undefined && diagnostics.every(({ severity }) => severity > 1);
if (isSound) {
  const [channels, operations] = [document.channels().length, document.operations().length];
  console.log(`${file}: AsyncAPI ${document.version()}, ${channels} channels, ${operations} operations`);
}
process.exit(isSound ? 0 : 1);
