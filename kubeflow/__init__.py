"""The pipeline on Vertex AI and Kubeflow: its image, the function that starts it, and a local Vertex to try both on."""

import pipelines  # noqa: F401  It says what to do where the environment is missing.
