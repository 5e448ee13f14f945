"""A Vertex AI Pipelines service on this machine: the real client submits to it, and it runs what was compiled."""
