import { join } from "node:path";
import { hubFile } from "../../data/hub/hub.ts";
import { documentsOf } from "../../data/text/documents.ts";
import { loadCorpus } from "../../data/tokens/corpus.ts";
import { tokenizeDocuments } from "../../data/tokens/tokenize.ts";
import { byteLevelTokenizer } from "../../data/tokenizer/tokenizer.ts";
import { BYTE_ALPHABET } from "../../data/tokenizer/byte_level.ts";
import { openRunDirectory } from "../../train/directory/run_directory.ts";
import { writeNew } from "../../train/directory/run_files.ts";
import { openRecord } from "../../train/record/record.ts";
import type { Keep } from "../../train/directory/retention.ts";
import { exampleFiles, exampleState } from "../checkpoints.ts";
import { withFreeBytes } from "../free_bytes.ts";
import { passHours } from "../hours.ts";
import { HubServer, STORIES } from "../data/hub/server.ts";
import { openPaths, operations } from "./recorded_fs.ts";

/** Lets one of those that write files do so in a directory, and prints its operations as JSON. */
const [writer, directory] = Deno.args as [string, string];

const WRITERS: Record<string, () => Promise<void> | void> = {
  checkpoint() {
    const run = openRunDirectory(directory);
    const save = (step: number) =>
      run.save(exampleFiles("x"), exampleState(step), { keep: 1, best: step === 1 });
    operations.length = 0;
    save(1);
    save(1); // once more, in place of the first
    run.close();
  },
  pruned() {
    const run = openRunDirectory(directory);
    const files = exampleFiles("x").set("optimizer.safetensors", [new Uint8Array(2e5)]);
    using _ = withFreeBytes(2e7); // 1 % of it is one checkpoint
    const save = (step: number, keep: Keep) =>
      run.save(files, exampleState(step), { keep, best: false });
    for (const step of [1, 2, 3]) save(step, "auto");
    operations.length = 0;
    save(4, "auto");
    save(5, 4);
    run.close();
  },
  async record() {
    const run = openRunDirectory(directory);
    for (const step of [1, 2, 3]) {
      run.append("metrics.jsonl", JSON.stringify({ kind: "step", step, loss: 1 }));
    }
    operations.length = 0;
    await openRecord(run, 2);
    run.close();
  },
  directory: () => writeNew(join(directory, "model"), exampleFiles("x")),
  file: () => writeNew(join(directory, "model.gguf"), [new Uint8Array(8)]),
  async tokens() {
    const tokenizer = await byteLevelTokenizer({ tokens: [...BYTE_ALPHABET], merges: [] });
    const long = "a story, ".repeat(2 ** 17); // a block by itself
    const documents = documentsOf("x", [...new Array(19).fill("Short."), long, "Short.", long]);
    passHours();
    (await tokenizeDocuments(documents, { tokenizer, cacheDirectory: directory })).close();
  },
  async corpus() {
    const write = (name: string, text: string) => {
      const path = join(directory, name);
      Deno.writeTextFileSync(path, text);
      return path;
    };
    const data = [write("one.txt", "One.\n<|endoftext|>\nTwo.")];
    const other = [write("other.txt", "Three.\n<|endoftext|>\nFour.")];
    const cacheDirectory = join(directory, "cache");
    const { tokenizer, close } = await loadCorpus({ data: other });
    close();
    for (const more of [{}, {}, { tokenizer }]) {
      (await loadCorpus({ data, cacheDirectory, ...more })).close();
    }
  },
  async download() {
    await using server = new HubServer();
    server.publish(STORIES.path, new Uint8Array(100_000), { large: true });
    await hubFile(STORIES, {
      environment: { HF_HOME: directory, HF_ENDPOINT: server.endpoint },
    });
  },
};

await WRITERS[writer]!();
if (openPaths().length > 0) throw new Error(`Files are still open: ${openPaths().join(", ")}`);
console.log(JSON.stringify(operations));
