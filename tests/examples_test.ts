import assert from "node:assert/strict";
import { join } from "node:path";

/**
 * Every example in the documentation runs, in a directory with a trained model in `runs/default`.
 * `deno task check` checks their types.
 */

const ROOT = new URL("../", import.meta.url);

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** Paths of the modules below a folder, from the root. */
function modulesOf(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) =>
    isDirectory ? modulesOf(`${folder}${name}/`) : name.endsWith(".ts") ? [`${folder}${name}`] : []
  );
}

const FOLDERS = [
  "files/",
  "kernels/",
  "data/",
  "model/",
  "generate/",
  "train/",
  "inspect/",
  "serve/",
];

interface Example {
  /** Path of the file from the root, and the number of the example in it. */
  readonly name: string;
  /** Its code; what it imports is named by whole URLs. */
  readonly code: string;
}

/** The blocks of code in the documentation of a file. */
function examplesOf(path: string): Example[] {
  const text = path.endsWith(".md") ? read(path) : read(path).replaceAll(/^ *\* ?/gm, "");
  return [...text.matchAll(/^```ts(.*)\n([^]*?)^```$/gm)].map(([, attributes, code], i) => {
    assert.equal(attributes, "", `${path} has an example that does not run`);
    const urlOf = (specifier: string) => new URL(specifier, new URL(path, ROOT)).href;
    return {
      name: `${path} ${i + 1}`,
      code: code!.replaceAll(/ from "(\.[^"]+)"/g, (_, name) => ` from "${urlOf(name)}"`),
    };
  });
}

const PAGES = [...Deno.readDirSync(new URL("docs/", ROOT))].map(({ name }) => `docs/${name}`)
  .filter((path) => path.endsWith(".md"));

const EXAMPLES = ["README.md", ...PAGES, "mod.ts", ...FOLDERS.flatMap(modulesOf)]
  .flatMap(examplesOf);

/** What a user of version 0.1.0 found in its README, but for names that were removed in 0.3. */
const OLD_README: Example = {
  name: "README.md of 0.1.0",
  code: `
    import { generate, loadModel, openDevice } from "${new URL("mod.ts", ROOT)}";

    const device = await openDevice();
    const model = await loadModel(device, { run: "runs/default" });
    let story = "Once upon a time";
    for await (const piece of generate(model, { prompt: story })) story += piece;
    console.log(story);

    import * as names from "${new URL("mod.ts", ROOT)}";
    const { loadCorpus, generateBatch, gpt2Tokenizer, train } = names;
    for (const named of [loadCorpus, generateBatch, gpt2Tokenizer, train]) {
      if (typeof named !== "function") throw new TypeError("a name is missing");
    }
  `,
};

/** Trains the model of the examples, then runs them one after the other and prints which fail. */
const runner = (files: readonly string[]) => `
  import { train } from "${new URL("mod.ts", ROOT)}";
  const short = { preset: "nano", steps: 2, sampleEvery: 0, evalTokens: 64 };
  for await (const event of train(short)) if (event.kind === "end") console.error(event);
  for (const file of ${JSON.stringify(files)}) {
    try {
      await import(file);
    } catch (error) {
      console.log("failed:", file, error);
    }
  }
  console.log("done");
`;

Deno.test("every example of the documentation runs", async () => {
  assert.ok(EXAMPLES.length >= 10, `only ${EXAMPLES.length} examples were found`);
  const directory = await Deno.makeTempDir();
  try {
    const files = [...EXAMPLES, OLD_README].map(({ name, code }) => {
      const file = join(directory, `${name.replaceAll(/\W+/g, "_")}.ts`);
      Deno.writeTextFileSync(file, code);
      return file;
    });
    const main = join(directory, "main.ts");
    Deno.writeTextFileSync(
      main,
      runner(files.map((file) => `./${file.slice(directory.length + 1)}`)),
    );
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--no-config", "--no-prompt", "--allow-read", "--allow-write"]
        .concat("--allow-sys=statfs,systemMemoryInfo", "--allow-net=127.0.0.1", main),
      cwd: directory,
      env: { NO_COLOR: "1" },
    }).output();
    const [said, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    assert.match(said!, /^done$/m, errors);
    assert.doesNotMatch(said!, /^failed:/m, said);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

const { exports } = JSON.parse(read("deno.json")) as { exports: Record<string, string> };

Deno.test("examples import only entries of deno.json, so that they also run elsewhere", () => {
  const entries = Object.values(exports).map((path) => new URL(path, ROOT).href);
  for (const { name, code } of EXAMPLES) {
    const imports = [...code.matchAll(/ from "([^"]+)"/g)].map(([, url]) => url!);
    assert.ok(imports.length > 0, name);
    for (const url of imports) assert.ok(entries.includes(url), `${name} imports ${url}`);
  }
});

Deno.test("every entry of deno.json has a titled example", () => {
  assert.ok(Object.keys(exports).length > 5);
  for (const path of Object.values(exports)) {
    assert.match(read(path), /^ *\* @example \S.*\n *\* ```ts\n/m, path);
  }
});
