import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { closeSync, openSync, readdirSync } from "node:fs";
import { join } from "node:path";
import {
  checkFilePath,
  isSystemError,
  readAt,
  readChunks,
  reading,
  reasonOf,
  replaceFile,
  replaceText,
  shortageAt,
  TEMPORARY_NAME,
  temporaryBeside,
  writeAll,
} from "../../files/disk.ts";
import { byteCount, byteCounts } from "../../files/units.ts";
import { UserError } from "../../files/user_error.ts";
import { withFreeBytes } from "../free_bytes.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const url = (name: string) => new URL(name, import.meta.url).href;

/** An operation and its paths below the writer's directory, without what is random in their names. */
interface Operation {
  kind: "write" | "sync" | "rename" | "remove";
  path: string;
  to?: string;
}

/** What one of disk_writers.ts does; it fails if it leaves a file open. */
async function operationsOf(writer: string): Promise<Operation[]> {
  const map = join(directory, "import_map.json"), place = join(directory, writer);
  const recorded = url("./recorded_fs.ts");
  Deno.writeTextFileSync(
    map,
    JSON.stringify({
      imports: { "node:fs": recorded },
      scopes: { [recorded]: { "node:fs": "node:fs" } },
    }),
  );
  Deno.mkdirSync(place);
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--no-config", `--import-map=${map}`]
      .concat(url("./disk_writers.ts"), writer, place),
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const below = (path: string) =>
    (path.slice(place.length + 1) || ".")
      .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "UUID")
      .replaceAll(/[0-9a-f]{12,}/g, "HASH");
  const operations: [Operation["kind"], string, string?][] = JSON.parse(
    new TextDecoder().decode(stdout),
  );
  return operations.map(([kind, path, to]) =>
    to === undefined ? { kind, path: below(path) } : { kind, path: below(path), to: below(to) }
  );
}

const text = ({ kind, path, to }: Operation) =>
  `${kind} ${path}${to === undefined ? "" : ` to ${to}`}`;

/**
 * Asserts that what gets a name that counts is on the disk: every file is synced after it was last written
 * and before it, or the directory that it is in, is renamed; so is that directory itself, after its files.
 */
function assertSynced(operations: readonly Operation[]): void {
  operations.forEach(({ kind, path, to }, i) => {
    if (kind !== "rename" || /\.(old|trash)-/.test(to!)) return;
    const before = operations.slice(0, i);
    const last = (kind: string, path: string) =>
      before.findLastIndex((one) => one.kind === kind && one.path === path);
    const files = new Set(
      before.filter((one) => one.kind === "write")
        .map((one) => one.path)
        .filter((written) => written === path || written.startsWith(`${path}/`)),
    );
    assert.ok(files.size > 0, `nothing is in ${path}`);
    for (const file of files) {
      assert.ok(
        last("sync", file) > last("write", file),
        `${file} is not synced before it is ${to}`,
      );
      if (file === path) continue;
      assert.ok(last("sync", path) > last("sync", file), `${path} is not synced after ${file}`);
    }
  });
}

const ignore = Deno.build.os === "windows"; // which has no way to sync a directory

Deno.test({
  name: "save() syncs all files, the state last, then their directory, before and after its name",
  ignore,
  async fn() {
    const operations = await operationsOf("checkpoint"), lines = operations.map(text);
    assertSynced(operations);
    const first = lines.indexOf("rename checkpoints/.tmp-000001-UUID to checkpoints/000001");
    assert.deepEqual(lines.slice(first - 3, first + 2), [
      "write checkpoints/.tmp-000001-UUID/trainer_state.json",
      "sync checkpoints/.tmp-000001-UUID/trainer_state.json",
      "sync checkpoints/.tmp-000001-UUID",
      "rename checkpoints/.tmp-000001-UUID to checkpoints/000001",
      "sync checkpoints",
    ]);
    // the hints follow, and a checkpoint of the same step makes room only once all of the new one is there
    assert.ok(lines.indexOf("rename .tmp-latest-UUID to latest") > first);
    const old = lines.indexOf("rename checkpoints/000001 to checkpoints/.old-000001-UUID");
    assert.deepEqual(lines.slice(old - 1), [
      "sync checkpoints/.tmp-000001-UUID",
      "rename checkpoints/000001 to checkpoints/.old-000001-UUID",
      "rename checkpoints/.tmp-000001-UUID to checkpoints/000001",
      "sync checkpoints",
      "remove checkpoints/.old-000001-UUID",
    ]);
  },
});

