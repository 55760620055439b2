import assert from "node:assert/strict";
import { dirname, fromFileUrl } from "./paths.ts";

interface Module {
  specifier: string;
  dependencies?: {
    specifier: string;
    code?: { specifier: string };
    type?: { specifier: string };
  }[];
}

const root = dirname(dirname(fromFileUrl(import.meta.url)));

/** What a module and everything that it reaches import, by path from the root. */
async function graph(entry: string): Promise<Map<string, string[]>> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", entry],
    cwd: root,
  }).output();
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as { modules: Module[] };
  const local = modules.filter(({ specifier }) => specifier.startsWith("file:"));
  return new Map(local.map(({ specifier, dependencies = [] }) => [
    relative(specifier),
    dependencies.map(({ specifier, code, type }) => {
      const resolved = (code ?? type)?.specifier ?? specifier;
      return resolved.startsWith("file:") ? relative(resolved) : specifier;
    }),
  ]));
}

function relative(url: string): string {
  return fromFileUrl(url).slice(root.length + 1).replaceAll("\\", "/");
}

/** What each folder may import beside itself. */
const ALLOWED: Record<string, string[]> = {
  files: [],
  data: ["files"],
  kernels: ["files"],
  model: ["kernels", "files"],
  generate: ["model", "data", "kernels", "files"],
  distributed: ["kernels", "files"],
  train: ["distributed", "generate", "model", "data", "kernels", "files"],
  inspect: ["train", "distributed", "generate", "model", "data", "kernels", "files"],
  serve: ["inspect", "train", "distributed", "generate", "model", "data", "kernels", "files"],
  commands: [
    ...["serve", "inspect", "train", "distributed", "generate", "model", "data", "kernels"],
    "files",
  ],
  bench: [
    ...["commands", "serve", "inspect", "train", "distributed", "generate", "model", "data"],
    ...["kernels", "files"],
  ],
};

/** What each folder of data/ may import beside itself and data/random.ts. */
const ALLOWED_IN_DATA: Record<string, string[]> = {
  hub: [],
  text: ["hub"],
  tokenizer: ["hub", "text"],
  tokens: ["text", "tokenizer"],
};

const ENTRIES = [
  "mod.ts",
  "commands/train.ts",
  "commands/eval.ts",
  "commands/export.ts",
  "commands/chat.ts",
  "commands/compare.ts",
  "commands/dashboard.ts",
  "commands/doctor.ts",
  "commands/generate.ts",
  "commands/inspect.ts",
  "commands/judge.ts",
  "commands/prepare.ts",
  "commands/serve.ts",
  "commands/shapes.ts",
  "commands/signal_worker.ts",
  "data/tokens/worker.ts",
  "distributed/heartbeat_worker.ts",
  "commands/tokenizer.ts",
  "bench/main.ts",
  "bench/readme.ts",
];
const graphs = await Promise.all(ENTRIES.map(graph));

