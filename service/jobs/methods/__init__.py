"""The methods of training, a file each.

A new one is a record in a file here, its line below, and the file in `training/` with the function that trains; the
API, the checks of rows, the defaults and the worker follow from the record.
"""

from service.jobs.methods.base import TrainingMethod
from service.jobs.methods.dpo import DPO
from service.jobs.methods.reinforcement import REINFORCEMENT
from service.jobs.methods.supervised import SUPERVISED
from service.jobs.methods.verifier import VERIFIER

METHODS: dict[str, TrainingMethod] = {
    method.name: method
    for method in (
        SUPERVISED,
        DPO,
        REINFORCEMENT,
        VERIFIER,
    )
}
