"""How a tool is written, and the tools that ship: `from thornback.tools import tool`.

A tool module imports nothing else of Thornback.
"""

if __name__ != "thornback.tools":  # a second copy of a class is a different class
    raise ImportError(f"import thornback.tools, not {__name__}")

from thornback.cluster.catalog import Batch
from thornback.cluster.errors import MissingCapability, ToolFailure
from thornback.tools.context import ToolContext
from thornback.tools.definition import DefinitionError, Tool, problems, tool, tools_of
from thornback.tools.results import Audio, EmbeddedResource, Image, ResourceLink, ToolResult
from thornback.tools.schemas import Header

__all__ = [
    "Audio",
    "Batch",
    "DefinitionError",
    "EmbeddedResource",
    "Header",
    "Image",
    "MissingCapability",
    "ResourceLink",
    "Tool",
    "ToolContext",
    "ToolFailure",
    "ToolResult",
    "problems",
    "tool",
    "tools_of",
]
