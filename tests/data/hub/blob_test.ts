import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { hubFile } from "../../../data/hub/hub.ts";
import { withFreeBytes } from "../../free_bytes.ts";
import { dirname, fromFileUrl } from "../../paths.ts";
import { assertHolds, hubCase, randomBytes, type Seen, STORIES } from "./server.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const toCdn = ({ host }: Seen) => host === "cdn";

/** Where the part of a file lies that has come. */
function incompleteIn(hub: { repository: string; blobs(): string[] }): string {
  const [name] = hub.blobs();
  assert.match(name!, /^[0-9a-f]{64}\.incomplete$/);
  return join(hub.repository, "blobs", name!);
}

Deno.test("hubFile() resumes where a connection was cut, at any byte", async () => {
  await using hub = hubCase(directory, { bytes: 400_000 }); // more than six parts
  const { server, random, waits, notices } = hub;
  let cuts = 0;
  server.fault = (seen) =>
    toCdn(seen) && cuts++ < 6 ? { cutAfter: random.below(60_000) } : undefined;
  const { path } = await hubFile(STORIES, hub.options);
  assertHolds(path, hub.content, `seed ${hub.seed}`);
  const ranges = server.seen.filter(toCdn).map(({ headers }) => headers.get("range"));
  const starts = ranges.map((range) => Number(/^bytes=(\d+)-$/.exec(range ?? "bytes=0-")![1]));
  assert.equal(starts.length, 7);
  assert.ok(starts.every((start, i) => start >= (starts[i - 1] ?? 0)));
  assert.ok(starts.at(-1)! > 0);
  assert.ok(waits.length === 6 && waits.every((ms) => ms >= 1000));
  assert.match(notices[1]!, /^the connection is lost, .* of 400 kB are here: resuming$/);
});

Deno.test("hubFile() gives up when no byte arrives several times in a row, and keeps what is here", async () => {
  await using hub = hubCase(directory);
  const { server, waits } = hub;
  let first = true;
  server.fault = (seen) => {
    if (!toCdn(seen)) return undefined;
    const cutAfter = first ? 50_000 : 0;
    first = false;
    return { cutAfter };
  };
  await assert.rejects(hubFile(STORIES, hub.options), {
    name: "HubError",
    message:
      /^Cannot download tiny\/stories\/data\/train\.txt as the connection is lost \(.*\); [\d.]+ kB of 100 kB are here, and the same command resumes there$/,
  });
  assert.deepEqual(waits.slice(0, 4), [1000, 2000, 4000, 8000].slice(0, waits.length));
  const there = Deno.statSync(incompleteIn(hub)).size;
  assert.ok(there > 0 && there < 100_000, `${there}`);
  server.fault = () => undefined;
  server.seen.length = 0;
  const { path } = await hubFile(STORIES, hub.options);
  assertHolds(path, hub.content);
  assert.match(server.log("cdn")[0]!, new RegExp(`bytes=${there}-$`));
});

Deno.test("hubFile() treats an answer that ends early as a lost connection", async () => {
  await using hub = hubCase(directory);
  // without a length: nobody else could tell
  const half = () => new Response(ReadableStream.from([hub.content.slice(0, 50_000)]));
  const nothing = () => new Response(ReadableStream.from([]));
  const answers = [half, nothing, half, nothing, half];
  hub.server.fault = (seen) => toCdn(seen) ? answers.shift()?.() : undefined;
  await assert.rejects(hubFile(STORIES, hub.options), /the connection is lost \(it ends early\); /);
  assert.equal(hub.waits.length, 4);
});

Deno.test("hubFile() stops at a signal, and the next call resumes there", async () => {
  await using hub = hubCase(directory);
  const { server, options, progress } = hub;
  const controller = new AbortController();
  const reason = new Error("Ctrl-C");
  const onProgress = (done: number) => done > 30_000 && controller.abort(reason);
  const stopped = hubFile(STORIES, { ...options, onProgress, signal: controller.signal });
  await assert.rejects(stopped, (error) => error === reason);
  const there = Deno.statSync(incompleteIn(hub)).size;
  assert.ok(there > 30_000 && there < 100_000);
  const { path } = await hubFile(STORIES, options);
  assertHolds(path, hub.content);
  assert.equal(progress[0], there);
  assert.match(server.log("cdn")[1]!, new RegExp(`bytes=${there}-$`));
  assert.match(hub.notices.at(-1)!, /: 100 kB, of which [\d.]+ kB are here$/);
});

Deno.test("hubFile() treats a silent connection as lost", async () => {
  await using hub = hubCase(directory);
  const sent = 20_000;
  let first = true;
  hub.server.fault = (seen) => {
    if (!toCdn(seen) || !first) return undefined;
    first = false;
    return { stallAfter: sent };
  };
  const { setTimeout } = globalThis;
  let limits = 0; // half a minute passes once, when all that was sent is here
  globalThis.setTimeout = ((action: () => void, ms: number) => {
    const isSilent = ms === 30_000 && hub.progress.at(-1) === sent && limits++ === 0;
    return setTimeout(action, isSilent ? 0 : ms);
  }) as typeof setTimeout;
  const { path } = await hubFile(STORIES, hub.options)
    .finally(() => globalThis.setTimeout = setTimeout);
  assertHolds(path, hub.content);
  assert.equal(hub.notices.at(-1), "the connection is lost, 20.0 kB of 100 kB are here: resuming");
  assert.equal(hub.server.log("cdn").length, 2);
});

