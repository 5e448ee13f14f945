"""What the DAG files of this folder share. Like them, it needs Airflow and nothing of the project."""
