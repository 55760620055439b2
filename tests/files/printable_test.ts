import assert from "node:assert/strict";
import { printable, quoted, terminalText } from "../../files/printable.ts";

Deno.test("printable() escapes control characters and cuts long text", () => {
  assert.equal(printable("naïve 🦖 story.txt"), "naïve 🦖 story.txt");
  assert.equal(printable("a\x1b[2Jb\r\n\x9bc"), "a\\u{1b}[2Jb\\u{d}\\u{a}\\u{9b}c");
  assert.equal(
    printable("a\u202eb\u2028c\u{e0001}\ud800"),
    "a\\u{202e}b\\u{2028}c\\u{e0001}\\u{d800}",
  );
  assert.equal(printable("x".repeat(1e6)), `${"x".repeat(200)}…`);
  assert.equal(printable("abc🦖", 4), "abc…"); // no half of a pair
});

Deno.test("quoted() writes a value of more levels than JSON.stringify() has stack for", () => {
  const nested = (begin: string, end: string) =>
    JSON.parse(begin.repeat(1e5) + "1" + end.repeat(1e5));
  for (const [begin, end, expected] of [['{"0":[', "]}", "{…}"], ['[{"0":', "}]", "[…]"]]) {
    assert.throws(() => JSON.stringify(nested(begin!, end!)), RangeError);
    assert.equal(quoted(nested(begin!, end!)), expected);
  }
});

Deno.test("quoted() writes values as JSON, escaped and cut", () => {
  assert.equal(quoted('say "\x1b"\x9b'), '"say \\"\\u001b\\"\\u{9b}"');
  assert.equal(quoted([1, { a: "\u202e" }]), '[1,{"a":"\\u{202e}"}]');
  assert.equal(quoted(undefined), "undefined");
  assert.equal(quoted(NaN), "NaN");
  assert.equal(quoted("x".repeat(1e6)), `"${"x".repeat(200)}…"`);
  assert.equal(quoted(new Array(1e6).fill(0)).length, 201);
  assert.equal(quoted(JSON.parse("[".repeat(1e6) + "]".repeat(1e6))).length, 201);
});

Deno.test("terminalText() keeps lines, tabs and every script, and escapes control characters", () => {
  const text = "One day,\n\tनमस्ते 👩‍👩‍👧 שלום\u200f!";
  assert.equal(terminalText(text), text);
  assert.equal(
    terminalText("\x1b]0;title\x07\r\u202edne"),
    "\\u{1b}]0;title\\u{7}\\u{d}\\u{202e}dne",
  );
});
