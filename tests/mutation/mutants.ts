import tokenize from "npm:js-tokens@10.0.1";

/**
 * The single mistakes that `deno task mutate` makes in a source text, TypeScript or WGSL.
 *
 * The sources are formatted, so tokens suffice: a binary operator stands between blanks, a type argument does
 * not.
 *
 * @module
 */

/** What kind of mistake. */
export type Operator =
  | "comparison"
  | "constant"
  | "sign"
  | "dropped statement"
  | "dropped barrier"
  | "swapped arguments";

/** One mistake: the text from `start` to `end` becomes `replacement`. */
export interface Mutant {
  readonly operator: Operator;
  readonly start: number;
  readonly end: number;
  readonly replacement: string;
}

/** A token that is neither blank nor comment. */
interface Token {
  readonly type: string;
  readonly value: string;
  readonly start: number;
  readonly end: number;
  /** Whether a blank or a new line comes before it, and after it. */
  readonly spaced: boolean;
}

const COMPARISONS: Readonly<Record<string, string>> = {
  "<": "<=",
  "<=": "<",
  ">": ">=",
  ">=": ">",
  "==": "!=",
  "!=": "==",
  "===": "!==",
  "!==": "===",
};

const SIGNS: Readonly<Record<string, string>> = { "+": "-", "-": "+", "+=": "-=", "-=": "+=" };

const ASSIGNMENT = /^(\*\*|\?\?|&&|\|\||<<|>>>?|[-+*/%&|^])?=$|^(\+\+|--)$/;

/** Functions whose first arguments may stand in any order, and how many these are. */
const SYMMETRIC: ReadonlyMap<string, number> = new Map([
  ["min", Infinity],
  ["max", Infinity],
  ["hypot", Infinity],
  ["dot", 2],
  ["imul", 2],
  ["fma", 2],
]);

const BARRIER = /^(workgroup|storage)Barrier$/;

/** Words that do not begin an expression statement, or are followed by a parenthesis that is no call. */
const KEYWORDS = new Set(
  ("abstract alias as break case catch class const const_assert continue declare default diagnostic discard do " +
    "else enable enum export fn for function get if import interface let loop new override private protected " +
    "public readonly requires return set static struct switch throw try type using var while yield")
    .split(" "),
);

/**
 * All mistakes that can be made in a text, in its order.
 *
 * @param replaced names of constants of a shader whose values are replaced before it is compiled, so that
 * nothing can notice a mistake in them.
 */
export function mutantsOf(text: string, replaced: ReadonlySet<string> = new Set()): Mutant[] {
  const tokens = significant(text);
  const closing = brackets(tokens);
  return [
    ...operators(tokens),
    ...constants(text, tokens),
    ...statements(tokens, closing),
    ...swaps(text, tokens, closing),
  ].filter(({ start }) => !replaced.has(constantAt(text, start) ?? ""))
    .sort((a, b) => a.start - b.start);
}

/** The constant of a shader in whose declaration a place is. */
function constantAt(text: string, at: number): string | undefined {
  return /^const (\w+)/.exec(text.slice(text.lastIndexOf("\n", at) + 1))?.[1];
}

/** A text with one mistake. */
export function mutate(text: string, { start, end, replacement }: Mutant): string {
  return text.slice(0, start) + replacement + text.slice(end);
}

function significant(text: string): Token[] {
  const tokens: { type: string; value: string; start: number; end: number; spaced: boolean }[] = [];
  let at = 0, blank = true;
  for (const { type, value } of tokenize(text)) {
    const start = at;
    at += value.length;
    if (/^(WhiteSpace|LineTerminatorSequence|\w+Comment)$/.test(type)) {
      blank = true;
      continue;
    }
    // spaced on its left; what is on its right is known from the next token
    tokens.push({ type, value, start, end: at, spaced: blank });
    blank = false;
  }
  return tokens;
}

