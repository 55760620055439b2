import type { Package } from "../../files/packages.ts";
import { UnsupportedTokenizer } from "./tokenizer_file.ts";

/**
 * Regular expressions of a `tokenizer.json`, matched in time that is linear in the length of the text.
 *
 * JavaScript's own matcher backtracks: on a pattern such as `(a+)+$` a text of forty letters takes hours, and
 * nothing in the same thread can interrupt it. This one backtracks in the same order, so that it finds the same
 * matches, but never tries a choice again at a position where the choice has failed before: without
 * backreferences a failure depends on nothing else (Davis et al. 2021, "Using selective memoization to defeat
 * regular expression denial of service").
 *
 * @module
 */

/** Where a part of a text begins and ends. */
export type Span = [start: number, end: number];

/** Finds what a pattern matches. */
export interface Pattern {
  /** The matches, one after the other, as `String.prototype.matchAll()` gives them. */
  matches(text: string): Span[];
}

/** Thrown if a pattern cannot be matched in linear time; the message completes "its patterns must …". */
export class UnboundedPattern extends Error {}

/** A pattern that JavaScript's matcher finds in linear time too, such as a class of characters; no match is empty. */
export function harmless(regexp: RegExp): Pattern {
  return {
    matches(text) {
      const found: Span[] = [];
      regexp.lastIndex = 0;
      for (let match; (match = regexp.exec(text));) found.push([match.index, regexp.lastIndex]);
      return found;
    },
  };
}

/** A text in which `content` replaces whatever a pattern matches. */
export function replaceMatches(text: string, pattern: Pattern, content: string): string {
  let replaced = "", done = 0;
  for (const [start, end] of pattern.matches(text)) {
    replaced += text.slice(done, start) + content;
    done = end;
  }
  return replaced + text.slice(done);
}

/** Longest pattern. */
const LONGEST_PATTERN = 10_000;

/** Makes the matcher of a pattern as a `tokenizer.json` writes it. */
export type PatternOf = (pattern: unknown) => Pattern;

