import { END_OF_TEXT } from "./tokenizer.ts";
import { gpt2File } from "./tokenizer_file.ts";

/**
 * The `tokenizer.json` that says what GPT-2's older pair of files, `vocab.json` and `merges.txt`, says.
 *
 * @param where the folder with both, for error messages.
 * @throws {SyntaxError} if one of them is not what it should be.
 */
export function tokenizerJsonOf(
  { vocab, merges }: { vocab: string; merges: string },
  where: string,
): string {
  let ids: Record<string, number> | undefined;
  try {
    ids = JSON.parse(vocab);
  } catch {
    // said below
  }
  const isTable = typeof ids === "object" && ids !== null &&
    Object.values(ids).every(Number.isInteger);
  if (!isTable) {
    throw new SyntaxError(
      `Cannot read vocab.json in ${where} as it must give every token a number`,
    );
  }
  const lines = merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
  const wrong = lines.findIndex((line) => line.split(" ").length !== 2);
  if (wrong >= 0) {
    throw new SyntaxError(
      `Cannot read merges.txt in ${where} as each line must be a pair of tokens: ` +
        `current merge ${wrong} is ${JSON.stringify(lines[wrong])}`,
    );
  }
  const end = ids![END_OF_TEXT];
  return JSON.stringify(gpt2File({
    vocab: ids!,
    merges: lines,
    special: end === undefined ? [] : [{ id: end, content: END_OF_TEXT }],
  }));
}
