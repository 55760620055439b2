import type { BackgroundCompiler, ShaderSource } from "./background_compiler.ts";
import { type Binding, bindingsOf, type Constants, type Shader } from "./shader.ts";

/** A compiled shader and the bindings of its launches. */
export interface Pipeline {
  /** The compiled shader. While it is `compiling`, asking for it compiles it once more, and blocks. */
  readonly pipeline: GPUComputePipeline;
  /** Resolves once the shader is compiled, or cannot be; undefined if it is compiled. */
  readonly compiling: Promise<void> | undefined;
  /** Bindings of the shader with its constants. */
  readonly bindings: readonly Binding[];
  /** Bindings that its files declare: these and those that the constants exclude. */
  readonly declared: readonly Binding[];
}

/** The compiled shaders of a device, by their texts and constants. */
export class Pipelines {
  /** Numbers of texts: keys with whole texts would take two fifths of the time to record a program. */
  readonly #numbers = new Map<string, number>();
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #declared = new Map<string, readonly Binding[]>();

  /** The compiled shader; undefined if it was not added. */
  get(shader: Shader, constants: Constants): Pipeline | undefined {
    return this.#pipelines.get(this.#keyOf(shader, constants));
  }

  /** Adds a compiled shader. */
  add(shader: Shader, constants: Constants, pipeline: Pipeline): void {
    this.#pipelines.set(this.#keyOf(shader, constants), pipeline);
  }

  /** All, in the order in which they were added. */
  get all(): readonly Pipeline[] {
    return [...this.#pipelines.values()];
  }

  /** The bindings that the files of a shader declare, whatever its constants are. */
  declaredBy(shader: Shader): readonly Binding[] {
    const key = JSON.stringify(this.#filesOf(shader));
    let declared = this.#declared.get(key);
    if (!declared) {
      declared = bindingsOf(Object.values(shader).join("\n"));
      this.#declared.set(key, declared);
    }
    return declared;
  }

  #keyOf(shader: Shader, constants: Constants): string {
    return JSON.stringify([constants, this.#filesOf(shader)]);
  }

  /** The files of a shader, with numbers instead of texts. */
  #filesOf(shader: Shader): [path: string, number: number][] {
    return Object.entries(shader).map(([path, text]) => [path, this.#numberOf(text)]);
  }

  #numberOf(text: string): number {
    const number = this.#numbers.get(text) ?? this.#numbers.size;
    if (number === this.#numbers.size) this.#numbers.set(text, number);
    return number;
  }
}

/**
 * Compiles a shader.
 *
 * @param background what compiles it in other threads; without it, it is compiled at once.
 */
export function compile(
  gpu: GPUDevice,
  source: ShaderSource,
  background: Pick<BackgroundCompiler, "compile"> | undefined,
): Pick<Pipeline, "pipeline" | "compiling"> {
  const atOnce = () => {
    const { label } = source, module = gpu.createShaderModule(source);
    return gpu.createComputePipeline({ label, layout: "auto", compute: { module } });
  };
  let pipeline = background ? undefined : atOnce();
  let compiling = background?.compile(source).then(
    (made) => {
      pipeline ??= made;
      compiling = undefined;
    },
    () => {
      compiling = undefined; // the device reports the reason when the shader is asked for
    },
  );
  return {
    get pipeline() {
      return pipeline ??= atOnce();
    },
    get compiling() {
      return compiling;
    },
  };
}
