/** Values for the top-level `const` and `alias` declarations of a shader. */
export type Constants = Readonly<Record<string, number | boolean | string>>;

/**
 * Returns the WGSL to compile for one set of constants.
 *
 * The initializers of the named top-level `const` and `alias` declarations are replaced; loops
 * marked `// unroll` are written out; `enable f16;` goes where no alias is f16.
 *
 * @throws {RangeError} if the shader declares no such name.
 */
export function specialize(source: string, constants: Constants): string {
  for (const [name, value] of Object.entries(constants)) {
    const declaration = new RegExp(`^((?:const|alias) ${name}\\b[^=;]*= )[^;]+;`, "m");
    if (!declaration.test(source)) {
      throw new RangeError(
        `Cannot specialize "${name}": the shader declares no such const or alias`,
      );
    }
    source = source.replace(declaration, `$1${value};`);
  }
  const usesF16 = /^alias \w+ = .*\bf16\b/m.test(source);
  return unroll(usesF16 ? source : source.replace(/^enable f16;$/m, ""));
}

const UNROLLED_LOOP = new RegExp(
  String.raw`^ *// unroll\n( *)for \(var (\w+) = (\w+); \2 < (\w+); \2(?:\+\+| \+= (\w+))\) \{\n`,
  "m",
);

/**
 * Writes out every loop that a line `// unroll` precedes, each turn as a block of its own.
 *
 * Naga bounds every loop with a counter, which keeps the drivers' compilers from unrolling, and an
 * array indexed by a loop variable then lives in memory instead of registers. The loops have the
 * form `for (var i = 0u; i < N; i++) {`, with bounds that are numbers or top-level constants, and
 * end at a brace indented like their `for`.
 */
function unroll(source: string): string {
  for (let match; (match = UNROLLED_LOOP.exec(source));) {
    const [head, indent, variable, start, end, stride] = match;
    const bodyStart = match.index + head.length;
    const bodyEnd = source.indexOf(`\n${indent}}`, bodyStart) + 1;
    const body = source.slice(bodyStart, bodyEnd);
    let turns = "";
    const step = stride ? valueOf(source, stride) : 1;
    for (let i = valueOf(source, start!); i < valueOf(source, end!); i += step) {
      turns += `${indent}{ const ${variable} = ${i}u;\n${body}${indent}}\n`;
    }
    const rest = source.slice(source.indexOf("}", bodyEnd) + 1).replace(/^\n/, "");
    source = source.slice(0, match.index) + turns + rest;
  }
  return source;
}

/** Value of an integer literal or of a top-level integer constant, products and quotients included. */
function valueOf(source: string, term: string): number {
  const literal = /^(\d+)u?$/.exec(term);
  if (literal) return Number(literal[1]);
  const declaration = new RegExp(`^const ${term}\\b[^=;]*= ([^;]+);`, "m").exec(source);
  const factors = declaration?.[1]?.split(/ ([*/]) /);
  if (!factors || !factors.every((part) => /^(\w+|[*/])$/.test(part))) {
    throw new RangeError(`Cannot unroll a loop up to "${term}": it is no product of constants`);
  }
  let value = valueOf(source, factors[0]!);
  for (let i = 1; i < factors.length; i += 2) {
    const operand = valueOf(source, factors[i + 1]!);
    value = factors[i] === "*" ? value * operand : Math.floor(value / operand);
  }
  return value;
}