Deno.test("modules import in one direction, and never mod.ts", () => {
  let checked = 0;
  for (const modules of graphs) {
    for (const [path, imports] of modules) {
      const folder = path.split("/")[0]!;
      for (
        const target of imports.filter((name) => /^[\w-]+\//.test(name) && name.endsWith(".ts"))
      ) {
        checked++;
        if (folder === "mod.ts") continue;
        const other = target.split("/")[0]!;
        assert.ok(
          other === folder || ALLOWED[folder]!.includes(other),
          `${path} imports ${target}`,
        );
      }
      assert.ok(!imports.includes("mod.ts"), `${path} imports mod.ts`);
    }
  }
  assert.ok(checked > 100, `only ${checked} imports were found`);
});

Deno.test("folders of data/ import in one direction", () => {
  const folderOf = (path: string) => /^data\/(\w+)\//.exec(path)?.[1];
  const crossings = new Set<string>();
  for (const [path, imports] of graphs.flatMap((modules) => [...modules])) {
    const folder = folderOf(path);
    for (const target of imports) {
      const other = folderOf(target);
      if (folder === undefined || other === undefined || other === folder) continue;
      assert.ok(ALLOWED_IN_DATA[folder]!.includes(other), `${path} imports ${target}`);
      crossings.add(`${folder} ${other}`);
    }
  }
  assert.equal(crossings.size, 5);
});

Deno.test("no modules import each other in a circle, not even for types", () => {
  const imports = new Map(graphs.flatMap((modules) => [...modules])), done = new Set<string>();
  const visit = (path: string, way: readonly string[]) => {
    assert.ok(!way.includes(path), [...way, path].join(" imports "));
    if (done.has(path)) return;
    for (const target of imports.get(path) ?? []) visit(target, [...way, path]);
    done.add(path);
  };
  for (const path of imports.keys()) visit(path, []);
  assert.ok(done.size > 300, `only ${done.size} modules were found`);
});

/** Paths of the source files below a folder, from the root. */
function sourcesIn(folder: string): string[] {
  return Array.from(Deno.readDirSync(`${root}/${folder}`)).flatMap(({ name, isDirectory }) => {
    const path = folder === "" ? name : `${folder}/${name}`;
    if (isDirectory) return /^(\.|node_modules$|runs$)/.test(name) ? [] : sourcesIn(path);
    return /\.(ts|js)$/.test(name) ? [path] : [];
  });
}

Deno.test("every function, class and constant that a file exports is named in another file", () => {
  const paths = sourcesIn("");
  const texts = paths.map((path) => [path, Deno.readTextFileSync(`${root}/${path}`)] as const);
  const files = new Map<string, number>(); // by the words that they contain
  for (const [, text] of texts) {
    for (const word of new Set(text.match(/\b\w+\b/g))) files.set(word, (files.get(word) ?? 0) + 1);
  }
  const exported = texts.filter(([path]) => !path.startsWith("tests/")).flatMap(([path, text]) =>
    Array.from(
      text.matchAll(/^export (?:async )?(?:const|let|function\*?|class) (\w+)/gm),
      ([, name]) => ({ path, name: name! }),
    )
  );
  assert.ok(exported.length > 300, `only ${exported.length} exports were found`);
  assert.deepEqual(exported.filter(({ name }) => files.get(name) === 1), []);
});

Deno.test("mod.ts and its worker reach no bare specifier and pin what they take from npm", () => {
  const worker = graphs[ENTRIES.indexOf("data/tokens/worker.ts")]!;
  for (const [path, imports] of [...graphs[0]!, ...worker]) {
    for (const specifier of imports) {
      const known = /^[\w-]+\/.*\.(ts|wgsl|json)$|^node:\w+|^npm:(@[\w-]+\/)?[\w-]+@\d+\.\d+\.\d+/;
      assert.match(specifier, known, `in ${path}`);
    }
  }
});

Deno.test("mod.ts works from a remote script without a config file", async () => {
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      const path = new URL(request.url).pathname;
      try {
        const type = path.endsWith(".ts") ? "application/typescript" : "text/plain";
        return new Response(await Deno.readFile(root + path), {
          headers: { "content-type": type },
        });
      } catch {
        return new Response("not found", { status: 404 });
      }
    },
  );
  const directory = await Deno.makeTempDir();
  try {
    const script = `${directory}/remote.ts`;
    await Deno.writeTextFile(
      script,
      `import { documentsOf, generate, gpt2Tokenizer, openDevice, tokenizeDocuments }
         from "http://127.0.0.1:${server.addr.port}/mod.ts";
       const device = await openDevice();
       const tokenizer = await gpt2Tokenizer();
       console.log(typeof generate, tokenizer.encode("Once upon a time").join(), device.name !== "");
       device.destroy();
       const source = { ...documentsOf("stories", ["Once upon", " a time"]), bytes: 1e9 };
       const tokens = await tokenizeDocuments(source, { tokenizer, workers: 2 });
       console.log(tokens.read(0, tokens.length).join());`,
    );
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-config",
        "--no-lock",
        "--no-prompt",
        `--reload=http://127.0.0.1:${server.addr.port}`, // Deno may have modules of an earlier server at this port
        "--allow-import",
        "--allow-env",
        "--allow-read",
        script,
      ],
      cwd: directory,
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.equal(
      new TextDecoder().decode(stdout),
      "function 7454,2402,257,640 true\n7454,2402,50256,64,640,50256\n",
    );
  } finally {
    await server.shutdown();
    await Deno.remove(directory, { recursive: true });
  }
});
