import assert from "node:assert/strict";
import { Batches } from "../../data/batches.ts";
import { tensorNamed } from "../../kernels/arena.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, type Tensor, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt, forward, type Gpt, matrixOf } from "../../model/gpt.ts";
import { headLogits } from "../../model/head.ts";
import { parameterTable } from "../../model/parameters.ts";
import type { Precision } from "../../model/precision.ts";
import { parseSafetensors, type SafetensorsEntry, toFloat32 } from "../../model/safetensors.ts";
import { loadParameters } from "../../model/weights.ts";
import { createTrainStep, initialScaler } from "../../train/step.ts";
import { assertClose, device, REAL_TYPES } from "../kernels/harness.ts";

// tests/golden/make_golden.py made these numbers with PyTorch
const GOLDEN = new URL("../golden/gpt.safetensors", import.meta.url);
const { tensors, metadata } = parseSafetensors(await Deno.readFile(GOLDEN), "gpt.safetensors");
const golden = (name: string) => toFloat32(tensors.get(name)!);
console.log(metadata);
