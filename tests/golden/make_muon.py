"""Ten steps of Muon for muon.safetensors, with PyTorch 2.9 or later: python3 tests/golden/make_muon.py

Two matrices as linear layers store them, [inputs,outputs]: `wide` has more outputs, `tall` more inputs. PyTorch's layers
store the transposed. `exact` is the formula with rounds in f64, `torch` is torch.optim.Muon, whose rounds are in bf16.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

STEPS, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 10, 0.02, 0.95, 0.1


def orthogonalized(x):
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def exact(start, gradients):
    """Parameter and momentum after all steps; start: [outputs,inputs]."""
    parameter, momentum = start.double(), torch.zeros_like(start).double()
    outputs, inputs = start.shape
    for gradient in gradients.double():
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        parameter = parameter * (1 - LEARNING_RATE * WEIGHT_DECAY)
        scale = math.sqrt(max(1, outputs / inputs))
        parameter = parameter - LEARNING_RATE * scale * orthogonalized(ahead)
    return parameter, momentum


def torchs(start, gradients):
    parameter = torch.nn.Parameter(start.clone())
    muon = torch.optim.Muon(
        [parameter], lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        muon.step()
    return parameter.detach()


torch.manual_seed(16)
tensors = {}
for name, (inputs, outputs) in {"wide": (12, 28), "tall": (28, 12)}.items():
    start = torch.randn(outputs, inputs) * 0.2
    # gradients of steps that follow each other are alike
    gradients = torch.randn(outputs, inputs) + 0.5 * torch.randn(STEPS, outputs, inputs)
    parameter, momentum = exact(start, gradients)
    for key, value in {
        "start": start,
        "gradients": gradients,
        "exact": parameter,
        "momentum": momentum,
        "torch": torchs(start, gradients),
    }.items():
        tensors[f"{name}.{key}"] = value.transpose(-1, -2).contiguous().float()
save_file(tensors, pathlib.Path(__file__).parent / "muon.safetensors")
