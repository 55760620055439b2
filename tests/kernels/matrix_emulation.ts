import type { Device } from "../../kernels/device.ts";
import { hasMatrices, MATRIX_SIDE as SIDE, MATRIX_SUBGROUP } from "../../kernels/matrices.ts";
import { Pipelines } from "../../kernels/pipelines.ts";

/**
 * Subgroup matrices for adapters that have none. The text of a kernel stays as it is, but for the types and functions
 * of `chromium_experimental_subgroup_matrix`, which become structs and functions of plain WGSL. So tiles, offsets,
 * strides, masks, barriers and epilogues of a kernel are tested everywhere; only the multiplication is not that of the
 * tensor cores.
 *
 * 32 neighbours by local_invocation_index are a subgroup. The result of a product is distributed over them: lane l has
 * the columns 8 · ⌊l / 16⌋ to 8 · ⌊l / 16⌋ + 7 of row l % 16. It loads the row of the left matrix and the columns of the
 * right one that it needs, so that no lane needs another one's values. What a lane stores in rows is not what it reads
 * as the invocation of that number, so that a missing barrier shows.
 *
 * What is emulated:
 *
 * - matrices of 16 × 16 elements: left and right in f16, results in f32 or, if no other result of the module is f32, in
 *   f16. Products are summed in f32; an f16 result is rounded after every call, not after every term.
 * - as types of variables, of elements of arrays in the address space `function`, and of results of constructors with
 *   one argument or none;
 * - subgroupMatrixLoad and subgroupMatrixStore with `&name` of a module-scope array in storage or workgroup memory, of
 *   f16, f32, u32, i32, or vectors of two or four of them. Offset and stride count elements of this array.
 *   A result in f16 is stored in rows, unless the array is one of f16.
 * - subgroupMatrixMultiply, subgroupMatrixMultiplyAccumulate, and with results subgroupMatrixScalarAdd,
 *   subgroupMatrixScalarSubtract and subgroupMatrixScalarMultiply.
 *
 * What is not: other shapes and types, matrices in structs, and a subgroup that runs in lockstep. A lane sees what
 * another one stored only after a workgroupBarrier(). Neither is it checked that control flow is uniform, that
 * offsets lie inside the array, or that memory is aligned as a device needs it: `deno task wgsl` finds the first.
 *
 * @module
 */

/** A matrix type, such as `subgroup_matrix_left<f16, 16, 16>`. */
const MATRIX = String.raw`subgroup_matrix_(left|right|result)<\s*(\w+),\s*(\d+),\s*(\d+)\s*>`;