Deno.test("hubFile() starts over when an earlier part belongs to another file", async () => {
  for (const length of [1, 99_999, 100_000, 100_001]) {
    await using hub = hubCase(directory);
    const { server, options } = hub;
    server.fault = (seen) => toCdn(seen) ? { cutAfter: 0 } : undefined;
    await assert.rejects(hubFile(STORIES, options));
    Deno.writeFileSync(incompleteIn(hub), randomBytes(hub.random, length));
    server.fault = () => undefined;
    const { path } = await hubFile(STORIES, options);
    assertHolds(path, hub.content);
  }
});

Deno.test("hubFile() refuses bytes whose hash is not the hub's, and keeps nothing", async () => {
  for (const large of [true, false]) {
    await using hub = hubCase(directory, { large });
    hub.server.corrupt(STORIES.path, ({ bytes }) => {
      const changed = bytes.slice();
      changed[hub.random.below(bytes.length)]! ^= 1;
      return { bytes: changed };
    });
    const message = /as its hash must be [0-9a-f]+: current hash is [0-9a-f]+$/;
    await assert.rejects(hubFile(STORIES, hub.options), { name: "HubError", message });
    assert.deepEqual(hub.blobs(), []);
    assert.ok(!existsSync(join(hub.repository, "refs")));
  }
});

Deno.test("hubFile() starts over with a file that changes between two requests", async () => {
  for (const bytes of [60_000, 100_000, 140_000]) {
    await using hub = hubCase(directory);
    const { server } = hub;
    const content = randomBytes(hub.random, bytes);
    const change = () => { // what there was is overwritten, and main moves on
      server.corrupt(STORIES.path, () => ({ bytes: content, etag: crypto.randomUUID() }));
      server.publish(STORIES.path, content);
    };
    let requests = 0;
    server.fault = (seen) => {
      if (!toCdn(seen)) return undefined;
      if (++requests === 2) change();
      return requests === 1 ? { cutAfter: 50_000 } : undefined;
    };
    const { path, commit } = await hubFile(STORIES, hub.options);
    assertHolds(path, content);
    assert.equal(commit, server.main);
    assert.equal(hub.blobs().length, 1);
    assert.ok(hub.notices.some((sentence) => sentence.endsWith("; starting over")));
  }
});

Deno.test("hubFile() starts over when the server knows no ranges", async () => {
  await using hub = hubCase(directory);
  let requests = 0;
  hub.server.fault = (seen) => {
    if (!toCdn(seen)) return undefined;
    seen.headers.delete("range");
    return requests++ === 0 ? { cutAfter: 70_000 } : undefined;
  };
  const { path } = await hubFile(STORIES, hub.options);
  assertHolds(path, hub.content);
});

Deno.test("hubFile() refuses a part that it did not request", async () => {
  await using hub = hubCase(directory);
  const part = (range: string) =>
    new Response(hub.content.slice(0, 10), { status: 206, headers: { "Content-Range": range } });
  for (const range of ["bytes 0-9/100000", "lines 1-2/3"]) {
    hub.server.fault = (seen) => {
      if (!toCdn(seen)) return undefined;
      return seen.headers.has("range") ? part(range) : { cutAfter: 50_000 };
    };
    const message =
      /as its bytes from \d+ of 100000 were requested: current range is (bytes|lines) /;
    await assert.rejects(hubFile(STORIES, hub.options), { name: "HubError", message });
  }
});

Deno.test("hubFile() checks first whether the disk has room", async () => {
  await using hub = hubCase(directory);
  using _ = withFreeBytes(1e6);
  await assert.rejects(hubFile(STORIES, hub.options), {
    name: "HubError",
    message:
      /as it needs 16\.9 MB in \S+blobs: 1\.00 MB are free; make room, or set HF_HUB_CACHE to a directory elsewhere$/,
  });
  assert.equal(hub.server.log("cdn").length, 0);
});

Deno.test("hubFile() says why the cache cannot be written", async () => {
  await using hub = hubCase(directory);
  const file = join(directory, "a file");
  Deno.writeTextFileSync(file, "");
  hub.environment.HF_HUB_CACHE = join(file, "hub");
  await assert.rejects(hubFile(STORIES, hub.options), {
    name: "HubError",
    message:
      /train\.txt into \S*a file\S* as a file is in its place: change that, or set HF_HUB_CACHE to another directory$/,
  });
});

