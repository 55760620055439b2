/**
 * Shaders: WGSL files, joined and specialised.
 *
 * A shader consists of one or more `.wgsl` files. Each file is valid WGSL as it stands, or line 2 lists the
 * functions that it needs and their files. Line 1 says what the shader computes and gives the shapes. The parts
 * of all files have the same order and the same names:
 *
 * 1. directives such as `enable f16;`, aliases of element types, and constants that `specialize()` sets;
 * 2. `struct Sizes`, whose values are known when a launch is recorded; a further uniform has a struct named
 *    after its variable, such as `options: Options`;
 * 3. bindings, numbered upwards: inputs, outputs, and last `var<uniform> sizes: Sizes`;
 * 4. fixed constants and constants that follow from those above, and workgroup memory;
 * 5. functions, each before its callers;
 * 6. `main`, whose arguments are named `group`, `groups`, `local`, `index`.
 *
 * The guard of out-of-range invocations is `if (i >= sizes.N) { return; }`. If they must reach a barrier, it is
 * `let inside = i < sizes.N;`, on which their loads and stores depend.
 *
 * Four markers specialise a file. Each is a comment on the line before the code that it concerns:
 * `// unroll` writes out a loop, `// unroll if NAME` only if the boolean constant NAME is true; `// only if NAME`
 * keeps a declaration, struct member, statement or block if NAME is true, `// unless NAME` if it is false; `// branch if NAME`
 * keeps the condition of an `if (…) {` if NAME is true, or else its block alone. Of several markers on consecutive lines
 * all hold.
 *
 * @module
 */

/** Values for the top-level `const` and `alias` declarations of a shader. */
export type Constants = Readonly<Record<string, number | boolean | string>>;

/** The text of a shader's files by path. The first file has `main`, and its path names the shader. */
export type Shader = Readonly<Record<string, string>>;

/** The path that names a shader. */
export function labelOf(shader: Shader): string {
  return Object.keys(shader)[0]!;
}

/**
 * Returns the WGSL of a shader for one set of constants, before its loops are unrolled.
 *
 * The files are joined. Each line of code ends with a comment that gives its file and line, such as
 * `// kernels/matmul/epilogue.wgsl:3`, so that a compiler's message that quotes the line names them too. The
 * initializers of the named top-level `const` and `alias` declarations are replaced. If `sizes` is named, this uniform
 * becomes a constant. Code that `// only if` and `// unless` exclude is removed, and `enable f16;` too if nothing is
 * f16. Directives precede everything else.
 *
 * @throws {RangeError} if the shader declares no such name.
 */
export function specialize(shader: Shader, constants: Constants): string {
  let source = joined(shader);
  for (const [name, value] of Object.entries(constants)) {
    const declaration = name === SIZES
      ? UNIFORM_SIZES
      : new RegExp(`^((?:const|alias) ${name}\\b[^=;]*= )[^;]+;`, "m");
    if (!declaration.test(source)) {
      throw new RangeError(
        `Cannot specialize ${labelOf(shader)} as it declares no such const or alias: ` +
          `current name is ${name}`,
      );
    }
    source = source.replace(
      declaration,
      name === SIZES ? `const sizes = ${value};` : `$1${value};`,
    );
  }
  const lines = withoutUnused(source).split("\n");
  // directives must precede the declarations of all files
  const directives = new Set(lines.filter(isDirective).map(codeOf));
  const rest = lines.filter((line) => !isDirective(line));
  directives.delete(ENABLE_F16);
  const usesF16 = rest.some((line) => /\bf16\b/.test(codeOf(line)));
  return [...usesF16 ? [ENABLE_F16] : [], ...directives, ...rest].join("\n");
}

const ENABLE_F16 = "enable f16;";

/** Name of the uniform that can be a constant. */
export const SIZES = "sizes";

const UNIFORM_SIZES = /^@group\(0\) @binding\(\d+\) var<uniform> sizes: Sizes;/m;

