/**
 * Names of files that Hugging Face's libraries give a model, which several folders read or write.
 *
 * @module
 */

/** What the model is: architecture and dimensions. */
export const CONFIG_FILE = "config.json";

/** How texts are generated, such as the tokens that end one. */
export const GENERATION_FILE = "generation_config.json";

/** The tokenizer. */
export const TOKENIZER_FILE = "tokenizer.json";

/** What adds to the tokenizer, such as the token that ends a document. */
export const TOKENIZER_CONFIG_FILE = "tokenizer_config.json";
