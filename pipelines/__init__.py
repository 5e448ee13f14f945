"""The one pipeline definition and the runners that execute it."""
