import pytest

from tests.service.serving import Service


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.close()
