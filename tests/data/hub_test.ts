import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import {
  HubError,
  type HubFile,
  hubFile,
  type HubOptions,
  listHubFiles,
  parseHubSpec,
} from "../../data/hub.ts";
import { Random } from "../../data/random.ts";
import { freshSeed } from "../seeds.ts";
import { HubServer, refuse } from "./hub_server.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const STORIES = { type: "dataset", repo: "tiny/stories", path: "data/train.txt" } as const;

function randomBytes(random: Random, length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, () => random.next());
}

/** A hub with one file, an empty cache, and what was heard; nothing waits. */
function setUp({ bytes = 100_000, seed = freshSeed(), path = STORIES.path, large = true } = {}) {
  const server = new HubServer();
  const random = new Random(seed);
  const content = randomBytes(random, bytes);
  server.publish(path, content, { large });
  const home = Deno.makeTempDirSync({ dir: directory });
  const environment = { HF_HOME: home, HF_ENDPOINT: server.endpoint };
  const notices: string[] = [], waits: number[] = [], progress: number[] = [];
  const options: HubOptions = {
    environment,
    onNotice: (sentence) => notices.push(sentence),
    onProgress: (done) => progress.push(done),
    sleep: (ms) => Promise.resolve(void waits.push(ms)),
  };
  const repository = join(home, "hub", "datasets--tiny--stories");
  return {
    server,
    random,
    seed,
    content,
    home,
    environment,
    options,
    notices,
    waits,
    progress,
    repository,
  };
}

const read = (path: string) => Deno.readFileSync(path);

Deno.test("hubFile() fills the cache as Python's library does", async () => {
  const { server, content, options, notices, progress, repository } = setUp();
  await using _ = server;
  const { path, commit, sha256 } = await hubFile(STORIES, options);
  assert.equal(commit, server.main);
  assert.equal(path, join(repository, "snapshots", commit, "data", "train.txt"));
  assert.deepEqual(read(path), content);
  assert.equal(Deno.readLinkSync(path), `../../../blobs/${sha256}`);
  assert.equal(Deno.readTextFileSync(join(repository, "refs", "main")), commit);
  assert.deepEqual(readdirSync(join(repository, "blobs")), [sha256]);
  assert.deepEqual(readdirSync(join(repository, "refs")), ["main"]);
  assert.deepEqual(notices, ["download tiny/stories/data/train.txt: 100.0 kB"]);
  assert.ok(progress.every((done, i) => done > (progress[i - 1] ?? 0)));
  assert.equal(progress.at(-1), content.length);
});