/** Escapes and classes of a pattern, beginnings of its atomic groups, and its possessive quantifiers. */
const PATTERN_PARTS = /\\[^]|\[(?:\\[^]|[^\\\]])*\]|\(\?>|[*+?]\+/g;

/** Makes the function that translates the patterns of a `tokenizer.json`, which are written for Oniguruma. */
export function createPatternOf(
  library: Package<"@huggingface/tokenizers"> | undefined,
): PatternOf {
  return (pattern) => {
    const { String: text, Regex: regex } = (pattern ?? {}) as { String?: unknown; Regex?: unknown };
    if (typeof text === "string" && text !== "") {
      return harmless(new RegExp(RegExp.escape(text), "gu"));
    }
    if (typeof regex !== "string") {
      throw new UnsupportedTokenizer("its patterns must be texts that are not empty", pattern);
    }
    if (regex.length > LONGEST_PATTERN) {
      throw new UnsupportedTokenizer(
        `its patterns must have at most ${LONGEST_PATTERN} characters`,
        regex.length,
      );
    }
    // JavaScript has neither, and without them the words may differ
    if (regex.match(PATTERN_PARTS)?.some((part) => /^(?:\(\?>|[*+?]\+)$/.test(part))) {
      throw new UnsupportedTokenizer(
        "its patterns must have no possessive quantifiers and no atomic groups",
        regex,
      );
    }
    let translated: RegExp;
    try {
      const split = new library!.SplitPreTokenizer({
        type: "Split",
        pattern: { Regex: regex },
        behavior: "Isolated",
        invert: false,
      } as never) as unknown as { pattern: RegExp };
      translated = split.pattern;
    } catch {
      throw new UnsupportedTokenizer("its patterns must be ones that JavaScript can match", regex);
    }
    try {
      return createPattern(translated);
    } catch (error) {
      if (!(error instanceof UnboundedPattern)) throw error;
      throw new UnsupportedTokenizer(`its patterns must ${error.message}`, regex);
    }
  };
}

/** Deepest nesting of a pattern, and most steps of the program that it becomes. */
const DEEPEST = 50, MOST_STEPS = 1000;

/** Modifiers of a part of a pattern: `(?i:…)`. */
type Flags = string;

type Node =
  | { kind: "literal"; codePoint: number }
  | { kind: "class"; characters: CharacterClass }
  | { kind: "sequence"; nodes: Node[] }
  | { kind: "choice"; nodes: Node[] }
  | { kind: "repeat"; node: Node; least: number; most: number; lazy: boolean }
  | { kind: "look"; node: Node; back: boolean; negative: boolean }
  | { kind: "begin" | "end" };

/**
 * Makes the matcher of a regular expression.
 *
 * @param regexp with the flags `g` and `u`.
 * @throws {UnboundedPattern} if it has backreferences or is too large.
 */
export function createPattern(regexp: RegExp): Pattern {
  const node = new Parser(regexp.source).parse(regexp.flags);
  const { kind } = node.kind === "repeat" && node.least > 0 ? node.node : node;
  // a run of one class leaves no choice, and JavaScript's own matcher is faster
  return kind === "class" ? harmless(regexp) : new Matcher(new Program(node));
}

/** A set of characters, such as `\p{L}` or `[^\s]`; each character is tested once, then remembered. */
class CharacterClass {
  readonly #regexp: RegExp;
  readonly #basic = new Uint8Array(0x10000); // 0 unknown, 1 outside, 2 inside
  readonly #others = new Map<number, boolean>();

  constructor(source: string, flags: Flags) {
    this.#regexp = new RegExp(`^(?:${source})$`, flags);
  }

  has(codePoint: number): boolean {
    if (codePoint < 0x10000) {
      const known = this.#basic[codePoint]!;
      return (known || (this.#basic[codePoint] = this.#ask(codePoint) ? 2 : 1)) === 2;
    }
    const known = this.#others.get(codePoint) ?? this.#ask(codePoint);
    this.#others.set(codePoint, known);
    return known;
  }

  #ask(codePoint: number): boolean {
    return this.#regexp.test(String.fromCodePoint(codePoint));
  }
}

/** A character of a pattern that is written with a backslash. */
const ESCAPE = /\\(?:[pP]\{[^}]*\}|u\{[^}]*\}|u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|x..|c.|[^])/uy;

/** A class in brackets. */
const BRACKETS = /\[(?:[^\\\]]|\\[^])*\]/uy;

const GROUP = /\((?:\?(?:<[^=!>]+>|:|<?[=!]|([ims]*)(?:-([ims]*))?:))?/uy;

const QUANTIFIER = /(?:[*+?]|\{(\d+)(?:(,)(\d*))?\})(\?)?/uy;

/** Parses a pattern that JavaScript has accepted with the flag `u`. */
class Parser {
  readonly #source: string;
  readonly #classes = new Map<string, CharacterClass>();
  #at = 0;
  #depth = 0;

  constructor(source: string) {
    this.#source = source;
  }

  parse(flags: Flags): Node {
    return this.#choice([...flags].filter((flag) => "imsu".includes(flag)).join(""));
  }

  #take(expression: RegExp): RegExpExecArray | undefined {
    expression.lastIndex = this.#at;
    const found = expression.exec(this.#source) ?? undefined;
    this.#at += found?.[0].length ?? 0;
    return found;
  }

  #choice(flags: Flags): Node {
    if (++this.#depth > DEEPEST) throw new UnboundedPattern(`nest at most ${DEEPEST} deep`);
    const nodes: Node[] = [];
    do nodes.push(this.#sequence(flags)); while (this.#take(/\|/uy));
    this.#depth--;
    return nodes.length === 1 ? nodes[0]! : { kind: "choice", nodes };
  }

  #sequence(flags: Flags): Node {
    const nodes: Node[] = [];
    while (this.#at < this.#source.length && !/[|)]/.test(this.#source[this.#at]!)) {
      const node = this.#term(flags), quantifier = this.#take(QUANTIFIER);
      if (!quantifier) {
        nodes.push(node);
        continue;
      }
      const [text, from, comma, to, lazy] = quantifier;
      const least = from === undefined ? text.startsWith("+") ? 1 : 0 : Number(from);
      const most = text.startsWith("?")
        ? 1
        : from !== undefined && !comma
        ? least
        : Number(to || Infinity);
      nodes.push({ kind: "repeat", node, least, most, lazy: lazy !== undefined });
    }
    return nodes.length === 1 ? nodes[0]! : { kind: "sequence", nodes };
  }

  #term(flags: Flags): Node {
    const group = this.#take(GROUP);
    if (group) {
      const [opening, on = "", off = ""] = group;
      const node = this.#choice(
        [...new Set([...flags, ...on])].filter((flag) => !off.includes(flag)).join(""),
      );
      this.#at++; // its closing parenthesis
      if (!/[=!]$/.test(opening)) return node;
      return {
        kind: "look",
        node,
        back: opening.startsWith("(?<"),
        negative: opening.endsWith("!"),
      };
    }
    const escape = this.#take(ESCAPE)?.[0];
    if (escape && /^\\[1-9kbB]/.test(escape)) {
      throw new UnboundedPattern("have no backreferences");
    }
    const written = escape ?? this.#take(BRACKETS)?.[0] ?? this.#take(/[^]/uy)![0];
    if (written === "^" || written === "$") {
      if (flags.includes("m")) throw new UnboundedPattern("have no modifier m");
      return { kind: written === "^" ? "begin" : "end" };
    }
    const codePoint = written.codePointAt(0)!;
    const isLiteral = String.fromCodePoint(codePoint) === written && written !== ".";
    if (isLiteral && !flags.includes("i")) return { kind: "literal", codePoint };
    const key = `${flags} ${written}`;
    const characters = this.#classes.get(key) ?? new CharacterClass(written, flags);
    this.#classes.set(key, characters);
    return { kind: "class", characters };
  }
}