Deno.test({
  name:
    "save() removes an older checkpoint or its optimizer only when the new one is synced, the former under another name",
  ignore,
  async fn() {
    const operations = await operationsOf("pruned"), lines = operations.map(text);
    assertSynced(operations);
    const firstOf = lines.filter((line) => /000001|to checkpoints\/00000/.test(line));
    assert.deepEqual(firstOf, [
      "rename checkpoints/.tmp-000004-UUID to checkpoints/000004",
      "remove checkpoints/000001/optimizer.safetensors",
      "sync checkpoints/000001",
      "rename checkpoints/.tmp-000005-UUID to checkpoints/000005",
      "rename checkpoints/000001 to checkpoints/.trash-000001-UUID",
      "remove checkpoints/.trash-000001-UUID",
    ]);
    for (const [i, line] of lines.entries()) {
      if (/to checkpoints\/00000/.test(line)) assert.equal(lines[i + 1], "sync checkpoints");
    }
  },
});

Deno.test({
  name: "openRecord() syncs the entries that it moves before it shortens the record",
  ignore,
  async fn() {
    const operations = await operationsOf("record");
    assertSynced(operations);
    const lines = operations.map(text).filter((line) => !line.includes("loss.svg"));
    assert.deepEqual(lines, [
      "write .tmp-metrics-after-000002.jsonl-UUID",
      "sync .tmp-metrics-after-000002.jsonl-UUID",
      "rename .tmp-metrics-after-000002.jsonl-UUID to metrics-after-000002.jsonl",
      "sync .",
      "write .tmp-metrics.jsonl-UUID",
      "sync .tmp-metrics.jsonl-UUID",
      "rename .tmp-metrics.jsonl-UUID to metrics.jsonl",
      "sync .",
    ]);
  },
});

for (const [writer, target] of [["directory", "model"], ["file", "model.gguf"]]) {
  Deno.test({
    name: `writeNew() syncs a ${writer} before and after it gets its name`,
    ignore,
    async fn() {
      const operations = await operationsOf(writer!);
      assertSynced(operations);
      assert.deepEqual(operations.map(text).slice(-2), [
        `rename .tmp-${target}-UUID to ${target}`,
        "sync .",
      ]);
    },
  });
}

Deno.test({
  name: "tokenizeDocuments() syncs tokens before it records them, and names them complete last",
  ignore,
  async fn() {
    const operations = await operationsOf("tokens"), lines = operations.map(text);
    assertSynced(operations);
    let records = 0;
    operations.forEach(({ to }, i) => {
      if (to !== "HASH-HASH/meta.json") return;
      records++;
      for (const file of ["tokens.bin", "documents.bin"]) {
        const last = (kind: string) => lines.lastIndexOf(`${kind} HASH-HASH/${file}`, i);
        assert.ok(last("sync") > last("write"), `${file} is not synced before its record`);
      }
    });
    assert.ok(records >= 3, `${records} records`);
    assert.deepEqual(lines.slice(-3), [
      "rename HASH-HASH/.tmp-meta.json-UUID to HASH-HASH/meta.json",
      "sync HASH-HASH",
      "remove HASH-HASH/lock",
    ]);
  },
});

Deno.test({
  name: "loadCorpus() closes token files of another tokenizer, and those that it made",
  ignore,
  async fn() {
    await operationsOf("corpus");
  },
});

Deno.test({
  name: "hubFile() syncs a blob before it gets its name",
  ignore,
  async fn() {
    const operations = await operationsOf("download"), lines = operations.map(text);
    const blob = "hub/datasets--tiny--stories/blobs/HASH";
    assert.deepEqual(lines.slice(0, 3), [
      `write ${blob}.incomplete`,
      `sync ${blob}.incomplete`,
      `rename ${blob}.incomplete to ${blob}`,
    ]);
  },
});

