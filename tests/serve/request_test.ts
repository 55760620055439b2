import assert from "node:assert/strict";
import { MOST_BODY_BYTES } from "../../serve/limits.ts";
import { readBody } from "../../serve/request.ts";
import { request } from "./tiny_run.ts";

/** A request whose body has these parts, and then stays open. */
function slow(...parts: string[]): Request {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of parts) controller.enqueue(new TextEncoder().encode(part));
    },
  });
  return request("", { body });
}

Deno.test("readBody() reads JSON in parts of any size", async () => {
  const text = JSON.stringify({ a: "é🦊".repeat(3000) });
  const bytes = new TextEncoder().encode(text);
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let i = 0; i < bytes.length; i += i < 2000 ? 1 : 5000) {
        controller.enqueue(bytes.subarray(i, i + (i < 2000 ? 1 : 5000)));
      }
      controller.close();
    },
  });
  assert.deepEqual(await readBody(request("", { body })), JSON.parse(text));
});

Deno.test("readBody() refuses bodies that arrive too slowly, are too large, or are no objects", async () => {
  await assert.rejects(readBody(slow('{"a":'), { mostMs: 30 }), {
    status: 408,
    message: "Cannot read the request as its body must arrive within 0.03 s",
  });
  await assert.rejects(readBody(slow("x".repeat(MOST_BODY_BYTES), "x")), { status: 413 });
  for (const body of ["", "[]", "7", "[".repeat(10_000), '{"a":1e999', "\ufeff"]) {
    await assert.rejects(readBody(request(body)), { status: 400 }, body);
  }
  assert.deepEqual(
    await readBody(request('{"__proto__": {"a": 1}}')),
    JSON.parse('{"__proto__":{"a":1}}'),
  );
});
