import type { Device } from "../../kernels/device.ts";
import { elementBytes, valueOf } from "./wgsl_sizes.ts";

/**
 * Lets kernels on a CPU adapter show barriers that are missing.
 *
 * Such an adapter computes the invocations of a workgroup one subgroup after the other, up to a barrier. A race between
 * two of them therefore gives the same result each time, which may be the right one. In the kernels that tests compile,
 * each access to workgroup memory is noted: if an invocation reads or writes what another one has written, or writes
 * what another one has read, and no barrier lies between, the workgroup's outputs become `POISON`. Attention and products
 * have no notes, and others not of variables for which there is no room. Therefore kernels without subgroups also begin
 * with the second half of their invocations.
 *
 * @module
 */

/** Value of all outputs of a workgroup that has a race; f16 has it, too. */
export const POISON = 12288;

/** Kernels with so many accesses that notes would take minutes to compile. */
const SLOW = /^kernels\/(attention|matmul)\//;

/** Accesses to a variable in the text of a kernel, at most: each takes time to compile. */
const MOST_ACCESSES = 100;

/** Bytes of the notes of an element. */
const NOTE_BYTES = 4;

/**
 * Lets the kernels of a CPU adapter show barriers that are missing. Dawn's compiler refuses the notes, as it cannot prove
 * that all invocations reach the barriers in functions.
 */
export function showRaces({ gpu, isCpu, provider }: Device): void {
  if (!isCpu || provider === "dawn") return;
  const create = gpu.createShaderModule.bind(gpu);
  gpu.createShaderModule = ({ code, label = "", ...rest }) => {
    const bytes = SLOW.test(label) ? 0 : gpu.limits.maxComputeWorkgroupStorageSize;
    return create({ ...rest, label, code: showingRaces(code, bytes) });
  };
}

/** A variable in workgroup memory. */
interface Shared {
  readonly name: string;
  /** Type of an element; the variable itself if it is no array. */
  readonly element: string;
  /** Numbers of elements of an array, or of an array of arrays; none if it is no array. */
  readonly counts: readonly string[];
}

/**
 * The text of a kernel that shows races; lines keep their numbers.
 *
 * @param workgroupBytes memory of a workgroup, for its variables and the notes.
 */
function showingRaces(code: string, workgroupBytes: number): string {
  const main = /^@compute @workgroup_size\(([^)]*)\)([^\n]*\n)fn main\(([^{]*?),?\s*\) \{/m.exec(
    code,
  );
  if (!main || !code.includes("var<workgroup> ")) return code;
  const [head, size, comment, args] = main as unknown as [string, string, string, string];
  const parameters = args.split(/,\s*(?:\/\/[^\n]*\n)?\s*(?=@builtin)/).map((argument) => {
    const [, builtin, name, type] = /@builtin\((\w+)\)\s+(\w+):\s*(\w+)/.exec(argument)!;
    return { builtin: builtin!, name: name!, type: type! };
  });
  const shared = notable(code, workgroupBytes), isNoted = shared.length > 0;
  const known = parameters.find(({ builtin }) => builtin === "local_invocation_index");
  const index = known ?? { builtin: "local_invocation_index", name: "raceIndex", type: "u32" };
  const all = known ? parameters : [...parameters, index];
  const [x, y = "1u", z = "1u"] = size.split(",").map((part) => `u32(${part.trim()})`);
  const usesSubgroups = /\bsubgroup[A-Z]/.test(code);
  const passed = parameters.map(({ builtin, name }) =>
    usesSubgroups || !builtin.startsWith("local")
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
  )].filter(([, , type]) => {
    const [, meant = type!] = new RegExp(`^alias ${type} = ([^;]+);`, "m").exec(code) ?? [];
    return /^(f32|f16|u32|i32|vec\w*(<\w+>)?)$/.test(meant);
  });
  const poison = outputs.map(([, name, type]) =>
    `for (var i = 0u; i < arrayLength(&${name}); i++) { ${name}[i] = ${type}(${POISON}); }`
  );
  const text = noted(body, shared);
  return text + entry(
    `raceSelf = ${index.name} + 1u;`,
    `workgroupBarrier(); if (atomicLoad(&raceFound) != 0u) { ${poison.join(" ")} }`,
  ) + notes(text, shared);
}

