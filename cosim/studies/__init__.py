"""Studies of quantization: many trainings that answer one question, with a table and a plot.

An interrupted study continues where it stopped.
"""

from cosim.errors import InputError, nearest
from cosim.studies import bits, cifar10, granularity, low_bit, partial_sums
from cosim.studies.study import Study, run_study

STUDIES = {
    study.name: study
    for study in (
        bits.STUDY,
        granularity.STUDY,
        partial_sums.STUDY,
        partial_sums.CIFAR10_STUDY,
        low_bit.STUDY,
        cifar10.STUDY,
    )
}


def study_for(name: str) -> Study:
    """A study by name.

    Raises:
        InputError: there is no study of this name.
    """
    if name not in STUDIES:
        raise InputError(f"no study is named {name!r}: {nearest(name, STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Study", "run_study", "study_for"]
