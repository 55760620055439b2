/**
 * Sizes of types in the text of a kernel, by the rules of WGSL (https://www.w3.org/TR/WGSL/#alignment-and-size).
 *
 * @module
 */

/** Bytes of a type, and what its address is a multiple of. */
interface Layout {
  readonly bytes: number;
  readonly align: number;
}

/** Bytes of the variables in workgroup memory, each a multiple of 16 bytes, as WebGPU counts them. */
export function workgroupBytesOf(code: string): number {
  return [...code.matchAll(/^var<workgroup> \w+: (.*?);/gm)]
    .reduce((sum, [, type]) => sum + roundUp(layoutOf(code, type!).bytes, 16), 0);
}

/** Bytes of an element of an array of this type. */
export function elementBytes(code: string, type: string): number {
  const { bytes, align } = layoutOf(code, type);
  return roundUp(bytes, align);
}

/** The value of an expression of the constants of a text; infinite if it has other names. */
export function valueOf(code: string, expression: string): number {
  const known = expression.replaceAll(/\b[A-Za-z_]\w*\b/g, (name) => {
    if (["max", "min", "select", "true", "false"].includes(name)) return name;
    if (name === "u32") return "";
    const [, value] = new RegExp(`^const ${name}\\b[^=;]*= ([^;]+);`, "m").exec(code) ?? [];
    return value === undefined ? "Infinity" : `floor(${valueOf(code, value)})`;
  }).replaceAll(/\b(\d+)u\b/g, "$1");
  const functions = {
    ...{ max: Math.max, min: Math.min, floor: Math.floor },
    select: <T>(no: T, yes: T, condition: boolean) => condition ? yes : no,
  };
  const names = Object.keys(functions), values = Object.values(functions);
  return Math.floor(Number(new Function(...names, `return ${known};`)(...values)));
}

function roundUp(bytes: number, multiple: number): number {
  return Math.ceil(bytes / multiple) * multiple;
}

function layoutOf(code: string, type: string): Layout {
  const scalar = { u32: 4, i32: 4, f32: 4, bool: 4, f16: 2 }[type];
  if (scalar !== undefined) return { bytes: scalar, align: scalar };
  const aliased = /^\w+$/.test(type)
    ? new RegExp(`^alias ${type} = ([^;]+);`, "m").exec(code)
    : null;
  if (aliased) return layoutOf(code, aliased[1]!);
  const atomic = /^atomic<(.*)>$/.exec(type);
  if (atomic) return layoutOf(code, atomic[1]!);
  const vector = /^vec([234])(?:<(\w+)>|([uifh]))$/.exec(type);
  if (vector) {
    const [, count, element, letter] = vector;
    const { bytes } = layoutOf(
      code,
      element ?? { u: "u32", i: "i32", f: "f32", h: "f16" }[letter!]!,
    );
    return { bytes: bytes * Number(count), align: bytes * (count === "2" ? 2 : 4) };
  }
  const array = /^array<(.*)>$/.exec(type);
  if (array) {
    const [element, count] = splitAtComma(array[1]!), { align } = layoutOf(code, element);
    return { bytes: elementBytes(code, element) * valueOf(code, count), align };
  }
  const struct = new RegExp(`^struct ${type} \\{[^\\n]*\\n([^}]*)\\}`, "m").exec(code);
  if (!struct) throw new TypeError(`No type of the kernel is ${type}`);
  let end = 0, most = 1;
  for (const [, member] of struct[1]!.matchAll(/^\s*\w+: (.*?),(?: *\/\/.*)?$/gm)) {
    const { bytes, align } = layoutOf(code, member!);
    end = roundUp(end, align) + bytes;
    most = Math.max(most, align);
  }
  return { bytes: roundUp(end, most), align: most };
}

/** The two arguments of a type: what is before the first comma outside brackets, and after it. */
function splitAtComma(text: string): [string, string] {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if ("<(".includes(text[i]!)) depth++;
    if (">)".includes(text[i]!)) depth--;
    if (text[i] === "," && depth === 0) return [text.slice(0, i), text.slice(i + 1).trim()];
  }
  throw new TypeError(`No comma separates the two arguments of ${text}`);
}
