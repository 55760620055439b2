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

/** First two lines of a loop to write out: indent, variable, start, end, stride. */
const UNROLLED_LOOP = String
  .raw`^ *// unroll\n( *)for \(var (\w+) = (\w+); \2 < (\w+); \2(?:\+\+| \+= (\w+))\) \{\n`;

/**
 * Writes out every loop that a line `// unroll` precedes, each turn as a block of its own.
 *
 * Naga bounds every loop with a counter, which keeps the drivers' compilers from unrolling, and an
 * array indexed by a loop variable then lives in memory instead of registers. The loops have the
 * form `for (var i = 0u; i < N; i++) {`, with bounds that are numbers or top-level constants, and
 * end at a brace that has its line to itself and is indented like their `for`.
 *
 * @param source the shader, whose constants are the bounds.
 * @param text the part of it to write out: loops within a loop are written out once, then repeated.
 */
function unroll(source: string, text = source): string {
  const loops = new RegExp(UNROLLED_LOOP, "gm");
  let written = "", at = 0;
  for (let match; (match = loops.exec(text));) {
    const [, indent, variable, start, end, stride = "1"] = match;
    const bodyEnd = text.indexOf(`\n${indent}}\n`, loops.lastIndex - 1) + 1;
    if (bodyEnd === 0) {
      throw new RangeError(`Cannot unroll a loop over "${variable}": its closing brace is missing`);
    }
    const body = unroll(source, text.slice(loops.lastIndex, bodyEnd));
    written += text.slice(at, match.index);
    const [last, step] = [valueOf(source, end!), valueOf(source, stride)];
    for (let i = valueOf(source, start!); i < last; i += step) {
      written += `${indent}{ const ${variable} = ${i}u;\n${body}${indent}}\n`;
    }
    at = bodyEnd + `${indent}}\n`.length;
    loops.lastIndex = at;
  }
  return written + text.slice(at);
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