Deno.test("hubFile() downloads a file once when several calls want it", async () => {
  await using hub = hubCase(directory);
  const isAwaited = () =>
    hub.notices.some((sentence) =>
      /^waiting for another process that is to download/.test(sentence)
    );
  const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 1));
  hub.server.wait = turn;
  hub.server.onPiece = async () => { // nothing comes before another call waits, as it must
    for (let tries = 0; tries < 10_000 && !isAwaited(); tries++) await turn();
    assert.ok(isAwaited());
  };
  const all = Array.from({ length: 4 }, () => hubFile(STORIES, hub.options));
  const [first, ...others] = await Promise.all(all);
  for (const other of others) assert.deepEqual(other, first);
  assertHolds(first!.path, hub.content);
  assert.equal(hub.server.log("cdn").length, 1);
});

/** Starts a process that downloads the stories, with the permissions given. */
function child(environment: Record<string, string>, permissions: string[]): Deno.ChildProcess {
  const script = join(dirname(fromFileUrl(import.meta.url)), "child.ts");
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-check", ...permissions, script],
    env: environment,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

const HUB_PERMISSIONS = [
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env=HF_HOME,HF_ENDPOINT",
];

/** The path that a child prints, or what it complained about. */
async function result(process: Deno.ChildProcess): Promise<string> {
  const { success, stdout, stderr } = await process.output();
  if (!success) return new TextDecoder().decode(stderr);
  return new TextDecoder().decode(stdout).trim();
}

Deno.test("hubFile() downloads the same bytes after it was killed ten times at random moments", async () => {
  await using hub = hubCase(directory, { bytes: 2_000_000 });
  const { server, random, environment } = hub;
  let moments = 0, process: Deno.ChildProcess, sent = 0;
  const moment = () => {
    if (--moments === 0) process.kill("SIGKILL");
  };
  server.fault = (seen) => void (moment(), seen);
  server.onPiece = async (bytes) => {
    sent += bytes;
    moment();
    await new Promise((resolve) => setTimeout(resolve, 1)); // so that pieces do not come at once
  };
  for (let kill = 0; kill < 10; kill++) {
    moments = 1 + random.below(12); // of requests, two before the bytes, and pieces of them
    process = child(environment, HUB_PERMISSIONS);
    assert.equal((await process.output()).signal, "SIGKILL", `seed ${hub.seed}`);
  }
  process = child(environment, HUB_PERMISSIONS);
  const path = await result(process);
  assertHolds(path, hub.content, `seed ${hub.seed}`);
  assert.deepEqual(hub.blobs().map((name) => name.length), [64]);
  assert.ok(sent < 2 * 2_000_000, `${sent} bytes were sent for two million`);
});

Deno.test("hubFile() completes the cache of a process that was killed after the last byte", async () => {
  await using hub = hubCase(directory);
  const { server, options } = hub;
  const { path } = await hubFile(STORIES, options);
  const blob = Deno.realPathSync(path);
  const leave: (() => void)[] = [
    () => Deno.renameSync(blob, `${blob}.incomplete`), // a link that leads nowhere
    () => Deno.removeSync(path), // a blob that nobody points to
    () => (Deno.removeSync(path), Deno.renameSync(blob, `${blob}.incomplete`)),
    () => Deno.removeSync(join(hub.repository, "refs"), { recursive: true }),
  ];
  for (const state of leave) {
    state();
    assert.equal((await hubFile(STORIES, options)).path, path);
    assertHolds(path, hub.content);
    assert.equal(Deno.readTextFileSync(join(hub.repository, "refs", "main")), server.main);
    assert.equal(hub.blobs().length, 1);
  }
  assert.equal(server.log("cdn").length, 1);
});

Deno.test("hubFile() renames the blob when it may not make links", async () => {
  await using hub = hubCase(directory, { bytes: 1000 });
  const { environment, repository } = hub;
  const narrow = [`--allow-write=${environment.HF_HOME}`, `--allow-read=${environment.HF_HOME}`];
  const permissions = ["--allow-net", "--allow-env=HF_HOME,HF_ENDPOINT", ...narrow];
  for (const blobs of [0, 0]) { // and finds it the second time
    const path = await result(child(environment, permissions));
    assert.equal(path, join(repository, "snapshots", hub.server.main, "data", "train.txt"));
    assertHolds(path, hub.content);
    assert.equal(hub.blobs().length, blobs);
  }
  assert.equal(hub.server.log("cdn").length, 1);
});

Deno.test("hubFile() goes through the proxy of the process", async () => {
  await using hub = hubCase(directory, { bytes: 1000 });
  const { endpoint } = hub.server; // answers for every host, as a proxy does
  const environment = { HF_HOME: hub.environment.HF_HOME!, HF_ENDPOINT: "http://hub.invalid" };
  const proxied = { ...environment, HTTP_PROXY: endpoint, NO_PROXY: "127.0.0.1" };
  assertHolds(await result(child(proxied, HUB_PERMISSIONS)), hub.content);
});

Deno.test("hubFile() says which permission it lacks", async () => {
  await using hub = hubCase(directory, { bytes: 1000 });
  const message = await result(child(hub.environment, HUB_PERMISSIONS.slice(1)));
  assert.match(message, /as the network may not be used: add --allow-net$/m);
});
