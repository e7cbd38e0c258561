from tests.service.benchmarks.conftest import impatient

__all__ = ["impatient"]