/** Whether a part of a pattern may match nothing. */
function isNullable(node: Node): boolean {
  switch (node.kind) {
    case "literal":
    case "class":
      return false;
    case "sequence":
      return node.nodes.every(isNullable);
    case "choice":
      return node.nodes.some(isNullable);
    case "repeat":
      return node.least === 0 || isNullable(node.node);
    default:
      return true;
  }
}

/** What a step does. */
const MATCH = 0,
  LITERAL = 1,
  CLASS = 2,
  SPLIT = 3,
  FILTERED = 4,
  RUN = 5,
  LOOK = 6,
  BEGIN = 7,
  END = 8;

/** A step of a program. */
interface Step {
  op: number;
  /** The step that follows. */
  next: number;
  /** Of a split: the step to take if `next` leads nowhere. Of a `LOOK`: its first step. */
  other: number;
  /** Of a split: its number among them. Of a `LITERAL`: the code point. */
  readonly value: number;
  /** Of a `CLASS`. */
  readonly characters: CharacterClass | undefined;
  /** Whether the character before the position is tested, as in a lookbehind. */
  readonly back: boolean;
  /** Of a `LOOK`: whether it must lead nowhere. */
  readonly negative: boolean;
}

/** A pattern as a list of steps. */
class Program {
  readonly steps: Step[] = [];
  readonly first: number;
  splits = 0;

  constructor(pattern: Node) {
    this.first = this.#compile(pattern, this.#add(MATCH), false);
  }

