import { load, type Package } from "../../files/packages.ts";
import { printable, quoted } from "../../files/printable.ts";

/**
 * Jinja as chat templates use it: a template is rendered as Hugging Face transformers renders it, within bounds, and
 * the parts between `{% generation %}` and `{% endgeneration %}` are found.
 *
 * @module
 */

/** A part of a text or of tokens, from `start` to before `end`. */
export interface Span {
  /** Where it begins. */
  readonly start: number;
  /** Where it ends. */
  readonly end: number;
}

/** A rendered template. */
export interface Rendered {
  /** The text. */
  readonly text: string;
  /** The parts of the text that the template marks as generated; undefined if it has no such marks. */
  readonly generated?: readonly Span[];
}

/** Renders a template with these variables. */
export type Renderer = (variables: Readonly<Record<string, unknown>>) => Rendered;

/** A template that is not Jinja, exceeds a bound, or refuses the variables; the message completes a sentence. */
export class TemplateError extends Error {}

/**
 * Most steps of a rendering: expressions and statements; for loops and copies of texts as many as take about the same
 * time. Templates in use take some hundred per message, and a million take a second.
 */
const MOST_STEPS = 1_000_000;

/** Steps of an element of a loop, before the body is evaluated. */
const STEPS_PER_ELEMENT = 4;

/** Most elements of a list, and most UTF-16 units of a text, which `split()` may turn into as many elements. */
const MOST_ELEMENTS = 2 ** 20, MOST_UNITS = 2 ** 24;

/** Most white space between other characters of a template: the library takes quadratic time to read it. */
const MOST_SPACE = 250;

type Jinja = Package<"@huggingface/jinja">;
type Statement = Parameters<InstanceType<Jinja["Interpreter"]>["evaluate"]>[0];
type Environment = InstanceType<Jinja["Environment"]>;
type Value = ReturnType<Environment["lookupVariable"]>;

/** Around generated parts while a template is rendered: halves of characters, which no other text has. */
const GENERATED = { start: "\ud800", end: "\ud801" };

/** The function whose `call` blocks stand for `{% generation %}`, which the library drops. */
const MARK = "mark_as_generated";

/**
 * Makes the renderer of a template.
 *
 * @param options.now the date that `strftime_now()` gives; without it the function is absent, and templates use the
 * date that they fall back to.
 * @throws {TemplateError} if the template is not Jinja; its renderer throws it too.
 */
export async function createRenderer(
  template: string,
  { now }: { now?: Date | undefined } = {},
): Promise<Renderer> {
  const jinja = await load("@huggingface/jinja");
  const marked = template.replace(/\r\n?/g, "\n")
    .replace(/\{%(-?)\s*generation\s*(-?)%\}/g, `{%$1 call ${MARK}() $2%}`)
    .replace(/\{%(-?)\s*endgeneration\s*(-?)%\}/g, "{%$1 endcall $2%}");
  if (new RegExp(`\\s{${MOST_SPACE + 1}}`).test(template)) {
    throw new TemplateError(`it has more than ${MOST_SPACE} characters of white space in a row`);
  }
  const program = attempt(() => {
    const tokens = jinja.tokenize(marked, { lstrip_blocks: true, trim_blocks: true });
    try {
      return jinja.parse(tokens);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // of a token behind the last one
      throw new TemplateError(
        "it ends before a block does, such as {% for %} without {% endfor %}",
      );
    }
  });
  const hasMarks = marked.includes(`call ${MARK}()`), Interpreter = boundedInterpreter(jinja);
  return (variables) => {
    const environment = environmentOf(jinja, variables, now);
    const text = attempt(() => String(new Interpreter(environment).run(program).value));
    return hasMarks ? withoutMarks(text) : { text };
  };
}

/** Runs an action of the library, whose errors are of all kinds. */
function attempt<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof TemplateError) throw error;
    const isDeep = error instanceof RangeError; // the stack, or the length of a string
    throw new TemplateError(isDeep ? "it exceeds the memory" : printable((error as Error).message));
  }
}

/** The text without the marks, and what was between them; of marks within each other the outer ones count. */
function withoutMarks(marked: string): Rendered {
  const generated: Span[] = [];
  let text = "", depth = 0, start = 0;
  for (const part of marked.split(/([\ud800\ud801])/u)) { // with the flag u, halves of whole characters do not match
    if (part === GENERATED.start) {
      if (depth++ === 0) start = text.length;
    } else if (part === GENERATED.end) {
      if (--depth === 0 && text.length > start) generated.push({ start, end: text.length });
    } else {
      text += part;
    }
  }
  return { text, generated };
}

/** What a template finds: the variables, and the functions that transformers gives it. */
function environmentOf(
  { Environment }: Jinja,
  variables: Readonly<Record<string, unknown>>,
  now: Date | undefined,
): Environment {
  const environment = new Environment();
  for (const [name, value] of [["true", true], ["false", false], ["none", null]] as const) {
    environment.set(name, value);
    environment.set(name[0]!.toUpperCase() + name.slice(1), value);
  }
  environment.set("raise_exception", (message: unknown) => {
    throw new TemplateError(`it says ${quoted(String(message))}`);
  });
  environment.set("range", boundedRange);
  if (now) environment.set("strftime_now", (format: unknown) => strftime(now, String(format)));
  const mark = environment.set(MARK, () => "");
  mark.value = (_: unknown, scope: Environment) => {
    const caller = scope.lookupVariable("caller") as { value: (...given: unknown[]) => Value };
    const body = caller.value([], scope);
    return Object.assign(body, { value: GENERATED.start + body.value + GENERATED.end });
  };
  for (const [name, value] of Object.entries(variables)) environment.set(name, value);
  return environment;
}

