import assert from "node:assert/strict";
import { UserError } from "../../../files/user_error.ts";
import { join } from "node:path";
import { HubError, hubFile, listHubFiles, parseHubSpec } from "../../../data/hub/hub.ts";
import {
  assertHolds,
  described,
  hubCase,
  HubServer,
  randomBytes,
  refuse,
  STORIES,
} from "./server.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

Deno.test("parseHubSpec() reads repository, file and revision", () => {
  const cases = {
    "hf:gpt2": { repo: "gpt2" },
    "hf:gpt2@v1.0": { repo: "gpt2", revision: "v1.0" },
    "hf:openai-community/gpt2": { repo: "openai-community/gpt2" },
    "hf:a/b@refs/pr/1": { repo: "a/b", revision: "refs/pr/1" },
    "hf:a/b/c.txt": { repo: "a/b", path: "c.txt" },
    "hf:a/b_c.d/e/f g.parquet@refs/convert/parquet": {
      repo: "a/b_c.d",
      path: "e/f g.parquet",
      revision: "refs/convert/parquet",
    },
  };
  for (const [spec, names] of Object.entries(cases)) assert.deepEqual(parseHubSpec(spec), names);
});

Deno.test("parseHubSpec() refuses other forms and names that lead elsewhere", () => {
  for (
    const spec of ["a/b", "hf:", "hf:/a", "hf:a//b", "hf:a/b/", "hf:a/b@", "HF:a/b"]
  ) {
    assert.throws(
      () => parseHubSpec(spec),
      /^UserError: Cannot (read|take)/,
      spec,
    );
  }
  const escapes = ["hf:../x", "hf:a/..", "hf:a/b/../c", "hf:a/b/c/..", "hf:a/b//c", "hf:a/b/./c"];
  const odd = [
    "hf:a/b/c\\..\\d",
    "hf:a/b/c\0d",
    "hf:a/b/c:d\n",
    "hf:a/b@../../x",
    "hf:a--b/c",
    "hf:.a/b",
  ];
  for (const spec of [...escapes, ...odd, "hf:a/b/C:/x"]) {
    assert.throws(() => parseHubSpec(spec), UserError, spec);
  }
});

Deno.test("hubFile() fills the cache as Python's library does", async () => {
  await using hub = hubCase(directory);
  const { server, content, repository, progress } = hub;
  const { path, commit, sha256 } = await hubFile(STORIES, hub.options);
  assert.equal(commit, server.main);
  assert.equal(path, join(repository, "snapshots", commit, "data", "train.txt"));
  assertHolds(path, content);
  assert.equal(Deno.readLinkSync(path), `../../../blobs/${sha256}`);
  assert.equal(Deno.readTextFileSync(join(repository, "refs", "main")), commit);
  assert.deepEqual(hub.blobs(), [sha256]);
  assert.deepEqual([...Deno.readDirSync(join(repository, "refs"))].length, 1);
  assert.deepEqual(hub.notices, ["download tiny/stories/data/train.txt: 100 kB"]);
  assert.ok(progress.every((done, i) => done > (progress[i - 1] ?? 0)));
  assert.equal(progress.at(-1), content.length);
});

for (const bytes of [0, 1, 20_000]) {
  Deno.test(`hubFile() checks a small file of ${bytes} bytes by git's hash`, async () => {
    await using hub = hubCase(directory, { bytes, large: false });
    const { path, sha256 } = await hubFile(STORIES, hub.options);
    assertHolds(path, hub.content);
    assert.equal(sha256, undefined);
    assert.match(Deno.readLinkSync(path), /^..\/..\/..\/blobs\/[0-9a-f]{40}$/);
    assert.equal(hub.server.log("cdn").length, 0);
  });
}

Deno.test("hubFile() downloads nothing twice, and makes no request for a commit", async () => {
  await using hub = hubCase(directory);
  const { server, options } = hub;
  const first = await hubFile(STORIES, options);
  const asked = server.seen.length;
  assert.deepEqual(await hubFile({ ...STORIES, revision: first.commit }, options), first);
  assert.equal(server.seen.length, asked);
  assert.deepEqual(await hubFile(STORIES, options), first);
  assert.equal(server.log("cdn").length, 1);
  // another commit with the same file
  const commit = server.publish("other.txt", Uint8Array.of(1));
  const second = await hubFile(STORIES, options);
  assert.equal(second.commit, commit);
  assertHolds(second.path, hub.content);
  assert.equal(server.log("cdn").length, 1);
});

Deno.test("hubFile() downloads a new commit of main, and keeps the old one", async () => {
  await using hub = hubCase(directory);
  const old = await hubFile(STORIES, hub.options);
  const content = randomBytes(hub.random, 50_000);
  hub.server.publish(STORIES.path, content);
  const { path } = await hubFile(STORIES, hub.options);
  assertHolds(path, content);
  assertHolds(old.path, hub.content);
});

