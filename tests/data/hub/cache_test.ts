import assert from "node:assert/strict";
import { join } from "node:path";
import { cachedCommit, findCached, listCached, rememberCommit } from "../../../data/hub/cache.ts";
import { hubFile } from "../../../data/hub/hub.ts";
import { assertHolds, hubCase, STORIES } from "./server.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const COMMIT = "0123456789abcdef0123456789abcdef01234567";

Deno.test("cachedCommit() knows the commit of a revision, unless its note is damaged", () => {
  const place = { cache: directory, type: "model", repo: "tiny/noted" } as const;
  assert.equal(cachedCommit(place, COMMIT), COMMIT);
  assert.equal(cachedCommit(place, "main"), undefined);
  rememberCommit(place, "main", COMMIT);
  rememberCommit(place, "refs/pr/1", COMMIT);
  for (const name of ["main", "refs/pr/1"]) assert.equal(cachedCommit(place, name), COMMIT);
  const note = join(directory, "models--tiny--noted", "refs", "main");
  for (const damaged of ["", "../../elsewhere", COMMIT.slice(1), COMMIT.toUpperCase()]) {
    Deno.writeTextFileSync(note, damaged);
    assert.equal(cachedCommit(place, "main"), undefined, damaged);
    assert.equal(findCached(place, "main", "config.json"), undefined);
    assert.deepEqual(listCached(place, "main"), []);
  }
});

Deno.test("hubFile() downloads bytes once for all revisions that have them", async () => {
  await using hub = hubCase(directory);
  const { server, content, options } = hub;
  const first = await hubFile(STORIES, options);
  server.publish("again.txt", content);
  const again = await hubFile({ ...STORIES, path: "again.txt" }, options);
  assert.notEqual(again.commit, first.commit);
  assertHolds(again.path, content);
  assert.equal(server.log("cdn").length, 1);
});
