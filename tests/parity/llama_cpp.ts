/**
 * The part of parity.py that is llama.cpp's: continues texts of ids greedily, as a JSON file asks, and prints a JSON
 * list of ids for each.
 *
 *     deno run -A tests/parity/llama_cpp.ts JOBS.json
 *
 * llama.cpp comes as a binary in npm:node-llama-cpp, several hundred megabytes, and so this is no test.
 */
type Job = { path: string; prompt: number[]; count: number };

const name = Deno.env.get("NODE_LLAMA_CPP") ?? "npm:node-llama-cpp@3.22.1"; // not to be fetched by who only checks types
const { getLlama } = await import(name);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error" });
for (const { path, prompt, count } of JSON.parse(await Deno.readTextFile(Deno.args[0]!)) as Job[]) {
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({
    contextSize: prompt.length + count + 1,
    threads: 1, // several wait in loops, which take each other's time on a busy machine
    flashAttention: false, // it rounds to f16, and so does a cache by default
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
  });
  const drawn: number[] = [];
  const options = { temperature: 0, yieldEogToken: true };
  for await (const token of context.getSequence().evaluate(prompt, options)) {
    drawn.push(token);
    if (drawn.length === count) break;
  }
  console.log(JSON.stringify(drawn));
  await model.dispose();
}
Deno.exit(0);
