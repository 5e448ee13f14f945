"""The modules that the DAG files of this folder share. They need Airflow, and import nothing else of the project."""