  #add(op: number, operands: Partial<Step> = {}): number {
    if (this.steps.length === MOST_STEPS) {
      throw new UnboundedPattern(`come to at most ${MOST_STEPS} steps`);
    }
    return this.steps.push({
      op,
      next: operands.next ?? 0,
      other: operands.other ?? 0,
      value: operands.value ?? 0,
      characters: operands.characters,
      back: operands.back ?? false,
      negative: operands.negative ?? false,
    }) - 1;
  }

  /** A choice whose `other` way does not lead back to it. */
  #split(next: number, other: number): number {
    const isCharacter = [LITERAL, CLASS].includes(this.steps[next]!.op);
    return this.#add(isCharacter ? FILTERED : SPLIT, { next, other, value: this.splits++ });
  }

  /** Adds the steps of a part that is followed by step `next`, the last one first; gives the first. */
  #compile(node: Node, next: number, back: boolean): number {
    switch (node.kind) {
      case "literal":
        return this.#add(LITERAL, { value: node.codePoint, back, next });
      case "class":
        return this.#add(CLASS, { characters: node.characters, back, next });
      case "sequence":
        return (back ? node.nodes : node.nodes.toReversed())
          .reduce((next, part) => this.#compile(part, next, back), next);
      case "choice":
        return node.nodes.map((part) => this.#compile(part, next, back))
          .reduceRight((other, first) => this.#split(first, other));
      case "look": {
        const other = this.#compile(node.node, this.#add(MATCH), node.back);
        return this.#add(LOOK, { other, negative: node.negative, next });
      }
      case "repeat":
        return this.#repeat(node, next, back);
      default:
        return this.#add(node.kind === "begin" ? BEGIN : END, { next });
    }
  }

  #repeat(
    { node, least, most, lazy }: Node & { kind: "repeat" },
    next: number,
    back: boolean,
  ): number {
    // an empty iteration would have to be told apart from others
    if (least !== most && isNullable(node)) {
      throw new UnboundedPattern("not repeat what may be empty");
    }
    let first = next;
    if (most === Infinity) {
      first = this.#add(SPLIT, { next, other: next, value: this.splits++ });
      const body = this.#compile(node, first, back);
      const split = this.steps[first]!;
      split[lazy ? "other" : "next"] = body;
      const isCharacter = node.kind === "literal" || node.kind === "class";
      if (isCharacter && !lazy && !back) split.op = RUN;
    } else {
      for (let i = least; i < most; i++) {
        const body = this.#compile(node, first, back);
        first = lazy ? this.#split(next, body) : this.#split(body, next);
      }
    }
    for (let i = 0, before = -1; i < least && this.steps.length > before; i++) {
      before = this.steps.length; // what adds no steps, as (){9}, need not be added again
      first = this.#compile(node, first, back);
    }
    return first;
  }
}

/** What is known of a split at a position: nothing, that it fails, or that it leads to a match. */
const UNKNOWN = 0, FAILED = 1, LEADS = 2;

/** What is known is kept in blocks of 2 to this power of positions. */
const BLOCK_BITS = 10;

/** Runs a program on texts. */
class Matcher implements Pattern {
  readonly #program: Program;
  /** What is known: by block, and in it by position, then by split. */
  readonly #blocks: (Uint8Array | undefined)[] = [];
  readonly #spare: Uint8Array[] = [];
  /**
   * The splits that led here: step, position, and 1 if it is `other` that is being tried; of a `RUN` step, its
   * end as far as it is tried, and its start.
   */
  #way = new Int32Array(3 * 1024);
  #top = 0;

  constructor(program: Program) {
    this.#program = program;
  }

