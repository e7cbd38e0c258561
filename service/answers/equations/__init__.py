"""Does every equality that a step of a solution asserts hold? Exact arithmetic on what can be read with certainty.

A wrong "false" throws a right answer away, so that it is given only where the equality can be read in one way: what
defines (`x = 5`, `1 hour = 60 minutes`), estimates (`≈`), depends on what is unknown (`2x + 3 = 7`) or may convert
units is no opinion. That two sides are equal is hardly a coincidence, and confirms a reading that was in doubt.

A step goes through the modules in this order: `spelling` gives every sign one spelling, `tokens` splits the text,
`finding` looks for the expression on each side of a sign of equality, `expressions` reads it and its `units`, `numbers`
computes its value, and `judging` compares the two, with the `doubts` that excuse a difference. `definitions` is what
the steps before have said; `words` are all the lists of words. Meant for a process that can be killed (pool.py),
though all of it is bounded and none of it runs text.
"""

from service.answers.equations.checking import check_solution, check_solutions
from service.answers.equations.judging import StepCheck

__all__ = ["StepCheck", "check_solution", "check_solutions"]