Deno.test("hubFile() downloads models, odd names and other revisions", async () => {
  const server = new HubServer("gpt2");
  await using _ = server;
  const content = Uint8Array.of(1, 2, 3);
  const commit = server.publish("a b/#?%é.bin", content);
  const environment = {
    HF_HUB_CACHE: Deno.makeTempDirSync({ dir: directory }),
    HF_ENDPOINT: server.endpoint,
  };
  const file = { type: "model", repo: "gpt2", path: "a b/#?%é.bin", revision: commit } as const;
  const { path } = await hubFile(file, { environment });
  assertHolds(path, content);
  assert.equal(
    path,
    join(environment.HF_HUB_CACHE, "models--gpt2", "snapshots", commit, "a b", "#?%é.bin"),
  );
});

Deno.test("hubFile() sends the token to the hub and to nobody else", async () => {
  await using hub = hubCase(directory);
  const { server, environment, options } = hub;
  server.token = "a-mirror's-token";
  await assert.rejects(hubFile(STORIES, options), /does not exist or is private.* set HF_TOKEN$/);
  Deno.writeTextFileSync(join(environment.HF_HOME!, "token"), "a-mirror's-token\n");
  await hubFile(STORIES, options);
  for (const { host, headers } of server.seen.slice(1)) {
    assert.equal(headers.get("authorization"), host === "hub" ? "Bearer a-mirror's-token" : null);
    assert.equal(headers.get("accept-encoding"), "identity");
  }
  assert.ok(server.log("cdn").length === 1);
  environment.HF_TOKEN = "old";
  await assert.rejects(hubFile(STORIES, options), /whether your token is valid and may read it$/);
});

Deno.test("hubFile() and listHubFiles() use the cache when offline", async () => {
  await using hub = hubCase(directory);
  const { server, environment, options } = hub;
  environment.HF_HUB_OFFLINE = "1";
  const message =
    /^HubError: Cannot (download|list) tiny\/stories.* as HF_HUB_OFFLINE is set and it is/;
  await assert.rejects(hubFile(STORIES, options), message);
  await assert.rejects(listHubFiles(STORIES, options), message);
  environment.HF_HUB_OFFLINE = "0";
  const first = await hubFile(STORIES, options);
  const asked = server.seen.length;
  environment.HF_HUB_OFFLINE = "yes";
  assert.deepEqual(await hubFile(STORIES, options), first);
  assert.deepEqual(await listHubFiles(STORIES, options), [{ path: STORIES.path, bytes: 100_000 }]);
  assert.equal(server.seen.length, asked);
});

