"""A Vertex AI Pipelines service on this machine: Google's own client submits compiled jobs, the service runs them."""
