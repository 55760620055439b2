import assert from "node:assert/strict";
import dawn from "../../dawn/deno.json" with { type: "json" };
import { DAWN_MEGABYTES, isDawnInstalled, load, type PackageName } from "../../files/packages.ts";
import { fromFileUrl, toFileUrl } from "../paths.ts";

const root = fromFileUrl(new URL("../../", import.meta.url));
const path = "files/packages.ts";

/** Folders of the library; tests import what they need as they like. */
const FOLDERS = Array.from(Deno.readDirSync(root))
  .filter(({ isDirectory, name }) => isDirectory && !name.startsWith(".") && name !== "tests")
  .map(({ name }) => name);

/** A package that is imported, or whose types are, where it is used. */
const LITERAL = /(?:\bimport\s*\(|\bfrom)\s*["'`](?:npm|jsr):/;

function sources(folder: string): string[] {
  return Array.from(Deno.readDirSync(root + folder)).flatMap(({ name, isDirectory }) =>
    name === "node_modules"
      ? []
      : isDirectory
      ? sources(`${folder}/${name}`)
      : name.endsWith(".ts")
      ? [`${folder}/${name}`]
      : []
  );
}

Deno.test("load() loads every package of its table", async () => {
  const source = await Deno.readTextFile(root + path);
  const rows = Array.from(
    source.matchAll(/"(\S+)": at<\s*typeof import\("(npm:\S+)"\)\s*>\(\s*"(npm:\S+)"/g),
    ([, name, type, specifier]) => ({ name: name!, type: type!, specifier: specifier! }),
  );
  assert.equal(rows.length, source.match(/: at</g)!.length - 1); // webgpu: see the next test
  assert.ok(rows.length > 3);
  for (const { name, type, specifier } of rows) {
    assert.equal(type, specifier);
    assert.equal(specifier.replace(/@\d+\.\d+\.\d+(?=\/|$)/, ""), `npm:${name}`);
    await load(name as PackageName);
  }
});

Deno.test("load() says what to type if Dawn is not installed, and which permission it lacks", async () => {
  assert.match(dawn.imports.webgpu, /^npm:webgpu@\d+\.\d+\.\d+$/);
  const { state } = Deno.permissions.querySync({ name: "ffi" });
  if (!isDawnInstalled()) {
    await assert.rejects(load("webgpu"), {
      name: "UserError",
      message: `Cannot load Dawn as ${dawn.imports.webgpu} is not installed`,
      hint: /dawn:install$/,
    });
  } else if (state === "granted") assert.equal(typeof (await load("webgpu")).create, "function");
  else await assert.rejects(load("webgpu"), { name: "NotCapable", message: /ffi/ });
});

Deno.test("load() says how to install Dawn anew if its package is damaged or of another version", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${directory}/files`);
    for (const { name } of Deno.readDirSync(`${root}files`)) {
      await Deno.copyFile(`${root}files/${name}`, `${directory}/files/${name}`);
    }
    const installed = `${directory}/dawn/node_modules/webgpu`;
    await Deno.mkdir(installed, { recursive: true });
    await Deno.copyFile(`${root}dawn/deno.json`, `${directory}/dawn/deno.json`);
    await Deno.writeTextFile(`${installed}/index.js`, "");
    await Deno.writeTextFile(`${installed}/package.json`, `{ "version": "0.0.1" }`);
    const { load } = await import(toFileUrl(`${directory}/${path}`).href);
    await assert.rejects(load("webgpu"), { message: /^Cannot load Dawn as .* is not installed$/ });
    const version = dawn.imports.webgpu.replace("npm:webgpu@", "");
    await Deno.writeTextFile(`${installed}/package.json`, JSON.stringify({ version }));
    await assert.rejects(load("webgpu"), {
      name: "UserError",
      message: "Cannot load Dawn: index.js is damaged",
      hint: /delete dawn\/node_modules.*dawn:install$/,
    });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("the task and the page of Dawn say how large its package is", async () => {
  const { download, disk } = DAWN_MEGABYTES;
  const { tasks } = JSON.parse(await Deno.readTextFile(`${root}deno.json`));
  assert.ok(tasks["dawn:install"].description.endsWith(`(${download} MB, ${disk} MB on the disk)`));
  const page = (await Deno.readTextFile(`${root}docs/providers.md`)).replaceAll("\n", " ");
  assert.ok(page.includes(`a download of ${download} MB, and ${disk} MB on the disk`));
});

Deno.test("load() says in one sentence that a package cannot be downloaded", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const script = `${directory}/script.ts`, url = new URL(`../../${path}`, import.meta.url);
    await Deno.writeTextFile(script, `import { load } from "${url}"; await load("picomatch");`);
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-config", "--no-lock", "--no-prompt", "--cached-only", script],
      env: { DENO_DIR: directory, NO_COLOR: "1" },
    }).output();
    assert.equal(code, 1);
    assert.match(
      new TextDecoder().decode(stderr),
      /Error: Cannot load npm:picomatch@[\d.]+ \(.+\): check the network\n/,
    );
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("only packages.ts names packages of npm, and the page of the dashboard its files", async () => {
  assert.match('await import(\n  "npm:a"', LITERAL);
  assert.match('import { a } from "npm:a"', LITERAL);
  const paths = ["mod.ts", ...FOLDERS.flatMap(sources)];
  assert.ok(paths.length > 100);
  const texts = await Promise.all(paths.map((path) => Deno.readTextFile(root + path)));
  const naming = paths.filter((_, i) => LITERAL.test(texts[i]!));
  // the dashboard alone reaches its assets, which are texts
  assert.deepEqual(naming.sort(), [path, "serve/assets.ts"]);
});

Deno.test("mod.ts makes Deno fetch no unused package", async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "mod.ts"],
    cwd: root,
  }).output();
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: { specifier: string; dependencies?: { specifier: string; code?: object }[] }[];
  };
  const imports = modules.flatMap(({ dependencies = [] }) => dependencies)
    .filter(({ code }) => code).map(({ specifier }) => specifier);
  assert.ok(imports.length > 100);
  assert.deepEqual(imports.filter((specifier) => !/^(\.|node:)/.test(specifier)), []);
  // what the lock file lists is downloaded with the project
  assert.doesNotMatch(Deno.readTextFileSync(`${root}deno.lock`), /"webgpu@/);
});
