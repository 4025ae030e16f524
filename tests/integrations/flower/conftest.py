import pytest

from metasg_jax import load_defender

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metasg-jax[flower]'")


@pytest.fixture(scope="session")
def seeing():
    """v1 with root images; shared, because what it compiles is most of the time."""
    from tests.integrations.flower.world import ROOT, apply

    return load_defender("v1", apply=apply, root=ROOT)


@pytest.fixture(scope="session")
def blind():
    return load_defender("v1")
