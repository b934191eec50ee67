"""A traced program in StableHLO's stable format, where each size is computed once."""

import dataclasses
from collections.abc import Iterator

import jax
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.extend.mlir.passmanager import PassManager
from jax.interpreters.mlir import make_ir_context

# The oldest StableHLO that the programs need. Newer consumers read it for five years; TensorFlow
# 2.19, which serves what is exported here, needs it as old as this.
STABLEHLO_VERSION = "1.0.0"


def make_portable(exported: jax.export.Exported) -> jax.export.Exported:
    """The same program, whose `mlir_module_serialized` is portable, of `STABLEHLO_VERSION`.

    jax computes the sizes of every operation anew from those of the inputs, by calls of a function
    `divmod`, which MLIR does not merge: three quarters of a program. A runtime takes all of this
    out before it compiles for an image's size, which is half of the first call.
    """
    with make_ir_context() as context:
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        merge = PassManager.parse("builtin.module(func.func(cse))")
        merge.run(module.operation)
        while _merge_calls(module.operation):
            merge.run(module.operation)
        content = stablehlo.serialize_portable_artifact(module, STABLEHLO_VERSION)
    return dataclasses.replace(exported, mlir_module_serialized=content)


def _merge_calls(module: ir.Operation) -> bool:
    """Lets equal calls of `divmod` in a block share the first one's results; whether any did."""
    merged = False
    for block in _blocks(module):
        first: dict[tuple, ir.Operation] = {}
        for operation in [view.operation for view in block.operations]:
            if operation.name != "func.call":
                continue
            callee = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
            if not callee.startswith("divmod"):  # the others are few, and need not be pure
                continue
            same = first.setdefault((callee, *operation.operands), operation)
            if same is not operation:
                for result, kept in zip(operation.results, same.results, strict=True):
                    result.replace_all_uses_with(kept)
                operation.erase()
                merged = True
    return merged


def _blocks(operation: ir.Operation) -> Iterator[ir.Block]:
    """All blocks inside an operation."""
    for region in operation.regions:
        for block in region:
            yield block
            for inner in block.operations:
                yield from _blocks(inner.operation)