Deno.test("byteCount() chooses the unit by the rounded number", () => {
  const cases: [number, string][] = [
    [0, "0 bytes"],
    [0.2, "1 bytes"],
    [999, "999 bytes"],
    [1000, "1.00 kB"],
    [99_949, "99.9 kB"],
    [99_950, "100 kB"],
    [100_000, "100 kB"],
    [999_499, "999 kB"],
    [999_500, "1.00 MB"],
    [2.2e9, "2.20 GB"],
    [3e12, "3.00 TB"],
    [4e18, "4000 PB"],
  ];
  for (const [bytes, text] of cases) assert.equal(byteCount(bytes), text, `${bytes}`);
});

Deno.test("byteCounts() shows different numbers with different digits", () => {
  assert.deepEqual(byteCounts(3_000_000, 200_000), ["3.00 MB", "200 kB"]);
  assert.deepEqual(byteCounts(5e9, 4.999e9), ["5.000 GB", "4.999 GB"]);
  assert.deepEqual(byteCounts(5e9 + 1, 5e9), ["5.000000001 GB", "5.000000000 GB"]);
  assert.deepEqual(byteCounts(7e6, 7e6), ["7.00 MB", "7.00 MB"]);
});

Deno.test("replaceFile() makes the folder, replaces the whole file, and leaves no other file", async () => {
  const path = join(directory, "a", "file.txt");
  for (const text of ["long before", "after"]) {
    replaceFile(path, [new TextEncoder().encode(text)]);
    assert.equal(Deno.readTextFileSync(path), text);
  }
  if (Deno.build.os !== "windows") {
    const link = join(directory, "link");
    Deno.symlinkSync(path, link);
    replaceFile(link, [new TextEncoder().encode("linked")]);
    assert.ok(Deno.lstatSync(link).isSymlink);
    assert.equal(Deno.readTextFileSync(path), "linked");
    const early = join(directory, "early"); // its target does not exist yet
    Deno.symlinkSync("late", early);
    replaceFile(early, [new TextEncoder().encode("new")]);
    assert.ok(Deno.lstatSync(early).isSymlink);
    assert.equal(Deno.readTextFileSync(join(directory, "late")), "new");
    const pipe = join(directory, "pipe"); // no device, which a mistake would remove
    assert.ok(new Deno.Command("mkfifo", { args: [pipe] }).outputSync().success);
    const reader = new Deno.Command("cat", { args: [pipe], stdout: "piped" }).spawn();
    replaceFile(pipe, [new TextEncoder().encode("piped")]);
    assert.equal(new TextDecoder().decode((await reader.output()).stdout), "piped");
    assert.ok(Deno.statSync(pipe).isFifo);
  }
  Deno.mkdirSync(join(directory, "a", "folder"));
  assert.throws(() => replaceFile(join(directory, "a", "folder"), []), { code: "EISDIR" });
  assert.deepEqual(readdirSync(join(directory, "a")).sort(), ["file.txt", "folder"]);
});

Deno.test("TEMPORARY_NAME matches the names of temporaryBeside() and no others", () => {
  assert.match(temporaryBeside("latest"), TEMPORARY_NAME);
  for (const name of [".tmp-latest", "latest.tmp", ".tmp--1", ".tmp-a-0000-1111"]) {
    assert.doesNotMatch(name, TEMPORARY_NAME);
  }
});

Deno.test("checkFilePath() refuses paths that cannot be files", () => {
  checkFilePath("new/file.svg", "--svg");
  const file = join(directory, "file.svg");
  Deno.writeTextFileSync(file, "");
  checkFilePath(file, "--svg");
  const refused: [string, string][] = [
    ["", "Cannot write as svg must name a file: it is empty"],
    [".", "Cannot write . as svg must name a file: it is a directory"],
    ["new/", "Cannot write new/ as svg must name a file: it is a directory"],
    ...Deno.build.os === "windows"
      ? []
      : [[`${file}/a`, `Cannot write ${file}/a as a file is in its place`] as [string, string]],
  ];
  for (const [path, message] of refused) {
    assert.throws(() => checkFilePath(path, "--svg"), { name: "UserError", message });
  }
});

