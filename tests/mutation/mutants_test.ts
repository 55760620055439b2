import assert from "node:assert/strict";
import { mutantsOf, mutate, type Operator } from "./mutants.ts";

/** What a text becomes by each mistake of one kind. */
function mistakes(text: string, operator: Operator): string[] {
  return mutantsOf(text).filter((m) => m.operator === operator).map((m) => mutate(text, m));
}

Deno.test("mutantsOf() changes comparisons, and leaves type arguments alone", () => {
  assert.deepEqual(mistakes("const m: Map<string, X> = a < b ? c >= d : e === f;", "comparison"), [
    "const m: Map<string, X> = a <= b ? c >= d : e === f;",
    "const m: Map<string, X> = a < b ? c > d : e === f;",
    "const m: Map<string, X> = a < b ? c >= d : e !== f;",
  ]);
});

Deno.test("mutantsOf() moves constants by one, each in its notation", () => {
  assert.deepEqual(mistakes("x = 0 + 2;", "constant"), ["x = 1 + 2;", "x = 0 + 3;", "x = 0 + 1;"]);
  assert.deepEqual(mistakes("let y = 1.0 * 0xffu;", "constant"), [
    "let y = 2.0 * 0xffu;",
    "let y = 0.0 * 0xffu;",
    "let y = 1.0 * 0x100u;",
    "let y = 1.0 * 0xfeu;",
  ]);
  assert.deepEqual(mistakes('// 3\nf("4", `5${six}`);', "constant"), []);
});

Deno.test("mutantsOf() leaves out the values of constants that are replaced", () => {
  const shader =
    "const SIZE: u32 = 256;\nconst HALF: u32 = SIZE / 2;\nfn f() -> u32 { return SIZE + 1; }";
  const values = (names: string[]) =>
    mutantsOf(shader, new Set(names)).map((mutant) => shader.slice(mutant.start, mutant.end));
  assert.deepEqual(values([]), ["256", "256", "2", "2", "+", "1", "1"]);
  assert.deepEqual(values(["SIZE"]), ["2", "2", "+", "1", "1"]);
});

Deno.test("mutantsOf() changes signs, but joins no texts with a minus", () => {
  assert.deepEqual(mistakes('s = a + b - -c + "d";\nn += -1;', "sign"), [
    's = a - b - -c + "d";\nn += -1;',
    's = a + b + -c + "d";\nn += -1;',
    's = a + b - c + "d";\nn += -1;',
    's = a + b - -c + "d";\nn -= -1;',
    's = a + b - -c + "d";\nn += 1;',
  ]);
});

Deno.test("mutantsOf() drops statements that act, no declarations, members or loop heads", () => {
  const text = `interface I { call(a: number): void; }
class C { run() { this.a(1); } }
for (let i = 0; i < n; step(i)) { a.b = 2; }
const f = () => ({ key: g(1) });
await go(() => { x(); });`;
  const dropped = mistakes(text, "dropped statement").map((mistake) =>
    text.split("\n").find((line, i) => line !== mistake.split("\n")[i])
  );
  const lines = text.split("\n");
  assert.deepEqual(dropped, [lines[1], lines[2], lines[4], lines[4]]);
});

Deno.test("mutantsOf() drops barriers of a shader as a kind by itself", () => {
  const shader = "fn main() {\n  a[i] = 1u;\n  workgroupBarrier();\n}\n";
  assert.deepEqual(mistakes(shader, "dropped barrier"), ["fn main() {\n  a[i] = 1u;\n  ;\n}\n"]);
  assert.deepEqual(mistakes(shader, "dropped statement"), [
    "fn main() {\n  ;\n  workgroupBarrier();\n}\n",
  ]);
});

Deno.test("mutantsOf() swaps neighbouring arguments of calls, not of declarations or symmetric functions", () => {
  assert.deepEqual(mistakes("y = f(a, g(b, c), min(d, 3));", "swapped arguments"), [
    "y = f(g(b, c), a, min(d, 3));",
    "y = f(a, min(d, 3), g(b, c));",
    "y = f(a, g(c, b), min(d, 3));",
  ]);
  assert.deepEqual(mistakes("y = max(a, b, c) + fma(d, e, dot(f, g));", "swapped arguments"), [
    "y = max(a, b, c) + fma(d, dot(f, g), e);",
  ]);
  assert.deepEqual(
    mistakes("function f(a, b) {}\nfn g(a: u32, b: u32) -> u32 {}", "swapped arguments"),
    [],
  );
});
