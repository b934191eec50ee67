"""Options of the compiler for programs with hundreds of small operations that run once or twice."""

from importlib.metadata import version

# A third less time to compile a training step; from 0.11 on there is no choice.
QUICK = {"xla_cpu_use_fusion_emitters": False} if version("jaxlib") < "0.11" else {}