Deno.test("reading() makes a sentence of a refusal of the system, and throws other errors unchanged", () => {
  const read = (path: string) =>
    reading(() => Deno.readTextFileSync(path), (reason) => new UserError(`Cannot read: ${reason}`));
  const path = join(directory, "nowhere");
  assert.throws(() => read(path), {
    name: "UserError",
    message: "Cannot read: there is no such file",
  });
  assert.throws(() => read(directory), { name: "UserError", message: /^Cannot read: .+/ });
  const locked = () => {
    throw Object.assign(new Error("EACCES: permission denied, open 'x'"), { code: "EACCES" });
  };
  assert.throws(() => reading(locked, (reason) => new UserError(reason)), {
    name: "UserError",
    message: "reading it is not permitted",
  });
  const mistake = () => {
    throw new TypeError("not a function");
  };
  assert.throws(() => reading(mistake, (reason) => new UserError(reason)), TypeError);
});

Deno.test("replaceText() names the reason if a text cannot be written", () => {
  const path = join(directory, "folder of texts");
  Deno.mkdirSync(path);
  assert.throws(() => replaceText(path, "text"), {
    message: `Cannot write ${path} as a directory is in its place`,
  });
});

Deno.test("shortageAt() is undefined if there is as much room as is needed", () => {
  using _ = withFreeBytes(2e6);
  const shortage = (needed: number) => shortageAt("runs", needed);
  assert.equal(shortage(2e6), undefined);
  assert.equal(shortage(2e6 + 1), "it needs 2.000001 MB in runs: 2.000000 MB are free");
});

Deno.test("readChunks() gives the bytes of a file of any length", () => {
  const path = join(directory, "chunks");
  for (const length of [0, 1, 2 ** 24, 2 ** 24 + 1]) {
    const content = Uint8Array.from({ length }, (_, i) => i % 251);
    Deno.writeFileSync(path, content);
    const chunks = [...readChunks(path)].map((chunk) => chunk.length);
    assert.equal(chunks.reduce((sum, length) => sum + length, 0), length);
    let at = 0;
    for (const chunk of readChunks(path)) {
      assert.ok(Buffer.compare(chunk, content.subarray(at, at += chunk.length)) === 0, `${length}`);
    }
  }
});

Deno.test("readAt() and writeAll() read and write from a place, readAt() as far as the file reaches", () => {
  const path = join(directory, "places");
  const file = openSync(path, "w+");
  try {
    writeAll(file, Uint8Array.of(1, 2, 3));
    writeAll(file, Uint8Array.of(4, 5));
    writeAll(file, Uint8Array.of(8, 9), 1);
    const bytes = new Uint8Array(4);
    assert.equal(readAt(file, bytes, 0), 4);
    assert.deepEqual([...bytes], [1, 8, 9, 4]);
    assert.equal(readAt(file, bytes, 3), 2);
    assert.deepEqual([...bytes], [4, 5, 9, 4]);
    assert.equal(readAt(file, bytes, 5), 0);
  } finally {
    closeSync(file);
  }
});

Deno.test("isSystemError() and reasonOf() know what a system refuses", () => {
  const error = (code: string) => Object.assign(new Error("no such luck"), { code });
  const reasons = {
    ENOSPC: "the disk is full",
    EDQUOT: "the disk is full",
    EROFS: "the disk is read-only",
    EACCES: "writing there is not permitted",
    EPERM: "writing there is not permitted",
    ENOTDIR: "a file is in its place",
    EEXIST: "a file is in its place",
    EISDIR: "a directory is in its place",
    ENOTEMPTY: "a directory is in its place",
    E2BIG: "the system refuses: no such luck",
  };
  for (const [code, reason] of Object.entries(reasons)) {
    assert.ok(isSystemError(error(code)), code);
    assert.equal(reasonOf(error(code)), reason, code);
  }
  const denied = new Deno.errors.NotCapable("write");
  assert.ok(isSystemError(denied));
  assert.equal(reasonOf(denied), "writing there is not permitted");
  const others = [error("ERR_INVALID_ARG_TYPE"), error("CSV_E"), new Error("E"), "ENOSPC", null];
  for (const other of others) assert.ok(!isSystemError(other), String(other));
});
