import { command, output, run, status } from "./command.ts";
import { loadCorpus } from "./corpus.ts";

/** `prepare`: tokenizes text files into the cache that `train` reads. */
const program = command("prepare", "Tokenize text files, so that training on them starts at once.")
  .argument("<file...>", "UTF-8 text, documents separated by a line <|endoftext|>")
  .option("--cache <directory>", "where the token files go", "runs/cache")
  .action((files, { cache }) =>
    run(async () => {
      let shown = performance.now();
      const corpus = await loadCorpus({
        data: files,
        vocabulary: "full",
        cacheDirectory: cache,
        onProgress(done, total) {
          if (performance.now() - shown < 2000) return;
          shown = performance.now();
          status(`tokenizing: ${Math.round(100 * done / total)} % of ${total} characters`);
        },
      });
      const tokens = corpus.training.tokens.length + corpus.validation.tokens.length;
      const documents = corpus.training.documentStarts.length +
        corpus.validation.documentStarts.length;
      status(`${corpus.cached ? "found in" : "written to"} ${cache}`);
      output(`${corpus.name}: ${documents} documents, ${tokens} tokens\n`);
    })
  );

await program.parseAsync();
