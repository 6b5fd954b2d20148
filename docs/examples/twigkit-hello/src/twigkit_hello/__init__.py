"""A plug-in for twigkit; its modules are found through the entry points in pyproject.toml."""