/** A device like another, on which kernels with matrices run: those of a GPU. Its choices and pipelines are new. */
export function withEmulatedMatrices(on: Device): Device {
  const createShaderModule = ({ code, ...rest }: GPUShaderModuleDescriptor) =>
    on.gpu.createShaderModule({ ...rest, code: emulateMatrices(code) });
  const gpu = new Proxy(on.gpu, {
    get(target, name) {
      if (name === "createShaderModule") return createShaderModule;
      const member = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
  return {
    ...on,
    gpu,
    isCpu: false,
    matrixShapes: [{ rows: SIDE, columns: SIDE, depth: SIDE, input: "f16", result: "f32" }],
    pipelines: new Pipelines(),
    choices: new Map(),
  };
}

/** The devices on which kernels with matrices are tested: the emulation, and the device itself if it has their shape. */
export function devicesWithMatrices(device: Device): { on: Device; how: string }[] {
  return [
    { on: withEmulatedMatrices(device), how: "emulated matrices" },
    ...(hasMatrices(device) ? [{ on: device, how: "matrices" }] : []),
  ];
}

/**
 * The text of a shader with emulated matrices; a shader without matrices stays as it is.
 *
 * @throws {RangeError} if it uses them in a way that is not emulated.
 */
export function emulateMatrices(text: string): string {
  if (!text.includes("subgroup_matrix")) return text;
  const code = withoutAliases(text);
  const results = new Set<string>(), accesses = new Map<string, string>();
  const used = (access: Access) => {
    accesses.set(access.name, access.code(arrayOf(code, access.array)));
    return `${access.name}(`;
  };
  const typeOf = (use: string, columns: string, rows: string, element: string) => {
    if (Number(rows) !== SIDE || Number(columns) !== SIDE) refuse(`${columns} × ${rows} matrices`);
    if (use === "result") results.add(element);
    else if (element !== "f16") refuse(`a ${use} matrix of ${element}`);
    return { left: "LeftMatrix", right: "RightMatrix", result: "ResultMatrix" }[use]!;
  };
  const emulated = code
    .replaceAll(/^enable (?:subgroups|chromium_experimental_subgroup_matrix);.*\n/gm, "")
    .replaceAll(/^diagnostic\(.*\n/gm, "")
    .replaceAll(
      new RegExp(
        String.raw`\bsubgroupMatrixLoad<\s*${MATRIX},\s*(\w+)\s*>\(\s*&(\w+)\s*,`,
        "g",
      ),
      (_, use, element, columns, rows, order, array) => {
        typeOf(use, columns, rows, element);
        return used(loadOf({ use, element, order, array }));
      },
    )
    .replaceAll(
      /\bsubgroupMatrixStore<\s*(\w+)\s*>\(\s*&(\w+)\s*,/g,
      (_, order, array) => used(storeOf({ element: resultOf(code), order, array })),
    )
    .replaceAll(
      new RegExp(String.raw`\bsubgroupMatrixMultiply<\s*\w+\s*>\(`, "g"),
      () => "multiplyMatrices(",
    )
    .replaceAll(new RegExp(String.raw`${MATRIX}(\(\))?(\()?`, "g"), (_, ...match) => {
      const [use, element, columns, rows, zero = "", filled] = match as string[];
      const type = typeOf(use!, columns!, rows!, element!);
      return filled ? `filled${type}(` : `${type}${zero}`;
    })
    .replaceAll(
      /\bsubgroupMatrix(MultiplyAccumulate|Scalar(Add|Subtract|Multiply))\(/g,
      "matrix$1(",
    );
  const [rest] = /\bsubgroup(Matrix|_matrix)\w*/.exec(emulated.replaceAll(/\/\/.*/g, "")) ?? [];
  if (rest !== undefined) refuse(rest);
  return [
    withLane(emulated),
    helpersOf(results.has("f16")),
    ...accesses.values(),
  ].join("\n");
}

/** The text with the types that aliases of matrices stand for. */
function withoutAliases(text: string): string {
  const aliases = text.matchAll(new RegExp(String.raw`^alias (\w+) = (${MATRIX});.*\n`, "gm"));
  return [...aliases].reduce(
    (code, [line, name, type]) =>
      code.replace(line, "").replaceAll(new RegExp(String.raw`\b${name}\b`, "g"), type!),
    text,
  );
}

function refuse(what: string): never {
  throw new RangeError(`Cannot emulate subgroup matrices as the shader uses ${what}`);
}

/** The element type of all results of a shader. */
function resultOf(code: string): string {
  const types = new Set(
    [...code.matchAll(/subgroup_matrix_result<\s*(\w+)/g)].map(([, element]) => element!),
  );
  if (types.size !== 1) refuse(`results of ${[...types].join(" and ") || "no type"}`);
  return [...types][0]!;
}

/** The text with the lane of an invocation in a variable, which main sets. */
function withLane(code: string): string {
  const [main, index] = /^fn main\([^{]*@builtin\(local_invocation_index\) (\w+)[^{]*\{/m
    .exec(code) ?? refuse("no local_invocation_index in main");
  return code.replace(main, () => `${main}\n  matrixLane = ${index} % ${MATRIX_SUBGROUP}u;\n`);
}

/** An array that a module declares. */
interface ModuleArray {
  readonly name: string;
  /** Element type: a number or a vector. */
  readonly number: string;
  /** Numbers per element. */
  readonly count: number;
}

/** The declaration of an array, with aliases resolved. */
function arrayOf(code: string, name: string): ModuleArray {
  const declaration = new RegExp(
    String.raw`\bvar<[^>]*>\s+${name}\s*:\s*array<\s*(\w+(?:<\w+>)?)\s*[,>]`,
  ).exec(code);
  let type = declaration?.[1] ?? refuse(`"${name}", which is no array of the module`);
  for (
    let alias;
    (alias = new RegExp(String.raw`^alias ${type}\b[^=]*= ([^;]+);`, "m").exec(code));
  ) type = alias[1]!;
  const [, length = "1", letter, word] =
    /^(?:vec([24]))?(?:([fuih])$|<?(f16|f32|u32|i32)>?$)/.exec(type) ??
      refuse(`an array of ${type}`);
  const number = word ?? { f: "f32", u: "u32", i: "i32", h: "f16" }[letter!]!;
  return { name, number, count: Number(length) };
}

/** A function that loads or stores a matrix. */
interface Access {
  readonly name: string;
  readonly array: string;
  code(array: ModuleArray): string;
}

/** Elements of an array, or the numbers of which they consist. */
const elementAt = ({ name, count }: ModuleArray, i: string) =>
  count === 1 ? `${name}[${i}]` : `${name}[(${i}) / ${count}u][(${i}) % ${count}u]`;

/** Numbers of `element`'s size per element of the array. */
function numbersPer({ number, count, name }: ModuleArray, element: string): number {
  const bytes = count * (number === "f16" ? 2 : 4), size = element === "f16" ? 2 : 4;
  if (bytes < size) refuse(`${element} in the array "${name}" of smaller elements`);
  return bytes / size;
}

/** An expression: the number `i`, if the array is one of numbers of that type. */
function read(array: ModuleArray, element: string, i: string): string {
  if (element === "f32") {
    if (array.number === "f16") refuse(`f32 in the array "${array.name}" of f16`);
    return `bitcast<f32>(${elementAt(array, i)})`;
  }
  if (array.number === "f16") return `f32(${elementAt(array, i)})`;
  return `unpack2x16float(bitcast<u32>(${elementAt(array, `(${i}) / 2u`)}))[(${i}) % 2u]`;
}

/** An expression: eight f16 from `i` on, a multiple of eight, as two vectors. */
function readEight(array: ModuleArray, i: string): string {
  if (array.number === "u32" && array.count === 4) return `eightOf(${array.name}[(${i}) / 8u])`;
  const values = numbers(8).map((j) => read(array, "f16", `${i} + ${j}u`));
  return `array<vec4f, 2>(vec4f(${values.slice(0, 4)}), vec4f(${values.slice(4)}))`;
}

/** Numbers from 0 on. */
const numbers = (length: number) => Array.from({ length }, (_, i) => i);

/** A component of an array of vectors of four. */
const component = (name: string, i: number) => `${name}[${Math.floor(i / 4)}][${i % 4}]`;

function loadOf(
  { use, element, order, array }: { use: string; element: string; order: string; array: string },
): Access {
  const inRows = isInRows(order), name = `load_${use}_${element}_${order}_${array}`;
  const type = { left: "LeftMatrix", right: "RightMatrix", result: "ResultMatrix" }[use]!;
  const four = (from: (i: number) => string) => `vec4f(${numbers(4).map(from)})`;
  // loops over vectors whose components are constants: lavapipe takes seconds to compile anything else
  const body = (array: ModuleArray): string[] => {
    if (use === "result") {
      return numbers(2).map((h) =>
        `m.values[${h}] = ${four((i) => read(array, element, placeOf(inRows, 4 * h + i)))};`
      );
    }
    if (use === "left" && inRows) {
      return [
        `let near = ${readEight(array, "first + row * step")};`,
        `let far = ${readEight(array, "first + row * step + 8u")};`,
        "m.values = array<vec4f, 4>(near[0], near[1], far[0], far[1]);",
      ];
    }
    if (use === "left") {
      const values = four((i) => read(array, element, `first + (4u * k4 + ${i}u) * step + row`));
      return ["for (var k4 = 0u; k4 < 4u; k4++) {", `m.values[k4] = ${values};`, "}"];
    }
    if (inRows) {
      return [
        "for (var k = 0u; k < 16u; k++) {",
        `m.values[k] = ${readEight(array, "first + k * step + column")};`,
        "}",
      ];
    }
    const columns = numbers(4).map((i) =>
      `let c${i} = ${readEight(array, `first + (column + 4u * j4 + ${i}u) * step + k`)};`
    );
    return [
      "for (var i = 0u; i < 4u; i++) {",
      "let j4 = i % 2u;",
      "let k = i / 2u * 8u;",
      ...columns,
      ...numbers(8).map((i) => `m.values[k + ${i}u][j4] = ${four((j) => component(`c${j}`, i))};`),
      "}",
    ];
  };
  return {
    name,
    array,
    code: (array) =>
      [
        `fn ${name}(offset: u32, stride: u32) -> ${type} {`,
        ...placesOf(array, element),
        `var m: ${type};`,
        ...body(array),
        "return m;",
        "}",
      ].join("\n"),
  };
}

function storeOf(
  { element, order, array }: { element: string; order: string; array: string },
): Access {
  const inRows = isInRows(order), name = `store_${element}_${order}_${array}`;
  const value = (j: number) => component("m.values", j);
  const body = (array: ModuleArray): string[] => {
    if (element === "f16" && array.number !== "f16") {
      if (!inRows) refuse(`a result in f16 that is stored in columns of "${array.name}"`);
      return [0, 2, 4, 6].map((j) => {
        const word = elementAt(array, `(${placeOf(inRows, j)}) / 2u`);
        const pair = `pack2x16float(vec2f(${value(j)}, ${value(j + 1)}))`;
        return `${word} = bitcast<${array.number}>(${pair});`;
      });
    }
    if (element === "f32" && array.number === "f16") refuse(`f32 in "${array.name}" of f16`);
    const stored = (j: number) =>
      element === "f16" ? `f16(${value(j)})` : `bitcast<${array.number}>(${value(j)})`;
    return numbers(8).map((j) => `${elementAt(array, placeOf(inRows, j))} = ${stored(j)};`);
  };
  return {
    name,
    array,
    code: (array) =>
      [
        `fn ${name}(offset: u32, m: ResultMatrix, stride: u32) {`,
        ...placesOf(array, element),
        ...body(array),
        "}",
      ].join("\n"),
  };
}

/** The place of the j-th element that the lane has of a result. */
function placeOf(inRows: boolean, j: number): string {
  return inRows ? `first + row * step + column + ${j}u` : `first + (column + ${j}u) * step + row`;
}

function isInRows(order: string): boolean {
  if (order !== "row_major" && order !== "col_major") refuse(`the order ${order}`);
  return order === "row_major";
}

/** The place of the first number of a matrix, the step from one stored row to the next, and what the lane has. */
function placesOf(array: ModuleArray, element: string): string[] {
  const per = numbersPer(array, element);
  return [
    `let first = offset * ${per}u;`,
    `let step = stride * ${per}u;`,
    `let row = matrixLane % ${SIDE}u;`,
    `let column = matrixLane / ${SIDE}u * 8u;`,
  ];
}

/** Types, and the functions that access no memory. */
function helpersOf(isF16: boolean): string {
  const sums = numbers(16).flatMap((k) =>
    [0, 1].map((i) => `sum${i} += ${component("a.values", k)} * b.values[${k}][${i}];`)
  );
  const rounded = (v: string) =>
    isF16
      ? `vec4f(unpack2x16float(pack2x16float(${v}.xy)), unpack2x16float(pack2x16float(${v}.zw)))`
      : v;
  const scalar = (name: string, operator: string) =>
    `fn matrixScalar${name}(m: ResultMatrix, s: f32) -> ResultMatrix {
  return ResultMatrix(array<vec4f, 2>(m.values[0] ${operator} s, m.values[1] ${operator} s));
}`;
  return `
var<private> matrixLane: u32;
struct LeftMatrix { values: array<vec4f, 4> } // [k] of a row
struct RightMatrix { values: array<array<vec4f, 2>, 16> } // [k][column]
struct ResultMatrix { values: array<vec4f, 2> } // [column] of a row
fn eightOf(v: vec4u) -> array<vec4f, 2> {
  return array<vec4f, 2>(
    vec4f(unpack2x16float(v.x), unpack2x16float(v.y)),
    vec4f(unpack2x16float(v.z), unpack2x16float(v.w)));
}
fn filledResultMatrix(value: f32) -> ResultMatrix {
  return ResultMatrix(array<vec4f, 2>(vec4f(value), vec4f(value)));
}
fn matrixMultiplyAccumulate(a: LeftMatrix, b: RightMatrix, c: ResultMatrix) -> ResultMatrix {
  var sum0 = c.values[0];
  var sum1 = c.values[1];
${sums.join("\n")}
  return ResultMatrix(array<vec4f, 2>(${rounded("sum0")}, ${rounded("sum1")}));
}
fn multiplyMatrices(a: LeftMatrix, b: RightMatrix) -> ResultMatrix {
  return matrixMultiplyAccumulate(a, b, ResultMatrix());
}
${scalar("Add", "+")}
${scalar("Subtract", "-")}
${scalar("Multiply", "*")}`;
}
