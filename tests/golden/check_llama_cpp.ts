/**
 * Continues a text greedily with llama.cpp itself, from a GGUF file of ours.
 *
 *     deno task export --to gguf --out story.gguf
 *     deno run -A tests/golden/check_llama_cpp.ts story.gguf "Once upon a time" 100
 *
 * Prints the text, to be compared with
 *     deno task generate --temperature 0 --max-new-tokens 100 "Once upon a time"
 *
 * llama.cpp comes as a binary in npm:node-llama-cpp, several hundred megabytes, and so this is no test.
 */
const [path, prompt = "Once upon a time", count = "100"] = Deno.args;
const name = "npm:node-llama-cpp@3.21.1"; // not to be fetched by who only checks types
const { getLlama } = await import(name);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error" });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({ contextSize: model.trainContextSize });
const tokens: number[] = model.tokenize(prompt);
const ends = tokens.length + Number(count), drawn: number[] = [];
// no further than the context: past it, ours goes on with half of it, and llama.cpp in a way of its own
for await (const token of context.getSequence().evaluate(tokens, { temperature: 0 })) {
  if (model.isEogToken(token)) break;
  drawn.push(token);
  if (tokens.length + drawn.length >= Math.min(ends, model.trainContextSize)) break;
}
console.error(`prompt ${tokens.join(" ")}\ndrawn ${drawn.join(" ")}`);
console.log(prompt + model.detokenize(drawn));
Deno.exit(0);
