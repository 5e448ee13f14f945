"""What runs inside the nodes of the pipeline."""
