import type { Device } from "../../kernels/device.ts";

/**
 * Lets kernels on a CPU adapter show barriers that are missing.
 *
 * Such an adapter computes the invocations of a workgroup one subgroup after the other, up to a barrier. A race between
 * two of them therefore gives the same result each time, which may be the right one. In the kernels that tests compile,
 * each access to workgroup memory is noted: if an invocation reads or writes what another one has written, or writes
 * what another one has read, and no barrier lies between, the workgroup's outputs become `POISON`. Kernels that have no
 * room for the notes, or are too long, begin with the second half of their invocations instead.
 *
 * @module
 */

/** Value of all outputs of a workgroup that has a race; f16 has it, too. */
const POISON = 12288;

/** Characters of a kernel beyond which nothing is noted, as it would take minutes to compile. */
const LONG = 70_000;

/** Bytes of workgroup memory that every adapter has, for the variables of a kernel and the notes. */
const WORKGROUP_BYTES = 16_384;

/** Bytes of the notes of an element. */
const NOTE_BYTES = 12;

/** Lets the kernels of a CPU adapter show barriers that are missing. */
export function showRaces({ gpu, isCpu }: Device): void {
  if (!isCpu) return;
  const create = gpu.createShaderModule.bind(gpu);
  gpu.createShaderModule = ({ code, ...rest }) => create({ ...rest, code: showingRaces(code) });
}

/** A variable in workgroup memory. */
interface Shared {
  readonly name: string;
  /** Type of an element; the variable itself if it is no array. */
  readonly element: string;
  /** Numbers of elements of an array, or of an array of arrays; none if it is no array. */
  readonly counts: readonly string[];
}

