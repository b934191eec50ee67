"""Memory of a training step on a TPU slice, from the compiler, without a TPU."""

import dataclasses
import importlib
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tvt_jax.config import (
    LPIPS_NETS,
    SD21_UNET,
    VAES,
    DiffusionTrainConfig,
    RestorationTrainConfig,
    SchedulerConfig,
    TrainConfig,
    VAETrainConfig,
)
from tvt_jax.data.samples import PROMPT_TOKENS
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_program
from tvt_jax.models.attention import compiling_for
from tvt_jax.parallel import batch_sharding, make_mesh, replicated, state_shardings
from tvt_jax.training.loop import STAGES
from tvt_jax.training.restoration import Forward
from tvt_jax.training.state import Stage, init_state
from tvt_jax.training.step import make_step
from tvt_jax.weights.model_folder import abstract_network, save_network, write_json
from tvt_jax.weights.names import torch_tensors
from tvt_jax.weights.prompt_embeds import PromptEmbeds, save_prompt_embeds
from tvt_jax.weights.tensor_files import Tensors


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What a step takes of each device.

    Attributes:
      devices: how many devices the step runs on.
      held: bytes of weights, optimizer states and the batch.
      temporary: bytes of everything that lives during the step only.
      flops: floating-point operations of a device in a step.
      seconds: of compilation.
    """

    devices: int
    held: int
    temporary: int
    flops: float
    seconds: float


def tpu_step_memory(
    config: TrainConfig,
    topology: str,
    quick: bool,
    separate_bases: bool = False,
    vae: str | None = None,
) -> StepMemory:
    """Compiles the step of a run for a TPU slice.

    In the place of networks whose folders the configuration does not name stand those of the paper,
    without values; of stage 3's text encoder its embeddings only.

    Args:
      config: of the run.
      topology: chip and arrangement, for example "v5e:2x4".
      quick: compile with little effort, in much less time; the memory then differs from that of
        a real run.
      separate_bases: of stage 3: give generator, teacher and critic a UNet each, for comparison.
      vae: a key of `VAES`, in the place of a frozen VAE whose folder is not named. None: VAE-D4
        where the generator has its layers for that resolution, or is pruned; VAE-D8 to train a
        diffusion UNet.

    Raises:
      UserError: `vae` is needed or unknown, the TPU compiler is not installed, the topology is
        unknown, or the step does not fit the chip's memory (the message has the compiler's
        figures).
    """
    vae = _frozen_vae(config, vae)
    mesh = make_mesh(config.mesh, _devices(topology))
    with tempfile.TemporaryDirectory() as folder, compiling_for("tpu"):
        config = _with_empty_networks(config, Path(folder), vae)
        stage = importlib.import_module(STAGES[type(config).__name__]).make_stage(config)
        if separate_bases:
            stage = _with_separate_bases(stage)
        arguments = _arguments(stage, config, mesh)
        stage = dataclasses.replace(stage, params=arguments[0].params, frozen=None)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
        step = jax.jit(
            make_step(stage, config, mesh),
            donate_argnums=0,
            out_shardings=(shardings[0], replicated(mesh)),
        )
        if quick:
            jax.config.update("jax_exec_time_optimization_effort", -1.0)
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            compiled = compile_program(
                step.lower(*arguments),
                f"a training step on {topology}",
                "lower --batch-size or raise --fsdp",
            )
    analysis, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return StepMemory(
        devices=mesh.size,
        held=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        flops=cost["flops"],
        seconds=time.perf_counter() - start,
    )


def _devices(topology: str) -> list:
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except Exception as error:  # the plugin raises many kinds
        raise UserError(
            f"no TPU compiler for {topology} ({str(error).splitlines()[0]}); install it with "
            "`pip install libtpu` and name a slice such as v5e:2x4."
        ) from error


def _with_empty_networks(config: TrainConfig, folder: Path, vae: str | None) -> TrainConfig:
    """Names folders of zeros where the configuration names none."""

    def empty(kind: str, settings, place: Path) -> str:
        shapes = {t.name: t.shape for t in torch_tensors(abstract_network(kind, settings)).values()}
        zeros = Tensors("zeros", shapes, lambda name: np.zeros(shapes[name], jnp.bfloat16))
        save_network(place, kind, settings, zeros, jnp.bfloat16)
        return str(place)

    changes = {}
    if isinstance(config, VAETrainConfig):
        changes["init_vae"] = ""
        if (config.latents == "teacher" or config.loss.latent) and not config.teacher:
            changes["teacher"] = empty("vae", VAES["VAE-D8"], folder / "teacher")
    if isinstance(config, RestorationTrainConfig):
        if not config.sd:
            empty("unet", SD21_UNET, folder / "sd" / "unet")
            schedule = folder / "sd" / "scheduler" / "scheduler_config.json"
            write_json(schedule, SchedulerConfig().to_json())
            text = np.zeros((1, PROMPT_TOKENS, SD21_UNET.cross_attention_dim), np.float32)
            save_prompt_embeds(folder / "sd", PromptEmbeds(text, text))
            changes["sd"] = str(folder / "sd")
    if vae is not None:
        changes["vae"] = empty("vae", VAES[vae], folder / "vae")
    perceptual = not isinstance(config, DiffusionTrainConfig) and config.loss.lpips
    if perceptual and not config.lpips:
        changes["lpips"] = empty("lpips", LPIPS_NETS["vgg16"], folder / "lpips" / "vgg16")
    return dataclasses.replace(config, **changes)


def _frozen_vae(config: TrainConfig, given: str | None) -> str | None:
    """The key of the VAE that stands for a folder that is not named; None where none is missing."""
    if not isinstance(config, DiffusionTrainConfig | RestorationTrainConfig) or config.vae:
        return None
    if given is None and isinstance(config, DiffusionTrainConfig):
        return "VAE-D8"
    if given is None and config.generator != "same":
        return "VAE-D4"
    if given not in VAES:
        raise UserError(
            f"--vae {given} is not one of {', '.join(VAES)}; ablations of stage 3 with Stable "
            "Diffusion's own UNet need it: S1 VAE-D8, S2 VAE-D8-SC, S3 VAE-D8C8, S4 VAE-D4."
        )
    return given


class _SeparateBases(Forward):
    """Stage 3 as it is without sharing: each of the three networks reads weights of its own."""

    def teacher_params(self, frozen):
        return frozen["teacher"]

    def critic_params(self, frozen):
        return frozen["critic"]

    def unet_params(self, frozen):
        return frozen["generator"]


def _with_separate_bases(stage: Stage) -> Stage:
    forward = stage.gradients.__self__
    frozen = {name: tree for name, tree in stage.frozen.items() if name not in ("sd", "unet")}
    frozen |= {"teacher": stage.frozen["sd"], "critic": stage.frozen["sd"]}
    frozen["generator"] = forward.unet_params(stage.frozen)
    values = {field.name: getattr(forward, field.name) for field in dataclasses.fields(forward)}
    gradients = _SeparateBases(**values).gradients
    return dataclasses.replace(stage, frozen=frozen, gradients=gradients)


def _arguments(stage: Stage, config: TrainConfig, mesh: Mesh) -> tuple:
    """(state, frozen, batch, key) of a step as shapes with shardings."""

    def placed(tree, shardings):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings,
        )

    state = jax.eval_shape(lambda: init_state(stage, config))
    side, size = config.data.crop, config.data.batch_size
    image = jax.ShapeDtypeStruct((size, side, side, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((size, PROMPT_TOKENS), jnp.int32)
    batch = {name: tokens if name == "tokens" else image for name in stage.inputs}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        placed(state, state_shardings(state, mesh)),
        placed(stage.frozen, state_shardings(stage.frozen, mesh)),
        placed(batch, dict.fromkeys(batch, batch_sharding(mesh))),
        placed(key, replicated(mesh)),
    )