/** The variables in workgroup memory. */
function sharedOf(code: string): Shared[] {
  return [...code.matchAll(/^var<workgroup> (\w+): (.*?);/gm)].map(([, name, type]) => {
    const counts: string[] = [];
    let element = type!;
    // the type of an element has no commas outside brackets
    const array = /^array<((?:\w+|<[^<>]*>|<\w+<[^<>]*>, [^<>]*>)+), (.*)>$/;
    for (let match; counts.length < 2 && (match = array.exec(element));) {
      element = match[1]!;
      counts.push(match[2]!);
    }
    return { name: name!, element, counts };
  });
}

/** The variables whose accesses can be noted: first the smallest ones, as long as there is workgroup memory for it. */
function notable(code: string, workgroupBytes: number): Shared[] {
  const elementsOf = ({ counts }: Shared) =>
    counts.reduce((elements, count) => elements * valueOf(code, count), 1);
  const all = sharedOf(code).toSorted((a, b) => elementsOf(a) - elementsOf(b));
  let left = workgroupBytes;
  for (const variable of all) left -= elementsOf(variable) * elementBytes(code, variable.element);
  return all.filter((variable) => {
    const bytes = NOTE_BYTES * elementsOf(variable);
    if (!isNotable(code, variable) || bytes > left) return false;
    left -= bytes;
    return true;
  });
}

/**
 * Whether the accesses to a variable can be noted: its name means nothing else in the text, and there are few. A write of a
 * component counts as one of its vector, as WGSL allows that it touches the others.
 */
function isNotable(code: string, { name }: Shared): boolean {
  if (new RegExp(`\\b(let|var|const) ${name}\\b|[(,]\\s*${name}:`).test(code)) return false;
  return code.split(new RegExp(`\\b${name}\\b`)).length <= MOST_ACCESSES;
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
      const kind = atomic !== undefined
        ? { Load: "Read", Store: "Store", Exchange: "Write" }[atomic] ?? "Update"
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

/**
 * The functions that note accesses. A note is of the greatest one since the last barrier: its epoch, which are the barriers before it, its kind, and
 * the invocation, or SEVERAL. What one invocation does in several ways counts as written. Updates by atomic
 * functions may meet each other, and so may atomic stores.
 */
function notes(text: string, shared: readonly Shared[]): string {
  const functions = shared.map(({ name, element, counts: [count = "1u", inner] }) => {
    const elements = `(${count})${inner === undefined ? "" : ` * (${inner})`}`;
    const [args, place] = inner === undefined
      ? ["i: u32", "i"]
      : ["i: u32, j: u32", `i * u32(${inner}) + j`];
    const access = (kind: string) =>
      `fn race${kind}_${name}(${args}) -> u32 {
  let at = ${place};
  let again = raceMet(atomicMax(&raceNotes_${name}[at], raceNote(RACE_${kind}, raceSelf)), RACE_${kind});
  if (again != 0u) { atomicMax(&raceNotes_${name}[at], again); }
  return i;
}
`;
    return `var<workgroup> raceNotes_${name}: array<atomic<u32>, ${elements}>;\n` +
      ["Store", "Read", "Update", "Write"]
        .filter((kind) => text.includes(`race${kind}_${name}(`)).map(access).join("") +
      (element.startsWith("atomic") || inner !== undefined
        ? ""
        : `fn raceLoad_${name}() -> ${element} {
  raceBarrier();
  let value = ${name}[0];
  raceBarrier();
  return value;
}
`);
  });
  return `
const RACE_Store = 0u;
const RACE_Read = 1u;
const RACE_Update = 2u;
const RACE_Write = 3u;
const RACE_SEVERAL = 4095u;
var<private> raceSelf: u32; // 1 + the number of the invocation
var<private> raceEpoch: u32 = 1u;
var<workgroup> raceFound: atomic<u32>;
fn raceBarrier() { workgroupBarrier(); raceEpoch++; }
fn raceNote(kind: u32, by: u32) -> u32 { return (raceEpoch << 14u) | (kind << 12u) | by; }
// The note of an access that follows another one, if it says more than the access alone; 0 otherwise.
fn raceMet(last: u32, kind: u32) -> u32 {
  if (last >> 14u != raceEpoch) { return 0u; }
  let before = (last >> 12u) & 3u;
  let by = last & 4095u;
  if (by == raceSelf) { return select(raceNote(RACE_Write, raceSelf), 0u, before == kind); }
  if (before == kind && kind != RACE_Write) { return raceNote(kind, RACE_SEVERAL); }
  atomicStore(&raceFound, 1u);
  return 0u;
}
${functions.join("")}`;
}