function boundedRange(...given: number[]): number[] {
  const [start, stop, step = 1] = given.length === 1 ? [0, given[0]!] : given as [number, number];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  checkSize({ length: count }, MOST_ELEMENTS);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** The directives of `strftime()` that chat templates use, in English. */
function strftime(date: Date, format: string): string {
  const part = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en", options).format(date);
  const two = (value: number) => `${value}`.padStart(2, "0");
  const directives: Readonly<Record<string, () => string>> = {
    Y: () => `${date.getFullYear()}`,
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    b: () => part({ month: "short" }),
    B: () => part({ month: "long" }),
    a: () => part({ weekday: "short" }),
    A: () => part({ weekday: "long" }),
    H: () => two(date.getHours()),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    "%": () => "%",
  };
  return format.replace(/%(.)/g, (whole, name) => directives[name]?.() ?? whole);
}

/** White space that Python's `str.strip()` removes; JavaScript's `trim()` differs in six characters. */
const PYTHON_SPACE =
  "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

/** Python's `strip`, `lstrip` or `rstrip` of a text, of these characters or of white space. */
function strip(text: string, method: string, characters?: string | null): string {
  const set = characters == null ? PYTHON_SPACE : characters.replace(/[\\\]^-]/g, "\\$&");
  if (set === "") return text;
  let stripped = text;
  if (method !== "rstrip") stripped = stripped.replace(new RegExp(`^[${set}]+`, "u"), "");
  if (method !== "lstrip") {
    // from the end, because a pattern that ends with $ takes quadratic time
    const one = new RegExp(`^[${set}]$`, "u"), units = Array.from(stripped);
    let end = units.length;
    while (end > 0 && one.test(units[end - 1]!)) end--;
    if (end < units.length) stripped = units.slice(0, end).join("");
  }
  return stripped;
}

/**
 * An interpreter that ends at the bounds of this module, and whose `strip()`, `lstrip()`, `rstrip()`, `trim` and texts of
 * `True` and `False` are Python's: the library's ignore the characters to strip, and write `true`.
 */
function boundedInterpreter({ Interpreter, Environment }: Jinja) {
  const functionOf = (value: (args: Value[]) => Value): Value =>
    Object.assign(new Environment().set("function", () => ""), { value });
  return class extends Interpreter {
    #steps = 0;
    readonly #iterables = new Set<Statement>(); // over which loops run, perhaps without evaluating anything

    override evaluate(statement: Statement, environment: Environment): Value {
      const iterable = iterableOf(statement);
      if (iterable) this.#iterables.add(iterable);
      const value = this.#evaluate(statement, environment), given: unknown = value?.value;
      if (given === true) value.toString = () => "True";
      if (given === false) value.toString = () => "False";
      let steps = 1;
      if (typeof given === "string") {
        checkSize(given, MOST_UNITS);
        steps += given.length >> 10;
      } else if (Array.isArray(given)) {
        checkSize(given, MOST_ELEMENTS);
        steps += this.#iterables.has(statement)
          ? STEPS_PER_ELEMENT * given.length
          : given.length >> (isLookup(statement) ? 8 : 3); // a list that is made costs more than one that is found
      }
      if ((this.#steps += steps) > MOST_STEPS) {
        throw new TemplateError(`it takes more than ${MOST_STEPS} steps`);
      }
      return value;
    }

    #evaluate(statement: Statement, environment: Environment): Value {
      const method = strippingMethod(statement);
      if (method === undefined) return super.evaluate(statement, environment);
      const { object, filter } = method, text = this.evaluate(object, environment);
      if (text.type !== "StringValue") return super.evaluate(statement, environment);
      const stripped = ([characters]: Value[]) =>
        new (text.constructor as new (value: string) => Value)(
          strip(text.value as string, method.name, characters?.value as string | undefined),
        );
      return filter
        ? stripped(filter.args.map((one) => this.evaluate(one, environment)))
        : functionOf(stripped);
    }
  };
}

/** A node of a template as this module reads it: of the library's types none are exported. */
interface Node {
  readonly type: string;
  readonly value?: unknown;
  readonly computed?: boolean;
  readonly object?: Statement;
  readonly property?: Node;
  readonly iterable?: Statement;
  readonly lhs?: Statement;
  readonly operand?: Statement;
  readonly filter?: Node & { readonly callee?: Node; readonly args?: Statement[] };
}

/** What a loop runs over; undefined if the statement is no loop. */
function iterableOf(statement: Statement): Statement {
  const { type, iterable, lhs } = (statement ?? {}) as unknown as Node;
  if (type === "SelectExpression") return lhs; // of a loop with a condition
  return type === "For" ? iterable : undefined;
}

/** Whether a statement gives a list that exists, and makes none. */
function isLookup(statement: Statement): boolean {
  const { type, property } = statement as unknown as Node;
  return type === "Identifier" ||
    type === "MemberExpression" && property?.type !== "SliceExpression";
}

/** What `text.strip`, `text | trim` and the like strip; undefined for any other statement. */
function strippingMethod(
  statement: Statement,
): { name: string; object: Statement; filter?: { args: Statement[] } } | undefined {
  const { type, computed, object, property, operand, filter } =
    (statement ?? {}) as unknown as Node;
  if (type === "MemberExpression" && !computed) {
    const name = String(property!.value);
    return /^[lr]?strip$/.test(name) ? { name, object: object! } : undefined;
  }
  if (type !== "FilterExpression") return undefined;
  const { callee, args = [], value } = filter!;
  return (callee?.value ?? value) === "trim"
    ? { name: "strip", object: operand!, filter: { args } }
    : undefined;
}

function checkSize({ length }: { length: number }, most: number): void {
  if (length > most) throw new TemplateError(`it makes something longer than ${most}`);
}