/** The text of a kernel that shows races; lines keep their numbers. */
export function showingRaces(code: string): string {
  const main = /^@compute @workgroup_size\(([^)]*)\)([^\n]*\n)fn main\(([^{]*?),?\s*\) \{/m.exec(
    code,
  );
  if (!main) return code;
  const [head, size, comment, args] = main as unknown as [string, string, string, string];
  const parameters = args.split(/,\s*(?:\/\/[^\n]*\n)?\s*(?=@builtin)/).map((argument) => {
    const [, builtin, name, type] = /@builtin\((\w+)\)\s+(\w+):\s*(\w+)/.exec(argument)!;
    return { builtin: builtin!, name: name!, type: type! };
  });
  const shared = notable(code), isNoted = shared.length > 0;
  const needed = ["local_invocation_index", "workgroup_id"].filter((builtin) =>
    !parameters.some((parameter) => parameter.builtin === builtin)
  );
  const all = [
    ...parameters,
    ...needed.map((builtin) => ({
      builtin,
      name: `race_${builtin}`,
      type: builtin === "workgroup_id" ? "vec3u" : "u32",
    })),
  ];
  const nameOf = (builtin: string) => all.find((parameter) => parameter.builtin === builtin)!.name;
  const [x, y = "1u", z = "1u"] = size.split(",").map((part) => `u32(${part.trim()})`);
  const usesSubgroups = /\bsubgroup[A-Z]/.test(code);
  const passed = parameters.map(({ builtin, name }) =>
    usesSubgroups || isNoted || !builtin.startsWith("local")
      ? name
      : builtin === "local_invocation_id"
      ? `(${name} + vec3u(${x}, ${y}, ${z}) / 2u) % vec3u(${x}, ${y}, ${z})`
      : `(${name} + ${x} * ${y} * ${z} / 2u) % (${x} * ${y} * ${z})`
  );
  const body = code.replace(
    head,
    () =>
      `${comment}fn raceMain(${
        parameters.map(({ name, type }) => `${name}: ${type}`).join(", ")
      }) {` +
      "\n".repeat(args.split("\n").length - 1),
  );
  const entry = (before: string, after: string) => `
@compute @workgroup_size(${size})
fn main(${
    all.map(({ builtin, name, type }) => `@builtin(${builtin}) ${name}: ${type}`).join(", ")
  }) {
  ${before}
  raceMain(${passed.join(", ")});
  ${after}
}
`;
  if (!isNoted) return body + entry("", "");
  const outputs = [...code.matchAll(
    /^@group\(0\) @binding\(\d+\) var<storage, read_write> (\w+): array<((?:vec[234]<\w+>|\w+))>;/gm,
  )].filter(([, , type]) => /^(f32|f16|u32|i32|real\w*|vec\w*(<\w+>)?)$/.test(type!));
  const poison = outputs.map(([, name, type]) =>
    `for (var i = 0u; i < arrayLength(&${name}); i++) { ${name}[i] = ${type}(${POISON}); }`
  );
  return noted(body, shared) + entry(
    `raceSelf = ${nameOf("local_invocation_index")} + 1u;`,
    `workgroupBarrier(); if (atomicLoad(&raceFound) != 0u) { ${poison.join(" ")} }`,
  ) + notes(shared);
}

/** The variables in workgroup memory. */
function sharedOf(code: string): Shared[] {
  return [...code.matchAll(/^var<workgroup> (\w+): (.*?);/gm)].map(([, name, type]) => {
    const counts: string[] = [];
    let element = type!;
    for (
      let match;
      counts.length < 2 && (match = /^array<(.*), ([^,<>]*(?:\([^<>]*\))?[^,<>]*)>$/.exec(element));
    ) {
      element = match[1]!;
      counts.push(match[2]!);
    }
    return { name: name!, element, counts };
  });
}

/** The variables whose accesses can be noted: first the smallest ones, as long as there is workgroup memory for it. */
function notable(code: string): Shared[] {
  if (code.length > LONG) return [];
  const elementsOf = ({ counts }: Shared) =>
    counts.reduce((elements, count) => elements * valueOf(code, count), 1);
  const all = sharedOf(code).toSorted((a, b) => elementsOf(a) - elementsOf(b));
  let left = WORKGROUP_BYTES;
  for (const variable of all) left -= elementsOf(variable) * bytesOf(variable.element);
  return all.filter((variable) => {
    const bytes = NOTE_BYTES * elementsOf(variable);
    if (!isOnly(code, variable.name) || bytes > left) return false;
    left -= bytes;
    return true;
  });
}

/** Bytes of an element, at most. */
function bytesOf(element: string): number {
  if (/^(atomic<)?[uif]32>?$|^bool$/.test(element)) return 4;
  return /^vec/.test(element) ? 16 : 64;
}

/** The value of an expression of the constants of a text; NaN if it has others. */
function valueOf(code: string, expression: string): number {
  const known = expression.replaceAll(/\b[A-Za-z_]\w*\b/g, (name) => {
    if (name === "max" || name === "min") return `Math.${name}`;
    const [, value] = new RegExp(`^const ${name}\\b[^=;]*= ([^;]+);`, "m").exec(code) ?? [];
    return value === undefined ? "NaN" : `Math.floor(${valueOf(code, value)})`;
  }).replaceAll(/\b(\d+)u\b/g, "$1");
  if (!/^[\w\s.,()+*/-]*$/.test(known)) return NaN;
  return Math.floor(new Function(`return ${known};`)());
}

/** Whether a name means nothing else in a text than the variable in workgroup memory. */
function isOnly(code: string, name: string): boolean {
  return !new RegExp(`\\b(let|var|const) ${name}\\b|[(,]\\s*${name}:`).test(code);
}

/** The text with notes of all accesses to workgroup memory, and of barriers. */
function noted(code: string, shared: readonly Shared[]): string {
  let text = code.replaceAll(/\bworkgroupBarrier\(\)/g, "raceBarrier()");
  for (const { name, element, counts } of shared) {
    if (counts.length === 0) {
      text = text.replace(
        `var<workgroup> ${name}: ${element};`,
        `var<workgroup> ${name}: array<${element}, 1>;`,
      );
    }
    text = text.replaceAll(
      new RegExp(`\\bworkgroupUniformLoad\\(&${name}\\)`, "g"),
      `raceLoad_${name}()`,
    );
    let from = 0, written = "";
    const occurrence = new RegExp(`(?<!var<workgroup> |[\\w.])\\b${name}\\b`, "g");
    for (let match; (match = occurrence.exec(text));) {
      const { index } = match, after = index + name.length;
      const lineStart = text.lastIndexOf("\n", index) + 1;
      if (text.slice(lineStart, index).includes("//")) continue;
      let end = after;
      const indices: string[] = [];
      while (indices.length < counts.length && text[end] === "[") {
        const close = closing(text, end);
        indices.push(text.slice(end + 1, close));
        end = close + 1;
      }
      let rest = end; // behind members and components
      for (;;) {
        const member = /^\.\w+/.exec(text.slice(rest, rest + 40));
        if (member) rest += member[0].length;
        else if (text[rest] === "[") rest = closing(text, rest) + 1;
        else break;
      }
      const atomic = /atomic(\w+)\(&$/.exec(text.slice(Math.max(0, index - 40), index))?.[1];
      const kind = atomic === "Load"
        ? "Read"
        : atomic === "Store" || atomic?.includes("xchange")
        ? "Write"
        : atomic
        ? "Update"
        : /^\s*(=[^=]|[-+*/|&^]=|\+\+|--)/.test(text.slice(rest, rest + 10))
        ? "Write"
        : "Read";
      const place = `race${kind}_${name}(${indices.join(", ") || "0u"})`;
      written += text.slice(from, after) + `[${place}]` +
        indices.slice(1).map((i) => `[${i}]`).join("");
      from = end;
      occurrence.lastIndex = end;
    }
    text = written + text.slice(from);
  }
  return text;
}

/** Place of the bracket that closes the one at a place. */
function closing(text: string, at: number): number {
  let depth = 0;
  for (let i = at; i < text.length; i++) {
    if (text[i] === "[") depth++;
    if (text[i] === "]" && --depth === 0) return i;
  }
  throw new Error(`No bracket closes the one at ${text.slice(at, at + 60)}`);
}

/** The functions that note accesses. */
function notes(shared: readonly Shared[]): string {
  const functions = shared.map(({ name, element, counts: [count = "1u", inner] }) => {
    const elements = `(${count})${inner === undefined ? "" : ` * (${inner})`}`;
    const [args, place] = inner === undefined
      ? ["i: u32", "i"]
      : ["i: u32, j: u32", `i * u32(${inner}) + j`];
    const access = (kind: string, own: string, others: readonly string[]) =>
      `fn race${kind}_${name}(${args}) -> u32 { let at = ${place}; ` +
      others.map((other) => `raceMeet(atomicLoad(&race${other}s_${name}[at])); `).join("") +
      `let last = atomicExchange(&race${own}s_${name}[at], raceEpoch * 4096u + raceSelf); ` +
      `if (last / 4096u == raceEpoch && last % 4096u != raceSelf) { ` +
      (own === "Write"
        ? "raceMeet(last); "
        : `atomicStore(&race${own}s_${name}[at], raceEpoch * 4096u + 4095u); `) +
      `} return i; }\n`;
    return ["Read", "Write", "Update"].map((kind) =>
      `var<workgroup> race${kind}s_${name}: array<atomic<u32>, ${elements}>;\n`
    ).join("") +
      access("Read", "Read", ["Write", "Update"]) +
      access("Write", "Write", ["Read", "Update"]) +
      access("Update", "Update", ["Read", "Write"]) +
      (element.startsWith("atomic") || inner !== undefined
        ? ""
        : `fn raceLoad_${name}() -> ${element} { ` +
          `raceBarrier(); let value = ${name}[0]; raceBarrier(); return value; }\n`);
  });
  return `
var<private> raceSelf: u32;
var<private> raceEpoch: u32 = 1u;
var<workgroup> raceFound: atomic<u32>;
fn raceBarrier() { workgroupBarrier(); raceEpoch++; }
fn raceMeet(last: u32) {
  if (last / 4096u == raceEpoch && last % 4096u != raceSelf) { atomicStore(&raceFound, 1u); }
}
${functions.join("")}`;
}