Deno.test("hubFile() and listHubFiles() use the cache when the hub cannot be reached", async () => {
  await using hub = hubCase(directory);
  const { environment, options, notices } = hub;
  const first = await hubFile(STORIES, options);
  environment.HF_ENDPOINT = closedPort();
  notices.length = 0;
  assert.deepEqual(await hubFile(STORIES, options), first);
  assert.equal((await listHubFiles(STORIES, options)).length, 1);
  assert.match(notices[0]!, /is not reached \(.*refused.*; taking what is in the cache, of commit/);
  const absent = { ...STORIES, path: "absent.txt" };
  await assert.rejects(hubFile(absent, options), {
    name: "HubError",
    message: /^Cannot download tiny\/stories\/absent\.txt as http:.* is not reached .*HTTPS_PROXY/,
  });
});

Deno.test("hubFile() says in a sentence what the hub refuses, and what to do", async () => {
  await using hub = hubCase(directory);
  const { server, options, environment } = hub;
  const page = `${server.endpoint}/datasets/tiny/stories`;
  const cases: [Response | undefined, Partial<typeof STORIES> & { revision?: string }, RegExp][] = [
    [undefined, { path: "absent" as "data/train.txt" }, /has no such file at main$/],
    [undefined, { revision: "v9" }, /stories has no revision v9$/],
    [undefined, { repo: "tiny/tales" as "tiny/stories" }, /tales does not exist or is private/],
    [refuse(401, "GatedRepo"), {}, /granted on request: ask at \S+stories, then set HF_TOKEN$/],
    [refuse(403, "GatedRepo"), {}, /granted on request: ask at/],
    [refuse(403), {}, /your token may not read/],
    [refuse(418), {}, /127\.0\.0\.1:\d+ answers 418$/],
    [
      new Response("<html>"),
      {},
      /what http\S+ answers is not the hub's \(.*\): check HF_ENDPOINT$/,
    ],
    [described({ "X-Repo-Commit": "../../x" }), {}, /commit, size and hash are "\.\.\/\.\.\/x", /],
  ];
  for (const [answer, file, message] of cases) {
    server.fault = () => answer?.clone();
    await assert.rejects(hubFile({ ...STORIES, ...file }, options), (error: Error) => {
      assert.ok(error instanceof HubError, String(error));
      assert.match(error.message, /^Cannot download tiny\/(stories|tales)\/\S+ as [^\n]+$/);
      assert.match(error.message, message);
      return true;
    });
  }
  server.fault = () => refuse(403, "GatedRepo");
  environment.HF_TOKEN = "hf_x";
  await assert.rejects(hubFile(STORIES, options), {
    message: `Cannot download tiny/stories/data/train.txt as access is granted on request: ` +
      `ask at ${page}, with the account of your token`,
  });
});

Deno.test("hubFile() lets no answer of the server lead out of the cache", async () => {
  await using hub = hubCase(directory);
  const { server, options } = hub;
  const odd = [
    { "X-Linked-Etag": "", ETag: '"../../../../x"' },
    { "X-Linked-Etag": "" },
    { "X-Linked-Etag": '"../x"' },
    { "X-Repo-Commit": "main" },
    { "X-Linked-Size": "-1" },
    { "X-Linked-Size": "5.5" },
    { "X-Linked-Size": "five" },
  ];
  for (const headers of odd) {
    server.fault = () => described(headers);
    await assert.rejects(hubFile(STORIES, options), /\(commit, size and hash are "/);
  }
  for (const path of ["../../x", "/etc/passwd", "a\\..\\b", "a/\0"]) {
    server.fault = (seen) =>
      seen.path.includes("tree") ? Response.json([{ type: "file", path, size: 5 }]) : undefined;
    await assert.rejects(listHubFiles(STORIES, options), /its name must not have/);
  }
  assert.deepEqual([...Deno.readDirSync(hub.environment.HF_HOME!)], []);
});

Deno.test("hubFile() refuses names that lead out of the cache before any request", async () => {
  await using hub = hubCase(directory);
  const names = [{ path: "../x" }, { path: "/x" }, { path: "a\\b" }, { repo: "../x" }, {
    repo: "a/b/c",
  }];
  for (
    const name of [...names, { repo: "" }, { path: "" }, { revision: "../x" }, { revision: "a\nb" }]
  ) {
    await assert.rejects(hubFile({ ...STORIES, ...name }, hub.options), UserError);
  }
  assert.deepEqual(hub.server.seen, []);
});

Deno.test("listHubFiles() lists all pages in order", async () => {
  await using hub = hubCase(directory);
  for (const path of ["z", "README.md", "b/c/d", "a"]) {
    hub.server.publish(path, Uint8Array.of(1), { large: path === "a" });
  }
  const files = await listHubFiles(STORIES, hub.options);
  assert.deepEqual(files.map(({ path }) => path), [
    "README.md",
    "a",
    "b/c/d",
    "data/train.txt",
    "z",
  ]);
  assert.deepEqual(files.map(({ bytes }) => bytes), [1, 1, 1, 100_000, 1]);
});

/** A stream without end. */
function* repeated<T>(part: T): Generator<T> {
  for (;;) yield part;
}

Deno.test("listHubFiles() refuses a list without end, and anything but a list", async () => {
  await using hub = hubCase(directory);
  const { server, options } = hub;
  const entry = { type: "file", path: "a", size: 1 };
  const Link = `</api/datasets/tiny/stories/tree/main?cursor=2>; rel="next"`;
  const leading = (link: string) => () =>
    Response.json([], { headers: { Link: `<${link}>; rel="next"` } });
  const cases: [answer: () => Response, message: RegExp][] = [
    [
      () => Response.json([], { headers: { Link } }),
      /is not the hub's \(it lists more than 200000/,
    ],
    [
      () => Response.json(Array.from({ length: 200_001 }, (_, i) => ({ ...entry, path: `f${i}` }))),
      /\(it lists more than 200000 files\)/,
    ],
    [leading("http://[/"), /\(its next page is "http:\/\/\[\/"\): check HF_ENDPOINT$/],
    [leading("file:///etc/hosts"), /\(its next page is "file:\/\/\/etc\/hosts"\)/],
    [() => Response.json([null]), /\(it must be a list of objects\)/],
    [() => Response.json({}), /\(it must be a list of objects\)/],
    [
      () => Response.json([{ ...entry, size: "1\x1b" }]),
      /path and size of a file are "a" and "1\\u001b"/,
    ],
    [() => Response.json([{ ...entry, path: 5 }]), /path and size of a file are 5 and 1/],
    [() => new Response("[{"), /\(it is not JSON\): check HF_ENDPOINT$/],
    [
      () => new Response(ReadableStream.from(repeated(new Uint8Array(2 ** 22).fill(0x20)))),
      /\(it has more than 134217728 bytes\)/,
    ],
  ];
  for (const [answer, message] of cases) {
    server.fault = ({ path }) => path.includes("/tree/") ? answer() : undefined;
    await assert.rejects(listHubFiles(STORIES, options), (error: Error) => {
      assert.ok(error instanceof HubError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
  assert.ok(server.seen.length < 1100, `${server.seen.length} requests`);
});

Deno.test("hubFile() refuses a file that is larger than wanted, before it downloads it", async () => {
  await using hub = hubCase(directory);
  await assert.rejects(hubFile(STORIES, { ...hub.options, mostBytes: 99_999 }), {
    name: "HubError",
    message: "Cannot download tiny/stories/data/train.txt as it must have at most 99999 bytes: " +
      "current size is 100000",
  });
  assert.deepEqual(hub.server.log("cdn"), []);
});

/** An address where nobody listens. */
function closedPort(): string {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  return `http://127.0.0.1:${port}`;
}
