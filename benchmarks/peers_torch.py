"""Rows of the plain formulation in PyTorch: eager, compiled, and under autocast."""

import numpy as np
import torch
from peers_rows import Row, first_weights
from peers_tables import BASELINE
from subjects import INPUT_DIM, NUM_CLASSES, OUTPUT_DIM, POSITIONS, layer_batch, step_batch
from torch_caps import TorchCaps
from torch_capsnet import TorchCapsNet, train_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ways(args):
    """Returns names, and whether the module is compiled and runs under autocast."""
    if args.precision == "float32":
        return {BASELINE: (False, False), "PyTorch, torch.compile, float32": (True, False)}
    return {
        BASELINE: (False, False),
        "PyTorch, eager, autocast": (False, True),
        "PyTorch, torch.compile, autocast": (True, True),
    }


def tensor(array):
    return torch.tensor(array, device=DEVICE)


def begin(layer, kernel):
    """Copies a kernel `(i, k, j, d)` into a layer, whose weights are `(1, j, i, d, k)`."""
    layer.weight.data.copy_(tensor(kernel.transpose(2, 0, 3, 1)[None]))


def layer_call(module, weight, inputs, upstream, half):
    """Returns a function without arguments: poses and gradients."""

    def call():
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            poses = module(inputs)
        return poses, *torch.autograd.grad(poses, [inputs, weight], upstream.to(poses.dtype))

    return call


def poses_and_gradients(results):
    """Returns arrays in the layout of Keras' layer."""
    poses, inputs, weight = (x.detach().float().cpu().numpy() for x in results[-1])
    return [poses, inputs, weight[0].transpose(1, 3, 0, 2)]


def layers(args):
    """Returns the rows of the layer, by name."""
    num_inputs, rows = POSITIONS * args.types, {}
    batch = layer_batch(args.batch_size, num_inputs)
    inputs, upstream = (tensor(x.astype("float32")) for x in batch)
    inputs.requires_grad_()
    for name, (compiles, half) in ways(args).items():
        layer = TorchCaps(num_inputs, INPUT_DIM, NUM_CLASSES, OUTPUT_DIM).to(DEVICE)
        begin(layer, first_weights(args.filters, args.types)[-1])
        module = torch.compile(layer) if compiles else layer
        call = layer_call(module, layer.weight, inputs, upstream, half)
        rows[name] = Row(call, poses_and_gradients, may_fail=compiles)
    return rows


def make_network(args):
    """Returns the network with the first weights."""
    model = TorchCapsNet(args.filters, args.types, NUM_CLASSES).to(DEVICE)
    first, first_bias, second, second_bias, kernel = first_weights(args.filters, args.types)
    for conv, weight, bias in (
        (model.conv, first, first_bias),
        (model.primary, second, second_bias),
    ):
        conv.weight.data.copy_(tensor(weight.transpose(3, 2, 0, 1)))
        conv.bias.data.copy_(tensor(bias))
    begin(model.digits, kernel)
    return model


def step_call(model, images, labels, half):
    """Returns a function without arguments that trains for one step and returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return lambda: train_step(model, optimizer, images, labels, half)


def losses(results):
    return [np.array([float(loss) for loss in results])]


def steps(args):
    """Returns the rows of training steps, by name."""
    images, labels = step_batch(args.batch_size)
    # A loader of data divides and moves the channel, outside of the step.
    images, labels = tensor(images.transpose(0, 3, 1, 2) / 255), tensor(labels)
    rows = {}
    for name, (compiles, half) in ways(args).items():
        model = make_network(args)
        model = torch.compile(model) if compiles else model
        rows[name] = Row(step_call(model, images, labels, half), losses, may_fail=compiles)
    return rows
