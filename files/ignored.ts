/** The target that the loss ignores: data writes it, kernels and models read it. */
export const IGNORED = 0xffffffff;
