"""Cluster configs that ship; `resources.files("thornback.configs")` finds them once installed."""

if __name__ != "thornback.configs":
    raise ImportError(f"import thornback.configs, not {__name__}")
