import assert from "node:assert/strict";
import { join } from "node:path";
import { RepositoryCache } from "../../../data/hub/cache.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const COMMIT = "0123456789abcdef0123456789abcdef01234567";

Deno.test("RepositoryCache knows the commit of a revision, unless its note is damaged", () => {
  const cache = new RepositoryCache(directory, { type: "model", repo: "tiny/noted" });
  assert.equal(cache.commitOf(COMMIT), COMMIT);
  assert.equal(cache.commitOf("main"), undefined);
  cache.remember("main", COMMIT);
  cache.remember("refs/pr/1", COMMIT);
  assert.deepEqual(["main", "refs/pr/1"].map((name) => cache.commitOf(name)), [COMMIT, COMMIT]);
  const note = join(directory, "models--tiny--noted", "refs", "main");
  for (const damaged of ["", "../../elsewhere", COMMIT.slice(1), COMMIT.toUpperCase()]) {
    Deno.writeTextFileSync(note, damaged);
    assert.equal(cache.commitOf("main"), undefined, damaged);
    assert.equal(cache.find("main", "config.json"), undefined);
    assert.deepEqual(cache.list("main"), []);
  }
});

Deno.test("RepositoryCache fetches a blob once for all revisions that have it, while others wait", async () => {
  const cache = new RepositoryCache(directory, { type: "dataset", repo: "tiny/shared" });
  const other = COMMIT.replace("0", "f"), etag = "abc";
  let fetched = 0, locked = 0;
  const { promise: waited, resolve: go } = Promise.withResolvers<void>();
  const options = {
    fetchBlob: async (path: string) => {
      fetched++;
      await waited;
      Deno.writeTextFileSync(path, "bytes");
    },
    onLocked: () => void locked++,
    wait: () => new Promise<void>((resolve) => setTimeout(resolve, 5)),
  };
  const first = cache.add({ commit: COMMIT, path: "a/b.txt", etag }, options);
  const same = cache.add({ commit: COMMIT, path: "a/b.txt", etag }, options);
  const second = cache.add({ commit: other, path: "c.txt", etag }, options);
  await options.wait();
  go();
  await Promise.all([first, same, second]);
  assert.deepEqual([fetched, locked], [1, 2]);
  assert.deepEqual(cache.list(COMMIT), [{ path: "a/b.txt", bytes: 5 }]);
  assert.equal(Deno.readTextFileSync(cache.find(other, "c.txt")!.path), "bytes");
  await cache.add({ commit: COMMIT, path: "a/b.txt", etag }, options);
  assert.equal(fetched, 1);
});
