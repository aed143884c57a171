"""Studies of quantization: many trainings that answer one question, with a table and a plot. Resumable."""

from cosim.errors import InputError, nearest
from cosim.studies import bits, cifar10, granularity, low_bit, partial_sums
from cosim.studies.study import Study, run_study

STUDIES = {module.STUDY.name: module.STUDY for module in (bits, granularity, partial_sums, low_bit, cifar10)}


def study_for(name: str) -> Study:
    """A study by name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in STUDIES:
        raise InputError(f"no study is named {name!r}: {nearest(name, STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Study", "run_study", "study_for"]
