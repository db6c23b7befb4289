import pytest

from tests.long_study import write_long_study


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The path of a study of 50,000 evaluations, to be read and never changed."""
    path = str(tmp_path_factory.mktemp("many") / "many.db")
    write_long_study(path, "many")
    return path
