import pytest
from networks import write_weights


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """PERCEPTUAL_WEIGHTS with random weights of AlexNet; the folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(folder))
    return folder