/** Whether a line enables an extension of WGSL or sets the severity of a diagnostic. */
function isDirective(line: string): boolean {
  return /^(enable |diagnostic\()/.test(line);
}

/**
 * The WGSL that a device compiles. Deno 2.9 knows the functions of subgroups, but neither lists the feature nor
 * knows its directives.
 *
 * @param features features that the adapter lists.
 */
export function compilable(source: string, features: ReadonlySet<string>): string {
  return features.has("subgroups")
    ? source
    : source.replaceAll(/^(enable (?!f16;)|diagnostic\().*\n/gm, "");
}

/** The files in order; every line of code ends with its file and line. */
function joined(shader: Shader): string {
  return Object.entries(shader).flatMap(([path, text]) =>
    text.split("\n").map((line, i) => isCode(line) ? `${line} // ${path}:${i + 1}` : line)
  ).join("\n");
}

/** Whether a line has anything but a comment. */
function isCode(line: string): boolean {
  return codeOf(line) !== "";
}

/** A line without its comment. */
function codeOf(line: string): string {
  return line.replace(/\/\/.*/, "").trim();
}

/**
 * Removes the code, and the conditions of branches, that the constants turn off, and the markers; `// unroll if` becomes
 * `// unroll` or is removed.
 */
function withoutUnused(source: string): string {
  const lines = source.split("\n"), kept: string[] = [];
  for (let i = 0; i < lines.length; i++) {
    const [, marker, name] =
      /^ *\/\/ (only if|unless|unroll if|branch if) (\w+)$/.exec(lines[i]!) ?? [];
    if (name === undefined) kept.push(lines[i]!);
    else if (marker === "unroll if") kept.push(...(isOn(source, name) ? ["// unroll"] : []));
    else if (marker === "branch if") {
      const branch = lines[i + 1]!, block = branch.replace(/^( *)if \(.*\) \{/, "$1{");
      if (block === branch) throw new RangeError(`Cannot find a branch in "${branch}"`);
      if (!isOn(source, name)) lines[i + 1] = block;
    } else if (isOn(source, name) !== (marker === "only if")) i = lastLineOf(lines, i + 1);
  }
  return kept.join("\n");
}

/** Value of a boolean top-level constant. */
function isOn(source: string, name: string): boolean {
  const [, value] = new RegExp(`^const ${name}: bool = (true|false);`, "m").exec(source) ?? [];
  if (value === undefined) {
    throw new RangeError(
      `Cannot decide what depends on ${name} as it must be a boolean constant, true or false`,
    );
  }
  return value === "true";
}

/** The last line of the declaration, statement or block that starts on this line. */
function lastLineOf(lines: readonly string[], first: number): number {
  let depth = 0;
  for (let i = first; i < lines.length; i++) {
    const code = codeOf(lines[i]!);
    depth += (code.match(/[([{]/g)?.length ?? 0) - (code.match(/[)\]}]/g)?.length ?? 0);
    if (depth === 0 && /[;},]$/.test(code)) return i;
  }
  throw new RangeError(`Cannot find the end of "${lines[first]}"`);
}

/** A binding that a shader declares. */
export interface Binding {
  /** Name of the variable. */
  readonly name: string;
  /** Number of the binding. */
  readonly binding: number;
  /** The fields of a uniform's struct in order, each of four bytes; undefined if this is no uniform. */
  readonly fields: readonly { name: string; type: "u32" | "i32" | "f32" }[] | undefined;
  /** Whether the shader may write to it. */
  readonly isWritten: boolean;
}

/**
 * The bindings that the text of a shader declares.
 *
 * @throws {RangeError} if the struct of a uniform is missing, or a field is not u32, i32 or f32.
 */
export function bindingsOf(source: string): Binding[] {
  const declarations = source.matchAll(
    /^@group\(0\) @binding\((\d+)\) var<(storage|uniform)\b([^>]*)> (\w+): (\w+)/gm,
  );
  return [...declarations].map(([, binding, space, access, name, type]) => ({
    name: name!,
    binding: Number(binding),
    fields: space === "uniform" ? fieldsOf(source, type!) : undefined,
    isWritten: access!.includes("read_write"),
  }));
}

function fieldsOf(source: string, struct: string): NonNullable<Binding["fields"]> {
  const [, body] = new RegExp(`^struct ${struct} \\{[^\n]*\n([^}]*)\\}`, "m").exec(source) ?? [];
  if (body === undefined) {
    const [line] = new RegExp(`^struct ${struct}\\b.*`, "m").exec(source) ?? [];
    throw new RangeError(
      `Cannot fill the uniform ${struct} as its struct must be declared with one field per line: ` +
        (line === undefined ? "there is no such struct" : `current declaration is ${codeOf(line)}`),
    );
  }
  return body.split("\n").map(codeOf).filter((code) => code !== "").map((field) => {
    const [, name, type] = /^(\w+): (u32|i32|f32),$/.exec(field) ?? [];
    if (name === undefined) {
      throw new RangeError(
        `Cannot fill the uniform ${struct} as its fields must be u32, i32 or f32, one per line: ` +
          `current field is ${field}`,
      );
    }
    return { name, type: type as "u32" };
  });
}

/** First two lines of a loop to unroll: indent, variable, start, end, stride, comment. */
const UNROLLED_LOOP = String
  .raw`^ *// unroll\n( *)for \(var (\w+) = (\w+); \2 < (\w+); \2(?:\+\+| \+= (\w+))\) \{(.*)\n`;

/**
 * Unrolls every loop that a line `// unroll` precedes: each iteration becomes a separate block. Also removes the
 * lines that are only a comment.
 *
 * Naga adds a counter to every loop, which prevents compilers of drivers from unrolling it. An array that the
 * loop variable indexes is then kept in memory instead of registers. Such a loop has the form
 * `for (var i = 0u; i < N; i++) {`, and its bounds are numbers or top-level constants. Its closing brace stands
 * on a separate line, indented like the `for`.
 *
 * @throws {RangeError} if a bound is not a product of constants, or the closing brace is missing.
 */
export function unroll(source: string): string {
  const written = unrollPart(source, source);
  return written.split("\n").filter(isCode).join("\n");
}

/** Unrolls the loops in a part of the source. The body of a loop is unrolled once, then repeated. */
function unrollPart(source: string, text: string): string {
  const loops = new RegExp(UNROLLED_LOOP, "gm");
  let written = "", at = 0;
  for (let match; (match = loops.exec(text));) {
    const [, indent, variable, start, end, stride = "1", comment] = match;
    const closing = new RegExp(`^${indent}\\}( //.*)?$`, "gm");
    closing.lastIndex = loops.lastIndex;
    const brace = closing.exec(text);
    if (!brace) {
      throw new RangeError(`Cannot unroll a loop over "${variable}": its closing brace is missing`);
    }
    const body = unrollPart(source, text.slice(loops.lastIndex, brace.index));
    written += text.slice(at, match.index);
    const [last, step] = [valueOf(source, end!), valueOf(source, stride)];
    for (let i = valueOf(source, start!); i < last; i += step) {
      written += `${indent}{ const ${variable} = ${i}u;${comment}\n${body}${brace[0]}\n`;
    }
    at = closing.lastIndex + 1;
    loops.lastIndex = at;
  }
  return written + text.slice(at);
}

/** Value of an integer, or of an integer top-level constant, which may be a product or quotient of others. */
function valueOf(source: string, term: string): number {
  const literal = /^(\d+)u?$/.exec(term);
  if (literal) return Number(literal[1]);
  const declaration = new RegExp(`^const ${term}\\b[^=;]*= ([^;]+);`, "m").exec(source);
  const factors = declaration?.[1]?.split(/ ([*/]) /);
  if (!factors || !factors.every((part) => /^(\w+|[*/])$/.test(part))) {
    throw new RangeError(
      `Cannot unroll a loop up to "${term}" as it must be a product of constants`,
    );
  }
  let value = valueOf(source, factors[0]!);
  for (let i = 1; i < factors.length; i += 2) {
    const operand = valueOf(source, factors[i + 1]!);
    value = factors[i] === "*" ? value * operand : Math.floor(value / operand);
  }
  return value;
}