  matches(text: string): Span[] {
    const found: Span[] = [];
    let kept = 0; // blocks before this one are no longer needed
    for (let at = 0; at <= text.length;) {
      const end = this.#run(text, this.#program.first, at, UNKNOWN);
      if (end >= 0) found.push([at, end]);
      at = end > at ? end : at + widthAt(text, at);
      for (; kept < at >> BLOCK_BITS; kept++) this.#forget(kept);
    }
    for (; kept < this.#blocks.length; kept++) this.#forget(kept);
    this.#blocks.length = 0;
    return found;
  }

  /**
   * Follows the program from a step.
   *
   * @param success what is known of the splits on a way to the end: `LEADS` if it does not matter to which end.
   * @returns the end of the match, or −1.
   */
  #run(text: string, first: number, from: number, success: number): number {
    const { steps } = this.#program;
    const base = this.#top;
    for (let step = first, at = from;;) {
      const { op, next, other, back, negative } = steps[step]!;
      let goes: boolean;
      switch (op) {
        case MATCH:
          return this.#leave(text, base, success, at);
        case FILTERED: // most choices end at the next character, and nothing needs to be noted of them
          if (!this.#fits(steps[next]!, text, at)) {
            step = other;
            continue;
          }
        // falls through
        case SPLIT: {
          const known = this.#enter(step, at);
          if (known === LEADS) return this.#leave(text, base, success, at);
          goes = known === UNKNOWN;
          if (goes) this.#push(step, at, 0);
          break;
        }
        case RUN: { // as a split at each of its characters would
          const start = at;
          let known = this.#enter(step, at);
          if (known === LEADS) return this.#leave(text, base, success, at);
          goes = false;
          if (known === FAILED) break;
          while (this.#fits(steps[next]!, text, at)) {
            const after = at + widthAt(text, at);
            known = this.#enter(step, after);
            if (known === FAILED) break;
            at = after;
            if (known === LEADS) break;
          }
          this.#push(step, at, start);
          if (known === LEADS) return this.#leave(text, base, success, at);
          step = other;
          continue;
        }
        case LOOK:
          goes = (this.#run(text, other, at, LEADS) >= 0) !== negative;
          break;
        case BEGIN:
          goes = at === 0;
          break;
        case END:
          goes = at === text.length;
          break;
        default:
          goes = this.#fits(steps[step]!, text, at);
          if (goes) at += back ? -widthBefore(text, at) : widthAt(text, at);
      }
      if (goes) {
        step = next;
        continue;
      }
      const way = this.#way;
      for (;; this.#top -= 3) {
        if (this.#top === base) return -1;
        const last = this.#top, split = steps[way[last - 3]!]!;
        const end = way[last - 2]!, state = way[last - 1]!;
        at = end;
        step = split.other;
        if (split.op === RUN) {
          if (end === state) continue;
          at = way[last - 2] = end - widthBefore(text, end);
          break;
        }
        if (state === 1) continue;
        way[last - 1] = 1;
        break;
      }
    }
  }

  /** Whether a `LITERAL` or `CLASS` has the character at a position. */
  #fits({ characters, value, back }: Step, text: string, at: number): boolean {
    const start = back ? at - widthBefore(text, at) : at;
    if (start < 0 || start >= text.length) return false;
    const unit = text.charCodeAt(start),
      codePoint = unit < 0xd800 ? unit : text.codePointAt(start)!;
    return characters === undefined ? codePoint === value : characters.has(codePoint);
  }

  /** Ends a run successfully: notes what is known of the splits on its way. */
  #leave(text: string, base: number, success: number, end: number): number {
    const { steps } = this.#program, way = this.#way;
    for (; this.#top > base; this.#top -= 3) {
      const step = way[this.#top - 3]!, at = way[this.#top - 2]!;
      const start = steps[step]!.op === RUN ? way[this.#top - 1]! : at;
      for (let place = start; place <= at; place += widthAt(text, place)) {
        this.#blocks[place >> BLOCK_BITS]![this.#placeOf(step, place)] = success;
      }
    }
    return end;
  }

  /** What is known of a split at a position. The split then counts as failed until a match is found. */
  #enter(step: number, at: number): number {
    const block = this.#blocks[at >> BLOCK_BITS] ?? this.#newBlock(at >> BLOCK_BITS);
    const place = this.#placeOf(step, at), known = block[place]!;
    if (known === UNKNOWN) block[place] = FAILED;
    return known;
  }

  #placeOf(step: number, at: number): number {
    const { splits, steps } = this.#program;
    return (at & (1 << BLOCK_BITS) - 1) * splits + steps[step]!.value;
  }

  #push(step: number, at: number, state: number): void {
    if (this.#top === this.#way.length) {
      const longer = new Int32Array(2 * this.#way.length);
      longer.set(this.#way);
      this.#way = longer;
    }
    this.#way[this.#top++] = step;
    this.#way[this.#top++] = at;
    this.#way[this.#top++] = state;
  }

  #newBlock(index: number): Uint8Array {
    return this.#blocks[index] = this.#spare.pop() ??
      new Uint8Array(this.#program.splits << BLOCK_BITS);
  }

  #forget(index: number): void {
    const block = this.#blocks[index];
    this.#blocks[index] = undefined;
    if (block) this.#spare.push(block.fill(UNKNOWN));
  }
}

/** UTF-16 units of the character that begins at a position. */
function widthAt(text: string, at: number): number {
  return text.charCodeAt(at) < 0xd800 || text.codePointAt(at)! <= 0xffff ? 1 : 2;
}

/** UTF-16 units of the character that ends at a position. */
function widthBefore(text: string, at: number): number {
  return at > 1 && text.codePointAt(at - 2)! > 0xffff ? 2 : 1;
}
