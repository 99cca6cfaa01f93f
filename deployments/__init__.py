"""What runs on Ray Serve (gateway, engine, tool hosts) and the command line that puts it there."""

if __name__ != "thornback.deployments":
    raise ImportError(f"import thornback.deployments, not {__name__}")
