"""Facts and rules of the registry, with no input or output."""
