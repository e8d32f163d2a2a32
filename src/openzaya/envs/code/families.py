"""All code families of the templates, built around one executor."""

from openzaya.envs.code.bank import Banks
from openzaya.envs.code.code_arc import CodeArc
from openzaya.envs.code.code_io import CodeInput, CodeOutput
from openzaya.envs.code.falsify import Falsify
from openzaya.envs.code.judge import Judge, Policy
from openzaya.envs.code.random_program import Trace
from openzaya.envs.code.runner import Runner
from openzaya.sandbox.executor import Executor

WAVE = 4
"""Hidden tests that start together: the first ones are the mutants' killers, so few are enough."""

Family = CodeOutput | CodeInput | CodeArc | Falsify | Trace


def families(executor: Executor) -> dict[str, Family]:
    """Return the families by name; they share the banks of mutants.

    The executor stays the caller's: it must outlive them and be closed afterwards.
    """
    banks = Banks(executor)
    every: tuple[Family, ...] = (
        CodeOutput(),
        CodeInput(executor),
        CodeArc(banks, Judge(Runner(executor), Policy(wave=WAVE))),
        Falsify(banks),
        Trace(),
    )
    return {each.name: each for each in every}
