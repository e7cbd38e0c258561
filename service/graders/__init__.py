"""Graders: from a row of a data set and a model's sample to a number. OpenAI's formats, and `math`.

They judge in training (rewards), in distillation (winners) and in benchmarks, inside the service and outside it:
`build(spec, workers, ask)` needs only a pool of processes and, for `score_model`, a way to ask a served model.
"""

from service.graders.asking import Answer, Ask, HttpAsk
from service.graders.grading import Grade, Grader, build
from service.graders.specs import GraderSpec, check, paths
from service.graders.template import Item, Sample

__all__ = ["Answer", "Ask", "Grade", "Grader", "GraderSpec", "HttpAsk", "Item", "Sample", "build", "check", "paths"]
