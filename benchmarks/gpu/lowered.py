"""Programs that TensorFlow lowered, as functions of JAX."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax._src.interpreters import mlir
from jax._src.lib import _jax
from jax._src.lib.mlir import ir

_DTYPES = {
    "f32": np.float32, "f64": np.float64, "bf16": jnp.bfloat16, "i1": np.bool_, "i32": np.int32,
    "i64": np.int64,
}  # fmt: skip


def as_function(name, artifact, platform):
    """The StableHLO portable artifact `artifact` for `platform`, "cpu" or "cuda".

    The program is dressed up as one that `jax.export` wrote: JAX has no public way to call
    StableHLO of other origin. Fields that another version of JAX has, or hasn't, are seen to.
    """
    inputs, results = _signature(artifact)
    tree = jax.tree_util.tree_structure
    fields = {
        "fun_name": re.sub(r"\W", "_", name),
        "in_tree": tree((tuple(inputs), {})),
        "in_avals": tuple(inputs),
        "out_tree": tree(tuple(results)),
        "out_avals": tuple(results),
        "in_shardings_hlo": (None,) * len(inputs),
        "out_shardings_hlo": (None,) * len(results),
        "_in_named_shardings": (None,) * len(inputs),
        "_out_named_shardings": (None,) * len(results),
        "_has_named_shardings": False,
        "nr_devices": 1,
        "platforms": (platform,),
        "ordered_effects": (),
        "unordered_effects": (),
        "disabled_safety_checks": (),
        "mlir_module_serialized": artifact,
        "calling_convention_version": export.maximum_supported_calling_convention_version,
        "module_kept_var_idx": tuple(range(len(inputs))),
        "uses_global_constants": False,
        "_get_vjp": None,
    }
    known = {field.name for field in dataclasses.fields(export.Exported)}
    return export.Exported(**{k: v for k, v in fields.items() if k in known}).call


def _signature(artifact):
    """Shapes and types of the program's parameters and results."""
    with mlir.make_ir_context():
        module = _jax.mlir.deserialize_portable_artifact(artifact)
        if not isinstance(module, ir.Module):
            module = ir.Module.parse(module)
        (main,) = [
            operation for operation in module.body.operations
            if ir.StringAttr(operation.attributes["sym_name"]).value == "main"
        ]  # fmt: skip
        kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)

        def abstract(t):
            t = ir.RankedTensorType(t)
            if not t.has_static_shape:
                raise ValueError(f"dynamic shape {t}")
            return jax.core.ShapedArray(tuple(t.shape), _DTYPES[str(t.element_type)])

        return [abstract(t) for t in kind.inputs], [abstract(t) for t in kind.results]