/** For each opening bracket the place of the one that closes it, and for every token the innermost one open. */
function brackets(tokens: readonly Token[]): { closes: Map<number, number>; within: number[] } {
  const closes = new Map<number, number>(), within: number[] = [], open: number[] = [];
  for (const [i, { value, type }] of tokens.entries()) {
    if (/^[)\]}]$/.test(value) || /^Template(Middle|Tail)$/.test(type)) {
      const opening = open.pop();
      if (opening !== undefined) closes.set(opening, i);
    }
    within.push(open.at(-1) ?? -1);
    if (/^[([{]$/.test(value) || /^Template(Head|Middle)$/.test(type)) open.push(i);
  }
  return { closes, within };
}

function operators(tokens: readonly Token[]): Mutant[] {
  const isText = (token?: Token) => /^(String|Template|NoSubstitution)/.test(token?.type ?? "");
  return tokens.flatMap((token, i): Mutant[] => {
    const { type, value, start, end, spaced } = token;
    if (type !== "Punctuator") return [];
    const before = tokens[i - 1], after = tokens[i + 1];
    const make = (operator: Operator, replacement: string) => [
      { operator, start, end, replacement },
    ];
    if (spaced && after?.spaced) {
      if (COMPARISONS[value]) return make("comparison", COMPARISONS[value]);
      if (SIGNS[value] && !isText(before) && !isText(after)) return make("sign", SIGNS[value]);
    }
    const isPrefix = value === "-" && !after?.spaced &&
      /^([([{,:?<>]|.*=>?|[-+*/%]|&&|\|\||return)$/.test(before?.value ?? "");
    return isPrefix ? make("sign", "") : [];
  });
}

function constants(text: string, tokens: readonly Token[]): Mutant[] {
  return tokens.flatMap(({ type, value, start, end }): Mutant[] => {
    if (type !== "NumericLiteral" || value.endsWith("n")) return [];
    const number = Number(value.replaceAll("_", ""));
    if (Number.isNaN(number) || !Number.isFinite(number)) return [];
    const isHex = /^0x/i.test(value);
    const isDecimal = value.includes(".") || text[end] === "f" || text[end] === "h";
    const write = (changed: number) =>
      isHex
        ? `0x${changed.toString(16)}`
        : isDecimal && Number.isInteger(changed)
        ? `${changed}.0`
        : String(changed);
    return [number + 1, ...(number >= 1 ? [number - 1] : [])].map((changed) => ({
      operator: "constant",
      start,
      end,
      replacement: write(changed),
    }));
  });
}

/** Expression statements, without their effect. */
function statements(
  tokens: readonly Token[],
  { within, closes }: ReturnType<typeof brackets>,
): Mutant[] {
  return tokens.flatMap(({ type, value, start }, i): Mutant[] => {
    if (!/^(IdentifierName|PrivateIdentifier)$/.test(type) || KEYWORDS.has(value)) return [];
    const before = tokens[i - 1];
    if (before && !/^[{};]$/.test(before.value)) return [];
    const block = within[i]!;
    if (block !== -1 && tokens[block]!.value !== "{") return [];
    let acts = false, last = i;
    for (; last < tokens.length && tokens[last]!.value !== ";"; last++) {
      const token = tokens[last]!;
      if (within[last] !== block) continue;
      // a member of a type, a key of an object, a label or a method
      if (/^[:,{}]$/.test(token.value)) return [];
      acts ||= token.value === "(" || ASSIGNMENT.test(token.value);
      if (closes.has(last)) last = closes.get(last)!;
    }
    if (!acts || last === tokens.length) return [];
    const operator = BARRIER.test(value) ? "dropped barrier" : "dropped statement";
    return [{ operator, start, end: tokens[last]!.end, replacement: ";" }];
  });
}

/** Calls with two neighbouring arguments in each other's place. */
function swaps(
  text: string,
  tokens: readonly Token[],
  { closes, within }: ReturnType<typeof brackets>,
): Mutant[] {
  return tokens.flatMap(({ value }, i): Mutant[] => {
    const callee = tokens[i - 1], close = closes.get(i);
    if (value !== "(" || close === undefined || callee?.type !== "IdentifierName") return [];
    if (KEYWORDS.has(callee.value) && callee.value !== "super") return [];
    const symmetric = SYMMETRIC.get(callee.value) ?? 0;
    if (/^(function|fn|get|set|async)$/.test(tokens[i - 2]?.value ?? "")) return [];
    if (/^([{:]|=>|->)$/.test(tokens[close + 1]?.value ?? "")) return [];
    const commas = tokens.flatMap(({ value }, at) => value === "," && within[at] === i ? [at] : []);
    const edges = [i, ...commas, close];
    const parts = edges.slice(1).map((edge, k) => ({
      start: tokens[edges[k]! + 1]!.start,
      end: tokens[edge - 1]!.end,
    })).filter(({ start, end }) => start < end); // a comma may end the list
    return parts.slice(1).flatMap((second, k): Mutant[] => {
      if (k + 2 <= symmetric) return [];
      const first = parts[k]!;
      const [a, b] = [first, second].map(({ start, end }) => text.slice(start, end)) as [
        string,
        string,
      ];
      if (a === b || [a, b].some((part) => /=>|^\.\.\.|^[{"'`]/.test(part))) return [];
      return [{
        operator: "swapped arguments",
        start: first.start,
        end: second.end,
        replacement: b + text.slice(first.end, second.start) + a,
      }];
    });
  });
}
