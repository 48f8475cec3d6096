import pytest

for _name in ("sqlalchemy", "starlette", "uvicorn", "jinja2", "markdown_it"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install 'perceptual-lpips[collect]'")
