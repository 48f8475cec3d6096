import ast
from pathlib import Path

import perceptual.data


def test_data_imports_nothing_else_of_ours():
    files = list(Path(perceptual.data.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{'.' * node.level}{node.module}"]
            ours = [name for name in names if name.startswith((".", "perceptual"))]
            assert all(name.startswith("perceptual.data") for name in ours), (file.name, ours)
