/**
 * Names of the files of a model in Hugging Face's format, which several folders read or write.
 *
 * @module
 */

/** What the model is: architecture and dimensions. */
export const CONFIG_FILE = "config.json";

/** Defaults of generation, such as the tokens that end a text. */
export const GENERATION_FILE = "generation_config.json";

/** The tokenizer. */
export const TOKENIZER_FILE = "tokenizer.json";

/** Additions to the tokenizer, such as the token that ends a document. */
export const TOKENIZER_CONFIG_FILE = "tokenizer_config.json";
