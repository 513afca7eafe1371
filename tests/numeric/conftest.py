import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small matrices on a shared machine: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
